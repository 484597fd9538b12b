//! What a dashboard has asked for, carried out beside its conversation: a request
//! that no relay answers holds up neither what is shown nor what is read behind
//! it. One thing goes after the other, but an emergency stop, and its end, waits
//! for such as these only. What each of them does is [`Asker`](super::asker::Asker)'s.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

/// Errands that may wait; beyond it nothing more is read from the dashboard. A
/// batch may bring more.
const ERRAND_CAPACITY: usize = 256;
/// Bytes of what they carry, likewise.
const ERRAND_BYTES: usize = 1024 * 1024;
/// How long what was asked for may take once the dashboard is gone.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// Something that is to be done.
struct Errand {
    /// How many that press were asked for before, and go before.
    behind: u64,
    /// What it carries.
    bytes: usize,
    work: Pin<Box<dyn Future<Output = ()>>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Errands {
    /// What stops and resumes the fleet.
    pressing: VecDeque<Errand>,
    /// How many of these there were.
    pressed: u64,
    plain: VecDeque<Errand>,
}

impl Errands {
    /// Has something done behind everything else.
    pub(super) fn push(&mut self, bytes: usize, work: impl Future<Output = ()> + 'static) {
        self.plain.push_back(Errand {
            behind: self.pressed,
            bytes,
            work: Box::pin(work),
        });
    }

    /// Has something done at once, behind what presses as much.
    pub(super) fn press(&mut self, work: impl Future<Output = ()> + 'static) {
        self.pressing.push_back(Errand {
            behind: self.pressed,
            bytes: 0,
            work: Box::pin(work),
        });
        self.pressed += 1;
    }

    /// How often something that presses was asked for.
    pub(super) const fn pressed(&self) -> u64 {
        self.pressed
    }

    fn all(&self) -> impl Iterator<Item = &Errand> {
        self.pressing.iter().chain(&self.plain)
    }

    /// Whether nothing more should be asked for.
    pub(super) fn is_full(&self) -> bool {
        let bytes: usize = self.all().map(|errand| errand.bytes).sum();
        self.all().count() >= ERRAND_CAPACITY || bytes >= ERRAND_BYTES
    }

    /// Whether everything is done.
    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    fn line(&mut self, is_pressing: bool) -> &mut VecDeque<Errand> {
        match is_pressing {
            true => &mut self.pressing,
            false => &mut self.plain,
        }
    }

    /// The next one of a line, if its turn has come.
    fn first(&mut self, is_pressing: bool) -> Option<&mut Errand> {
        let done = self.pressed - self.pressing.len() as u64;
        let first = self.line(is_pressing).front_mut()?;
        (first.behind <= done).then_some(first)
    }

    /// Goes on until something is done. May be cancelled, and called again.
    pub(super) async fn advance(&mut self) {
        poll_fn(|context| {
            let mut progress = Poll::Pending;
            for is_pressing in [true, false] {
                while let Some(first) = self.first(is_pressing) {
                    if first.work.as_mut().poll(context).is_pending() {
                        break;
                    }
                    self.line(is_pressing).pop_front();
                    progress = Poll::Ready(());
                }
            }
            progress
        })
        .await;
    }

    /// Does what is left, for a dashboard that is gone; not for longer than a
    /// while.
    pub(super) async fn finish(&mut self, session: &str) {
        let finished = timeout(LAST_PATIENCE, async {
            while !self.is_empty() {
                self.advance().await;
            }
        });
        if finished.await.is_err() {
            let left = self.all().count();
            warn!(session, left, "not all was done that a dashboard asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use futures_util::FutureExt as _;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_presses_waits_for_nothing_else() {
        let (done, answer) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Notify::new()));
        let mut errands = Errands::default();
        for name in ["first", "second"] {
            let (done, answer) = (Rc::clone(&done), Rc::clone(&answer));
            errands.push(1, async move {
                answer.notified().await;
                done.borrow_mut().push(name);
            });
        }
        for name in ["stop", "resume"] {
            let done = Rc::clone(&done);
            errands.press(async move { done.borrow_mut().push(name) });
        }
        assert_eq!(errands.pressed(), 2);
        errands.advance().await;
        assert_eq!(*done.borrow(), ["stop", "resume"]);
        answer.notify_one();
        errands.advance().await;
        assert_eq!(*done.borrow(), ["stop", "resume", "first"]);
        assert!(!errands.is_empty());
        answer.notify_one();
        errands.finish("s").await;
        assert_eq!(*done.borrow(), ["stop", "resume", "first", "second"]);
        assert!(errands.is_empty());
    }

    #[tokio::test]
    async fn what_is_asked_for_behind_a_stop_comes_behind_it() {
        let (done, answer) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Notify::new()));
        let mut errands = Errands::default();
        let (its_done, its_answer) = (Rc::clone(&done), Rc::clone(&answer));
        errands.press(async move {
            its_answer.notified().await;
            its_done.borrow_mut().push("stop");
        });
        let its_done = Rc::clone(&done);
        errands.push(0, async move { its_done.borrow_mut().push("request") });
        let advanced = errands.advance().now_or_never();
        assert_eq!((advanced, done.borrow().len()), (None, 0));
        answer.notify_one();
        errands.advance().await;
        assert_eq!(*done.borrow(), ["stop", "request"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_not_waited_for_for_ever() {
        let mut errands = Errands::default();
        errands.push(ERRAND_BYTES - 1, std::future::pending());
        assert!(!errands.is_full());
        errands.push(1, std::future::pending());
        assert!(errands.is_full());
        errands.finish("s").await;
        let mut errands = Errands::default();
        for _ in 0..ERRAND_CAPACITY {
            assert!(!errands.is_full());
            errands.push(0, async {});
        }
        assert!(errands.is_full());
        errands.advance().await;
        assert!(errands.is_empty() && !errands.is_full());
    }
}

//! Polls that wait for their answer, and what becomes of those that are given up.

use std::{cell::Cell, future, rc::Rc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Answer, EndReason, Engine, Layer, Malformed, Session,
    core::{Chore, Core, Key, TimerKind},
    polling::Waiting,
    request::Refused,
};

/// How long a poll waits for the end of an upgrade, behind a first one that was answered at once.
const NOOP_PAUSE: Duration = Duration::from_millis(100);

impl<L: Layer> Engine<L> {
    /// Begins to wait for the answer to a poll.
    pub(super) fn begin_poll(
        self: &Rc<Self>,
        session: Rc<Session<L>>,
    ) -> Result<BegunPoll<L>, Refused> {
        let link = &session.link;
        let Some(polling) = link.polling.borrow().clone().filter(|_| !link.frozen.get()) else {
            return Err(Refused::Bad);
        };
        let Some(waiting) = polling.begin() else {
            self.refuse(&session, Malformed::State);
            return Err(Refused::Bad);
        };
        if link.probing.get() && !link.is_ended() && link.outbound().queued_bytes() == 0 {
            if link.made_way.replace(true) {
                let at = Instant::now() + NOOP_PAUSE;
                self.core.set_timer(at, link.key, TimerKind::Noop);
            } else {
                polling.answer_noop();
            }
        }
        Ok(BegunPoll {
            abandoned: Given::new(&self.core, link.key),
            engine: Rc::clone(self),
            waiting,
            session,
        })
    }
}

/// A poll that waits for its answer.
pub(super) struct BegunPoll<L: Layer> {
    engine: Rc<Engine<L>>,
    session: Rc<Session<L>>,
    waiting: Waiting,
    abandoned: Given,
}

impl<L: Layer> BegunPoll<L> {
    pub(super) async fn answer(self) -> Answer {
        let payload: Bytes = future::poll_fn(|cx| self.waiting.poll(cx)).await;
        self.abandoned.keep();
        drop(self.waiting);
        let link = &self.session.link;
        if link.is_ended() && link.outbound().queued_bytes() == 0 {
            // That was the last answer.
            link.outbound().end();
            self.engine.forget(link);
        }
        if payload.is_empty() {
            return Refused::Sid.answer();
        }
        Answer::ok(payload)
    }
}

/// A request that its client may give up: dropped before it is kept, it ends the session.
pub(super) struct Given {
    core: Rc<Core>,
    key: Key,
    kept: Cell<bool>,
}

impl Given {
    pub(super) fn new(core: &Rc<Core>, key: Key) -> Self {
        Self {
            core: Rc::clone(core),
            key,
            kept: Cell::default(),
        }
    }

    pub(super) fn keep(&self) {
        self.kept.set(true);
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if !self.kept.get() {
            self.core
                .add_chore(Chore::End(self.key, EndReason::TransportError));
        }
    }
}

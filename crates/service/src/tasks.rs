//! An owner for background tasks, so that none outlives its service unseen.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::shutdown::Shutdown;

/// Background tasks with one owner: dropping it aborts them. A task that
/// panics is logged with its name, at once and not when it is joined.
#[derive(Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    /// Ended tasks leave the set at the next spawn, so it holds the running
    /// ones and those that ended since.
    set: Mutex<JoinSet<()>>,
}

impl Tasks {
    /// An owner without tasks; critical ones will trigger `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            set: Mutex::default(),
        }
    }

    /// Starts a task that the service can do without.
    ///
    /// # Panics
    /// When called outside a Tokio runtime.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.start(async move {
            watch(name, task).await.ok();
        });
    }

    /// Starts a task that the service can do without and that would never end: it
    /// is dropped at the shutdown.
    ///
    /// # Panics
    /// When called outside a Tokio runtime.
    pub fn spawn_until_shutdown(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = shutdown.wait() => {}
            }
        });
    }

    /// Starts a task that the service cannot do without: if it panics, or ends
    /// before a shutdown was asked for, the process fails.
    ///
    /// # Panics
    /// When called outside a Tokio runtime.
    pub fn spawn_critical(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.start(async move {
            match watch(name, task).await {
                Err(Panicked) => shutdown.fail(format!("task {name} panicked")),
                Ok(()) if !shutdown.is_triggered() => {
                    error!(task = name, "critical task ended early");
                    shutdown.fail(format!("task {name} ended early"));
                }
                Ok(()) => {}
            }
        });
    }

    /// Waits for all tasks to end, at most for `grace`, then aborts the rest.
    /// Returns how many those were.
    pub async fn drain(self, grace: Duration) -> usize {
        let mut set = self.set.into_inner();
        let all = async { while set.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_ok() {
            return 0;
        }
        let left = set.len();
        warn!(left, ?grace, "aborting tasks that did not end");
        set.shutdown().await;
        left
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock();
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}

/// A task that panicked; the panic is logged already.
struct Panicked;

/// Runs `task` and logs its panic, if it comes to that.
async fn watch(name: &'static str, task: impl Future<Output = ()>) -> Result<(), Panicked> {
    // The task is gone after its panic, and so is whatever it alone could see broken.
    AssertUnwindSafe(task)
        .catch_unwind()
        .await
        .map_err(|payload| {
            error!(task = name, panic = panic_text(&*payload), "task panicked");
            Panicked
        })
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use tokio::sync::oneshot;
    use tokio::time::sleep;

    use super::*;
    use crate::captured::Captured;
    use crate::telemetry::LogArgs;

    /// How long anything may take before a test fails.
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn dropping_the_owner_aborts_its_tasks() {
        let tasks = Tasks::new(Shutdown::new());
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let (started, has_started) = oneshot::channel();
        let (dropped, is_dropped) = oneshot::channel::<()>();
        tasks.spawn("endless", async move {
            let _held = (held, dropped);
            started.send(()).unwrap();
            pending().await
        });
        timeout(DEADLINE, has_started).await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(tasks);
        assert!(timeout(DEADLINE, is_dropped).await.unwrap().is_err());
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[tokio::test]
    async fn a_panic_of_a_critical_task_fails_the_process() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn_critical("reader", async { panic!("out of {}", "order") });
        timeout(DEADLINE, shutdown.wait()).await.unwrap();
        assert_eq!(shutdown.failure(), Some("task reader panicked"));
    }

    #[tokio::test]
    async fn an_early_end_of_a_critical_task_fails_the_process() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn_critical("reader", async {});
        timeout(DEADLINE, shutdown.wait()).await.unwrap();
        assert_eq!(shutdown.failure(), Some("task reader ended early"));
    }

    #[tokio::test]
    async fn a_critical_task_may_end_in_a_shutdown() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let waits = shutdown.clone();
        tasks.spawn_critical("reader", async move { waits.wait().await });
        shutdown.trigger();
        assert_eq!(tasks.drain(DEADLINE).await, 0);
        assert_eq!(shutdown.failure(), None);
    }

    #[tokio::test]
    async fn other_tasks_may_panic_and_end() {
        let (logs, _capturing) = Captured::start(&LogArgs::default());
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("one-shot", async {});
        tasks.spawn("clumsy", async { panic!("oops") });
        assert_eq!(tasks.drain(DEADLINE).await, 0);
        assert!(!shutdown.is_triggered());
        let text = logs.text();
        assert!(
            text.contains("ERROR") && text.contains("task=\"clumsy\""),
            "{text}"
        );
        assert!(text.contains("panic=\"oops\""), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn draining_aborts_what_exceeds_the_grace() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("quick", sleep(Duration::from_secs(1)));
        tasks.spawn("endless", pending());
        tasks.spawn("slow", sleep(Duration::from_secs(100)));
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, 2);
    }

    #[tokio::test]
    async fn ended_tasks_do_not_pile_up() {
        let tasks = Tasks::new(Shutdown::new());
        for _ in 0..100 {
            let (ended, has_ended) = oneshot::channel();
            tasks.spawn("short", async move {
                ended.send(()).unwrap();
            });
            timeout(DEADLINE, has_ended).await.unwrap().unwrap();
        }
        assert!(tasks.set.lock().len() < 10);
    }

    #[test]
    fn panics_are_readable() {
        assert_eq!(panic_text(&"text"), "text");
        assert_eq!(panic_text(&"owned".to_owned()), "owned");
        assert_eq!(panic_text(&7), "a value that is no text");
    }
}

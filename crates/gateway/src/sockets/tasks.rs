//! The tasks of a shard's sockets: they end with it, and somebody learns of
//! those that panic.

use std::cell::RefCell;
use std::future::Future;

use tokio::task::JoinSet;
use tracing::error;

/// Tasks under way.
#[derive(Default)]
pub(super) struct Tasks(RefCell<JoinSet<()>>);

impl Tasks {
    /// Runs a task for as long as this exists.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.borrow_mut();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                error!(%error, "a task of a socket panicked");
            }
        }
        tasks.spawn_local(task);
    }
}

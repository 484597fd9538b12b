//! Shards: threads that each run one single-threaded runtime, so that a connection's state needs no
//! locks. Knows nothing of what runs on them.

use std::{any::Any, fmt, future::Future, io, num::NonZeroUsize, sync::mpsc, thread};

use thiserror::Error;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::oneshot,
};

/// Up to this many cores one shard is faster: the rest of the process and the kernel need the other
/// core.
const CORES_OF_ONE_SHARD: usize = 2;

/// The number of a shard, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(usize);

impl ShardIndex {
    /// The number, as an index into a list with one element per shard.
    pub const fn as_usize(self) -> usize {
        self.0
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard ended by a panic.
#[derive(Debug, Error)]
#[error("shard {index} panicked: {message}")]
pub struct ShardPanicked {
    /// The first shard that did.
    pub index: ShardIndex,
    /// What the panic said.
    pub message: String,
}

/// Running shards. Dropping this leaves them running; each ends when its main future does.
#[derive(Debug)]
#[must_use = "shards are joined, or their panics go unnoticed"]
pub struct Shards(Vec<Shard>);

#[derive(Debug)]
struct Shard {
    index: ShardIndex,
    thread: thread::JoinHandle<()>,
    /// Resolves when the thread is about to end, also by a panic.
    ended: oneshot::Receiver<()>,
}

impl Shards {
    /// Starts `count` threads named `<name>-<index>`, each with a runtime of its own that runs
    /// `main(index)` to its end. Local tasks that are left then are dropped.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be created. Shards that were started before it keep
    /// running until their mains end.
    pub fn start<M, F>(count: NonZeroUsize, name: &str, main: M) -> io::Result<Self>
    where
        M: Fn(ShardIndex) -> F + Send + Clone + 'static,
        F: Future<Output = ()> + 'static,
    {
        (0..count.get())
            .map(|index| Shard::start(ShardIndex(index), name, main.clone()))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Waits for the end of all shards without blocking the caller's runtime.
    ///
    /// # Errors
    /// The first shard, by index, that ended by a panic; all have ended even so.
    pub async fn join(self) -> Result<(), ShardPanicked> {
        let mut result = Ok(());
        for Shard {
            index,
            thread,
            ended,
        } in self.0
        {
            ended.await.ok();
            // The thread has nothing left to do, so this does not block for longer than it takes to
            // leave.
            if let Err(panic) = thread.join() {
                result = result.and(Err(ShardPanicked {
                    index,
                    message: panic_message(&*panic),
                }));
            }
        }
        result
    }
}

impl Shard {
    fn start<M, F>(index: ShardIndex, name: &str, main: M) -> io::Result<Self>
    where
        M: Fn(ShardIndex) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (end, ended) = oneshot::channel::<()>();
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("{name}-{index}"))
            .spawn(move || {
                // Dropped last, after the runtime and all that ran on it.
                let _end = end;
                // A local runtime cannot move between threads, so it is built where it runs.
                match Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())
                {
                    Ok(runtime) => {
                        started.send(Ok(())).ok();
                        runtime.block_on(main(index));
                    }
                    Err(error) => {
                        started.send(Err(error)).ok();
                    }
                }
            })?;
        start.recv().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the shard's thread ended before it started",
            ))
        })?;
        Ok(Self {
            index,
            thread,
            ended,
        })
    }
}

/// How many shards a machine with that many cores should run.
pub const fn shard_count_for(cores: usize) -> NonZeroUsize {
    let count = if cores <= CORES_OF_ONE_SHARD {
        1
    } else {
        cores / 2
    };
    NonZeroUsize::new(count).expect("half of more than two is at least one")
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shard_on_small_machines_then_one_per_two_cores() {
        for (cores, shards) in [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 1),
            (4, 2),
            (7, 3),
            (8, 4),
            (64, 32),
        ] {
            assert_eq!(shard_count_for(cores).get(), shards, "{cores} cores");
        }
    }
}

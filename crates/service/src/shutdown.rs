//! The wish that the process end, from signals or from within.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::own_thread;

/// What the exit code of a process adds to the number of the signal that ended it.
const SIGNAL_EXIT_BASE: i32 = 128;

/// A handle on the end of the process: everyone can ask for it and wait for it.
/// Clones share one state, which never goes back.
#[derive(Clone)]
pub struct Shutdown {
    token: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Shutdown {
    /// A handle that only [`Shutdown::trigger`] and [`Shutdown::fail`] trigger.
    #[must_use]
    pub fn new() -> Self {
        Self {
            token: CancellationToken::new(),
            failure: Arc::default(),
        }
    }

    /// A handle that SIGTERM and SIGINT trigger as well. A second signal ends
    /// the process at once, with 143 or 130, whatever its other threads do.
    ///
    /// The signals are taken for the rest of the process's life by a thread of
    /// its own, so a binary calls this once.
    ///
    /// # Errors
    /// When the thread cannot be started or the signals cannot be taken.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let watched = shutdown.clone();
        // The thread serves until the process ends; nothing joins it.
        own_thread::spawn("signals", || Ok(watch(Signals::take()?, watched)))?;
        Ok(shutdown)
    }

    /// Asks for the end.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Asks for the end because something failed that the process cannot do
    /// without; it then exits with a failure. The first reason stands.
    pub fn fail(&self, reason: impl Into<String>) {
        self.failure.set(reason.into()).ok();
        self.token.cancel();
    }

    /// The reason of the first failure, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the end was asked for. Cancel safe.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("triggered", &self.is_triggered())
            .field("failure", &self.failure())
            .finish()
    }
}

/// The work of the signal thread. It does not log, since what hangs when the
/// second signal comes may be the log.
async fn watch(mut signals: Signals, shutdown: Shutdown) {
    signals.next().await;
    shutdown.trigger();
    let second = signals.next().await;
    std::process::exit(SIGNAL_EXIT_BASE + second.as_raw_value());
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_trigger() {
        let shutdown = Shutdown::new();
        let waiter = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        assert!(!shutdown.is_triggered());
        shutdown.clone().trigger();
        assert!(shutdown.is_triggered());
        timeout(Duration::from_secs(10), waiter)
            .await
            .unwrap()
            .unwrap();
        timeout(Duration::from_secs(10), shutdown.wait())
            .await
            .unwrap();
        assert_eq!(shutdown.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_lasts_until_the_trigger() {
        let shutdown = Shutdown::new();
        let early = timeout(Duration::from_secs(3600), shutdown.wait()).await;
        assert!(early.is_err());
    }

    #[test]
    fn the_first_failure_stands() {
        let shutdown = Shutdown::new();
        shutdown.fail("first");
        shutdown.clone().fail("second");
        assert_eq!(shutdown.failure(), Some("first"));
        assert!(shutdown.is_triggered());
    }
}

//! The life of a service process: run, drain, end.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::exit::{BoxError, ExitError};
use crate::shutdown::Shutdown;

/// How long blocking work may outlive the service before it is left behind.
const TEARDOWN_GRACE: Duration = Duration::from_secs(1);

/// Runs the service that `start` makes until it ends, on a runtime of its own.
///
/// The service gets a handle that SIGTERM, SIGINT and failures trigger. Once
/// triggered it has `grace` to drain and return; then it is dropped where it
/// stands, with a warning. Its future is polled on the calling thread.
///
/// # Errors
/// [`ExitError::Runtime`] when the runtime or the signals cannot be set up, when
/// the service fails, or when [`Shutdown::fail`] ended it. Exceeding the grace
/// after a signal is no error.
pub fn run<S, E>(name: &'static str, grace: Duration, start: S) -> Result<(), ExitError>
where
    S: AsyncFnOnce(Shutdown) -> Result<(), E>,
    E: Into<BoxError>,
{
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(ExitError::runtime)?;
    let shutdown = Shutdown::on_signals().map_err(ExitError::runtime)?;
    let service = start(shutdown.clone());
    let outcome = runtime.block_on(supervise(name, grace, &shutdown, service));
    // A dropped runtime waits for blocking work without end.
    runtime.shutdown_timeout(TEARDOWN_GRACE);
    outcome
}

/// Threads of a service's runtime: half the cores, at least one, unless
/// `TOKIO_WORKER_THREADS` says otherwise.
///
/// The services wait for the bus far more than they compute. With a thread for
/// each core a message is handed from one to another on its way, and each time
/// a core has to be woken: on two cores that cost the router a fifth more and
/// had its slowest messages take four times as long.
fn workers() -> usize {
    let asked = std::env::var("TOKIO_WORKER_THREADS");
    let asked = asked.ok().and_then(|asked| asked.parse().ok());
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    asked
        .filter(|asked| *asked > 0)
        .unwrap_or((cores / 2).max(1))
}

/// Awaits `service`, for at most `grace` once `shutdown` is triggered.
async fn supervise<E: Into<BoxError>>(
    name: &'static str,
    grace: Duration,
    shutdown: &Shutdown,
    service: impl Future<Output = Result<(), E>>,
) -> Result<(), ExitError> {
    let mut service = pin!(service);
    let outcome = tokio::select! {
        // The service first: if both are done, its error is the news.
        biased;
        outcome = &mut service => outcome,
        () = shutdown.wait() => {
            info!(service = name, ?grace, "draining");
            timeout(grace, service).await.unwrap_or_else(|_| {
                warn!(service = name, ?grace, "drain took too long, leaving the rest behind");
                Ok(())
            })
        }
    };
    // Whatever else still runs in the process must not outlive its service.
    shutdown.trigger();
    outcome.map_err(ExitError::runtime)?;
    if let Some(reason) = shutdown.failure() {
        return Err(ExitError::runtime(reason));
    }
    info!(service = name, "stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::captured::Captured;
    use crate::telemetry::LogArgs;

    /// The grace of these tests, on a paused clock.
    const GRACE: Duration = Duration::from_secs(30);

    async fn outcome(
        shutdown: &Shutdown,
        service: impl Future<Output = io::Result<()>>,
    ) -> Result<(), String> {
        supervise("test", GRACE, shutdown, service)
            .await
            .map_err(|error| error.line())
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_ends_triggers_the_shutdown() {
        let shutdown = Shutdown::new();
        assert_eq!(outcome(&shutdown, async { Ok(()) }).await, Ok(()));
        assert!(shutdown.is_triggered());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_service_is_a_runtime_failure() {
        let shutdown = Shutdown::new();
        let failing = async { Err(io::Error::other("bus is gone")) };
        let error = supervise("test", GRACE, &shutdown, failing)
            .await
            .unwrap_err();
        assert_eq!((error.code(), error.line()), (1, "bus is gone".to_owned()));
        assert!(shutdown.is_triggered());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_may_drain_within_its_grace() {
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let started = Instant::now();
        let drain = async {
            shutdown.wait().await;
            sleep(GRACE - Duration::from_secs(1)).await;
            Err(io::Error::other("flush failed"))
        };
        assert_eq!(
            outcome(&shutdown, drain).await,
            Err("flush failed".to_owned())
        );
        assert_eq!(started.elapsed(), GRACE - Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_drain_is_left_behind() {
        let (logs, _capturing) = Captured::start(&LogArgs::default());
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let started = Instant::now();
        assert_eq!(outcome(&shutdown, pending()).await, Ok(()));
        assert_eq!(started.elapsed(), GRACE);
        assert!(logs.text().contains("WARN"), "{}", logs.text());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_from_within_is_the_outcome() {
        let shutdown = Shutdown::new();
        let service = async {
            shutdown.fail("reader panicked");
            shutdown.wait().await;
            Ok(())
        };
        assert_eq!(
            outcome(&shutdown, service).await,
            Err("reader panicked".to_owned())
        );
    }
}

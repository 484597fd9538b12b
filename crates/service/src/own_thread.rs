//! A thread with a runtime of its own, for what must work while the main
//! runtime hangs.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime;

/// Starts a thread that runs the future made by `setup`, which is called there,
/// inside the runtime. Returns once `setup` has.
///
/// # Errors
/// When the thread or its runtime cannot be started, or `setup` fails.
pub(crate) fn spawn<S, F>(name: &str, setup: S) -> io::Result<JoinHandle<()>>
where
    S: FnOnce() -> io::Result<F> + Send + 'static,
    F: Future<Output = ()>,
{
    let (report, outcome) = mpsc::sync_channel(1);
    let body = move || match prepare(setup) {
        Ok((runtime, work)) => {
            report.send(Ok(())).ok();
            runtime.block_on(work);
        }
        Err(error) => {
            report.send(Err(error)).ok();
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
    outcome
        .recv()
        .map_err(|_| io::Error::other("the thread panicked at its start"))??;
    Ok(thread)
}

fn prepare<S, F>(setup: S) -> io::Result<(runtime::Runtime, F)>
where
    S: FnOnce() -> io::Result<F>,
{
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = {
        let _inside = runtime.enter();
        setup()?
    };
    Ok((runtime, work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_runs_on_its_own_thread_also_from_within_a_runtime() {
        let (send, receive) = mpsc::sync_channel(1);
        let thread = spawn("helper", || {
            Ok(async move {
                let name = thread::current().name().map(ToOwned::to_owned);
                send.send(name).unwrap();
            })
        })
        .unwrap();
        thread.join().unwrap();
        assert_eq!(receive.recv().unwrap().as_deref(), Some("helper"));
    }

    #[tokio::test]
    async fn a_failing_or_panicking_setup_is_an_error() {
        type Never = std::future::Ready<()>;
        let failed = spawn::<_, Never>("failing", || Err(io::Error::other("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        let panicked = spawn::<_, Never>("panicking", || panic!("as planned"));
        assert!(panicked.is_err());
    }
}

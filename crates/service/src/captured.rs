//! Logs of the present thread, for tests that check what is logged.

use std::io;
use std::sync::{Arc, Once};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Registry;

use crate::telemetry::{self, LogArgs};

/// Sets a subscriber that is interested in everything and writes nothing.
///
/// While there is just one subscriber, tracing asks the thread that reaches an
/// event first whether anyone wants it; a test without logs would silence the
/// event for a test that captures it.
static LISTEN_EVERYWHERE: Once = Once::new();

/// A writer that keeps what is written.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Takes the logs of this thread until the guard is dropped.
    pub(crate) fn start(args: &LogArgs) -> (Self, DefaultGuard) {
        LISTEN_EVERYWHERE.call_once(|| {
            tracing::subscriber::set_global_default(Registry::default()).unwrap();
        });
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = telemetry::subscriber(args, false, move || writer.clone()).unwrap();
        (captured, tracing::subscriber::set_default(subscriber))
    }

    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

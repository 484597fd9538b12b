//! What the tools print on standard output. A reader that has gone away, as
//! `head` does, ends the program quietly.

use std::fmt::Display;
use std::io::{self, Write};

use signalbox_service::ExitError;

/// Prints a line. `Ok(false)` when nobody reads any more.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn line(text: impl Display) -> Result<bool, ExitError> {
    let mut out = io::stdout().lock();
    told(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes bytes as they are. `Ok(false)` when nobody reads any more.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn bytes(bytes: &[u8]) -> Result<bool, ExitError> {
    let mut out = io::stdout().lock();
    told(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Says on standard error what went wrong, if anyone listens.
pub(crate) fn error(text: impl Display) {
    writeln!(io::stderr(), "{text}").ok();
}

fn told(outcome: io::Result<()>) -> Result<bool, ExitError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ExitError::runtime(error)),
    }
}

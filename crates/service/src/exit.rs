//! How a process ends: its exit code and its last words.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use tracing::error;

/// The exit code for wrong arguments or configuration (`EX_USAGE`).
const CONFIG_CODE: u8 = 64;
/// The exit code for every other failure.
const RUNTIME_CODE: u8 = 1;

/// An error as services return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a process ends without success.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// Its arguments or configuration are wrong; starting it again is no use.
    #[error("invalid configuration")]
    Config(#[source] BoxError),
    /// It failed at its work.
    #[error("failed")]
    Runtime(#[source] BoxError),
    /// A tool ends with a code that has a meaning of its own, and has said all
    /// that there is to say.
    #[error("ended with code {0}")]
    Code(u8),
}

impl ExitError {
    /// Wrong arguments or configuration.
    pub fn config(error: impl Into<BoxError>) -> Self {
        Self::Config(error.into())
    }

    /// A failure at work. An exit error stays what it is, so that a service can
    /// still find its configuration wrong once it runs.
    pub fn runtime(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::Runtime(error),
        }
    }

    /// The exit code of the process.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Config(_) => CONFIG_CODE,
            Self::Runtime(_) => RUNTIME_CODE,
            Self::Code(code) => *code,
        }
    }

    /// The error and its causes on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let (Self::Config(cause) | Self::Runtime(cause)) = self else {
            return self.to_string();
        };
        let mut line = one_line(&cause.to_string());
        let mut next = cause.source();
        while let Some(error) = next {
            let text = one_line(&error.to_string());
            // Some errors repeat their cause in their own text.
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = error.source();
        }
        line
    }
}

/// Turns the outcome of `program` into its exit code and says what went wrong:
/// one line on standard error for bad configuration, a log line for a failure
/// at work once there is a log.
#[must_use]
pub fn exit_code(program: &str, outcome: Result<(), ExitError>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if let ExitError::Code(code) = error {
        return ExitCode::from(code);
    }
    if matches!(error, ExitError::Runtime(_)) && tracing::dispatcher::has_been_set() {
        error!(error = error.line(), "{program} failed");
    } else {
        // With standard error closed there is no one left to tell.
        writeln!(io::stderr(), "{program}: {}", error.line()).ok();
    }
    ExitCode::from(error.code())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::Captured;
    use crate::telemetry::LogArgs;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read\n  the file")]
    struct Outer(#[source] io::Error);

    #[test]
    fn codes_tell_configuration_from_failure() {
        assert_eq!(ExitError::config("bad").code(), 64);
        assert_eq!(ExitError::runtime("bad").code(), 1);
        let late = ExitError::runtime(ExitError::config("bad"));
        assert_eq!((late.code(), late.line()), (64, "bad".to_owned()));
    }

    #[test]
    fn the_outcome_decides_the_exit_code() {
        // An exit code can be shown, but not compared.
        let shown = |outcome| format!("{:?}", exit_code("test", outcome));
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(shown(Ok(())), code(0));
        assert_eq!(shown(Err(ExitError::config("as planned"))), code(64));
        assert_eq!(shown(Err(ExitError::runtime("as planned"))), code(1));
        assert_eq!(shown(Err(ExitError::Code(137))), code(137));
    }

    #[test]
    fn a_failure_at_work_is_logged() {
        let (logs, _capturing) = Captured::start(&LogArgs::default());
        let _ = exit_code("signalbox", Err(ExitError::runtime("bus is gone")));
        let text = logs.text();
        assert!(
            text.contains("ERROR") && text.contains("bus is gone"),
            "{text}"
        );
    }

    #[test]
    fn the_causes_are_on_one_line() {
        let error = ExitError::config(Outer(io::Error::other("disk\non fire")));
        assert_eq!(error.line(), "cannot read the file: disk on fire");
    }

    #[test]
    fn a_repeated_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("bind: {0}")]
        struct Repeats(#[source] io::Error);

        let error = ExitError::runtime(Repeats(io::Error::other("taken")));
        assert_eq!(error.line(), "bind: taken");
    }
}

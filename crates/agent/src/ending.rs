//! How commands end.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::output::{Offsets, Stream, StreamSum};

/// What is known of a command whose runner was killed.
pub(crate) const OUTCOME_UNKNOWN: &str = "outcome_unknown";
/// Why a command failed that was not given all of its input.
pub(crate) const INPUT_LOST: &str = "input_lost: more input came than it read";

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// What became of it.
    pub outcome: Outcome,
    /// What the process returned; 128+n where signal n ended it. Absent where
    /// there was no process, or nobody knows.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGKILL`.
    pub signal: Option<String>,
    /// Why it failed where exit code and signal do not say it: `not_allowed`,
    /// `not_found`, `not_started`, `busy`, `input_lost`, each with `: ` and a
    /// sentence, or `outcome_unknown`.
    pub reason: Option<String>,
    /// When its process was started.
    pub started: Option<SystemTime>,
    /// For how long its main process ran.
    pub duration: Option<Duration>,
    /// What each stream amounts to; both are listed.
    pub streams: Vec<StreamSum>,
    /// Whether output may be missing: something held a stream open for longer
    /// than the drain, the spool has a gap, or the runner was killed.
    pub output_incomplete: bool,
    /// What it used; absent where there was no process, or nobody knows.
    pub usage: Option<Usage>,
    /// Processes that could not be ended.
    pub left_behind: u32,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It ended by itself, with exit code 0.
    Completed,
    /// It ended by itself with another code or a signal, or never ran.
    Failed,
    /// It ended after it was asked to.
    Interrupted,
}

/// What a command used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of it and all its descendants that are known, in user and
    /// system mode.
    pub cpu: Duration,
    /// The peak memory of the largest of its processes, in bytes.
    pub peak_memory: u64,
}

impl Ending {
    /// Of a command that had no process.
    pub(crate) fn not_run(outcome: Outcome, reason: &str) -> Self {
        Self {
            outcome,
            exit_code: None,
            signal: None,
            reason: Some(reason.to_owned()),
            started: None,
            duration: None,
            streams: Stream::ALL
                .map(|stream| StreamSum::new(stream, 0, 0, Sha256::new()))
                .to_vec(),
            output_incomplete: false,
            usage: None,
            left_behind: 0,
        }
    }

    /// Of a command whose runner was killed; so much of its output is known, and
    /// so much of that lost.
    pub(crate) fn unknown(written: Offsets, lost: Offsets, left_behind: u32) -> Self {
        Self {
            streams: Stream::ALL
                .map(|stream| StreamSum::unhashed(stream, written.of(stream), lost.of(stream)))
                .to_vec(),
            output_incomplete: true,
            left_behind,
            ..Self::not_run(Outcome::Failed, OUTCOME_UNKNOWN)
        }
    }
}

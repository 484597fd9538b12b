//! The runner: executes commands on the machine that it runs on. Linux only, 5.11
//! or newer.
//!
//! Two halves meet in [`executor`]. Below it is the execution: processes and
//! what they write; it knows no gateway and no frame. Above it is the link: the
//! connection to the gateway, tokens, pacing, adoption.
//!
//! # Rooms of the execution
//!
//! | module | owns | in | out |
//! |---|---|---|---|
//! | [`policy`] | what may be run | a command's words | the program to execute, or a sentence that refuses |
//! | [`words`] | quoting | a command line | words |
//! | [`environment`] | what a process inherits | the runner's environment, names | variables |
//! | [`process`] | one process, its terminal or pipes | what to execute | descriptors, its exit with what it used |
//! | `family` | all that descends from a command | the process table | signals to every member, nobody else |
//! | `input` | what waits to be typed | bytes | bytes, as the process takes them |
//! | [`redact`] | secrets | what a process wrote | the same without them |
//! | [`output`] | offsets, sums, text | bytes | [`output::Piece`] for the link, [`output::StreamSum`] for the end |
//! | [`spool`] | unacknowledged output on disk | bytes, acknowledgements | pieces from any offset |
//! | [`journal`] | which commands were executed | starts and ends, on disk before they count | what to do after a crash |
//! | `supervisor` | the thread of one running command | all of the above | progress |
//! | [`executor`] | all commands of the runner | requests | [`executor::Command`] handles |
//!
//! # How the link uses it
//!
//! [`Executor::open`](executor::Executor::open) first: it ends what a former
//! runner left behind, which may take some seconds, so off the async threads.
//! [`Executor::commands`](executor::Executor::commands) then lists those that
//! the former runner had not handed over: all have ended.
//!
//! For `command:execute` call [`Executor::execute`](executor::Executor::execute).
//! It returns a handle at once, also for an id that it knows (then nothing is
//! executed again) and for a command that is refused (then it has ended, with
//! the reason). One task for each handle is enough:
//!
//! ```text
//! while let Some(pieces) = command.next(from, max).await? {
//!     send them, in this order; from.pass(piece) for each
//! }
//! on `terminal:ack`: command.acknowledge(stream, offset)   // frees the spool
//! all acknowledged: send `command:complete` from command.state()
//! confirmed: executor.confirm(id)           // the spool is dropped
//! ```
//!
//! Nothing here waits for the link: output that is not acknowledged stays in the
//! spool, and when that is full the process waits, see [`spool`].
//!
//! # Invariants
//!
//! - A command's id is in the journal, on disk, before its process exists.
//!   Nothing is executed for an id that is there.
//! - Nothing that a process wrote is stored, framed or logged before it went
//!   through the redaction. Offsets, sums and hashes are of the redacted bytes.
//! - When a command has ended, none of its processes is left, as far as the
//!   system tells; [`executor::Ending::left_behind`] counts those that would not
//!   go.
//! - A signal is sent to a process only while its pid is known to be its own.

pub mod address;
mod backoff;
mod command;
mod dial;
mod ending;
pub mod environment;
mod error;
pub mod executor;
mod family;
mod input;
pub mod journal;
mod link;
pub mod output;
pub mod pace;
pub mod policy;
pub mod presence;
pub mod process;
pub mod redact;
mod session;
pub mod spool;
mod status;
mod supervisor;
mod tokens;
pub mod words;

pub use crate::error::Error;
pub use crate::tokens::KeySource;

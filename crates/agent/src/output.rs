//! What a command has written: streams, offsets, pieces and sums.

use std::time::SystemTime;

/// Where a command wrote to. In a terminal all is [`Stdout`](Self::Stdout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An offset in each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Offsets {
    /// In standard output.
    pub stdout: u64,
    /// In standard error.
    pub stderr: u64,
}

/// A part of what a command has written, in the order in which it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one stream.
    Output(Chunk),
    /// Bytes that are lost for good, since the spool was full for too long.
    Gap {
        /// The stream.
        stream: Stream,
        /// The offset of the first lost byte.
        from: u64,
        /// The offset behind the last lost byte.
        to: u64,
    },
}

/// Bytes of one stream.
///
/// A chunk never ends within a UTF-8 character that is valid so far, unless
/// that is the end of its stream or a gap follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The stream.
    pub stream: Stream,
    /// Of its first byte.
    pub offset: u64,
    /// The bytes, at least one.
    pub bytes: Vec<u8>,
    /// When the first of them was read.
    pub at: SystemTime,
}

/// What a stream amounts to, all that was lost included.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StreamSum {
    /// The stream.
    pub stream: Stream,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of all of them in hexadecimal digits; absent after a crash of
    /// the runner, which forgets what it had counted.
    pub sha256: Option<String>,
    /// Those that are in no chunk: a gap took them.
    pub lost: u64,
}

/// Text and, where that is not exact, the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Valid UTF-8, with U+FFFD for each maximal run of other bytes.
    pub text: String,
    /// Whether the text is exactly the bytes.
    pub exact: bool,
}

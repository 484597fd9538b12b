//! What a command has written: streams, offsets, pieces and sums.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Where a command wrote to. In a terminal all is [`Stdout`](Self::Stdout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An offset in each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Bytes that are lost for good.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl StreamSum {
    /// Of a stream whose bytes went into this hash.
    pub(crate) fn new(stream: Stream, bytes: u64, lost: u64, hash: Sha256) -> Self {
        let digit = |number: u8| char::from_digit(u32::from(number), 16).unwrap_or('0');
        let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
        Self {
            stream,
            bytes,
            sha256: Some(hash.finalize().iter().flat_map(digits).collect()),
            lost,
        }
    }

    /// Of a stream whose bytes are not known.
    pub(crate) const fn unhashed(stream: Stream, bytes: u64, lost: u64) -> Self {
        Self {
            stream,
            bytes,
            sha256: None,
            lost,
        }
    }
}

impl Stream {
    /// Both, standard output first.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Offsets {
    /// That of a stream.
    #[must_use]
    pub const fn of(self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// That of a stream, to be changed.
    pub const fn of_mut(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Moves behind a piece.
    pub fn pass(&mut self, piece: &Piece) {
        *self.of_mut(piece.stream()) = piece.end();
    }

    /// Whether both lie at or behind those of `other`.
    #[must_use]
    pub const fn cover(self, other: Self) -> bool {
        self.stdout >= other.stdout && self.stderr >= other.stderr
    }
}

impl Piece {
    /// Its stream.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        match self {
            Self::Output(chunk) => chunk.stream,
            Self::Gap { stream, .. } => *stream,
        }
    }

    /// The offset of its first byte.
    #[must_use]
    pub const fn start(&self) -> u64 {
        match self {
            Self::Output(chunk) => chunk.offset,
            Self::Gap { from, .. } => *from,
        }
    }

    /// The offset behind its last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        match self {
            Self::Output(chunk) => chunk.end(),
            Self::Gap { to, .. } => *to,
        }
    }
}

impl Chunk {
    /// The offset behind its last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// As text, with U+FFFD where it is none. Borrowed: exactly the bytes;
    /// owned: the bytes have to be sent beside it.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// How many of the bytes may be a frame: all but the beginning of a character
/// at their end, if it may still become one.
#[must_use]
pub fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let lead = bytes[tail..]
        .iter()
        .rposition(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let Some(lead) = lead.map(|at| tail + at) else {
        return bytes.len();
    };
    match str::from_utf8(&bytes[lead..]) {
        Err(error) if error.error_len().is_none() => lead,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_cut_off_only_while_they_may_become_valid() {
        for letter in ["a", "é", "€", "🦀"] {
            let bytes = format!("x{letter}").into_bytes();
            for cut in 1..bytes.len() {
                assert_eq!(whole_characters(&bytes[..cut]), 1, "{letter} cut at {cut}");
            }
            assert_eq!(whole_characters(&bytes), bytes.len());
        }
        for never in [
            &b"x\xff"[..],
            b"x\x80",
            b"x\x80\x80\x80\x80",
            b"x\xc0",
            b"x\xed\xa0",
            b"x\xf5",
            b"",
        ] {
            assert_eq!(whole_characters(never), never.len(), "{never:?}");
        }
    }

    #[test]
    fn text_is_exact_or_owned() {
        let chunk = |bytes: &[u8]| Chunk {
            stream: Stream::Stdout,
            offset: 0,
            bytes: bytes.to_vec(),
            at: SystemTime::UNIX_EPOCH,
        };
        assert!(matches!(chunk("é".as_bytes()).text(), Cow::Borrowed("é")));
        assert!(matches!(chunk(b"\xc3(").text(), Cow::Owned(text) if text == "\u{fffd}("));
    }
}

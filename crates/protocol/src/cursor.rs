//! Epochs and cursors: where in a stream a reader stands.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One life of a stream, derived from its creation time; a stream that was
/// deleted and made again has another, since its sequences start over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a stream created at `micros` microseconds after 1970.
    #[must_use]
    pub const fn from_unix_micros(micros: u64) -> Self {
        Self(micros)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = !text.is_empty()
            && !text.starts_with('0')
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(micros) if canonical => Ok(Self(micros)),
            _ => Err(InvalidCursor),
        }
    }
}

/// A position between two events of TOPICS, written `<epoch>-<sequence>`:
/// everything up to and including `sequence` lies behind it. Clients treat the
/// text as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The life of the stream that the sequence belongs to.
    pub epoch: Epoch,
    /// Stream sequence; 0 lies before the first event.
    pub sequence: u64,
}

/// A text that is no cursor of ours.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a resume offset that this server gave out")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, sequence) = text.split_once('-').ok_or(InvalidCursor)?;
        let digits = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || (sequence.len() > 1 && sequence.starts_with('0')) {
            return Err(InvalidCursor);
        }
        Ok(Self {
            epoch: epoch.parse()?,
            sequence: sequence.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_it_never_wrote() {
        for text in [
            "",
            "-",
            "1-",
            "-1",
            "1",
            "1-x",
            "1-01",
            "01-1",
            "G-1",
            "A-1",
            "1--1",
            "1-+1",
            "1-1-1",
            "1-99999999999999999999",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(micros in 1_u64.., sequence: u64) {
            let cursor = Cursor { epoch: Epoch::from_unix_micros(micros), sequence };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}

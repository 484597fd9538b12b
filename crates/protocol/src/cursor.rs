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

/// A position of dialect `fleet`, written `<epoch>-<n>.<m>`: where the events
/// are, and where the logs of commands are. A record of a log may be told in
/// several messages; between them the position is `<epoch>-<n>.<m>.<part>`.
/// Clients treat the text as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FleetCursor {
    /// The life of the stream of logs.
    pub epoch: Epoch,
    /// Sequence in the stream of events.
    pub events: u64,
    /// Sequence in the stream of logs; everything up to it lies behind.
    pub logs: u64,
    /// How many messages about that last record lie behind; 0 = all.
    pub part: u32,
}

impl fmt::Display for FleetCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.epoch, self.events, self.logs)?;
        match self.part {
            0 => Ok(()),
            part => write!(f, ".{part}"),
        }
    }
}

impl FromStr for FleetCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (events, logs) = text.split_once('.').ok_or(InvalidCursor)?;
        let events: Cursor = events.parse()?;
        let (logs, part) = match logs.split_once('.') {
            None => (logs, 0),
            Some((logs, part)) => (logs, number(part)?),
        };
        let whole = text.matches('.').count() == 1;
        let part = u32::try_from(part).map_err(|_| InvalidCursor)?;
        if !whole && part == 0 {
            return Err(InvalidCursor);
        }
        Ok(Self {
            epoch: events.epoch,
            events: events.sequence,
            logs: number(logs)?,
            part,
        })
    }
}

/// A number as it is written here, without leading zeros.
fn number(text: &str) -> Result<u64, InvalidCursor> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(InvalidCursor);
    }
    text.parse().map_err(|_| InvalidCursor)
}

impl Serialize for FleetCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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

    #[test]
    fn refuses_fleet_positions_that_it_never_wrote() {
        for text in [
            "",
            "1-1",
            "1-1.",
            "1-1.01",
            "1-01.1",
            "1-1.x",
            "1-1.1.0",
            "1-1.1.01",
            "1-1.1.1.1",
            ".1",
            "1-1.-1",
        ] {
            assert_eq!(text.parse::<FleetCursor>(), Err(InvalidCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn fleet_positions_round_trip(
            micros in 1_u64..,
            events: u64,
            logs: u64,
            part: u32,
        ) {
            let epoch = Epoch::from_unix_micros(micros);
            let cursor = FleetCursor { epoch, events, logs, part };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn round_trips(micros in 1_u64.., sequence: u64) {
            let cursor = Cursor { epoch: Epoch::from_unix_micros(micros), sequence };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}

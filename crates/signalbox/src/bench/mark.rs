//! What an event of a run carries in its data: which run it is of, what it is
//! about, its number there and when it left. Found again in a frame of any
//! dialect by its key, without parsing the JSON around it.

use std::sync::LazyLock;
use std::time::Instant;

use memchr::memmem::Finder;

/// The field of an event's data that holds the mark.
pub(super) const FIELD: &str = "bench";

static OPENING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"bench\":\""));
static CURSOR: LazyLock<memchr::memmem::FinderRev<'static>> =
    LazyLock::new(|| memchr::memmem::FinderRev::new(b"\"seq\":\""));
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment early in this process, on the monotonic clock.
pub(super) fn now() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// One event, as its receiver recognises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The run.
    pub(super) run: u32,
    /// What it is about; clients watch one of these, or all.
    pub(super) target: u32,
    /// Its number among the events about that, from 0.
    pub(super) sequence: u64,
    /// When its publish began, as [`now`] says.
    pub(super) sent: u64,
}

impl Mark {
    /// The mark in a frame; `None` when it has none.
    pub(super) fn find(frame: &[u8]) -> Option<Self> {
        let start = OPENING.find(frame)? + OPENING.needle().len();
        let rest = &frame[start..];
        let end = memchr::memchr(b'"', rest)?;
        let mut parts = std::str::from_utf8(&rest[..end]).ok()?.split('.');
        let mark = Self {
            run: u32::from_str_radix(parts.next()?, 16).ok()?,
            target: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
            sent: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(mark)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            run,
            target,
            sequence,
            sent,
        } = self;
        write!(f, "{run:08x}.{target}.{sequence}.{sent}")
    }
}

/// The resume offset of a frame, which every dialect writes as `seq`, last.
pub(super) fn cursor(frame: &[u8]) -> Option<&str> {
    let start = CURSOR.rfind(frame)? + CURSOR.needle().len();
    let rest = &frame[start..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_frames_of_any_shape() {
        let mark = Mark {
            run: 0xAB,
            target: 7,
            sequence: 123_456,
            sent: 99,
        };
        let data = format!(r#"{{"a":1,"{FIELD}":"{mark}","pad":"xx"}}"#);
        for frame in [
            format!(r#"{{"type":"threat_alert","data":{data},"id":"x","seq":"e-1"}}"#),
            format!(r#"42/ws,["workflow.started",{data}]"#),
        ] {
            assert_eq!(Mark::find(frame.as_bytes()), Some(mark), "{frame}");
        }
    }

    #[test]
    fn what_is_no_mark_is_none() {
        for frame in [
            "",
            "{}",
            r#"{"bench":"#,
            r#"{"bench":"1.2.3"}"#,
            r#"{"bench":"1.2.3.4.5"}"#,
            r#"{"bench":"x.2.3.4"}"#,
        ] {
            assert_eq!(Mark::find(frame.as_bytes()), None, "{frame}");
        }
    }

    #[test]
    fn the_last_seq_is_the_cursor() {
        let frame = br#"{"data":{"seq":"not this"},"id":"x","seq":"6ab-17"}"#;
        assert_eq!(cursor(frame), Some("6ab-17"));
        assert_eq!(cursor(b"{}"), None);
    }
}

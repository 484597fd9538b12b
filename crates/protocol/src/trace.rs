//! W3C Trace Context: the `traceparent` header that follows an event from its
//! producer to the frame's write; and whether this process records spans.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// The header's name on the bus and over HTTP.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to a trace, passed on as it is.
pub const TRACESTATE: &str = "tracestate";
/// The longest `tracestate` that is passed on, in bytes: what the standard
/// asks for at least. A longer one is left out.
pub const MAX_TRACESTATE_BYTES: usize = 512;

/// What this process records. Written once, before there are events.
static RECORDING: AtomicU8 = AtomicU8::new(Recording::Nothing as u8);

/// Which traces this process records spans of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Recording {
    /// None: there is nowhere to send them.
    Nothing,
    /// Those whose `traceparent` says so, and of those that begin here the ones
    /// that the sampler takes.
    Sampled,
    /// Whatever the sampler takes, also where `traceparent` says no.
    Asked,
}

impl Recording {
    /// Sets what this process records.
    pub fn set(self) {
        RECORDING.store(self as u8, Ordering::Relaxed);
    }

    /// What this process records. Costs one read of memory.
    #[inline]
    #[must_use]
    pub fn current() -> Self {
        match RECORDING.load(Ordering::Relaxed) {
            0 => Self::Nothing,
            1 => Self::Sampled,
            _ => Self::Asked,
        }
    }

    /// Whether a trace with or without the sampled flag may be recorded here.
    #[inline]
    #[must_use]
    pub const fn may_take(self, is_sampled: bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Sampled => is_sampled,
            Self::Asked => true,
        }
    }
}

/// A position in a trace (W3C Trace Context, level 1, version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// A position with these ids, unless one of them is zero, which the
    /// standard forbids.
    #[must_use]
    pub const fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            flags: sampled as u8,
        })
    }

    /// The same trace, seen from the span `span_id`; unchanged if that is zero.
    #[must_use]
    pub const fn child(self, span_id: u64) -> Self {
        if span_id == 0 {
            self
        } else {
            Self { span_id, ..self }
        }
    }

    /// The span that it names.
    #[must_use]
    pub const fn span_id(self) -> SpanId {
        SpanId(self.span_id)
    }

    /// Whether the producer asked for this trace to be recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The trace's id as logs write it: 32 hexadecimal digits.
    #[must_use]
    pub const fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }
}

/// The id that all spans and log lines of one event share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The id as a number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

/// The id of one step of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(u64);

impl SpanId {
    /// The id as a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut part = |len| {
            let digits = parts.next().ok_or(InvalidTraceParent)?;
            let valid = digits.len() == len
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if !valid {
                return Err(InvalidTraceParent);
            }
            u128::from_str_radix(digits, 16).map_err(|_| InvalidTraceParent)
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // A later version may append parts; version 00 may not, and ff is forbidden.
        let valid_end = match version {
            0xff => false,
            0 => parts.next().is_none(),
            _ => true,
        };
        if !valid_end || trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace_id,
            span_id: span_id as u64,
            flags: (flags as u8) & 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn round_trips_and_keeps_the_trace_in_children() {
        let parent: TraceParent = SAMPLE.parse().unwrap();
        assert_eq!(parent.to_string(), SAMPLE);
        assert!(parent.is_sampled());
        let child = parent.child(7);
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_eq!(
            child.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01"
        );
    }

    #[test]
    fn the_flag_decides_unless_the_sampler_is_asked() {
        let taken = |recording: Recording| [false, true].map(|flag| recording.may_take(flag));
        assert_eq!(taken(Recording::Nothing), [false, false]);
        assert_eq!(taken(Recording::Sampled), [false, true]);
        assert_eq!(taken(Recording::Asked), [true, true]);
    }

    #[test]
    fn refuses_what_the_standard_forbids() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(
                text.parse::<TraceParent>(),
                Err(InvalidTraceParent),
                "{text}"
            );
        }
    }
}

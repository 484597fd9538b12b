//! One record of a segment: a checked header, then bytes.

use std::time::{Duration, SystemTime};

use crate::output::{Offsets, Stream};

/// Of a header.
pub(super) const HEADER_BYTES: usize = 28;
/// The longest record; a longer length is damage.
pub(super) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The beginning of a segment: where both streams are.
    Start,
    /// Output.
    Output,
    /// Lost output: up to where.
    Gap,
}

/// What precedes the bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) stream: Stream,
    pub(super) offset: u64,
    pub(super) at: SystemTime,
    pub(super) length: u32,
    /// Of everything else in the record.
    pub(super) checksum: u32,
}

impl Header {
    /// Of a record with this payload.
    pub(super) fn of(
        kind: Kind,
        stream: Stream,
        offset: u64,
        at: SystemTime,
        payload: &[u8],
    ) -> Self {
        let mut header = Self {
            kind,
            stream,
            offset,
            at,
            length: u32::try_from(payload.len()).expect("payloads are bounded"),
            checksum: 0,
        };
        header.checksum = header.sum(payload);
        header
    }

    /// Of the start of a segment, and its payload.
    pub(super) fn start(offsets: Offsets) -> (Self, [u8; 8]) {
        let payload = offsets.stderr.to_le_bytes();
        let epoch = SystemTime::UNIX_EPOCH;
        (
            Self::of(Kind::Start, Stream::Stdout, offsets.stdout, epoch, &payload),
            payload,
        )
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let since = self
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8] = match self.kind {
            Kind::Start => b'S',
            Kind::Output => b'O',
            Kind::Gap => b'G',
        };
        bytes[9] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..28].copy_from_slice(&micros.to_le_bytes());
        bytes
    }

    /// `None` if it is damaged as far as it shows without its payload.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let short = |at: usize| {
            let bytes = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let header = Self {
            kind: match bytes[8] {
                b'S' => Kind::Start,
                b'O' => Kind::Output,
                b'G' => Kind::Gap,
                _ => return None,
            },
            stream: match bytes[9] {
                1 => Stream::Stdout,
                2 => Stream::Stderr,
                _ => return None,
            },
            offset: number(12),
            at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(number(20)))?,
            length: short(4),
            checksum: short(0),
        };
        let plain = bytes[10..12] == [0, 0] && header.length as usize <= MAX_PAYLOAD_BYTES;
        plain.then_some(header)
    }

    /// Whether header and payload are as they were written.
    pub(super) fn is_whole(&self, payload: &[u8]) -> bool {
        self.checksum == self.sum(payload)
    }

    /// Up to where its stream is with this record.
    pub(super) fn end(&self, payload: &[u8]) -> Option<u64> {
        match self.kind {
            Kind::Start => Some(self.offset),
            Kind::Output => self.offset.checked_add(u64::from(self.length)),
            Kind::Gap => eight(payload),
        }
    }

    /// How many bytes it says are lost.
    pub(super) fn lost(&self, payload: &[u8]) -> u64 {
        match self.kind {
            Kind::Gap => self.end(payload).unwrap_or(0).saturating_sub(self.offset),
            Kind::Start | Kind::Output => 0,
        }
    }

    fn sum(&self, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.encode()[4..]);
        hasher.update(payload);
        hasher.finalize()
    }
}

/// The number that a payload of eight bytes is.
pub(super) fn eight(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}

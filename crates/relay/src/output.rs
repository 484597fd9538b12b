//! Which bytes of a command's output are new, which were there before, and
//! which are missing. Pure: chunks in, what to record out.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use signalbox_protocol::frame::fields::MAX_COUNT;
use signalbox_protocol::wire::{
    GapReason, OutputChunk, OutputOffset, OutputStream, StreamSum, TermGap, TermOutput,
    term_record::Record,
};

/// How many streams a command has.
const STREAMS: usize = 4;

/// One stream of a command.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Bytes that were taken; the next one has this offset.
    bytes: u64,
    /// Those of them that are recorded.
    recorded: u64,
    hash: Sha256,
}

/// Something to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// The record.
    pub(crate) record: Record,
    /// What the streams amount to with it.
    pub(crate) sums: Vec<StreamSum>,
}

/// What a log has, taken in from its beginning.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading([(u64, Sha256); STREAMS]);

impl Reading {
    /// Takes in a chunk of the log; in order.
    pub(crate) fn add(&mut self, chunk: &OutputChunk) {
        if let Some(stream) = index(chunk.stream) {
            let (bytes, hash) = &mut self.0[stream];
            *bytes += chunk.data.len() as u64;
            hash.update(&chunk.data);
        }
    }
}

/// What became of a chunk.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Admitted {
    /// What is to be recorded, in this order.
    pub(crate) steps: Vec<Step>,
    /// Bytes that were taken before.
    pub(crate) repeated: u64,
    /// Whether it lies behind a gap, and was not taken.
    pub(crate) refused: bool,
}

/// The output of one command.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    streams: [Tally; STREAMS],
    /// Bytes that the log takes in all.
    cap: u64,
    /// Streams whose end was cut off, as the log says.
    capped: [bool; STREAMS],
    /// Whether the hashes are of all that is recorded.
    hashed: bool,
}

impl Output {
    /// Of a command whose log takes so many bytes, from its beginning.
    pub(crate) fn new(cap: u64) -> Self {
        Self {
            streams: Default::default(),
            cap,
            capped: [false; STREAMS],
            hashed: true,
        }
    }

    /// Goes on where a log ends. The hashes are to be made up for with
    /// [`rehash`](Self::rehash).
    pub(crate) fn resume(cap: u64, sums: &[StreamSum]) -> Self {
        let mut output = Self::new(cap);
        for sum in sums {
            let Some(stream) = index(sum.stream) else {
                continue;
            };
            output.streams[stream].bytes = sum.bytes;
            output.streams[stream].recorded = sum.recorded;
        }
        let recorded = output.recorded();
        output.hashed = recorded == 0;
        for (tally, capped) in output.streams.iter().zip(&mut output.capped) {
            *capped = recorded >= cap && tally.bytes > tally.recorded;
        }
        output
    }

    /// Whether the hashes are of all that is recorded.
    pub(crate) const fn is_hashed(&self) -> bool {
        self.hashed
    }

    /// Makes up the hashes from the log, what was admitted here included; gives
    /// whether all of it was read. Of a part they stay unknown.
    pub(crate) fn rehash(&mut self, reading: Reading) -> bool {
        let mut both = self.streams.iter().zip(&reading.0);
        if !both.all(|(tally, (bytes, _))| tally.recorded == *bytes) {
            return false;
        }
        for (tally, (_, hash)) in self.streams.iter_mut().zip(reading.0) {
            tally.hash = hash;
        }
        self.hashed = true;
        true
    }

    fn recorded(&self) -> u64 {
        self.streams.iter().map(|tally| tally.recorded).sum()
    }

    /// Up to where a stream was taken.
    pub(crate) fn offset(&self, stream: i32) -> u64 {
        index(stream).map_or(0, |stream| self.streams[stream].bytes)
    }

    /// Up to where the streams were taken that have anything.
    pub(crate) fn offsets(&self, command_id: &str) -> Vec<OutputOffset> {
        let streams = (0..).zip(&self.streams);
        streams
            .filter(|(_, tally)| tally.bytes > 0)
            .map(|(stream, tally)| OutputOffset {
                command_id: command_id.to_owned(),
                stream,
                offset: tally.bytes,
            })
            .collect()
    }

    /// Takes a chunk: what of it is new is to be recorded behind all that was
    /// admitted before.
    pub(crate) fn admit(&mut self, mut chunk: OutputChunk) -> Admitted {
        let mut admitted = Admitted::default();
        let end = chunk.offset.checked_add(chunk.data.len() as u64);
        let is_countable = end.is_some_and(|end| end <= MAX_COUNT);
        let Some(stream) = index(chunk.stream).filter(|_| is_countable) else {
            admitted.refused = true;
            return admitted;
        };
        let next = self.streams[stream].bytes;
        if chunk.offset > next {
            // Behind the cap nothing is kept, not even how far it has come.
            if !chunk.after_loss && !self.capped[stream] {
                admitted.refused = true;
                return admitted;
            }
            self.streams[stream].bytes = chunk.offset;
            if !self.capped[stream] {
                self.gap(&chunk, next, chunk.offset, GapReason::Lost, &mut admitted);
            }
        } else {
            let known = usize::try_from(next - chunk.offset).unwrap_or(usize::MAX);
            let known = known.min(chunk.data.len());
            admitted.repeated = known as u64;
            chunk.data = chunk.data.slice(known..);
            chunk.offset = chunk.offset.saturating_add(known as u64);
        }
        let room = self.cap.saturating_sub(self.recorded());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let rest = chunk.data.split_off(room.min(chunk.data.len()));
        if !chunk.data.is_empty() {
            let tally = &mut self.streams[stream];
            tally.recorded += chunk.data.len() as u64;
            tally.bytes += chunk.data.len() as u64;
            tally.hash.update(&chunk.data);
            let record = Record::Output(TermOutput {
                chunks: vec![chunk.clone()],
            });
            self.step(record, &mut admitted);
        }
        if !rest.is_empty() {
            let from = self.streams[stream].bytes;
            self.streams[stream].bytes += rest.len() as u64;
            if !self.capped[stream] {
                self.capped[stream] = true;
                self.gap(&chunk, from, 0, GapReason::Capped, &mut admitted);
            }
        }
        admitted
    }

    fn gap(
        &self,
        chunk: &OutputChunk,
        from: u64,
        to: u64,
        reason: GapReason,
        admitted: &mut Admitted,
    ) {
        let record = Record::Gap(TermGap {
            stream: chunk.stream,
            from,
            to,
            reason: reason.into(),
        });
        self.step(record, admitted);
    }

    fn step(&self, record: Record, admitted: &mut Admitted) {
        let sums = self.sums(false);
        admitted.steps.push(Step { record, sums });
    }

    /// What each stream that has anything amounts to; with hashes where they are
    /// asked for and known.
    pub(crate) fn sums(&self, hashes: bool) -> Vec<StreamSum> {
        let streams = (0..).zip(&self.streams);
        streams
            .filter(|(_, tally)| tally.bytes > 0)
            .map(|(stream, tally)| StreamSum {
                stream,
                bytes: tally.bytes,
                recorded: tally.recorded,
                sha256: if hashes && self.hashed {
                    Bytes::copy_from_slice(&tally.hash.clone().finalize())
                } else {
                    Bytes::new()
                },
            })
            .collect()
    }
}

fn index(stream: i32) -> Option<usize> {
    OutputStream::try_from(stream).ok()?;
    usize::try_from(stream).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(offset: u64, data: &[u8], after_loss: bool) -> OutputChunk {
        OutputChunk {
            stream: OutputStream::Stdout.into(),
            offset,
            data: Bytes::copy_from_slice(data),
            time: String::new(),
            after_loss,
        }
    }

    fn reading(parts: &[&[u8]]) -> Reading {
        let mut reading = Reading::default();
        for part in parts {
            reading.add(&chunk(0, part, false));
        }
        reading
    }

    fn bytes(steps: &[Step]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for step in steps {
            if let Record::Output(output) = &step.record {
                output
                    .chunks
                    .iter()
                    .for_each(|chunk| bytes.extend(&chunk.data));
            }
        }
        bytes
    }

    #[test]
    fn a_gap_is_taken_only_for_lost() {
        let mut output = Output::new(100);
        assert!(output.admit(chunk(2, b"c", false)).refused);
        assert_eq!(output.offset(0), 0);
        let admitted = output.admit(chunk(2, b"c", true));
        assert!(matches!(
            &admitted.steps[0].record,
            Record::Gap(TermGap { from: 0, to: 2, .. })
        ));
        assert_eq!((output.offset(0), output.recorded()), (3, 1));
    }

    #[test]
    fn beyond_the_cap_there_is_one_gap_and_every_byte_is_counted() {
        let mut output = Output::new(4);
        let first = output.admit(chunk(0, b"abcdef", false)).steps;
        assert_eq!(bytes(&first), b"abcd");
        assert!(matches!(
            &first[1].record,
            Record::Gap(TermGap { from: 4, to: 0, .. })
        ));
        assert_eq!(output.admit(chunk(6, b"gh", false)).steps, []);
        let sums = output.sums(true);
        assert_eq!((sums[0].bytes, sums[0].recorded), (8, 4));
        assert_eq!(sums[0].sha256, Sha256::digest(b"abcd").to_vec());
        let mut resumed = Output::resume(4, &sums);
        assert_eq!(resumed.admit(chunk(8, b"i", false)).steps, []);
        assert!(!resumed.is_hashed());
        assert!(resumed.rehash(reading(&[b"abcd"])));
        assert_eq!(resumed.sums(true)[0].sha256, sums[0].sha256);
        let mut longer = Output::resume(9, &Output::new(9).sums(true));
        longer.admit(chunk(0, b"ab", false));
        let mut resumed = Output::resume(9, &longer.sums(true));
        resumed.admit(chunk(2, b"cd", false));
        let parts: [&[&[u8]]; 3] = [&[], &[b"ab"], &[b"cd"]];
        for part in parts {
            assert!(!resumed.rehash(reading(part)));
            assert!(resumed.sums(true)[0].sha256.is_empty());
        }
        assert!(resumed.rehash(reading(&[b"ab", b"cd"])));
        assert_eq!(resumed.sums(true)[0].sha256, sums[0].sha256);
    }

    #[test]
    fn an_offset_that_nobody_can_count_to_is_refused() {
        let mut output = Output::new(9);
        for offset in [u64::MAX, u64::MAX - 1, MAX_COUNT] {
            let admitted = output.admit(chunk(offset, b"xy", true));
            assert!(admitted.refused, "{offset}");
            assert_eq!((admitted.steps, output.offset(0)), (Vec::new(), 0));
        }
        assert!(!output.admit(chunk(MAX_COUNT - 2, b"xy", true)).refused);
        assert!(output.admit(chunk(MAX_COUNT, b"x", true)).refused);
        assert_eq!(output.offset(0), MAX_COUNT);
    }

    #[test]
    fn an_unknown_stream_is_refused() {
        let mut strange = chunk(0, b"x", false);
        strange.stream = 9;
        assert!(Output::new(9).admit(strange).refused);
    }

    proptest! {
        /// Whatever is repeated, dropped or comes late: what is recorded is a
        /// prefix of what was written, and it goes on from what is acknowledged.
        #[test]
        fn what_is_recorded_is_what_was_written(
            written in proptest::collection::vec(any::<u8>(), 1..400),
            pieces in proptest::collection::vec((0_usize..400, 1_usize..60), 0..60),
        ) {
            let mut output = Output::new(u64::MAX);
            let mut recorded = Vec::new();
            for (from, length) in pieces {
                let from = from.min(written.len() - 1);
                let to = (from + length).min(written.len());
                let admitted = output.admit(chunk(from as u64, &written[from..to], false));
                prop_assert_eq!(admitted.refused, from > recorded.len());
                recorded.extend(bytes(&admitted.steps));
                prop_assert_eq!(&recorded[..], &written[..recorded.len()]);
                prop_assert_eq!(output.offset(0), recorded.len() as u64);
            }
            let at = recorded.len();
            recorded.extend(bytes(&output.admit(chunk(at as u64, &written[at..], false)).steps));
            prop_assert_eq!(&recorded, &written);
            prop_assert_eq!(output.sums(true)[0].sha256.to_vec(), Sha256::digest(&written).to_vec());
        }
    }
}

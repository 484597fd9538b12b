//! Makes pieces from the records of a spool: joins what belongs together, and
//! cuts no character in two.

use std::io;
use std::mem;

use super::record::{HEADER_BYTES, Header, Kind, eight};
use super::{Cursor, Place};
use crate::output::{Chunk, Offsets, Piece, Stream, whole_characters};

/// Pieces that are read.
pub(super) struct Reading {
    /// Behind all that was taken from records.
    next: Offsets,
    /// What may be missing.
    acknowledged: Offsets,
    /// How many bytes may still be taken.
    left: usize,
    pieces: Vec<Piece>,
    /// Where the first record of the last piece is.
    last: Option<Place>,
    /// The beginning of a character at the end of a stream's last chunk, and
    /// where the chunk's first record is.
    open: [Option<(Chunk, Place)>; 2],
    /// The record that there was no room for.
    full: Option<Place>,
}

impl Reading {
    /// Takes up to `max` bytes from these offsets on.
    pub(super) const fn new(from: Offsets, acknowledged: Offsets, max: usize) -> Self {
        Self {
            next: from,
            acknowledged,
            left: max,
            pieces: Vec::new(),
            last: None,
            open: [None, None],
            full: None,
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Takes the whole records of a block, which begins at `place`; returns how
    /// many bytes they have.
    pub(super) fn take(&mut self, block: &[u8], place: Place) -> io::Result<u64> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a spooled record is damaged");
        let mut at = 0;
        while let Some(header) = block[at..].first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(header).ok_or_else(damaged)?;
            let start = at + HEADER_BYTES;
            let Some(payload) = block.get(start..start + header.length as usize) else {
                break;
            };
            if !header.is_whole(payload) {
                return Err(damaged());
            }
            let place = Place {
                position: place.position + at as u64,
                ..place
            };
            let known = self
                .next
                .of(header.stream)
                .max(self.acknowledged.of(header.stream));
            if header.kind != Kind::Start && header.offset > known {
                return Err(damaged());
            }
            match header.kind {
                Kind::Start => {}
                Kind::Output => self.output(&header, payload, place),
                Kind::Gap => self.gap(&header, eight(payload).ok_or_else(damaged)?, place),
            }
            if self.is_full() {
                return Ok(at as u64);
            }
            at = start + payload.len();
        }
        // Segments have whole records, and a block any of them.
        if at == 0 {
            Err(damaged())
        } else {
            Ok(at as u64)
        }
    }

    fn output(&mut self, header: &Header, payload: &[u8], place: Place) {
        let stream = header.stream;
        let start = self.next.of(stream).max(header.offset);
        let skipped = usize::try_from(start - header.offset).unwrap_or(usize::MAX);
        let Some(mut bytes) = payload.get(skipped..).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if bytes.len() > self.left {
            self.full = Some(place);
            bytes = &bytes[..self.left];
        }
        if bytes.is_empty() {
            return;
        }
        self.left -= bytes.len();
        *self.next.of_mut(stream) = start + bytes.len() as u64;
        if let Some(Piece::Output(last)) = self.pieces.last_mut()
            && last.stream == stream
            && last.end() == start
        {
            last.bytes.extend_from_slice(bytes);
            return;
        }
        self.close_last();
        match self.open[index(stream)].take() {
            Some((mut chunk, place)) if chunk.end() == start => {
                chunk.bytes.extend_from_slice(bytes);
                self.push(Piece::Output(chunk), place);
            }
            open => {
                self.push_open(open);
                let chunk = Chunk {
                    stream,
                    offset: start,
                    bytes: bytes.to_vec(),
                    at: header.at,
                };
                self.push(Piece::Output(chunk), place);
            }
        }
    }

    fn gap(&mut self, header: &Header, to: u64, place: Place) {
        let stream = header.stream;
        let from = self.next.of(stream).max(header.offset);
        if to <= from {
            return;
        }
        *self.next.of_mut(stream) = to;
        if let Some(Piece::Gap {
            stream: last,
            to: end,
            ..
        }) = self.pieces.last_mut()
            && *last == stream
            && *end == from
        {
            *end = to;
            return;
        }
        // What is before a gap does not become a character any more.
        if self
            .pieces
            .last()
            .is_some_and(|piece| piece.stream() != stream)
        {
            self.close_last();
        }
        let open = self.open[index(stream)].take();
        self.push_open(open);
        self.push(Piece::Gap { stream, from, to }, place);
    }

    fn push(&mut self, piece: Piece, place: Place) {
        self.pieces.push(piece);
        self.last = Some(place);
    }

    fn push_open(&mut self, open: Option<(Chunk, Place)>) {
        if let Some((chunk, place)) = open {
            self.push(Piece::Output(chunk), place);
        }
    }

    /// Takes the beginning of a character off the last piece.
    fn close_last(&mut self) {
        let (Some(Piece::Output(chunk)), Some(place)) = (self.pieces.last_mut(), self.last) else {
            return;
        };
        let whole = whole_characters(&chunk.bytes);
        if whole == chunk.bytes.len() {
            return;
        }
        let stream = chunk.stream;
        let open = Chunk {
            offset: chunk.offset + whole as u64,
            bytes: chunk.bytes.split_off(whole),
            ..*chunk
        };
        self.open[index(stream)] = Some((open, place));
        if whole == 0 {
            self.pieces.pop();
        }
    }

    /// What was read, and where to read on. `place` is behind the last record.
    pub(super) fn finish(mut self, ended: bool, place: Place) -> (Vec<Piece>, Cursor) {
        let mut cursor = Cursor {
            from: self.next,
            place: self.full.unwrap_or(place),
        };
        self.close_last();
        for open in mem::take(&mut self.open) {
            if ended && !self.is_full() {
                self.push_open(open);
            } else if let Some((chunk, place)) = open {
                *cursor.from.of_mut(chunk.stream) = chunk.offset;
                cursor.place = cursor.place.min(place);
            }
        }
        (self.pieces, cursor)
    }
}

const fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

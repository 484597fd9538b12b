//! Output on disk until it is acknowledged.
//!
//! The output of a command, both streams in the order in which they were
//! written, is a log in segments below a folder of its own. A segment is deleted
//! as soon as all of it is acknowledged. Records are checked: a torn tail is cut
//! off when a former runner's output is opened.
//!
//! **When it is full**, because of the command's bound, that of all commands, or
//! the disk, nothing more is read from the process, which waits as it would at
//! any full pipe. It goes on when something is acknowledged. If nothing is for
//! [`Bounds::patience`], the process must not hang with a link that is gone:
//! its output is counted, dropped, and a gap recorded, until there is room.
//!
//! **Nothing is synced.** What was written survives the runner, also its kill,
//! in the page cache. After a loss of power the tail may be missing; no process
//! has survived that either, and the gap is told.

mod budget;
mod reading;
mod record;
mod recovery;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::mem;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::io::pwritev;
use tracing::warn;

pub(crate) use self::budget::Budget;
use self::reading::Reading;
use self::record::{HEADER_BYTES, Header, Kind};
use crate::output::{Offsets, Piece, Stream};

/// The longest record of output.
pub(crate) const MAX_RECORD_BYTES: usize = 256 * 1024;
/// The longest segment, if the bound leaves room for eight.
const MAX_SEGMENT_BYTES: u64 = 4 << 20;
/// The shortest, so that small bounds do not make many files.
const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// How many segments the bound is to hold.
const SEGMENTS: u64 = 8;
/// Read at once: any record fits.
const BLOCK_BYTES: usize = MAX_RECORD_BYTES + HEADER_BYTES;
/// Of the payload of a segment's first record, or a gap.
const START_BYTES: usize = 8;
/// The least that is read, so that any character fits.
const MIN_READ_BYTES: usize = 16;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on disk for one command, headers included.
    pub command_bytes: u64,
    /// Bytes on disk for all commands.
    pub total_bytes: u64,
    /// How long a process waits in a full spool while nothing is acknowledged;
    /// then its output is dropped, and a gap recorded, until there is room.
    pub patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            command_bytes: 1 << 30,
            total_bytes: 4 << 30,
            patience: Duration::from_secs(60),
        }
    }
}

/// The output of one command. One thread writes, any may read.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    limit: u64,
    segment_bytes: u64,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    segments: VecDeque<Segment>,
    /// The last of them, while there is somebody who writes.
    active: Option<Arc<File>>,
    next_number: u64,
    /// On disk.
    bytes: u64,
    written: Offsets,
    /// Bytes that gaps took.
    lost: Offsets,
    acknowledged: Offsets,
    cursor: Option<Cursor>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Those that are whole.
    bytes: u64,
    /// Behind all of its records.
    last: Offsets,
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: u64,
    position: u64,
}

/// Where a reader that goes on from these offsets reads on.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    from: Offsets,
    place: Place,
}

impl Spool {
    /// Of a command that has written nothing. Makes no file before it does.
    pub(crate) fn new(folder: PathBuf, bounds: Bounds, budget: Arc<Budget>) -> Self {
        Self {
            folder,
            limit: bounds.command_bytes,
            segment_bytes: (bounds.command_bytes / SEGMENTS)
                .clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
            budget,
            inner: Mutex::default(),
        }
    }

    /// The longest piece to append at once.
    pub(crate) fn max_record_bytes(&self) -> usize {
        let half = usize::try_from(self.segment_bytes / 2).unwrap_or(MAX_RECORD_BYTES);
        half.min(MAX_RECORD_BYTES)
    }

    /// Behind the last byte of each stream.
    pub(crate) fn written(&self) -> Offsets {
        self.inner.lock().written
    }

    /// How many bytes of each stream gaps took, as far as they are not
    /// acknowledged and forgotten.
    pub(crate) fn lost(&self) -> Offsets {
        self.inner.lock().lost
    }

    /// Up to where each stream is acknowledged.
    pub(crate) fn acknowledged(&self) -> Offsets {
        self.inner.lock().acknowledged
    }

    /// Stores what follows in a stream. False if there is no room.
    pub(crate) fn append(&self, stream: Stream, bytes: &[u8], at: SystemTime) -> bool {
        debug_assert!(bytes.len() <= self.max_record_bytes());
        let offset = self.inner.lock().written.of(stream);
        let header = Header::of(Kind::Output, stream, offset, at, bytes);
        self.store(&header, bytes, false)
    }

    /// Records that a stream goes on at `to`. False if there is no room; a
    /// forced one takes it anyway, unless the disk has none.
    pub(crate) fn gap(&self, stream: Stream, to: u64, at: SystemTime, forced: bool) -> bool {
        let offset = self.inner.lock().written.of(stream);
        let payload = to.to_le_bytes();
        let header = Header::of(Kind::Gap, stream, offset, at, &payload);
        self.store(&header, &payload, forced)
    }

    /// Whether there is room for a gap and so many bytes of output.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let bytes = (3 * HEADER_BYTES + 2 * START_BYTES + bytes) as u64;
        let inner = self.inner.lock();
        // A last segment that is acknowledged goes as soon as there is another.
        let fits = inner.bytes + bytes <= self.limit || inner.acknowledged.cover(inner.written);
        fits && self.budget.has(bytes)
    }

    fn store(&self, header: &Header, payload: &[u8], forced: bool) -> bool {
        let bytes = (HEADER_BYTES + payload.len()) as u64;
        let (file, position) = match self.reserve(bytes, forced) {
            Ok(Some(place)) => place,
            Ok(None) => return false,
            Err(error) => {
                warn!(%error, "output cannot be spooled");
                return false;
            }
        };
        // Not under the lock: only this thread writes, and readers see what is
        // within `bytes` of its segment.
        if let Err(error) = write(&file, position, &header.encode(), payload) {
            warn!(%error, "output cannot be spooled");
            file.set_len(position).ok();
            self.budget.give(bytes);
            return false;
        }
        let end = header.end(payload).unwrap_or(header.offset);
        let mut inner = self.inner.lock();
        inner.bytes += bytes;
        *inner.written.of_mut(header.stream) = end;
        *inner.lost.of_mut(header.stream) += header.lost(payload);
        let written = inner.written;
        if let Some(segment) = inner.segments.back_mut() {
            segment.bytes += bytes;
            segment.last = written;
        }
        true
    }

    /// Where the next record of so many bytes goes, if there is room.
    fn reserve(&self, bytes: u64, forced: bool) -> io::Result<Option<(Arc<File>, u64)>> {
        let mut inner = self.inner.lock();
        let written = inner.written;
        let fresh = inner.active.is_none()
            || inner.segments.back().is_none_or(|segment| {
                segment.bytes + bytes > self.segment_bytes
                    || (inner.acknowledged.cover(segment.last) && inner.bytes + bytes > self.limit)
            });
        if fresh {
            self.start_segment(&mut inner, written)?;
            self.forget(&mut inner);
        }
        let fits = inner.bytes + bytes <= self.limit && self.budget.take(bytes);
        if !fits && forced {
            self.budget.take_anyway(bytes);
        }
        let position = inner.segments.back().map_or(0, |segment| segment.bytes);
        Ok(inner
            .active
            .clone()
            .filter(|_| fits || forced)
            .map(|file| (file, position)))
    }

    fn start_segment(&self, inner: &mut Inner, written: Offsets) -> io::Result<()> {
        if inner.next_number == 0 {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)?;
        }
        let number = inner.next_number;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path(&self.folder, number))?;
        let (header, payload) = Header::start(written);
        write(&file, 0, &header.encode(), &payload)?;
        let bytes = (HEADER_BYTES + payload.len()) as u64;
        self.budget.take_anyway(bytes);
        inner.next_number += 1;
        inner.bytes += bytes;
        inner.active = Some(Arc::new(file));
        inner.segments.push_back(Segment {
            number,
            bytes,
            last: written,
        });
        Ok(())
    }

    /// Nothing more is written: keeps no file open.
    pub(crate) fn seal(&self) {
        self.inner.lock().active = None;
    }

    /// All before `offset` may be forgotten. Whether that is news.
    pub(crate) fn acknowledge(&self, stream: Stream, offset: u64) -> bool {
        let mut inner = self.inner.lock();
        let offset = offset.min(inner.written.of(stream));
        let acknowledged = inner.acknowledged.of_mut(stream);
        if offset <= *acknowledged {
            return false;
        }
        *acknowledged = offset;
        self.forget(&mut inner);
        true
    }

    /// Deletes segments that are acknowledged whole, but for the last.
    fn forget(&self, inner: &mut Inner) {
        while inner.segments.len() > 1 {
            let Some(first) = inner.segments.front() else {
                return;
            };
            if !inner.acknowledged.cover(first.last) {
                return;
            }
            if let Some(first) = inner.segments.pop_front() {
                self.delete(inner, &first);
            }
        }
    }

    fn delete(&self, inner: &mut Inner, segment: &Segment) {
        if let Err(error) = fs::remove_file(path(&self.folder, segment.number)) {
            warn!(%error, "a segment of acknowledged output cannot be deleted");
        }
        inner.bytes -= segment.bytes;
        self.budget.give(segment.bytes);
    }

    /// Deletes everything.
    pub(crate) fn remove(&self) {
        let mut inner = self.inner.lock();
        inner.active = None;
        for segment in mem::take(&mut inner.segments) {
            self.delete(&mut inner, &segment);
        }
        match fs::remove_dir_all(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "a command's spool cannot be deleted"),
        }
        inner.next_number = 0;
    }

    /// What was written at these offsets and behind them, about `max` bytes of
    /// it, in written order. The beginning of a character at the end is left out
    /// unless the output has `ended`.
    pub(crate) fn read(&self, from: Offsets, max: usize, ended: bool) -> io::Result<Vec<Piece>> {
        let Some(mut place) = self.start_of(from) else {
            return Ok(Vec::new());
        };
        let mut reading = Reading::new(from, self.acknowledged(), max.max(MIN_READ_BYTES));
        let mut block = Vec::new();
        while let Some((bytes, next)) = self.extent(place.segment) {
            let file = match File::open(path(&self.folder, place.segment)) {
                Ok(file) => file,
                // It was acknowledged in this moment.
                Err(_) if self.extent(place.segment).is_none() => break,
                Err(error) => return Err(error),
            };
            while place.position < bytes && !reading.is_full() {
                let left = usize::try_from(bytes - place.position).unwrap_or(BLOCK_BYTES);
                block.resize(left.min(BLOCK_BYTES), 0);
                file.read_exact_at(&mut block, place.position)?;
                place.position += reading.take(&block, place)?;
            }
            match next {
                Some(segment) if !reading.is_full() => {
                    place = Place {
                        segment,
                        position: 0,
                    };
                }
                _ => break,
            }
        }
        let (pieces, cursor) = reading.finish(ended, place);
        self.inner.lock().cursor = Some(cursor);
        Ok(pieces)
    }

    /// Segment and position of the first record that has something behind these
    /// offsets.
    fn start_of(&self, from: Offsets) -> Option<Place> {
        let inner = self.inner.lock();
        if from.cover(inner.written) {
            return None;
        }
        let first = inner.segments.front()?;
        if let Some(cursor) = inner.cursor
            && cursor.from == from
            && first.number <= cursor.place.segment
        {
            return Some(cursor.place);
        }
        let mut segments = inner.segments.iter();
        let first = segments.find(|segment| !from.cover(segment.last))?;
        Some(Place {
            segment: first.number,
            position: 0,
        })
    }

    /// The bytes of a segment, and which one follows. Asked together: the one
    /// that another follows does not grow any more.
    fn extent(&self, number: u64) -> Option<(u64, Option<u64>)> {
        let inner = self.inner.lock();
        let mut segments = inner.segments.iter();
        let segment = segments.find(|segment| segment.number == number)?;
        Some((segment.bytes, segments.next().map(|next| next.number)))
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.seg"))
}

fn write(file: &File, position: u64, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let slices = [IoSlice::new(header), IoSlice::new(payload)];
    let written = pwritev(file, &slices, position)?;
    if written < header.len() {
        file.write_all_at(&header[written..], position + written as u64)?;
    }
    let rest = written.max(header.len()) - header.len();
    if rest < payload.len() {
        let position = position + (header.len() + rest) as u64;
        file.write_all_at(&payload[rest..], position)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

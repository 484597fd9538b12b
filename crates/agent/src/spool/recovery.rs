//! Opens what a former runner has spooled.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::warn;

use super::record::{HEADER_BYTES, Header, Kind, eight};
use super::{Bounds, Budget, Inner, Segment, Spool, path};
use crate::output::{Offsets, Stream};

/// Read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What is whole in a segment.
struct Scanned {
    first: Option<Offsets>,
    last: Offsets,
    lost: Offsets,
    bytes: u64,
}

impl Spool {
    /// Of a command that a former runner executed. A torn tail is cut off, and
    /// with it all that would follow.
    pub(crate) fn recover(
        folder: PathBuf,
        bounds: Bounds,
        budget: Arc<Budget>,
    ) -> io::Result<Self> {
        let mut spool = Self::new(folder, bounds, budget);
        let mut inner = Inner::default();
        let mut numbers = numbers(&spool.folder)?.into_iter();
        for number in numbers.by_ref() {
            let path = path(&spool.folder, number);
            let file = File::open(&path)?;
            let scanned = scan(&file, inner.written)?;
            let follows = inner.segments.is_empty() || scanned.first == Some(inner.written);
            if !follows {
                warn!(path = %path.display(), "spooled output does not follow what is before it, and is deleted");
                fs::remove_file(&path)?;
                break;
            }
            let torn = scanned.first.is_none() || file.metadata()?.len() > scanned.bytes;
            inner.next_number = number + 1;
            if let Some(first) = scanned.first {
                if inner.segments.is_empty() {
                    inner.acknowledged = first;
                }
                inner.written = scanned.last;
                inner.bytes += scanned.bytes;
                for stream in Stream::ALL {
                    *inner.lost.of_mut(stream) += scanned.lost.of(stream);
                }
                spool.budget.take_anyway(scanned.bytes);
                inner.segments.push_back(Segment {
                    number,
                    bytes: scanned.bytes,
                    last: scanned.last,
                });
            }
            if torn {
                warn!(path = %path.display(), at = scanned.bytes, "the end of spooled output is torn, and cut off");
                cut(&path, &scanned)?;
                break;
            }
        }
        for number in numbers {
            fs::remove_file(path(&spool.folder, number))?;
        }
        spool.inner = Mutex::new(inner);
        Ok(spool)
    }
}

fn cut(path: &Path, scanned: &Scanned) -> io::Result<()> {
    if scanned.first.is_none() {
        return fs::remove_file(path);
    }
    OpenOptions::new()
        .write(true)
        .open(path)?
        .set_len(scanned.bytes)
}

/// The segments that there are, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads up to the first record that is not whole, or does not follow.
fn scan(file: &File, before: Offsets) -> io::Result<Scanned> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut scanned = Scanned {
        first: None,
        last: before,
        lost: Offsets::default(),
        bytes: 0,
    };
    let mut header = [0; HEADER_BYTES];
    let mut payload = Vec::new();
    while fill(&mut reader, &mut header)? {
        let Some(header) = Header::decode(&header) else {
            break;
        };
        payload.resize(header.length as usize, 0);
        if !fill(&mut reader, &mut payload)? || !header.is_whole(&payload) {
            break;
        }
        match (header.kind, header.end(&payload)) {
            (Kind::Start, Some(stdout)) if scanned.first.is_none() => {
                let stderr = eight(&payload).unwrap_or(0);
                scanned.first = Some(Offsets { stdout, stderr });
                scanned.last = Offsets { stdout, stderr };
            }
            (Kind::Output | Kind::Gap, Some(end))
                if scanned.first.is_some() && scanned.last.of(header.stream) == header.offset =>
            {
                *scanned.last.of_mut(header.stream) = end;
                *scanned.lost.of_mut(header.stream) += header.lost(&payload);
            }
            _ => break,
        }
        scanned.bytes += (HEADER_BYTES + payload.len()) as u64;
    }
    Ok(scanned)
}

/// False if there is less.
fn fill(reader: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

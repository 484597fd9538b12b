//! Which commands were executed, on disk before they are.
//!
//! The journal is a file of lines, each a checksum and a JSON entry, and is only
//! appended to; a line is synced before what it says counts. It is written anew
//! when most of it is history. A torn last line is cut off; a damaged one in the
//! middle is told, left out, and costs the memory of that one step.
//!
//! It is bounded by [`Bounds`]: commands whose end was not confirmed are never
//! forgotten, since somebody still waits for it. An id that was forgotten would
//! be executed again; the relay gives out no command that is older than what is
//! remembered by default.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::ending::Ending;
use crate::output::Offsets;

/// The file's name.
const FILE: &str = "journal";
/// The file that takes its place.
const NEXT_FILE: &str = "journal.next";
/// It is written anew when it is longer than this and twice what is remembered.
const REWRITE_BYTES: u64 = 256 << 10;
/// Hexadecimal digits of a checksum, and the blank behind them.
const PREFIX_BYTES: usize = 9;

/// How much is remembered: every command that is not confirmed; of the others
/// those that ended within `age`, at most the newest `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a confirmed command is remembered.
    pub age: Duration,
    /// How many confirmed commands are remembered.
    pub count: usize,
}

impl Default for Bounds {
    /// A day and an hour: the relay forgets a command after a day.
    fn default() -> Self {
        Self {
            age: Duration::from_secs(25 * 60 * 60),
            count: 10_000,
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// It is about to be executed.
    Planned { id: String, marker: String },
    /// It runs.
    Running { id: String, process: Identity },
    /// It has ended.
    Ended { id: String, ending: Arc<Ending> },
    /// Its end has been taken.
    Confirmed { id: String, at: SystemTime },
}

/// A process, for ever: a pid is used again; with its start and that of the
/// machine it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its pid.
    pub(crate) pid: i32,
    /// Its start, in clock ticks since the machine's.
    pub(crate) start: u64,
    /// Names the machine's start.
    pub(crate) boot: u64,
}

/// What is known of a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Executed, or about to be, by a runner that did not tell its end.
    Started {
        /// What its processes are marked with.
        marker: String,
        /// Its main process, if that came to be known.
        process: Option<Identity>,
    },
    /// It has ended; nobody has confirmed that.
    Ended(Arc<Ending>),
    /// It has ended, and everybody knows.
    Confirmed(Arc<Ending>, SystemTime),
}

impl Known {
    /// The end of one that has ended.
    pub(crate) fn ending(&self) -> Arc<Ending> {
        match self {
            Self::Started { .. } => {
                Arc::new(Ending::unknown(Offsets::default(), Offsets::default(), 0))
            }
            Self::Ended(ending) | Self::Confirmed(ending, _) => Arc::clone(ending),
        }
    }
}

/// The journal of one runner.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    bounds: Bounds,
    file: File,
    bytes: u64,
    /// With the order in which they were planned.
    commands: HashMap<String, (u64, Known)>,
    next: u64,
    /// What it was when it was written anew.
    rewritten: u64,
}

impl Journal {
    /// Opens or creates the journal in a folder.
    pub(crate) fn open(folder: &Path, bounds: Bounds) -> io::Result<Self> {
        let path = folder.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        File::open(folder)?.sync_all()?;
        let mut journal = Self {
            folder: folder.to_owned(),
            bounds,
            file,
            bytes: 0,
            commands: HashMap::new(),
            next: 0,
            rewritten: 0,
        };
        let text = fs::read(&path)?;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let entry = decode(line);
            let torn = !line.ends_with(b"\n");
            match entry {
                Some(entry) if !torn => journal.apply(entry),
                _ if torn => {
                    warn!(
                        at = journal.bytes,
                        "the end of the journal is torn, and cut off"
                    );
                    journal.file.set_len(journal.bytes)?;
                    break;
                }
                _ => warn!(
                    at = journal.bytes,
                    "a damaged line of the journal is left out"
                ),
            }
            journal.bytes += line.len() as u64;
        }
        journal.rewrite_if_long()?;
        Ok(journal)
    }

    /// What is known of a command.
    pub(crate) fn known(&self, id: &str) -> Option<&Known> {
        self.commands.get(id).map(|(_, known)| known)
    }

    /// All that is not confirmed, oldest first.
    pub(crate) fn unconfirmed(&self) -> Vec<(String, Known)> {
        let open = |(_, (_, known)): &(_, &(u64, Known))| !matches!(known, Known::Confirmed(..));
        let mut all: Vec<_> = self.commands.iter().filter(open).collect();
        all.sort_unstable_by_key(|(_, (order, _))| *order);
        all.into_iter()
            .map(|(id, (_, known))| (id.clone(), known.clone()))
            .collect()
    }

    /// A command is about to be executed: on disk when this returns.
    pub(crate) fn plan(&mut self, id: &str, marker: &str) -> io::Result<()> {
        self.write(Entry::Planned {
            id: id.to_owned(),
            marker: marker.to_owned(),
        })
    }

    /// Its main process. Not synced: after a loss of power there is none, and
    /// otherwise the marker finds it.
    pub(crate) fn run(&mut self, id: &str, process: Identity) -> io::Result<()> {
        self.append(Entry::Running {
            id: id.to_owned(),
            process,
        })
    }

    /// A command has ended: on disk when this returns.
    pub(crate) fn end(&mut self, id: &str, ending: Arc<Ending>) -> io::Result<()> {
        self.write(Entry::Ended {
            id: id.to_owned(),
            ending,
        })
    }

    /// Its end has been taken. Not synced: it would be confirmed again.
    pub(crate) fn confirm(&mut self, id: &str) -> io::Result<()> {
        self.append(Entry::Confirmed {
            id: id.to_owned(),
            at: SystemTime::now(),
        })?;
        self.rewrite_if_long()
    }

    fn write(&mut self, entry: Entry) -> io::Result<()> {
        self.append(entry)?;
        self.file.sync_data()
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let line = encode(&entry)?;
        if let Err(error) = self.file.write_all(&line) {
            // What was written of it must not spoil the next line.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        self.apply(entry);
        Ok(())
    }

    fn apply(&mut self, entry: Entry) {
        let order = self.next;
        match entry {
            Entry::Planned { id, marker } => {
                self.next += 1;
                let process = None;
                self.commands
                    .insert(id, (order, Known::Started { marker, process }));
            }
            Entry::Running { id, process } => {
                if let Some((_, Known::Started { process: known, .. })) = self.commands.get_mut(&id)
                {
                    *known = Some(process);
                }
            }
            Entry::Ended { id, ending } => {
                self.next += 1;
                let known = Known::Ended(ending);
                self.commands
                    .entry(id)
                    .and_modify(|(_, before)| *before = known.clone())
                    .or_insert((order, known));
            }
            Entry::Confirmed { id, at } => {
                if let Some((_, known)) = self.commands.get_mut(&id)
                    && let Known::Ended(ending) = known
                {
                    *known = Known::Confirmed(Arc::clone(ending), at);
                }
            }
        }
    }

    /// Forgets what need not be remembered.
    fn forget(&mut self) {
        let now = SystemTime::now();
        let age = self.bounds.age;
        let young = |at: &SystemTime| now.duration_since(*at).is_ok_and(|past| past <= age);
        self.commands.retain(|_, (_, known)| match known {
            Known::Confirmed(_, at) => young(at) || *at > now,
            _ => true,
        });
        let confirmed =
            |(order, known): &(u64, Known)| matches!(known, Known::Confirmed(..)).then_some(*order);
        let mut orders: Vec<u64> = self.commands.values().filter_map(confirmed).collect();
        if orders.len() > self.bounds.count {
            orders.sort_unstable_by(|one, other| other.cmp(one));
            let oldest = orders[..self.bounds.count].last().copied();
            self.commands.retain(|_, (order, known)| {
                !matches!(known, Known::Confirmed(..))
                    || oldest.is_some_and(|oldest| *order >= oldest)
            });
        }
    }

    fn rewrite_if_long(&mut self) -> io::Result<()> {
        if self.bytes > REWRITE_BYTES.max(2 * self.rewritten) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Writes what is remembered into a new file, and swaps it in.
    fn rewrite(&mut self) -> io::Result<()> {
        self.forget();
        let mut text = Vec::new();
        let mut all: Vec<_> = self.commands.iter().collect();
        all.sort_unstable_by_key(|(_, (order, _))| *order);
        for (id, (_, known)) in all {
            let id = id.clone();
            match known.clone() {
                Known::Started { marker, process } => {
                    text.extend(encode(&Entry::Planned {
                        id: id.clone(),
                        marker,
                    })?);
                    if let Some(process) = process {
                        text.extend(encode(&Entry::Running { id, process })?);
                    }
                }
                Known::Ended(ending) => text.extend(encode(&Entry::Ended { id, ending })?),
                Known::Confirmed(ending, at) => {
                    text.extend(encode(&Entry::Ended {
                        id: id.clone(),
                        ending,
                    })?);
                    text.extend(encode(&Entry::Confirmed { id, at })?);
                }
            }
        }
        let next = self.folder.join(NEXT_FILE);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&text)?;
        file.sync_all()?;
        drop(file);
        let path = self.folder.join(FILE);
        fs::rename(&next, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.file = OpenOptions::new().read(true).append(true).open(&path)?;
        self.bytes = text.len() as u64;
        self.rewritten = self.bytes;
        Ok(())
    }
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(entry)?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// `None` if the line is damaged.
fn decode(line: &[u8]) -> Option<Entry> {
    let (prefix, json) = line.split_at_checked(PREFIX_BYTES)?;
    let json = json.strip_suffix(b"\n").unwrap_or(json);
    let sum = str::from_utf8(prefix.strip_suffix(b" ")?).ok()?;
    if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests;

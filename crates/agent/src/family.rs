//! All that descends from a command, and what to do about it.
//!
//! Of a family are: those in the session of its first process (whose number is
//! its own until that is reaped, which comes last), those that carry its mark in
//! their environment, the children of any of these, and whoever was once seen to
//! be one. A process that leaves the session, drops its environment and loses
//! its parent all at once becomes our child, since the runner is the reaper of
//! what its commands orphan: it is ended with the family if no other command
//! runs, else with the last of those. Children that are older than the first
//! command, as those of the script that has become the runner, are left alone.
//!
//! Who is reaped by whom is a matter of the whole process, so the list of
//! children that somebody here waits for is one.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open, pidfd_send_signal,
    set_child_subreaper,
};
use tracing::{debug, warn};

use crate::executor::Usage;
use crate::journal::Identity;
use crate::process::{Process, keep_exits, reap};

/// The variable that marks processes.
pub(crate) const MARK: &str = "SIGNALBOX_COMMAND";

/// The children that somebody waits for, and how many families there are.
static CHILDREN: Mutex<Children> = Mutex::new(Children {
    awaited: Vec::new(),
    families: 0,
    since: None,
});

/// The process table, when it was read last for an observation.
static LAST_TABLE: Mutex<Option<(Instant, Arc<[Entry]>)>> = Mutex::new(None);
/// How old that may be.
const RECENT: Duration = Duration::from_millis(500);

struct Children {
    awaited: Vec<i32>,
    families: usize,
    /// When the first command started: nobody can be left by one who is older.
    since: Option<u64>,
}

/// One line of the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    pid: i32,
    parent: i32,
    session: i32,
    start: u64,
    zombie: bool,
}

/// The processes of one command.
#[derive(Debug)]
pub(crate) struct Family {
    /// Name and value, as the environment has them.
    mark: Vec<u8>,
    /// Its first process.
    leader: Option<Identity>,
    /// Whether that is a child of ours: its pid cannot be anybody else's.
    own: bool,
    /// Who was seen: start by pid.
    known: HashMap<i32, u64>,
    /// What those used that were orphaned and reaped here.
    usage: Usage,
}

/// Makes this process the reaper of all that its commands orphan.
///
/// # Errors
/// When the system has not what it takes to end processes.
pub(crate) fn become_reaper() -> io::Result<()> {
    // Some sandboxes refuse it.
    let watched = pidfd_open(getpid(), PidfdFlags::empty());
    watched.map_err(|error| io::Error::new(error.kind(), format!("pidfd_open: {error}")))?;
    check_table(Path::new("/proc"))?;
    keep_exits();
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

/// Whether a process table numbers processes as signals do. If it shows another
/// PID namespace, or nothing, the wrong processes would be ended, or none.
fn check_table(proc: &Path) -> io::Result<()> {
    let cannot = |why: &dyn Display| io::Error::other(format!("{}: {why}", proc.display()));
    let shown = fs::read_link(proc.join("self")).map_err(|error| cannot(&error))?;
    if shown == Path::new(&getpid().as_raw_nonzero().to_string()) {
        Ok(())
    } else {
        Err(cannot(&"it is that of another PID namespace"))
    }
}

impl Family {
    /// Of a command whose processes are to be marked so.
    pub(crate) fn new(mark: &str) -> Self {
        CHILDREN.lock().families += 1;
        Self::of(mark, None, true)
    }

    /// Of a command that a former runner executed.
    pub(crate) fn left_over(mark: &str, leader: Option<Identity>) -> Self {
        let leader = leader.filter(|leader| leader.boot == boot());
        CHILDREN.lock().families += 1;
        Self::of(mark, leader, false)
    }

    fn of(mark: &str, leader: Option<Identity>, own: bool) -> Self {
        Self {
            mark: format!("{MARK}={mark}").into_bytes(),
            leader,
            own,
            known: HashMap::new(),
            usage: Usage::default(),
        }
    }

    /// Starts its first process.
    pub(crate) fn found(
        &mut self,
        start: impl FnOnce() -> io::Result<Process>,
    ) -> io::Result<(Process, Identity)> {
        // Under the lock, so that nobody takes the child for an orphan.
        let mut children = CHILDREN.lock();
        let process = start()?;
        let pid = process.pid().as_raw_nonzero().get();
        children.awaited.push(pid);
        let identity = Identity {
            pid,
            start: entry(pid).map_or(0, |entry| entry.start),
            boot: boot(),
        };
        if identity.start > 0 {
            children.since.get_or_insert(identity.start);
        }
        self.leader = Some(identity);
        Ok((process, identity))
    }

    /// Looks who there is, so that whoever is orphaned later is known; reaps
    /// orphans.
    pub(crate) fn observe(&mut self) {
        let table = recent_table();
        self.members(&table);
        self.reap_orphans(&table);
    }

    /// Sends a signal to every member that lives; returns how many there are.
    /// `but_leader` spares the first process.
    pub(crate) fn signal(&mut self, signals: &[Signal], but_leader: bool) -> usize {
        self.signal_in(&table(), signals, but_leader)
    }

    fn signal_in(&mut self, table: &[Entry], signals: &[Signal], but_leader: bool) -> usize {
        let members = self.members(table);
        self.reap_orphans(table);
        let leader = self.leader.map(|leader| leader.pid);
        let spared = |entry: &&Entry| !(but_leader && Some(entry.pid) == leader);
        let mut alive = 0;
        for entry in members.iter().filter(|entry| !entry.zombie).filter(spared) {
            alive += 1;
            for &signal in signals {
                send(entry, signal);
            }
        }
        // Of another user by its set-uid bit, it may be hidden from the table.
        // Its number is its own, and that of its group.
        let is_hidden = |leader: &i32| !table.iter().any(|entry| entry.pid == *leader);
        if self.own
            && !but_leader
            && let Some(group) = leader.filter(is_hidden).and_then(Pid::from_raw)
        {
            for &signal in signals {
                kill_process_group(group, signal).ok();
            }
        }
        alive
    }

    /// The first process is reaped: by whoever waited for it.
    pub(crate) fn reaped(&mut self) {
        if let Some(leader) = self.leader.take() {
            CHILDREN.lock().awaited.retain(|&pid| pid != leader.pid);
        }
    }

    /// What its orphans used.
    pub(crate) const fn usage(&self) -> Usage {
        self.usage
    }

    /// Who is of this family.
    fn members(&mut self, table: &[Entry]) -> Vec<Entry> {
        let us = getpid().as_raw_nonzero().get();
        let is_leader = |entry: &Entry| {
            self.leader.is_some_and(|leader| {
                entry.pid == leader.pid && (self.own || entry.start == leader.start)
            })
        };
        let session = match self.own || table.iter().any(is_leader) {
            true => self.leader.map(|leader| leader.pid),
            false => None,
        };
        let mut members: HashMap<i32, Entry> = HashMap::new();
        for entry in table {
            let known = self.known.get(&entry.pid) == Some(&entry.start);
            let in_session = Some(entry.session) == session;
            // While we live, whoever carries a mark descends from us.
            let marked = || (!self.own || entry.parent == us) && self.is_marked(entry);
            if entry.pid != us && (known || is_leader(entry) || in_session || marked()) {
                members.insert(entry.pid, *entry);
            }
        }
        if self.own {
            self.add_strangers(table, &mut members);
        }
        // Children of members, and theirs.
        loop {
            let more: Vec<Entry> = table
                .iter()
                .filter(|entry| {
                    !members.contains_key(&entry.pid) && members.contains_key(&entry.parent)
                })
                .copied()
                .collect();
            if more.is_empty() {
                break;
            }
            members.extend(more.into_iter().map(|entry| (entry.pid, entry)));
        }
        self.known = members
            .values()
            .map(|entry| (entry.pid, entry.start))
            .collect();
        let mut members: Vec<_> = members.into_values().collect();
        // Parents first: or a shell would tell of its child's end as an exit.
        members.sort_unstable_by_key(|entry| (entry.start, entry.pid));
        members
    }

    /// Orphans of nobody knows whom, if nobody else could have left them.
    fn add_strangers(&self, table: &[Entry], members: &mut HashMap<i32, Entry>) {
        let children = CHILDREN.lock();
        if children.families == 1 {
            let ours = |entry: &&Entry| children.since.is_some_and(|since| entry.start >= since);
            let orphans = table.iter().filter(|entry| is_orphan(entry, &children));
            let strangers = orphans.filter(ours);
            members.extend(strangers.map(|entry| (entry.pid, *entry)));
        }
    }

    fn is_marked(&self, entry: &Entry) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", entry.pid)).unwrap_or_default();
        let mut variables = environment.split(|&byte| byte == 0);
        variables.any(|variable| variable == self.mark)
    }

    /// Reaps those zombies that became ours because their parents ended.
    fn reap_orphans(&mut self, table: &[Entry]) {
        let children = CHILDREN.lock();
        for zombie in table.iter().filter(|entry| entry.zombie) {
            // The table is older than the lock: look again.
            let Some(entry) = entry(zombie.pid).filter(|entry| entry.start == zombie.start) else {
                continue;
            };
            if !entry.zombie || !is_orphan(&entry, &children) {
                continue;
            }
            if let Some(exit) = Pid::from_raw(entry.pid).and_then(reap)
                && self.known.contains_key(&entry.pid)
            {
                self.usage.cpu += exit.usage.cpu;
                self.usage.peak_memory = self.usage.peak_memory.max(exit.usage.peak_memory);
            }
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.reaped();
        CHILDREN.lock().families -= 1;
    }
}

/// Whether a process was orphaned to us. Children of other parts of this
/// program are in its session; those that commands leave never are.
fn is_orphan(entry: &Entry, children: &Children) -> bool {
    let us = getpid().as_raw_nonzero().get();
    // As the table has it: 0 if our session began outside of our container, which
    // `getsid` has no word for.
    let left = || self::entry(us).is_some_and(|us| us.session != entry.session);
    entry.parent == us && !children.awaited.contains(&entry.pid) && left()
}

/// Sends a signal to exactly this process.
fn send(entry: &Entry, signal: Signal) {
    let Some(pid) = Pid::from_raw(entry.pid) else {
        return;
    };
    // What the descriptor stands for cannot change any more; if the start is the
    // same now, it is the process that was meant.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if self::entry(entry.pid).is_none_or(|now| now.start != entry.start) {
        return;
    }
    match pidfd_send_signal(&process, signal) {
        Ok(()) => debug!(entry.pid, ?signal, "signalled a process"),
        Err(rustix::io::Errno::SRCH) => {}
        Err(error) => warn!(entry.pid, ?signal, %error, "cannot signal a process"),
    }
}

/// A number that the machine has until it is started again; 0 if it has none.
fn boot() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// All processes, a moment ago: many commands look at once.
fn recent_table() -> Arc<[Entry]> {
    let mut last = LAST_TABLE.lock();
    if let Some((at, table)) = &*last
        && at.elapsed() < RECENT
    {
        return Arc::clone(table);
    }
    let table: Arc<[Entry]> = table().into();
    *last = Some((Instant::now(), Arc::clone(&table)));
    table
}

/// All processes.
fn table() -> Vec<Entry> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(entry).collect()
}

fn entry(pid: i32) -> Option<Entry> {
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &String::from_utf8_lossy(&line))
}

/// Reads a line of the form `PID (NAME) STATE PARENT GROUP SESSION ...`; names
/// may have blanks and parentheses.
fn parse(pid: i32, line: &str) -> Option<Entry> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // The 22nd field of all.
    let start = fields.nth(15)?.parse().ok()?;
    Some(Entry {
        pid,
        parent,
        session,
        start,
        zombie: matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests;

//! What the system says of processes: CPU time, memory, descriptors; and of
//! the machine as a whole. Linux only, as the services are.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, bail};
use serde::Serialize;

/// Clock ticks per second in /proc/PID/stat: a constant of the kernel's
/// interface on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a page in /proc/PID/statm, used where smaps_rollup is missing.
const PAGE_BYTES: u64 = 4_096;

/// The CPU time of a process up to a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuSample {
    user_ticks: u64,
    system_ticks: u64,
    /// Nanoseconds on a CPU, by thread.
    threads: BTreeMap<u32, u64>,
}

/// CPU time used within a window, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Cpu {
    /// In the program.
    pub(super) user_s: f64,
    /// In the kernel on its behalf.
    pub(super) system_s: f64,
    /// Both. The sum is exact; the split is by the kernel's sampling ticks.
    pub(super) total_s: f64,
}

impl CpuSample {
    /// The time of a process so far.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid}"))?;
        let (user_ticks, system_ticks) = ticks(&stat).context("/proc/PID/stat")?;
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let Some(thread) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end in between; its time is in the ticks.
            if let Some(on_cpu) = thread_nanos(pid, thread) {
                threads.insert(thread, on_cpu);
            }
        }
        Ok(Self {
            user_ticks,
            system_ticks,
            threads,
        })
    }

    /// What was used since `before`.
    pub(super) fn since(&self, before: &Self) -> Cpu {
        let user = self.user_ticks.saturating_sub(before.user_ticks) as f64 / TICKS_PER_SECOND;
        let system =
            self.system_ticks.saturating_sub(before.system_ticks) as f64 / TICKS_PER_SECOND;
        let by_ticks = user + system;
        let all_alive = before
            .threads
            .keys()
            .all(|thread| self.threads.contains_key(thread));
        let nanos = |sample: &Self| sample.threads.values().sum::<u64>();
        let total = if all_alive && !self.threads.is_empty() {
            nanos(self).saturating_sub(nanos(before)) as f64 / 1e9
        } else {
            by_ticks
        };
        // Time shorter than a tick is all the kernel's as far as it can tell.
        let share = if by_ticks > 0.0 { user / by_ticks } else { 0.0 };
        Cpu {
            user_s: total * share,
            system_s: total * (1.0 - share),
            total_s: total,
        }
    }

    /// What its busiest thread used after `before`, in seconds.
    pub(super) fn busiest_since(&self, before: &Self) -> f64 {
        let spent = self.threads.iter().map(|(thread, now)| {
            let then = before.threads.get(thread).copied().unwrap_or_default();
            now.saturating_sub(then)
        });
        spent.max().unwrap_or_default() as f64 / 1e9
    }
}

impl Cpu {
    /// Both times added.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            user_s: self.user_s + other.user_s,
            system_s: self.system_s + other.system_s,
            total_s: self.total_s + other.total_s,
        }
    }
}

/// User and system time in a line of /proc/PID/stat.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    // The name may hold anything, so fields are counted from its end.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Nanoseconds that a thread has spent on a CPU.
pub(super) fn thread_nanos(pid: u32, thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The calling thread's number.
pub(super) fn this_thread() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// The memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// Resident bytes.
    pub(super) resident: u64,
    /// Of them, bytes that are no file's.
    pub(super) anonymous: u64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            return Ok(Self {
                resident: kilobytes(&rollup, "Rss:").context("smaps_rollup")?,
                anonymous: kilobytes(&rollup, "Anonymous:").context("smaps_rollup")?,
            });
        }
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let mut pages = statm
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse::<u64>());
        let mut next = || pages.next().and_then(Result::ok).context("statm");
        let (resident, shared) = (next()?, next()?);
        Ok(Self {
            resident: resident * PAGE_BYTES,
            anonymous: resident.saturating_sub(shared) * PAGE_BYTES,
        })
    }
}

/// Bytes of the kernel's own objects, sockets among them.
pub(super) fn kernel_slab() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let number: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(number * 1_024)
}

/// How many files a process may open at most.
pub(super) fn hard_file_limit(pid: u32) -> anyhow::Result<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    match line.and_then(|line| line.split_whitespace().nth(4)) {
        Some("unlimited") => Ok(u64::MAX),
        Some(number) => Ok(number.parse()?),
        None => bail!("/proc/{pid}/limits does not say"),
    }
}

/// How the machine's processors spent their time up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MachineSample {
    idle: u64,
    stolen: u64,
    all: u64,
}

impl MachineSample {
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            // user nice system idle iowait irq softirq steal; guest time is in user.
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        Self {
            idle: field(3) + field(4),
            stolen: field(7),
            all: fields.iter().sum(),
        }
    }

    /// The shares of time since `before` in which processors were busy, and in
    /// which a hypervisor had them.
    pub(super) fn since(&self, before: &Self) -> (f64, f64) {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        let idle = self.idle.saturating_sub(before.idle) as f64;
        let stolen = self.stolen.saturating_sub(before.stolen) as f64;
        (1.0 - idle / all, stolen / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 9";
        assert_eq!(ticks(stat), Some((250, 50)));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let pid = std::process::id();
        let before = CpuSample::of(pid).unwrap();
        let mut sum = 0_u64;
        while CpuSample::of(pid).unwrap().since(&before).total_s < 0.02 {
            sum = (0..100_000_u64).fold(sum, |sum, number| sum.wrapping_add(number * number));
        }
        assert!(sum > 0);
        assert!(Memory::of(pid).unwrap().resident > 0);
        assert!(hard_file_limit(pid).unwrap() > 0);
        assert!(thread_nanos(pid, this_thread()).is_some());
    }

    #[test]
    fn a_thread_that_ended_leaves_the_ticks() {
        let sample = |user_ticks, threads: &[(u32, u64)]| CpuSample {
            user_ticks,
            system_ticks: 100,
            threads: threads.iter().copied().collect(),
        };
        let before = sample(100, &[(1, 5_000_000_000), (2, 1)]);
        let exact = sample(200, &[(1, 6_500_000_000), (2, 1)]).since(&before);
        assert!((exact.total_s - 1.5).abs() < 1e-9, "{exact:?}");
        let ticks = sample(200, &[(1, 9_000_000_000)]).since(&before);
        assert!((ticks.total_s - 1.0).abs() < 1e-9, "{ticks:?}");
    }
}

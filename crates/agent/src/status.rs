//! How the machine and the agent are: CPU, memory, commands, as `agent:status`
//! tells it.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Digits behind the point are noise.
const TENTHS: f64 = 10.0;

/// What the kernel counts of the machine's processors, in its ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// Measures the machine.
#[derive(Debug)]
pub(crate) struct Gauge {
    since: Ticks,
    /// Of the last measurement: two close to each other would be noise.
    measured_at: Option<Instant>,
    cpu: f64,
}

/// The shortest time over which CPU usage is measured.
const SPAN: Duration = Duration::from_secs(1);

impl Gauge {
    pub(crate) fn new() -> Self {
        Self {
            since: ticks().unwrap_or_default(),
            measured_at: None,
            cpu: 0.0,
        }
    }

    /// How it is, as `metrics` of `agent:status`. Percentages are of the whole
    /// machine; what cannot be measured is left out.
    pub(crate) fn metrics(&mut self, running: usize, concurrency: u32) -> Value {
        let now = Instant::now();
        let is_due = self
            .measured_at
            .is_none_or(|at| now.saturating_duration_since(at) >= SPAN);
        if let (true, Some(ticks)) = (is_due, ticks()) {
            let all = ticks.all.saturating_sub(self.since.all);
            if all > 0 {
                let busy = ticks.busy.saturating_sub(self.since.busy);
                self.cpu = percent(busy, all);
                self.since = ticks;
                self.measured_at = Some(now);
            }
        }
        let free = f64::from(concurrency).max(1.0);
        let availability = (1.0 - running as f64 / free).clamp(0.0, 1.0);
        let mut metrics = json!({
            "cpuUsage": self.cpu,
            "activeCommands": running,
            "concurrency": concurrency,
            "availability": (availability * 100.0).round() / 100.0,
        });
        if let Some(memory) = memory() {
            metrics["memoryUsage"] = json!(memory);
        }
        metrics
    }
}

fn percent(part: u64, all: u64) -> f64 {
    (part as f64 / all as f64 * 100.0 * TENTHS).round() / TENTHS
}

/// The first line of `/proc/stat`.
fn ticks() -> Option<Ticks> {
    parse_ticks(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_ticks(text: &str) -> Option<Ticks> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let counts: Vec<u64> = line
        .split_whitespace()
        // user nice system idle iowait irq softirq steal; guests are in user.
        .take(8)
        .map(|count| count.parse().ok())
        .collect::<Option<_>>()?;
    let all = counts.iter().sum();
    let idle = counts.get(3)? + counts.get(4).unwrap_or(&0);
    Some(Ticks {
        busy: all - idle,
        all,
    })
}

/// The part of the memory that is not available.
fn memory() -> Option<f64> {
    parse_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory(text: &str) -> Option<f64> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let (total, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    (total > 0).then(|| percent(total.saturating_sub(available), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "cpu  100 0 50 800 50 0 0 0 99 0\ncpu0 1 2 3\n";
        let ticks = parse_ticks(text).unwrap();
        assert_eq!((ticks.busy, ticks.all), (150, 1_000));
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n";
        assert_eq!(parse_memory(text), Some(75.0));
        assert_eq!(parse_memory("MemTotal: 0 kB\nMemAvailable: 0 kB"), None);
        assert_eq!(parse_ticks("intr 1"), None);
    }

    #[test]
    fn availability_is_the_free_share() {
        let mut gauge = Gauge::new();
        let metrics = gauge.metrics(1, 4);
        assert_eq!(metrics["availability"], 0.75);
        assert_eq!(metrics["activeCommands"], 1);
        let cpu = metrics["cpuUsage"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&cpu));
        assert_eq!(gauge.metrics(9, 4)["availability"], 0.0);
    }
}

//! What publisher, clients and the workload share while a run is under way.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// Precision of every histogram: three significant digits.
const DIGITS: u8 = 3;

/// Counters of a run. They only count; what they say of one another is exact
/// once nothing moves any more.
#[derive(Debug)]
pub(super) struct Progress {
    /// The run, as events name it.
    pub(super) run: u32,
    /// Clients whose session is confirmed now.
    pub(super) open: AtomicU64,
    /// Clients that have given up.
    pub(super) failed: AtomicU64,
    /// Deliveries, each event counted once per client.
    pub(super) delivered: AtomicU64,
    /// Returns that got everything they had missed.
    pub(super) caught_up: AtomicU64,
    /// Events published so far, by target.
    published: Vec<AtomicU64>,
    /// Events (target, number) that nobody acknowledged.
    unacknowledged: Mutex<Vec<(u32, u64)>>,
}

impl Progress {
    pub(super) fn new(run: u32, targets: usize) -> Self {
        Self {
            run,
            open: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            caught_up: AtomicU64::new(0),
            published: (0..targets).map(|_| AtomicU64::new(0)).collect(),
            unacknowledged: Mutex::default(),
        }
    }

    /// Takes the next number of a target, before the event goes out.
    pub(super) fn number(&self, target: u32) -> u64 {
        self.published[target as usize].fetch_add(1, Ordering::Release)
    }

    /// How many events of a target there are; none of one that there is not.
    pub(super) fn published(&self, target: u32) -> u64 {
        self.published
            .get(target as usize)
            .map_or(0, |count| count.load(Ordering::Acquire))
    }

    pub(super) fn targets(&self) -> usize {
        self.published.len()
    }

    /// How many events of each target there are.
    pub(super) fn all_published(&self) -> Vec<u64> {
        self.published
            .iter()
            .map(|count| count.load(Ordering::Acquire))
            .collect()
    }

    pub(super) fn give_up_on(&self, target: u32, sequence: u64) {
        self.unacknowledged.lock().push((target, sequence));
    }

    pub(super) fn unacknowledged(&self) -> Vec<(u32, u64)> {
        self.unacknowledged.lock().clone()
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::AcqRel);
}

/// Reads a counter.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Acquire)
}

/// Times, in nanoseconds, from several threads.
#[derive(Debug)]
pub(super) struct Times(Mutex<Histogram<u64>>);

/// Quantiles of times, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    /// How many there were.
    pub(super) count: u64,
    /// The median.
    pub(super) p50_us: f64,
    /// Nine of ten were shorter.
    pub(super) p90_us: f64,
    /// 99 of 100 were shorter.
    pub(super) p99_us: f64,
    /// 999 of 1,000 were shorter.
    pub(super) p999_us: f64,
    /// The longest.
    pub(super) max_us: f64,
}

impl Default for Times {
    fn default() -> Self {
        Self(Mutex::new(empty()))
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("three digits are within the library's range")
}

impl Times {
    /// Enters a time.
    pub(super) fn record(&self, nanos: u64) {
        // Resizes by itself, so nothing is refused.
        self.0.lock().record(nanos).ok();
    }

    /// Quantiles of what was entered since the last call, and empties it.
    pub(super) fn take(&self) -> Quantiles {
        let times = std::mem::replace(&mut *self.0.lock(), empty());
        quantiles(&times)
    }

    /// Moves what was entered into `all`, and empties it.
    pub(super) fn move_into(&self, all: &mut Histogram<u64>) {
        let times = std::mem::replace(&mut *self.0.lock(), empty());
        all.add(times).ok();
    }
}

/// Quantiles over several threads' times, which are emptied.
pub(super) fn take_all<'a>(times: impl Iterator<Item = &'a Times>) -> Quantiles {
    let mut all = empty();
    times.for_each(|times| times.move_into(&mut all));
    quantiles(&all)
}

fn quantiles(times: &Histogram<u64>) -> Quantiles {
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Quantiles {
        count: times.len(),
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: times.max() as f64 / 1e3,
    }
}

//! How fast the agent may speak: it stays below the gateway's limits instead of
//! running into them, and says more at a time the closer it gets.
//!
//! The gateway counts messages in windows that begin with a message; the agent
//! does not know when. What it may send is therefore a bucket for each window:
//! full it holds a part of the limit, and what flows in during a window is
//! another part, so that no window of that length has more than the limit.

use std::time::Duration;

use tokio::time::Instant;

/// The windows in which the gateway counts.
const WINDOWS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(60),
    Duration::from_secs(3_600),
];
/// The part of a limit that may be used at once.
const AT_ONCE: f64 = 0.35;
/// The part of a limit that flows in during its window. Both parts leave a
/// twentieth for what was counted and never arrived.
const FLOW: f64 = 0.6;
/// Between messages of output of one stream while there is plenty of room.
const SHORTEST: Duration = Duration::from_millis(50);
/// Between messages of output of one stream when room is running out.
const LONGEST: Duration = Duration::from_secs(2);
/// The part of a bucket below which output comes less often.
const PLENTY: f64 = 0.6;
/// The wait where the gateway refuses and does not say for how long.
const UNSAID: Duration = Duration::from_secs(5);

/// How many messages may be sent in a second, a minute and an hour; 0 = any
/// number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// In a second.
    pub second: u32,
    /// In a minute.
    pub minute: u32,
    /// In an hour.
    pub hour: u32,
}

/// What may be sent of one class of messages.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    buckets: [Option<Bucket>; WINDOWS.len()],
    /// Nothing before this: the gateway said so.
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(limit: u32, window: Duration, now: Instant) -> Self {
        let limit = f64::from(limit);
        // Also a limit of 1 must let one message pass.
        let capacity = (limit * AT_ONCE).max(1.0);
        Self {
            capacity,
            per_second: (limit * FLOW).min((limit - capacity).max(0.1)) / window.as_secs_f64(),
            level: capacity,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let flown = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.level = (self.level + flown).min(self.capacity);
        self.at = now;
    }

    /// When a message may be sent, leaving `reserve` of the bucket.
    fn ready_at(&self, reserve: f64) -> Instant {
        let lacking = 1.0 + reserve * self.capacity - self.level;
        if lacking <= 0.0 || reserve * self.capacity + 1.0 > self.capacity && self.level >= 1.0 {
            return self.at;
        }
        self.at + Duration::from_secs_f64(lacking / self.per_second)
    }
}

impl Pace {
    pub(crate) fn new(rates: Rates) -> Self {
        let now = Instant::now();
        let limits = [rates.second, rates.minute, rates.hour];
        let mut buckets = [None; WINDOWS.len()];
        for ((bucket, limit), window) in buckets.iter_mut().zip(limits).zip(WINDOWS) {
            *bucket = (limit > 0).then(|| Bucket::new(limit, window, now));
        }
        Self {
            buckets,
            held_until: None,
        }
    }

    /// When the next message may be sent, such that `reserve`, a part from 0 to
    /// 1, is left for what matters more.
    pub(crate) fn ready_at(&mut self, now: Instant, reserve: f64) -> Instant {
        let mut ready = self.held_until.map_or(now, |until| until.max(now));
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.fill(now);
            ready = ready.max(bucket.ready_at(reserve));
        }
        ready
    }

    /// A message is sent.
    pub(crate) fn take(&mut self, now: Instant) {
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.fill(now);
            bucket.level -= 1.0;
        }
    }

    /// How long output is to be gathered between two messages of one stream:
    /// the longer, the less room there is.
    pub(crate) fn interval(&mut self, now: Instant) -> Duration {
        let mut room: f64 = 1.0;
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.fill(now);
            room = room.min(bucket.level.max(0.0) / bucket.capacity);
        }
        let scarcity = (1.0 - room / PLENTY).clamp(0.0, 1.0);
        SHORTEST + (LONGEST - SHORTEST).mul_f64(scarcity)
    }

    /// The gateway has refused a message: nothing more for as long as it says,
    /// and no more from then on than its limits are.
    pub(crate) fn refused(
        &mut self,
        now: Instant,
        retry_after: Option<Duration>,
        minute: Option<u32>,
        hour: Option<u32>,
    ) {
        let until = now + retry_after.unwrap_or(UNSAID);
        self.held_until = Some(self.held_until.map_or(until, |known| known.max(until)));
        for (place, limit) in [(1, minute), (2, hour)] {
            let Some(limit) = limit.filter(|limit| *limit > 0) else {
                continue;
            };
            let mut strict = Bucket::new(limit, WINDOWS[place], now);
            // The window is used up.
            strict.level = 0.0;
            let bucket = &mut self.buckets[place];
            if bucket.is_none_or(|known| known.capacity > strict.capacity) {
                *bucket = Some(strict);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const DOCUMENTED: Rates = Rates {
        second: 0,
        minute: 1_000,
        hour: 10_000,
    };

    /// Sends as fast as it may for `span`; gives the moments.
    fn send(pace: &mut Pace, span: Duration) -> Vec<Instant> {
        let begin = Instant::now();
        let mut now = begin;
        let mut sent = Vec::new();
        loop {
            now = pace.ready_at(now, 0.0);
            if now > begin + span {
                return sent;
            }
            pace.take(now);
            sent.push(now);
            now += Duration::from_millis(1);
        }
    }

    /// The most that any window of this length has.
    fn most(sent: &[Instant], window: Duration) -> usize {
        let mut running = VecDeque::new();
        let mut most = 0;
        for moment in sent {
            running.push_back(*moment);
            while *moment - running[0] >= window {
                running.pop_front();
            }
            most = most.max(running.len());
        }
        most
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_wherever_it_begins_has_more_than_the_limit() {
        for rates in [
            DOCUMENTED,
            Rates {
                second: 10,
                minute: 100,
                hour: 1_000,
            },
            Rates {
                second: 0,
                minute: 7,
                hour: 30,
            },
            Rates {
                second: 1,
                minute: 0,
                hour: 0,
            },
        ] {
            let mut pace = Pace::new(rates);
            let sent = send(&mut pace, Duration::from_secs(3 * 3_600));
            let limits = [rates.second, rates.minute, rates.hour];
            for (limit, window) in limits.into_iter().zip(WINDOWS) {
                let most = most(&sent, window);
                assert!(
                    limit == 0 || most <= limit as usize,
                    "{most} in {window:?} of {rates:?}"
                );
            }
            // And they are used: half of what the hour allows, at least.
            if rates.hour > 0 {
                assert!(sent.len() > rates.hour as usize * 3 / 2, "{}", sent.len());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_gathered_longer_when_room_runs_out() {
        let now = Instant::now();
        let mut pace = Pace::new(DOCUMENTED);
        assert_eq!(pace.interval(now), SHORTEST);
        for _ in 0..349 {
            pace.take(now);
        }
        assert!(pace.interval(now) > Duration::from_millis(1_900));
        let mut free = Pace::new(Rates::default());
        for _ in 0..100_000 {
            free.take(now);
        }
        assert_eq!(free.interval(now), SHORTEST);
        assert_eq!(free.ready_at(now, 0.9), now);
    }

    #[tokio::test(start_paused = true)]
    async fn what_matters_less_leaves_a_reserve() {
        let now = Instant::now();
        let mut pace = Pace::new(Rates {
            second: 0,
            minute: 100,
            hour: 0,
        });
        let mut sent = 0;
        while pace.ready_at(now, 0.5) == now {
            pace.take(now);
            sent += 1;
        }
        assert!((16..=18).contains(&sent), "{sent}");
        assert_eq!(pace.ready_at(now, 0.0), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_obeyed_and_remembered() {
        let now = Instant::now();
        let mut pace = Pace::new(Rates::default());
        pace.refused(now, Some(Duration::from_secs(60)), Some(6), None);
        assert!(pace.ready_at(now, 0.0) >= now + Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(61)).await;
        let sent = send(&mut pace, Duration::from_secs(600));
        assert!(most(&sent, WINDOWS[1]) <= 6);
        assert!(sent.len() > 20);
    }
}

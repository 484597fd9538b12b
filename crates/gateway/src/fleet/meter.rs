//! Counts what a connection sends: each message against the limit of its type,
//! or else against those of the connection and of all connections together.

use std::time::Duration;

use signalbox_limits::{Key, Limits, Quota};
use signalbox_protocol::frame::fleet::server::{self, Used};
use tokio::time::Instant;

use crate::config::{FleetOptions, Rates};

/// The spans of time in which messages are counted.
const WINDOWS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(60),
    Duration::from_secs(3_600),
];

/// A message that is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// What is limited, for people.
    pub(super) what: &'static str,
    /// What was used.
    pub(super) limits: server::Limits,
    /// When the next one is served.
    pub(super) retry_after: Duration,
}

/// What was sent in the windows that run.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    windows: [Option<(Instant, u64)>; WINDOWS.len()],
}

/// One connection's messages.
#[derive(Debug)]
pub(super) struct Meter {
    options: FleetOptions,
    counters: [Counter; Class::ALL.len()],
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Plain,
    Requests,
    Output,
    Heartbeats,
    Input,
    Resizes,
}

impl Class {
    const ALL: [Self; 6] = [
        Self::Plain,
        Self::Requests,
        Self::Output,
        Self::Heartbeats,
        Self::Input,
        Self::Resizes,
    ];

    fn of(kind: Option<&str>) -> Self {
        match kind {
            Some("command:request") => Self::Requests,
            Some("terminal:output") => Self::Output,
            Some("heartbeat:ping") => Self::Heartbeats,
            Some("terminal:input") => Self::Input,
            Some("terminal:resize") => Self::Resizes,
            _ => Self::Plain,
        }
    }

    const fn rates(self, options: &FleetOptions) -> Rates {
        match self {
            Self::Plain => options.connection,
            Self::Requests => options.requests,
            Self::Output => options.output,
            Self::Heartbeats => options.heartbeats,
            Self::Input => options.input,
            Self::Resizes => options.resizes,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Plain => "Rate limit exceeded: messages of this connection",
            Self::Requests => "Rate limit exceeded: command:request",
            Self::Output => "Rate limit exceeded: terminal:output",
            Self::Heartbeats => "Rate limit exceeded: heartbeat:ping",
            Self::Input => "Rate limit exceeded: terminal:input",
            Self::Resizes => "Rate limit exceeded: terminal:resize",
        }
    }
}

impl Counter {
    /// Counts a message in all windows; gives what was used of each.
    fn count(&mut self, now: Instant) -> [(u64, Duration); WINDOWS.len()] {
        let mut used = [(0, Duration::ZERO); WINDOWS.len()];
        for ((window, length), used) in self.windows.iter_mut().zip(WINDOWS).zip(&mut used) {
            let (ends, count) = match *window {
                Some((ends, count)) if ends > now => (ends, count + 1),
                _ => (now + length, 1),
            };
            *window = Some((ends, count));
            *used = (count, ends - now);
        }
        used
    }
}

impl Meter {
    pub(super) fn new(options: FleetOptions) -> Self {
        Self {
            options,
            counters: [Counter::default(); Class::ALL.len()],
        }
    }

    /// Counts a message of a type.
    ///
    /// # Errors
    /// By how much which limit is exceeded.
    pub(super) async fn count(
        &mut self,
        limits: &Limits,
        kind: Option<&str>,
    ) -> Result<(), Excess> {
        let class = Class::of(kind);
        let used = self.counters[class as usize].count(Instant::now());
        judge(class.what(), class.rates(&self.options), used)?;
        if class != Class::Plain {
            return Ok(());
        }
        let all = self.options.all;
        let mut used = [(0, Duration::ZERO); WINDOWS.len()];
        for (place, name, limit) in [(1, "minute", all.minute), (2, "hour", all.hour)] {
            if limit > 0 {
                let window = WINDOWS[place];
                let usage = limits
                    .count(&Key::dialect("fleet", name), Quota { limit, window }, 1)
                    .await;
                used[place] = (usage.used, usage.resets_in);
            }
        }
        judge(
            "Rate limit exceeded: messages of all connections",
            all,
            used,
        )
    }
}

fn judge(
    what: &'static str,
    rates: Rates,
    used: [(u64, Duration); WINDOWS.len()],
) -> Result<(), Excess> {
    let wanted = [rates.second, rates.minute, rates.hour];
    let retry_after = used
        .iter()
        .zip(wanted)
        .filter(|((used, _), limit)| *limit > 0 && *used > u64::from(*limit))
        .map(|((_, ends), _)| *ends)
        .max();
    let Some(retry_after) = retry_after else {
        return Ok(());
    };
    let [_, minute, hour] = used;
    Err(Excess {
        what,
        limits: server::Limits {
            per_minute: Used {
                used: minute.0,
                limit: rates.minute,
            },
            per_hour: (rates.hour > 0).then_some(Used {
                used: hour.0,
                limit: rates.hour,
            }),
        },
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> FleetOptions {
        let none = Rates {
            second: 0,
            minute: 0,
            hour: 0,
        };
        FleetOptions {
            heartbeat: Duration::from_secs(30),
            identification: Duration::from_secs(300),
            connection: Rates {
                second: 2,
                minute: 4,
                hour: 6,
            },
            all: none,
            requests: Rates { minute: 1, ..none },
            output: none,
            heartbeats: none,
            input: none,
            resizes: none,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_window_is_a_limit_and_says_when_to_go_on() {
        let limits = Limits::local();
        let mut meter = Meter::new(options());
        let mut refused = Vec::new();
        for _ in 0..4 {
            for _ in 0..3 {
                if let Err(excess) = meter.count(&limits, Some("terminal:clear")).await {
                    refused.push(excess.retry_after.as_secs());
                }
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // Two a second, four a minute, six an hour; refused ones count.
        assert_eq!(refused, [1, 59, 59, 3598, 3598, 3598, 3597, 3597, 3597]);
    }

    #[tokio::test]
    async fn a_type_with_a_limit_of_its_own_counts_against_that_one_only() {
        let limits = Limits::local();
        let mut meter = Meter::new(options());
        for _ in 0..50 {
            assert!(meter.count(&limits, Some("terminal:output")).await.is_ok());
        }
        assert!(meter.count(&limits, Some("command:request")).await.is_ok());
        let excess = meter
            .count(&limits, Some("command:request"))
            .await
            .unwrap_err();
        assert_eq!(excess.limits.per_minute, Used { used: 2, limit: 1 });
        assert_eq!(excess.limits.per_hour, None);
        assert!(meter.count(&limits, None).await.is_ok());
    }

    #[tokio::test]
    async fn all_connections_share_a_limit() {
        let limits = Limits::local();
        let shared = FleetOptions {
            all: Rates {
                second: 0,
                minute: 2,
                hour: 0,
            },
            ..options()
        };
        let mut refused = 0;
        for _ in 0..3 {
            let mut meter = Meter::new(shared);
            refused += u32::from(meter.count(&limits, None).await.is_err());
        }
        assert_eq!(refused, 1);
    }
}

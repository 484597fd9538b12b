//! A window of time in which everything that takes CPU is watched: the parts
//! of the platform, the machine, and the generator itself, so that its own
//! limits are never taken for the server's.

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::crowd::Gathered;
use super::procfs::{Cpu, CpuSample, MachineSample, thread_nanos};
use super::progress::{Quantiles, take_all};
use super::publisher::Publisher;
use super::stage::{BusTraffic, Parts, Stage};

/// The share of a core from which a thread of the generator is taken to be
/// full.
const FULL_THREAD: f64 = 0.9;
/// The share of all cores from which the machine is taken to be full.
const FULL_MACHINE: f64 = 0.97;
/// How late the slowest hundredth of publishes, or of looks at the sockets,
/// may be before the generator is taken to be late, in microseconds.
const LATE_US: f64 = 50_000.0;
/// The fewest looks at the sockets from which that can be told.
const LEAST_LOOKS: u64 = 100;

/// The beginning of a window.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    parts: Parts,
    gateways: Vec<CpuSample>,
    router: Option<CpuSample>,
    nats: Option<CpuSample>,
    auth: Option<CpuSample>,
    relay: Option<CpuSample>,
    publisher_thread: Option<u32>,
    clients: Vec<u64>,
    publisher: u64,
    machine: MachineSample,
    traffic: Option<BusTraffic>,
}

/// What was used within a window.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Used {
    /// How long it was, in seconds.
    pub(super) seconds: f64,
    /// CPU time of the gateways, or of the processes that were named.
    pub(super) gateway: Cpu,
    /// CPU time of the router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) router: Option<Cpu>,
    /// CPU time of the NATS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nats: Option<Cpu>,
    /// CPU time of auth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth: Option<Cpu>,
    /// CPU time of the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<Cpu>,
    /// What the NATS server sent and took in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bus: Option<BusTraffic>,
}

/// How the generator itself did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Generator {
    /// The share of a core that its busiest thread of clients used.
    pub(super) client_thread: f64,
    /// The share of a core that its publisher used.
    pub(super) publisher_thread: f64,
    /// CPU seconds of all its threads that took part.
    pub(super) cpu_s: f64,
    /// The share of all cores that anything used, other programs included.
    pub(super) machine: f64,
    /// The share of time that a hypervisor took.
    pub(super) stolen: f64,
    /// How late it came round to look at its sockets.
    pub(super) read_lag: Quantiles,
    /// How late it published against its schedule, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publish_lag: Option<Quantiles>,
    /// Whether its limits, or the machine's, may be what was measured.
    pub(super) saturated: bool,
    /// Why so.
    pub(super) why: Vec<String>,
}

impl Window {
    /// Begins one.
    pub(super) async fn open(
        stage: &Stage,
        crowd: Option<&Gathered>,
        publisher: Option<&Publisher>,
    ) -> anyhow::Result<Self> {
        let parts = stage.parts.clone();
        let client_threads = crowd.map(Gathered::numbers).unwrap_or_default();
        let publisher_thread = publisher.map(Publisher::number);
        // What was measured before is no part of the window.
        if let Some(crowd) = crowd {
            take_all(crowd.stats().map(|stats| &stats.lag));
        }
        if let Some(publisher) = publisher {
            publisher.times.lag.take();
        }
        // The counters are asked for first: that, too, costs the bus time.
        let traffic = stage.traffic().await;
        let sample = |pid: Option<u32>| pid.map(CpuSample::of).transpose();
        Ok(Self {
            gateways: samples(&parts.gateways)?,
            router: sample(parts.router)?,
            nats: sample(parts.nats)?,
            auth: sample(parts.auth)?,
            relay: sample(parts.relay)?,
            clients: nanos(&client_threads),
            publisher: publisher_thread.map_or(0, on_cpu),
            machine: MachineSample::now(),
            began: Instant::now(),
            parts,
            publisher_thread,
            traffic,
        })
    }

    /// Ends it.
    pub(super) async fn close(
        self,
        stage: &Stage,
        crowd: Option<&Gathered>,
        publisher: Option<&Publisher>,
    ) -> anyhow::Result<(Used, Generator)> {
        let seconds = self.began.elapsed().as_secs_f64();
        let since = |pid: Option<u32>, before: &Option<CpuSample>| match (pid, before) {
            (Some(pid), Some(before)) => CpuSample::of(pid).map(|now| Some(now.since(before))),
            _ => Ok(None),
        };
        let gateways = samples(&self.parts.gateways)?;
        let gateway = gateways
            .iter()
            .zip(&self.gateways)
            .map(|(now, before)| now.since(before));
        let used = Used {
            seconds,
            gateway: gateway.fold(Cpu::default(), Cpu::plus),
            router: since(self.parts.router, &self.router)?,
            nats: since(self.parts.nats, &self.nats)?,
            auth: since(self.parts.auth, &self.auth)?,
            relay: since(self.parts.relay, &self.relay)?,
            bus: None,
        };
        let spent = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9;
        // Threads that began within the window have spent nothing before it.
        let threads = crowd.map(Gathered::numbers).unwrap_or_default();
        let clients: Vec<f64> = nanos(&threads)
            .into_iter()
            .zip(self.clients.iter().copied().chain(std::iter::repeat(0)))
            .map(|(now, before)| spent(now, before))
            .collect();
        let publisher_s = self
            .publisher_thread
            .map_or(0.0, |thread| spent(on_cpu(thread), self.publisher));
        let (machine, stolen) = MachineSample::now().since(&self.machine);
        let mut generator = Generator {
            client_thread: clients.iter().copied().fold(0.0, f64::max) / seconds,
            publisher_thread: publisher_s / seconds,
            cpu_s: clients.iter().sum::<f64>() + publisher_s,
            machine,
            stolen,
            read_lag: crowd
                .map(|crowd| take_all(crowd.stats().map(|stats| &stats.lag)))
                .unwrap_or_default(),
            publish_lag: publisher.map(|publisher| publisher.times.lag.take()),
            saturated: false,
            why: Vec::new(),
        };
        generator.judge();
        let traffic = stage.traffic().await;
        let bus = self
            .traffic
            .zip(traffic)
            .map(|(before, now)| now.since(&before));
        Ok((Used { bus, ..used }, generator))
    }
}

impl Generator {
    /// Adds threads of clients that are no crowd: what each used of the window,
    /// and how late they and their schedules were.
    pub(super) fn add(&mut self, cpu_s: &[f64], seconds: f64, lag: Quantiles, late: Quantiles) {
        let busiest = cpu_s.iter().copied().fold(0.0, f64::max) / seconds;
        self.client_thread = self.client_thread.max(busiest);
        self.cpu_s += cpu_s.iter().sum::<f64>();
        self.read_lag = lag;
        self.publish_lag = Some(late);
        self.judge();
    }

    /// Takes the whole of this process for its clients, where it is nothing else.
    pub(super) fn count_process(&mut self, before: &CpuSample, seconds: f64) -> anyhow::Result<()> {
        let now = CpuSample::of(std::process::id())?;
        self.cpu_s = now.since(before).total_s;
        self.client_thread = now.busiest_since(before) / seconds;
        self.judge();
        Ok(())
    }

    /// Says whether its own limits may be what was measured.
    fn judge(&mut self) {
        let mut why = Vec::new();
        if self.client_thread > FULL_THREAD {
            why.push("a thread of clients was full: try --threads".to_owned());
        }
        if self.publisher_thread > FULL_THREAD {
            why.push("the publisher was full".to_owned());
        }
        if self.machine > FULL_MACHINE {
            why.push("all cores were busy, with the server, the generator or others".to_owned());
        }
        if self.publish_lag.is_some_and(|lag| lag.p99_us > LATE_US) {
            why.push("events were published late".to_owned());
        }
        if self.read_lag.count >= LEAST_LOOKS && self.read_lag.p99_us > LATE_US {
            why.push("sockets were read late".to_owned());
        }
        self.saturated = !why.is_empty();
        self.why = why;
    }
}

fn samples(pids: &[u32]) -> anyhow::Result<Vec<CpuSample>> {
    pids.iter()
        .map(|pid| CpuSample::of(*pid).context("a process to measure"))
        .collect()
}

fn nanos(threads: &[u32]) -> Vec<u64> {
    threads.iter().map(|thread| on_cpu(*thread)).collect()
}

/// Nanoseconds of one of our own threads.
fn on_cpu(thread: u32) -> u64 {
    thread_nanos(std::process::id(), thread).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator() -> Generator {
        Generator {
            client_thread: 0.5,
            publisher_thread: 0.1,
            cpu_s: 1.0,
            machine: 0.8,
            stolen: 0.0,
            read_lag: Quantiles {
                count: 1_000,
                ..Quantiles::default()
            },
            publish_lag: None,
            saturated: false,
            why: Vec::new(),
        }
    }

    #[test]
    fn each_limit_of_the_generator_is_told() {
        let mut calm = generator();
        calm.judge();
        assert!(!calm.saturated && calm.why.is_empty());
        let late = Quantiles {
            count: 1_000,
            p99_us: LATE_US + 1.0,
            ..Quantiles::default()
        };
        for mut busy in [
            Generator {
                client_thread: 0.95,
                ..generator()
            },
            Generator {
                publisher_thread: 0.95,
                ..generator()
            },
            Generator {
                machine: 0.99,
                ..generator()
            },
            Generator {
                publish_lag: Some(late),
                ..generator()
            },
            Generator {
                read_lag: late,
                ..generator()
            },
        ] {
            busy.judge();
            assert!(busy.saturated);
            assert_eq!(busy.why.len(), 1, "{busy:?}");
        }
    }
}

//! The workloads: each sets its clients up, lets the load begin only once all
//! of them are confirmed, and gives one run of the report.

mod chat;
mod churn;
mod delivery;
mod ingest;
mod presence;
mod terminal;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use signalbox_service::Shutdown;
use tokio::time::{Instant, sleep};

pub(super) use self::chat::chat;
pub(super) use self::churn::{jitter, resume};
pub(super) use self::delivery::{fanout, topics};
pub(super) use self::ingest::ingest;
pub(super) use self::presence::{connect, idle};
pub(super) use self::terminal::{TerminalArgs, terminal};

use super::crowd::{Crowd, Gathered, Life};
use super::dialect::Subject;
use super::options::TargetArgs;
use super::progress::{Progress, read};
use super::publisher::Publisher;
use super::report::PublishedReport;
use super::stage::Stage;

/// How long a crowd may take to open all its connections.
const OPENING_PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing may arrive before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(5);
/// How long is waited beyond the last delivery for what should not come.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How often arrivals are looked at.
const POLL: Duration = Duration::from_millis(2);

/// What every workload starts with.
pub(super) struct Start {
    pub(super) stage: Stage,
    progress: Arc<Progress>,
}

impl Start {
    /// Starts, or finds, what is measured.
    pub(super) async fn new(
        target: &TargetArgs,
        clients: usize,
        targets: usize,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let needs_token = target.dialect.dialect().needs_token;
        let stage = Stage::set(target, needs_token, shutdown).await?;
        stage.fits(clients)?;
        // Runs are told apart by this; their events may lie on one bus.
        let run = rand::random();
        Ok(Self {
            stage,
            progress: Arc::new(Progress::new(run, targets)),
        })
    }

    /// Gathers clients and waits until all are confirmed.
    async fn gather(
        &self,
        target: &TargetArgs,
        clients: usize,
        subject: fn(usize) -> Subject,
        life: Life,
    ) -> anyhow::Result<Gathered> {
        let crowd = Crowd {
            clients,
            threads: usize::from(target.threads),
            opening: usize::try_from(target.opening).unwrap_or(usize::MAX),
            dialect: target.dialect.dialect(),
            token: self.stage.token.clone(),
            subject,
            life,
        };
        let gathered = crowd.gather(&self.progress, self.stage.gateway)?;
        gathered.is_open(OPENING_PATIENCE).await?;
        Ok(gathered)
    }

    async fn publisher(&self) -> anyhow::Result<Publisher> {
        anyhow::ensure!(
            !self.stage.bus_url.is_empty(),
            "this workload publishes: name the bus with --nats-url"
        );
        Publisher::start(&self.stage.bus_url, &self.progress).await
    }
}

/// Waits until `counter` has reached `due`, or has not moved for a while;
/// gives the moment of its last move.
async fn settled(counter: &AtomicU64, due: u64) -> Instant {
    let mut last = (read(counter), Instant::now());
    loop {
        let now = read(counter);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if now >= due || last.1.elapsed() > QUIET {
            return last.1;
        }
        sleep(POLL).await;
    }
}

/// What was published, and how large messages were at the clients.
fn published_report(
    crowd: &Gathered,
    published: &super::publisher::Published,
    rate_wanted: f64,
    bytes: usize,
) -> PublishedReport {
    let sum =
        |of: fn(&super::crowd::Stats) -> &AtomicU64| crowd.stats().map(of).map(read).sum::<u64>();
    let events = published.acknowledged + published.unacknowledged;
    PublishedReport {
        events,
        unacknowledged: published.unacknowledged,
        rate_wanted,
        rate: events as f64 / published.seconds.max(1e-9),
        data_bytes: bytes as u64,
        message_bytes: sum(|stats| &stats.event_bytes) as f64
            / sum(|stats| &stats.events).max(1) as f64,
    }
}

//! What agents, dashboards and the workload share: who writes how much, when
//! each line was sent off, and what was seen of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::{agent, dashboard};
use crate::bench::account::Tally;
use crate::bench::mark;
use crate::bench::procfs::{this_thread, thread_nanos};
use crate::bench::progress::{Times, add, read};
use crate::bench::socket::{Buffer, Socket};
use crate::bench::wire;

/// How long the cast may take to be on the stage.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(2);
/// How often a thread looks how late it is.
const LAG_INTERVAL: Duration = Duration::from_millis(5);
/// Kinds of trouble that are told apart; more are counted together.
const MAX_REASONS: usize = 32;
/// Questions that wait for a thread; each waits for the answer to the last.
const QUESTIONS: usize = 1;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scene {
    /// Nothing.
    Pause,
    /// Lines are typed, so many a second over all sessions, and echoed.
    Echo {
        /// How many.
        rate: f64,
    },
    /// Agents write lines, so many a second over all of them.
    Lines {
        /// How many.
        rate: f64,
    },
}

/// What is given.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) address: SocketAddr,
    /// The dashboards' credential, a token.
    pub(super) token: String,
    /// The agents' tokens.
    pub(super) agents: Vec<(String, String)>,
    pub(super) dashboards: usize,
    pub(super) writers: usize,
    pub(super) batch: u64,
    pub(super) line_bytes: usize,
    /// Connections in the making at once.
    pub(super) opening: usize,
}

/// One session, as all see it.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Bytes that its agent has sent off.
    pub(super) written: AtomicU64,
    /// The end of each line or batch on its way, and when it was sent off.
    pub(super) under_way: Mutex<VecDeque<(u64, u64)>>,
    /// The command.
    pub(super) command: OnceLock<String>,
}

/// What all share.
#[derive(Debug)]
pub(super) struct Play {
    pub(super) setup: Setup,
    pub(super) sessions: Vec<Session>,
    pub(super) scene: watch::Sender<Scene>,
    /// How many agents have taken note of the scene.
    pub(super) noted: AtomicU64,
    /// Agents that are connected.
    pub(super) agents: AtomicU64,
    /// Dashboards that are connected.
    pub(super) dashboards: AtomicU64,
    /// Commands that run.
    pub(super) running: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Bytes that came, at all dashboards together.
    pub(super) received: AtomicU64,
    /// Returns of dashboards that were sent away.
    pub(super) returns: AtomicU64,
    /// Lines or batches sent off.
    pub(super) sent: AtomicU64,
    /// From the sending of a line or batch to its arrival.
    pub(super) latency: Times,
    /// How late typists and writers were against their schedule.
    pub(super) late: Times,
    /// How late the threads come round.
    pub(super) lag: Times,
    reasons: Mutex<BTreeMap<String, u64>>,
}

impl Play {
    pub(super) fn new(setup: Setup) -> Arc<Self> {
        let sessions = setup.agents.iter().map(|_| Session::default()).collect();
        Arc::new(Self {
            setup,
            sessions,
            scene: watch::Sender::new(Scene::Pause),
            noted: AtomicU64::new(0),
            agents: AtomicU64::new(0),
            dashboards: AtomicU64::new(0),
            running: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            latency: Times::default(),
            late: Times::default(),
            lag: Times::default(),
            reasons: Mutex::default(),
        })
    }

    /// Counts something that went wrong.
    pub(super) fn count(&self, reason: &str) {
        let mut reasons = self.reasons.lock();
        let known = reasons.len() < MAX_REASONS || reasons.contains_key(reason);
        let reason = if known { reason } else { "more" };
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// What went wrong, how often.
    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        self.reasons.lock().clone()
    }

    /// Bytes that agents have sent off.
    pub(super) fn written(&self) -> u64 {
        self.sessions
            .iter()
            .map(|session| read(&session.written))
            .sum()
    }

    /// Begins a scene; every agent has taken note of it then, so that none goes
    /// on with the last.
    pub(super) async fn set(&self, scene: Scene) -> anyhow::Result<()> {
        self.noted.store(0, Ordering::Release);
        self.scene.send_replace(scene);
        self.all("agents know the scene", &self.noted, self.sessions.len())
            .await
    }

    /// Waits until a counter says that all are there.
    pub(super) async fn all(
        &self,
        what: &str,
        counter: &AtomicU64,
        wanted: usize,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while read(counter) < wanted as u64 {
            if read(&self.failed) > 0 || Instant::now() > deadline {
                let there = read(counter);
                bail!("{there} of {wanted} {what}: {:?}", self.reasons());
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Session {
    /// Notes that everything up to `end` is on its way from now on.
    pub(super) fn send_off(&self, end: u64) {
        self.under_way.lock().push_back((end, mark::now()));
    }

    /// Notes that everything before `whole` is there.
    pub(super) fn arrive(&self, whole: u64, latency: &Times) {
        let mut under_way = self.under_way.lock();
        let now = mark::now();
        while let Some((_, sent)) = under_way.pop_front_if(|(end, _)| *end <= whole) {
            latency.record(now.saturating_sub(sent));
        }
    }
}

/// What the members of one thread share.
pub(super) struct Troupe {
    pub(super) play: Arc<Play>,
    pub(super) buffer: Buffer,
    pub(super) opening: Semaphore,
}

impl Troupe {
    /// Opens a connection with this token.
    pub(super) async fn connect(&self, token: &str, number: usize) -> anyhow::Result<Socket> {
        let path = format!("/ws?token={token}");
        Socket::upgrade(self.play.setup.address, &path, number, &self.buffer).await
    }

    /// Fails for good.
    pub(super) fn fail(&self, who: &str, error: &anyhow::Error) {
        self.play.count(&format!("{who}: {error:#}"));
        add(&self.play.failed, 1);
    }
}

/// Appends a message to what goes out.
pub(super) fn say(out: &mut Vec<u8>, message: &Value) {
    wire::write_frame(out, wire::TEXT, message.to_string().as_bytes());
}

/// The sums of the dashboards of a thread.
type Question = oneshot::Sender<Tally>;

/// A thread with agents or dashboards.
#[derive(Debug)]
pub(super) struct Thread {
    questions: Option<mpsc::Sender<Question>>,
    number: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

/// Who plays in a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Agents,
    Dashboards,
}

impl Thread {
    /// Starts one.
    pub(super) fn start(role: Role, play: &Arc<Play>) -> anyhow::Result<Self> {
        let (questions, inbox) = mpsc::channel(QUESTIONS);
        let number = Arc::new(AtomicU32::new(0));
        let (its_number, play) = (Arc::clone(&number), Arc::clone(play));
        let name = match role {
            Role::Agents => "agents",
            Role::Dashboards => "dashboards",
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                its_number.store(this_thread(), Ordering::Release);
                if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
                    LocalSet::new().block_on(&runtime, perform(role, play, inbox));
                }
            })?;
        Ok(Self {
            questions: Some(questions),
            number,
            thread: Some(thread),
        })
    }

    /// Nanoseconds that it was on a CPU.
    pub(super) fn nanos(&self) -> u64 {
        let number = self.number.load(Ordering::Acquire);
        thread_nanos(std::process::id(), number).unwrap_or_default()
    }

    /// What its dashboards got so far.
    pub(super) async fn audit(&self) -> anyhow::Result<Tally> {
        let (answer, tally) = oneshot::channel();
        let questions = self.questions.as_ref().context("the thread has ended")?;
        questions
            .send(answer)
            .await
            .context("the thread has ended")?;
        tally.await.context("the thread has ended")
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn perform(role: Role, play: Arc<Play>, mut inbox: mpsc::Receiver<Question>) {
    let opening = play.setup.opening;
    let troupe = Rc::new(Troupe {
        play,
        buffer: Buffer::default(),
        opening: Semaphore::new(opening.max(1)),
    });
    let mut dashboards = Vec::new();
    match role {
        Role::Agents => {
            for number in 0..troupe.play.sessions.len() {
                spawn_local(agent::live(Rc::clone(&troupe), number));
            }
        }
        Role::Dashboards => {
            for number in 0..troupe.play.setup.dashboards {
                let dashboard = Rc::new(dashboard::Dashboard::new(&troupe.play, number));
                spawn_local(dashboard::live(Rc::clone(&troupe), Rc::clone(&dashboard)));
                dashboards.push(dashboard);
            }
        }
    }
    spawn_local(watch_lag(Rc::clone(&troupe)));
    while let Some(answer) = inbox.recv().await {
        let mut sum = Tally::default();
        for dashboard in &dashboards {
            sum.add(&dashboard.audit(&troupe.play));
        }
        answer.send(sum).ok();
    }
}

/// Measures how late timers fire: whatever keeps this thread from them keeps
/// it from its sockets.
async fn watch_lag(troupe: Rc<Troupe>) {
    let mut due = Instant::now() + LAG_INTERVAL;
    loop {
        sleep_until(due).await;
        let late = Instant::now().saturating_duration_since(due);
        let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        troupe.play.lag.record(late);
        due = Instant::now() + LAG_INTERVAL;
    }
}

/// A schedule of one thing after another at a rate.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    due: Instant,
}

impl Schedule {
    /// So many a second, the first after a share of the first interval.
    pub(super) fn new(rate: f64, share: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / rate.max(1e-3));
        Self {
            interval,
            due: Instant::now() + interval.mul_f64(share),
        }
    }

    /// When the next is due.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// The next is done; notes how late it was.
    pub(super) fn done(&mut self, late: &Times) {
        let lateness = Instant::now().saturating_duration_since(self.due);
        late.record(u64::try_from(lateness.as_nanos()).unwrap_or(u64::MAX));
        self.due += self.interval;
    }
}

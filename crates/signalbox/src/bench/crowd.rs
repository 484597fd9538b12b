//! Many clients in few threads: each thread is one single-threaded runtime
//! with its share of the clients.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::account::{Account, Tally, Watch};
use super::client::{self, Client};
use super::dialect::{Ask, Dialect, Subject};
use super::progress::{Progress, Times, read};
use super::socket::Buffer;

/// How often a thread looks how late it is.
const LAG_INTERVAL: Duration = Duration::from_millis(5);
/// How often the state of all clients is looked at.
const POLL: Duration = Duration::from_millis(2);
/// Commands that wait for a thread; each waits for the answer to the last.
const COMMANDS: usize = 1;
/// Kinds of trouble that are told apart; more are counted together.
const MAX_REASONS: usize = 64;

/// What a client does when its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Nothing more.
    Once,
    /// It returns at once, as soon as it may.
    Return,
    /// It drops its connection again and again, and returns.
    Jitter {
        /// How long it stays.
        every: Duration,
        /// How long it is away.
        away: Duration,
    },
}

/// Where clients may connect, if they may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// Whether those who were cut off may return.
    pub(super) open: bool,
    /// Whether those who come and go do so.
    pub(super) moving: bool,
    /// Where to.
    pub(super) address: SocketAddr,
}

/// What kind of crowd it is.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    /// How many clients.
    pub(super) clients: usize,
    /// In how many threads.
    pub(super) threads: usize,
    /// Connections in the making at once, over all threads.
    pub(super) opening: usize,
    pub(super) dialect: &'static Dialect,
    pub(super) token: String,
    /// What the client of this number subscribes to.
    pub(super) subject: fn(usize) -> Subject,
    pub(super) life: Life,
}

/// A crowd that is there. Dropping it ends all its clients.
#[derive(Debug)]
pub(super) struct Gathered {
    threads: Vec<Running>,
    clients: u64,
    progress: Arc<Progress>,
    gate: watch::Sender<Gate>,
}

#[derive(Debug)]
struct Running {
    /// `None` once the thread was told to end.
    commands: Option<mpsc::Sender<oneshot::Sender<Tally>>>,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread measures.
#[derive(Debug, Default)]
pub(super) struct Stats {
    /// From publish to receipt.
    pub(super) latency: Times,
    /// From connect to confirmation.
    pub(super) opening: Times,
    /// The same, of clients that return.
    pub(super) returning: Times,
    /// From the beginning of a return to the last event that was missed.
    pub(super) caught_up: Times,
    /// How late the thread comes round.
    pub(super) lag: Times,
    /// Events received, whatever their account says.
    pub(super) events: AtomicU64,
    /// Bytes of their messages.
    pub(super) event_bytes: AtomicU64,
    number: AtomicU32,
    reasons: Mutex<BTreeMap<String, u64>>,
}

/// What the clients of a thread share.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) progress: Arc<Progress>,
    pub(super) stats: Arc<Stats>,
    pub(super) dialect: &'static Dialect,
    pub(super) life: Life,
    pub(super) gate: watch::Receiver<Gate>,
    pub(super) opening: Semaphore,
    pub(super) buffer: Buffer,
    token: String,
    clients: usize,
}

impl Thread {
    /// What a client asks for.
    pub(super) fn ask<'a>(&'a self, subject: Subject, since: &'a str) -> Ask<'a> {
        Ask {
            token: &self.token,
            subject,
            run: self.progress.run,
            since: (!since.is_empty()).then_some(since),
        }
    }

    /// Counts something that went wrong.
    pub(super) fn count(&self, reason: &str) {
        let mut reasons = self.stats.reasons.lock();
        let known = reasons.len() < MAX_REASONS || reasons.contains_key(reason);
        let reason = if known { reason } else { "more" };
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// Waits until clients may return.
    pub(super) async fn gate_is_open(&self) {
        let mut gate = self.gate.clone();
        // Without a sender the crowd is ending, and this client with it.
        gate.wait_for(|gate| gate.open).await.ok();
    }

    /// A share of `time`, so that all clients together are spread over it.
    pub(super) fn stagger(&self, time: Duration, client: usize) -> Duration {
        let share = (client + 1) as f64 / self.clients.max(1) as f64;
        time.mul_f64(share)
    }
}

impl Crowd {
    /// Starts all clients; they open their connections at once.
    pub(super) fn gather(
        self,
        progress: &Arc<Progress>,
        address: SocketAddr,
    ) -> anyhow::Result<Gathered> {
        let (gate, _) = watch::channel(Gate {
            open: true,
            moving: false,
            address,
        });
        let mut gathered = Gathered {
            threads: Vec::new(),
            clients: self.clients as u64,
            progress: Arc::clone(progress),
            gate,
        };
        for number in 0..self.threads.max(1) {
            let stats = Arc::new(Stats::default());
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let (crowd, progress) = (self.clone(), Arc::clone(progress));
            let (its_stats, gate) = (Arc::clone(&stats), gathered.gate.subscribe());
            let thread = std::thread::Builder::new()
                .name(format!("clients-{number}"))
                .spawn(move || crowd.run(number, progress, its_stats, gate, inbox))?;
            gathered.threads.push(Running {
                commands: Some(commands),
                stats,
                thread: Some(thread),
            });
        }
        Ok(gathered)
    }

    /// One thread's share.
    fn run(
        self,
        number: usize,
        progress: Arc<Progress>,
        stats: Arc<Stats>,
        gate: watch::Receiver<Gate>,
        mut inbox: mpsc::Receiver<oneshot::Sender<Tally>>,
    ) {
        stats
            .number
            .store(super::procfs::this_thread(), Ordering::Release);
        let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let thread = Rc::new(Thread {
            progress,
            stats,
            dialect: self.dialect,
            life: self.life,
            gate,
            opening: Semaphore::new(self.opening.div_ceil(self.threads).max(1)),
            buffer: Buffer::default(),
            token: self.token,
            clients: self.clients,
        });
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let mut clients = Vec::new();
            for index in (number..self.clients).step_by(self.threads.max(1)) {
                let subject = (self.subject)(index);
                let watch = match subject {
                    Subject::Object(target) => Watch::One(target),
                    Subject::Broadcast | Subject::Objects | Subject::Nothing => Watch::All,
                };
                let targets = match subject {
                    Subject::Nothing => 0,
                    _ => thread.progress.targets(),
                };
                let account = Account::new(thread.progress.run, watch, targets);
                let client = Rc::new(Client::new(index, subject, account));
                spawn_local(client::live(Rc::clone(&thread), Rc::clone(&client)));
                clients.push(client);
            }
            let lag = spawn_local(watch_lag(Rc::clone(&thread)));
            while let Some(answer) = inbox.recv().await {
                answer.send(audit(&thread, &clients)).ok();
            }
            lag.abort();
        });
    }
}

/// The sums of all clients of a thread.
fn audit(thread: &Thread, clients: &[Rc<Client>]) -> Tally {
    let published = thread.progress.all_published();
    let unacknowledged = thread.progress.unacknowledged();
    let mut sum = Tally::default();
    for client in clients {
        sum.add(&RefCell::borrow(&client.account).audit(&published, &unacknowledged));
    }
    sum
}

/// Measures how late timers fire: whatever keeps this thread from them keeps
/// it from its sockets.
async fn watch_lag(thread: Rc<Thread>) {
    let mut due = Instant::now() + LAG_INTERVAL;
    loop {
        sleep_until(due).await;
        let late = Instant::now().saturating_duration_since(due);
        thread
            .stats
            .lag
            .record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        due = Instant::now() + LAG_INTERVAL;
    }
}

impl Gathered {
    /// Waits until every client is confirmed.
    pub(super) async fn is_open(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let open = read(&self.progress.open);
            if open >= self.clients {
                return Ok(());
            }
            if read(&self.progress.failed) > 0 || Instant::now() > deadline {
                bail!(
                    "{open} of {} clients are connected: {}",
                    self.clients,
                    self.reasons_line()
                );
            }
            sleep(POLL).await;
        }
    }

    /// Closes or opens the gate for returns.
    pub(super) fn set_gate(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// The sums of all clients.
    pub(super) async fn audit(&self) -> anyhow::Result<Tally> {
        let mut sum = Tally::default();
        for thread in &self.threads {
            let (answer, tally) = oneshot::channel();
            let commands = thread.commands.as_ref().context("the crowd has ended")?;
            commands
                .send(answer)
                .await
                .map_err(|_| anyhow!("a thread of clients has ended"))?;
            sum.add(&tally.await.context("a thread of clients has ended")?);
        }
        Ok(sum)
    }

    /// What each thread measures.
    pub(super) fn stats(&self) -> impl Iterator<Item = &Stats> + Clone {
        self.threads.iter().map(|thread| &*thread.stats)
    }

    /// The system's numbers of the threads.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.stats()
            .map(|stats| stats.number.load(Ordering::Acquire))
            .collect()
    }

    /// What went wrong, how often.
    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for stats in self.stats() {
            for (reason, count) in stats.reasons.lock().iter() {
                *all.entry(reason.clone()).or_default() += count;
            }
        }
        all
    }

    fn reasons_line(&self) -> String {
        let reasons = self.reasons();
        let mut reasons = reasons
            .iter()
            .map(|(reason, count)| format!("{count} x {reason}"));
        reasons.next().map_or_else(
            || "no reason is known".to_owned(),
            |first| reasons.fold(first, |line, next| format!("{line}; {next}")),
        )
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.commands = None;
        }
        for thread in &mut self.threads {
            if let Some(thread) = thread.thread.take() {
                thread.join().ok();
            }
        }
    }
}

//! Publishes events on schedule, each acknowledged, from a thread of its own.
//! Says how late it was and how long acknowledgements took.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::{Bus, BusOptions, HeaderMap, subject};
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE};
use tokio::net::unix::pipe;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::Instant;

use super::dialect::Events;
use super::mark::{self, Mark};
use super::procfs;
use super::progress::{Progress, Times, add, read};

/// How long the bus may take to answer at the start.
const BUS_WAIT: Duration = Duration::from_secs(10);
/// Publishes that may await their acknowledgement at once; when full, the
/// publisher waits and is late, which its lag tells.
const IN_FLIGHT: u32 = 2_048;
/// How long one publish may take, repeats included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Plans that wait; each waits for the end of the last.
const PLANS: usize = 1;
/// Who events say they are from.
const SOURCE: &str = "bench";

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) events: Events,
    /// Events a second, over all targets.
    pub(super) rate: f64,
    /// How many.
    pub(super) count: u64,
    /// How many targets take turns.
    pub(super) targets: u32,
    /// Bytes of each event's data.
    pub(super) bytes: usize,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Published {
    /// Events that were acknowledged.
    pub(super) acknowledged: u64,
    /// Events that were refused, or not acknowledged in time.
    pub(super) unacknowledged: u64,
    /// From the first publish to the last, in seconds.
    pub(super) seconds: f64,
}

/// A publisher that is connected. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Publisher {
    plans: Option<mpsc::Sender<(Plan, oneshot::Sender<Published>)>>,
    pub(super) times: Arc<PublishTimes>,
    number: u32,
    thread: Option<JoinHandle<()>>,
}

/// What a publisher measures.
#[derive(Debug, Default)]
pub(super) struct PublishTimes {
    /// How late events were against the schedule.
    pub(super) lag: Times,
    /// From publish to acknowledgement.
    pub(super) acknowledgement: Times,
    unacknowledged: AtomicU64,
}

impl Publisher {
    /// Starts the thread and connects.
    pub(super) async fn start(url: &str, progress: &Arc<Progress>) -> anyhow::Result<Self> {
        let (plans, inbox) = mpsc::channel(PLANS);
        let (connected, connection) = oneshot::channel();
        let times = Arc::new(PublishTimes::default());
        let options = BusOptions {
            url: url.to_owned(),
            wait: BUS_WAIT,
        };
        let (progress, its_times) = (Arc::clone(progress), Arc::clone(&times));
        let thread = std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || run(&options, &progress, &its_times, inbox, connected))?;
        let number = connection
            .await
            .context("the publisher ended")?
            .map_err(|error| anyhow!("publisher: {error:#}"))?;
        Ok(Self {
            plans: Some(plans),
            times,
            number,
            thread: Some(thread),
        })
    }

    /// Publishes everything and waits for every acknowledgement.
    pub(super) async fn publish(&self, plan: Plan) -> anyhow::Result<Published> {
        let (done, published) = oneshot::channel();
        let plans = self.plans.as_ref().context("the publisher has ended")?;
        plans
            .send((plan, done))
            .await
            .map_err(|_| anyhow!("the publisher has ended"))?;
        published.await.context("the publisher has ended")
    }

    /// The system's number of the thread.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.plans = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The thread.
fn run(
    options: &BusOptions,
    progress: &Arc<Progress>,
    times: &Arc<PublishTimes>,
    mut inbox: mpsc::Receiver<(Plan, oneshot::Sender<Published>)>,
    connected: oneshot::Sender<anyhow::Result<u32>>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            connected.send(Err(error.into())).ok();
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let bus = match Bus::connect(options, "signalbox-bench").await {
            Ok(bus) => Arc::new(bus),
            Err(error) => {
                connected.send(Err(error.into())).ok();
                return;
            }
        };
        connected.send(Ok(procfs::this_thread())).ok();
        while let Some((plan, mut done)) = inbox.recv().await {
            let outcome = tokio::select! {
                outcome = carry_out(&bus, &plan, progress, times) => outcome,
                // Nobody waits for it any more: the run was interrupted.
                () = done.closed() => return,
            };
            match outcome {
                Ok(published) => done.send(published).ok(),
                Err(error) => {
                    tracing::error!(%error, "publisher stopped");
                    return;
                }
            };
        }
    });
}

async fn carry_out(
    bus: &Arc<Bus>,
    plan: &Plan,
    progress: &Arc<Progress>,
    times: &Arc<PublishTimes>,
) -> anyhow::Result<Published> {
    let timer = Timer::new()?;
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let failed_before = read(&times.unacknowledged);
    let start = Instant::now();
    for number in 0..plan.count {
        let due = start + Duration::from_secs_f64(number as f64 / plan.rate);
        timer.wait_until(due).await?;
        let permit = Arc::clone(&in_flight).acquire_owned().await?;
        let late = Instant::now().saturating_duration_since(due);
        times
            .lag
            .record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        let target = u32::try_from(number % u64::from(plan.targets.max(1))).unwrap_or_default();
        let mark = Mark {
            run: progress.run,
            target,
            sequence: progress.number(target),
            sent: mark::now(),
        };
        let message = message(plan, &mark);
        let (bus, progress, times) = (Arc::clone(bus), Arc::clone(progress), Arc::clone(times));
        // Tasks of one thread start in the order in which they were made, and
        // so do their publishes.
        spawn_local(async move {
            match publish(&bus, &message, PATIENCE).await {
                Ok(_) => times
                    .acknowledgement
                    .record(mark::now().saturating_sub(mark.sent)),
                Err(error) => {
                    tracing::warn!(%error, "publish failed");
                    add(&times.unacknowledged, 1);
                    progress.give_up_on(mark.target, mark.sequence);
                }
            }
            drop(permit);
        });
    }
    let seconds = start.elapsed().as_secs_f64();
    let _all = in_flight.acquire_many(IN_FLIGHT).await?;
    let unacknowledged = read(&times.unacknowledged) - failed_before;
    Ok(Published {
        acknowledged: plan.count - unacknowledged,
        unacknowledged,
        seconds,
    })
}

fn message(plan: &Plan, mark: &Mark) -> Outgoing {
    let domain = plan.events.domain;
    let id = format!("{:08x}-{}-{}", mark.run, mark.target, mark.sequence);
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_SOURCE, SOURCE);
    Outgoing {
        subject: subject::event(domain, plan.events.name),
        message_id: format!("{domain}/{SOURCE}/{id}"),
        headers,
        payload: plan.events.data(mark, plan.bytes).into(),
    }
}

/// A timer finer than the runtime's, which knows whole milliseconds only.
struct Timer {
    timer: TimerFd,
    /// The same timer for the runtime, which waits for it as for a pipe.
    firing: pipe::Receiver,
}

impl Timer {
    fn new() -> anyhow::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let same = timer.as_fd().try_clone_to_owned()?;
        let firing = pipe::Receiver::from_owned_fd_unchecked(same)?;
        Ok(Self { timer, firing })
    }

    /// Waits for a moment; one that is past lets others run and ends.
    async fn wait_until(&self, due: Instant) -> anyhow::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            yield_now().await;
            return Ok(());
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(once, TimerSetTimeFlags::empty())?;
        loop {
            self.firing.readable().await?;
            match self.firing.try_read(&mut [0; size_of::<u64>()]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

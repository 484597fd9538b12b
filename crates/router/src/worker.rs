//! One domain's worker: takes events in order, keeps one publish in flight per
//! TOPICS subject and many subjects in flight at once, and acknowledges what
//! is stored. It works for as long as its router holds the domain's lease.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use signalbox_bus::assignment::{Hold, Stop};
use signalbox_bus::lease::Tenure;
use signalbox_bus::publish::{self, Outgoing};
use signalbox_bus::stream::EVENTS;
use signalbox_bus::trace::{Kind, Span, TraceContext};
use signalbox_bus::work_queue::{ACK_WAIT, MAX_HELD, QueueError, Receipt, Taken, Work, WorkQueue};
use signalbox_bus::{Bus, header, stream, subject};
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::trace::TraceId;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, error, field, info, warn};

use crate::fence::{self, Tip};
use crate::metrics::{DomainCounts, Metrics};
use crate::routing::{Routed, Routing};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.router";
/// What became of an event.
const OUTCOME: &str = "signalbox.outcome";
/// How often the bus is told that held events are still being worked on.
const PROGRESS: Duration = Duration::from_secs(ACK_WAIT.as_secs() / 3);
/// The pause before a consumer that could not be reset is tried again.
const RESET_PAUSE: Duration = Duration::from_millis(200);
/// How long one round of publishing a dead letter lasts.
const DEAD_LETTER_PATIENCE: Duration = Duration::from_secs(30);
/// Subjects whose last message is remembered; beyond it all are forgotten and
/// read anew when needed.
const MAX_TIPS: usize = 65_536;
/// Reasons of refusals that are told as warnings; further ones are not.
const MAX_REASONS: usize = 256;

/// A future that ends with an event stored.
type Storing = Pin<Box<dyn Future<Output = Done> + Send>>;

/// An event on its way to TOPICS.
struct Job {
    sequence: u64,
    epoch: Epoch,
    message: Outgoing,
    trace: TraceId,
    /// What becomes of it here, where that is recorded.
    span: Option<Span>,
}

/// An event that is stored or refused.
struct Done {
    sequence: u64,
    epoch: Epoch,
    /// The TOPICS subject, and its last message where known.
    subject: Option<(String, Option<Tip>)>,
    /// Ends once it is acknowledged.
    span: Option<Span>,
}

/// Why a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was asked to, and nothing is in flight any more.
    Finished,
    /// Its lease is over; what it held comes to the next holder.
    Lapsed,
    /// A later holder of the lease has taken the domain over.
    Superseded,
}

/// What a worker has to see to next.
enum Turn {
    Stop,
    Settle(Done),
    Progress,
    Take(Taken),
}

pub(crate) struct Worker {
    bus: Bus,
    domain: Domain,
    routing: Routing,
    metrics: Metrics,
    tenure: Tenure,
    stop: Stop,
    queue: WorkQueue,
    epoch: Option<Epoch>,
    /// Every event taken and not acknowledged, with its latest receipt.
    held: HashMap<u64, Receipt>,
    /// Events waiting behind the one in flight, by TOPICS subject. A subject
    /// has an entry for as long as one is in flight.
    waiting: HashMap<String, VecDeque<Job>>,
    in_flight: FuturesUnordered<Storing>,
    /// The last message of TOPICS subjects.
    tips: HashMap<String, Tip>,
    /// Why events were refused so far.
    reasons: HashSet<String>,
}

impl Worker {
    /// A worker on a domain, for as long as it is held.
    pub(crate) fn new(
        bus: Bus,
        hold: Hold<Domain>,
        (routing, metrics): (Routing, Metrics),
    ) -> Self {
        let queue = WorkQueue::new(bus.clone(), hold.part, hold.generation);
        Self {
            bus,
            domain: hold.part,
            routing,
            metrics,
            tenure: hold.tenure,
            stop: hold.stop,
            queue,
            epoch: None,
            held: HashMap::new(),
            waiting: HashMap::new(),
            in_flight: FuturesUnordered::new(),
            tips: HashMap::new(),
            reasons: HashSet::new(),
        }
    }

    /// Works until it is stopped, then finishes what is in flight; or until the
    /// lease is over, and leaves everything as it is.
    pub(crate) async fn run(mut self) -> Ended {
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let mut stopping = std::pin::pin!(stop.wait());
        loop {
            let turn = tokio::select! {
                // What is stored makes room for the next of its subject, whose store
                // begins when it is looked at here: both ahead of taking more.
                biased;
                () = &mut stopping => Turn::Stop,
                _ = progress.tick() => Turn::Progress,
                Some(done) = self.in_flight.next() => Turn::Settle(done),
                taken = self.queue.next(), if self.held.len() < MAX_HELD => Turn::Take(taken),
            };
            self.counts().held.set(self.held.len() as u64);
            // After the process was stopped, this may be the first to notice.
            if self.tenure.is_over() {
                return Ended::Lapsed;
            }
            match turn {
                Turn::Stop => break,
                Turn::Settle(done) => self.settle(done).await,
                Turn::Progress => self.tell_progress().await,
                Turn::Take(Taken::Work(work)) => self.admit(work),
                Turn::Take(Taken::Interrupted(cause)) => {
                    let restarted = tokio::select! {
                        restarted = self.restart(cause) => restarted,
                        // A bus that does not answer must not hold up a stop.
                        () = &mut stopping => break,
                    };
                    if let Err(QueueError::Superseded) = restarted {
                        return Ended::Superseded;
                    }
                }
            }
        }
        // What waits behind it comes again to the next router.
        self.waiting.values_mut().for_each(VecDeque::clear);
        while let Some(done) = self.in_flight.next().await {
            self.settle(done).await;
        }
        Ended::Finished
    }

    /// Starts over at the acknowledgement floor. What is held stays held.
    async fn restart(&mut self, cause: &'static str) -> Result<(), QueueError> {
        debug!(domain = %self.domain, cause, "consumer starts over");
        match self.start_over().await {
            Ok(epoch) => {
                if self.epoch.is_some_and(|known| known != epoch) {
                    warn!(domain = %self.domain, "EVENTS was made anew");
                    self.held.clear();
                }
                self.epoch = Some(epoch);
            }
            Err(QueueError::Superseded) => return Err(QueueError::Superseded),
            Err(QueueError::Bus(cause)) => {
                info!(domain = %self.domain, %cause, "consumer not started");
                sleep(RESET_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Resets the consumer; gives the life of EVENTS.
    async fn start_over(&mut self) -> Result<Epoch, QueueError> {
        let state = stream::state(&self.bus, EVENTS).await?;
        self.queue.reset().await?;
        Ok(state.epoch)
    }

    fn admit(&mut self, work: Work) {
        let Some(epoch) = self.epoch else { return };
        let held = self.held.insert(work.sequence, work.receipt.clone());
        if held.is_some() {
            // It came again after a reset; the new receipt is what counts.
            self.counts().redelivered.add(1);
            return;
        }
        let (trace, mut span) = self.begin(&work);
        let trace_id = trace.parent().trace_id();
        match self.routing.route(&work, epoch, trace) {
            Routed::Topic(message) => {
                self.enqueue(Job {
                    sequence: work.sequence,
                    epoch,
                    message,
                    trace: trace_id,
                    span,
                });
            }
            Routed::DeadLetter { message, reason } => {
                self.tell_of_refused(&work, trace_id, &reason);
                self.counts().invalid.add(1);
                if let Some(span) = &mut span {
                    span.set(OUTCOME, "refused");
                    span.fail("event refused");
                }
                let (bus, metrics, domain) = (self.bus.clone(), self.metrics.clone(), self.domain);
                let sequence = work.sequence;
                self.in_flight.push(Box::pin(async move {
                    refuse(bus, &message).await;
                    metrics.of(domain).dead_letters.add(1);
                    Done {
                        sequence,
                        epoch,
                        subject: None,
                        span,
                    }
                }));
            }
        }
    }

    /// Logs a refused event, as a warning once for each reason: how many there are
    /// is up to the producers, and DLQ has them all.
    fn tell_of_refused(&mut self, work: &Work, trace_id: TraceId, reason: &str) {
        let (subject, sequence) = (&work.subject, work.sequence);
        if self.reasons.len() < MAX_REASONS && self.reasons.insert(reason.to_owned()) {
            warn!(%subject, sequence, %trace_id, reason, "event refused; more of this kind go to DLQ unsaid");
        } else {
            debug!(%subject, sequence, %trace_id, reason, "event refused");
        }
    }

    fn counts(&self) -> &DomainCounts {
        self.metrics.of(self.domain)
    }

    /// The trace that an event's messages go on in, and the span of what
    /// becomes of it here.
    fn begin(&self, work: &Work) -> (TraceContext, Option<Span>) {
        let parent = TraceContext::of(work.headers.as_ref());
        let name = || match subject::event_type(&work.subject) {
            Some(kind) => format!("route {}.{}", kind.domain, kind.name).into(),
            None => "route".into(),
        };
        let span = match &parent {
            Some(parent) => Span::behind(parent, SCOPE, Kind::Consumer, name),
            None => Span::root(SCOPE, Kind::Consumer, name),
        };
        let Some(mut span) = span else {
            let trace = parent.unwrap_or_else(|| header::new_trace(false).into());
            return (trace, None);
        };
        span.set("messaging.system", "nats");
        span.set("messaging.operation.name", "route");
        span.set("messaging.destination.name", work.subject.to_string());
        span.set("messaging.message.body.size", work.payload.len() as i64);
        span.set("signalbox.domain", self.domain.token());
        span.set("signalbox.events.sequence", work.sequence as i64);
        (span.context().clone(), Some(span))
    }

    fn enqueue(&mut self, job: Job) {
        match self.waiting.get_mut(&job.message.subject) {
            Some(waiting) => waiting.push_back(job),
            None => {
                self.waiting
                    .insert(job.message.subject.clone(), VecDeque::new());
                self.launch(job);
            }
        }
    }

    fn launch(&mut self, mut job: Job) {
        let (bus, tip) = (
            self.bus.clone(),
            self.tips.get(&job.message.subject).copied(),
        );
        let (metrics, domain) = (self.metrics.clone(), self.domain);
        self.in_flight.push(Box::pin(async move {
            let counts = metrics.of(domain);
            let began = Instant::now();
            let mut storing = job.span.as_ref().and_then(|span| begin_store(span, &job));
            if let Some(span) = &storing {
                // Gateways go on behind this step.
                span.context().inject(&mut job.message.headers);
            }
            let kept = fence::store(&bus, &job.message, job.epoch, job.sequence, tip, counts).await;
            let (count, outcome) = match kept.is_new {
                true => (&counts.routed, "stored"),
                false => (&counts.duplicates, "duplicate"),
            };
            count.add(1);
            metrics.stored_after(began.elapsed());
            for span in [&mut storing, &mut job.span].into_iter().flatten() {
                span.set(OUTCOME, outcome);
            }
            let span_id = storing.as_ref().or(job.span.as_ref());
            debug!(
                trace_id = %job.trace,
                span_id = span_id.map(|span| field::display(span.context().parent().span_id())),
                message_id = %job.message.message_id,
                subject = %job.message.subject,
                "routed"
            );
            Done {
                sequence: job.sequence,
                epoch: job.epoch,
                subject: Some((job.message.subject, kept.tip)),
                span: job.span,
            }
        }));
    }

    /// Launches the next event on a subject and acknowledges the one before.
    async fn settle(&mut self, done: Done) {
        let Done {
            sequence,
            epoch,
            subject,
            span,
        } = done;
        if let Some((subject, tip)) = subject {
            self.remember(&subject, tip);
            self.launch_next(&subject);
        }
        // An event of a former EVENTS may have the number of a held one.
        if self.epoch == Some(epoch)
            && let Some(receipt) = self.held.remove(&sequence)
        {
            receipt.acknowledge().await;
        }
        drop(span);
    }

    fn launch_next(&mut self, subject: &str) {
        let next = self.waiting.get_mut(subject).and_then(VecDeque::pop_front);
        match next {
            Some(job) => self.launch(job),
            None => {
                self.waiting.remove(subject);
            }
        }
    }

    fn remember(&mut self, subject: &str, tip: Option<Tip>) {
        match tip {
            Some(tip) => {
                if self.tips.len() >= MAX_TIPS && !self.tips.contains_key(subject) {
                    self.tips.clear();
                }
                self.tips.insert(subject.to_owned(), tip);
            }
            None => {
                self.tips.remove(subject);
            }
        }
    }

    async fn tell_progress(&mut self) {
        for receipt in self.held.values() {
            receipt.in_progress().await;
        }
    }
}

/// The step of storing an event, behind that of routing it.
fn begin_store(routing: &Span, job: &Job) -> Option<Span> {
    let channel = subject::channel_of(&job.message.subject);
    let name = || format!("store {channel}").into();
    let mut span = Span::behind(routing.context(), SCOPE, Kind::Producer, name)?;
    span.set("messaging.system", "nats");
    span.set("messaging.operation.name", "store");
    span.set(
        "messaging.destination.template",
        format!("topics.{channel}.{{object}}.{{user}}"),
    );
    span.set("messaging.message.id", job.message.message_id.clone());
    Some(span)
}

/// Keeps a refused event on DLQ, trying for as long as it takes.
async fn refuse(bus: Bus, message: &Outgoing) {
    loop {
        match publish::publish(&bus, message, DEAD_LETTER_PATIENCE).await {
            Ok(_) => return,
            Err(cause) => {
                error!(subject = %message.subject, %cause, "refused event not kept, trying again");
                sleep(RESET_PAUSE).await;
            }
        }
    }
}

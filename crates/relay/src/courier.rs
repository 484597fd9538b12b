//! What an agent is told, one thing after the other, until its gateway says that
//! the connection has it. One courier serves one connection, and ends with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use prost::Message as _;
use signalbox_bus::trace::{Kind, Span, TraceContext};
use signalbox_bus::{Bus, subject};
use signalbox_protocol::trace::TraceParent;
use signalbox_protocol::wire::{
    AgentDelivery, CommandDone, CommandError, DeliveryOutcome, DeliveryReply, ReplacedConnection,
    agent_delivery::Delivery, command_reply,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::agent::{Delivered, Session};
use crate::answer::Answer;
use crate::metrics::Metrics;

/// The part of the system that these spans are of.
pub(crate) const SCOPE: &str = "signalbox.relay";
/// Which command a span is about.
pub(crate) const COMMAND: &str = "signalbox.command.id";
/// Things that wait to be told to one agent; beyond it input is turned down, and
/// whatever must not be left out waits.
const PARCEL_CAPACITY: usize = 256;
/// How long a gateway may take to answer before it is asked again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a gateway that is not there is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long input may take to reach the agent.
const INPUT_PATIENCE: Duration = Duration::from_secs(4);
/// How often a gateway is told that a connection was replaced.
const REPLACED_ATTEMPTS: u32 = 5;

/// Something to be told.
pub(crate) struct Parcel {
    /// What.
    pub(crate) delivery: Delivery,
    /// Why, for whoever wants to know what became of it.
    pub(crate) purpose: Purpose,
    /// The `traceparent` that it belongs to.
    pub(crate) trace: Option<String>,
}

impl Parcel {
    /// One that belongs to no trace.
    pub(crate) const fn new(delivery: Delivery, purpose: Purpose) -> Self {
        Self {
            delivery,
            purpose,
            trace: None,
        }
    }
}

/// Why an agent is told something.
pub(crate) enum Purpose {
    /// A command is to run.
    Execute(String),
    /// A command is to end, which is said again to a later connection.
    Interrupt,
    /// All is to stop; empty = it may go on.
    Emergency(String),
    /// A user waits to hear that the agent's connection has it.
    Input {
        /// Who.
        answer: Answer,
        /// Of which command.
        command_id: String,
        /// Of which agent.
        agent_id: String,
        /// Until when.
        until: Instant,
    },
}

impl Purpose {
    /// Input that was asked for now.
    pub(crate) fn input(answer: Answer, command_id: &str, agent_id: &str) -> Self {
        Self::Input {
            answer,
            command_id: command_id.to_owned(),
            agent_id: agent_id.to_owned(),
            until: Instant::now() + INPUT_PATIENCE,
        }
    }
}

/// What became of something that was to be told.
pub(crate) enum Told {
    /// The command was sent, or cannot be.
    Executed(String, Delivered),
    /// The connection has the stop.
    Stopped(String),
    /// The connection is no more.
    Gone,
    /// Another holder speaks to the agent.
    Superseded,
}

/// A connection that is being told things.
pub(crate) struct Courier {
    parcels: mpsc::Sender<Parcel>,
}

impl Courier {
    /// Hands on something to be told; gives it back when too much waits.
    #[expect(clippy::result_large_err, reason = "it is what was given")]
    pub(crate) fn send(&self, parcel: Parcel) -> Result<(), Parcel> {
        self.parcels
            .try_send(parcel)
            .map_err(mpsc::error::TrySendError::into_inner)
    }
}

/// Numbers what one holder tells an agent. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    /// Which of the agent's holders it is.
    pub(crate) term: u64,
    last: Arc<AtomicU64>,
}

impl Numbers {
    /// Of the holder with this term.
    pub(crate) fn new(term: u64) -> Self {
        Self {
            term,
            last: Arc::default(),
        }
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What a courier is made of.
pub(crate) struct Task {
    bus: Bus,
    metrics: Metrics,
    agent_id: String,
    session: Session,
    numbers: Numbers,
    parcels: mpsc::Receiver<Parcel>,
    tell: mpsc::Sender<(String, Told)>,
}

/// Begins to tell a connection things; the task ends when the courier is dropped.
pub(crate) fn courier(
    bus: Bus,
    metrics: Metrics,
    agent_id: &str,
    session: Session,
    numbers: Numbers,
    tell: mpsc::Sender<(String, Told)>,
) -> (Courier, Task) {
    let (sender, parcels) = mpsc::channel(PARCEL_CAPACITY);
    let task = Task {
        bus,
        metrics,
        agent_id: agent_id.to_owned(),
        session,
        numbers,
        parcels,
        tell,
    };
    (Courier { parcels: sender }, task)
}

/// What a gateway says.
enum Said {
    Delivered,
    /// `surely` when no earlier attempt was left without an answer.
    Gone {
        surely: bool,
    },
    Stale,
    TooLate,
}

impl Task {
    pub(crate) async fn run(mut self) {
        while let Some(parcel) = self.parcels.recv().await {
            let until = match &parcel.purpose {
                Purpose::Input { until, .. } => Some(*until),
                _ => None,
            };
            let said = self.deliver(parcel.delivery, parcel.trace, until).await;
            let told = match (parcel.purpose, said) {
                (_, Said::Stale) => Some(Told::Superseded),
                (Purpose::Execute(id), Said::Delivered) => {
                    Some(Told::Executed(id, Delivered::Done))
                }
                (Purpose::Execute(id), Said::Gone { surely }) => {
                    Some(Told::Executed(id, Delivered::Gone { surely }))
                }
                (Purpose::Emergency(id), Said::Delivered) => Some(Told::Stopped(id)),
                (
                    Purpose::Input {
                        answer,
                        command_id,
                        agent_id,
                        ..
                    },
                    said,
                ) => {
                    match said {
                        Said::Delivered => {
                            let done = CommandDone {
                                command_id,
                                agent_id,
                            };
                            answer.command(command_reply::Outcome::Done(done)).await;
                        }
                        _ => {
                            let words = "the agent's connection does not take it";
                            answer
                                .refuse(CommandError::AgentOffline, words, &agent_id)
                                .await;
                        }
                    }
                    matches!(said, Said::Gone { .. }).then_some(Told::Gone)
                }
                (_, Said::Gone { .. }) => Some(Told::Gone),
                (Purpose::Interrupt, Said::Delivered) | (_, Said::TooLate) => None,
            };
            if let Some(told) = told {
                let connection = self.session.connection.clone();
                if self.tell.send((connection, told)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn deliver(
        &self,
        delivery: Delivery,
        trace: Option<String>,
        until: Option<Instant>,
    ) -> Said {
        let (mut headers, mut span) = (HeaderMap::new(), None);
        if let Some(trace) = trace.and_then(|trace| trace.parse::<TraceParent>().ok()) {
            let parent = TraceContext::from(trace);
            span = Span::behind(&parent, SCOPE, Kind::Client, || "tell agent".into());
            let context = span.as_ref().map_or(&parent, Span::context);
            context.inject(&mut headers);
        }
        if let (Some(span), Delivery::Execute(execute)) = (&mut span, &delivery) {
            span.set(COMMAND, execute.command_id.clone());
            span.set("signalbox.command.attempt", i64::from(execute.attempt));
        }
        let delivery = AgentDelivery {
            agent_id: self.agent_id.clone(),
            connection_id: self.session.connection.clone(),
            term: self.numbers.term,
            number: self.numbers.next(),
            delivery: Some(delivery),
        };
        let mut surely = true;
        loop {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Said::TooLate;
            }
            match ask(&self.bus, &self.session.gateway, &headers, &delivery).await {
                Asked::Outcome(DeliveryOutcome::Delivered) => {
                    self.metrics.deliveries.add(1);
                    return Said::Delivered;
                }
                Asked::Outcome(DeliveryOutcome::Gone) => return Said::Gone { surely },
                Asked::Outcome(DeliveryOutcome::Stale) => return Said::Stale,
                Asked::Nobody => sleep(PAUSE).await,
                Asked::Outcome(DeliveryOutcome::Unspecified) | Asked::Silence => {
                    surely = false;
                    sleep(PAUSE).await;
                }
            }
            self.metrics.redeliveries.add(1);
        }
    }
}

/// What asking a gateway once brings.
enum Asked {
    Outcome(DeliveryOutcome),
    /// Nobody has heard it.
    Nobody,
    /// Nobody has answered.
    Silence,
}

async fn ask(bus: &Bus, gateway: &str, headers: &HeaderMap, delivery: &AgentDelivery) -> Asked {
    let subject = subject::gateway_agent(gateway);
    let body = delivery.encode_to_vec().into();
    let request = bus
        .client()
        .request_with_headers(subject, headers.clone(), body);
    match timeout(ATTEMPT, request).await {
        Ok(Ok(message)) => match DeliveryReply::decode(message.payload) {
            Ok(reply) => Asked::Outcome(reply.outcome()),
            Err(error) => {
                warn!(gateway, %error, "unreadable answer");
                Asked::Silence
            }
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Asked::Nobody,
        Ok(Err(error)) => {
            debug!(gateway, %error, "gateway not asked");
            Asked::Silence
        }
        Err(_) => Asked::Silence,
    }
}

/// Tells a gateway that another connection is the agent's, a few times at most:
/// if it does not hear it, it learns it from its next beat.
pub(crate) async fn tell_replaced(bus: Bus, agent_id: String, session: Session, numbers: Numbers) {
    let delivery = AgentDelivery {
        agent_id,
        connection_id: session.connection,
        term: numbers.term,
        number: numbers.next(),
        delivery: Some(Delivery::Replaced(ReplacedConnection {})),
    };
    for _ in 0..REPLACED_ATTEMPTS {
        if let Asked::Outcome(_) = ask(&bus, &session.gateway, &HeaderMap::new(), &delivery).await {
            return;
        }
        sleep(PAUSE).await;
    }
}

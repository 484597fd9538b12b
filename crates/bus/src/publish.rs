//! Publishing with acknowledgement: retried under the same id until the
//! deadline, and refused in words where the bus refuses. A producer's publish
//! is the first step of an event's trace.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError as NatsError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use signalbox_protocol::trace::Recording;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::connection::{Bus, Link};
use crate::header;
use crate::subject;
use crate::trace::{Kind, Span, TraceContext};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.producer";

/// How long one attempt waits for its acknowledgement.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// The id under which the stream recognises a repeat.
    pub message_id: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Bytes,
}

/// The bus has stored the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream, or that of the earlier message with the
    /// same id.
    pub sequence: u64,
    /// Whether a message with the same id was there before. After an attempt
    /// that got no answer this is not known, and false.
    pub duplicate: bool,
}

/// Why a message was not stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// No stream takes the subject.
    #[error("no stream takes subject `{0}`")]
    NoStream(String),
    /// The user may not publish there.
    #[error("the bus refuses this user subject `{0}`")]
    Forbidden(String),
    /// The message exceeds the bus' limit.
    #[error("message is larger than the bus takes")]
    TooLarge,
    /// The stream is full or refuses for another reason.
    #[error("the bus refused the message: {0}")]
    Refused(String),
    /// The subject's last message is not the expected one.
    #[error("the subject's last message is another than expected")]
    Fenced,
    /// No acknowledgement came. The message may have been stored.
    #[error("no acknowledgement within {0:?}")]
    Unacknowledged(Duration),
}

impl PublishError {
    /// What kind of error it is, in fixed words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoStream(_) => "no stream takes the subject",
            Self::Forbidden(_) => "the bus refuses this user the subject",
            Self::TooLarge => "larger than the bus takes",
            Self::Refused(_) => "the bus refused the message",
            Self::Fenced => "fenced",
            Self::Unacknowledged(_) => "no acknowledgement",
        }
    }

    /// Whether the same publish can succeed a moment later.
    const fn is_passing(&self) -> bool {
        match self {
            Self::Unacknowledged(_) => true,
            Self::NoStream(_)
            | Self::Forbidden(_)
            | Self::TooLarge
            | Self::Refused(_)
            | Self::Fenced => false,
        }
    }
}

/// Publishes until it is acknowledged or refused, at most for `patience`.
/// Every attempt carries the same id, so that the message is stored once.
///
/// # Errors
/// [`PublishError`]; after `Unacknowledged` nobody knows whether it is stored.
pub async fn publish(
    bus: &Bus,
    message: &Outgoing,
    patience: Duration,
) -> Result<Stored, PublishError> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    let mut first = true;
    loop {
        let attempt = timeout_at(deadline, attempt(bus, message, None)).await;
        let error = match attempt {
            Ok(Ok(stored)) => {
                let duplicate = stored.duplicate && first;
                return Ok(Stored {
                    duplicate,
                    ..stored
                });
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(PublishError::Unacknowledged(patience)),
        };
        if !error.is_passing() {
            return Err(error);
        }
        debug!(subject = %message.subject, %error, "publishing again");
        first = false;
        if Instant::now() + pause >= deadline {
            return Err(PublishError::Unacknowledged(patience));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Publishes an event as its producer does: as [`publish`], and as a step of
/// the trace that the message names or the running task works for, or else the
/// first of a new one, which is recorded if `may_sample`, and the sampler
/// where there is one, say so. Returns the trace beside the acknowledgement.
///
/// # Errors
/// As [`publish`].
pub async fn publish_event(
    bus: &Bus,
    message: &mut Outgoing,
    may_sample: bool,
    patience: Duration,
) -> Result<(Stored, TraceContext), PublishError> {
    let parent = TraceContext::of(Some(&message.headers)).or_else(crate::trace::current);
    let name = || match subject::event_type(&message.subject) {
        Some(kind) => format!("publish {}.{}", kind.domain, kind.name).into(),
        None => "publish".into(),
    };
    let span = match &parent {
        Some(parent) => Span::behind(parent, SCOPE, Kind::Producer, name),
        None if may_sample => Span::root(SCOPE, Kind::Producer, name),
        None => None,
    };
    let trace = match (&span, parent) {
        (Some(span), _) => span.context().clone(),
        (None, Some(parent)) => parent,
        // With spans recorded here, the sampler has just said no.
        (None, None) => {
            let sampled = may_sample && Recording::current() == Recording::Nothing;
            header::new_trace(sampled).into()
        }
    };
    trace.inject(&mut message.headers);
    let outcome = publish(bus, message, patience).await;
    if let Some(mut span) = span {
        span.set("messaging.system", "nats");
        span.set("messaging.operation.name", "publish");
        span.set("messaging.destination.name", message.subject.clone());
        span.set("messaging.message.id", message.message_id.clone());
        span.set("messaging.message.body.size", message.payload.len() as i64);
        match &outcome {
            Ok(stored) => {
                span.set("signalbox.events.sequence", stored.sequence as i64);
                span.set("signalbox.duplicate", stored.duplicate);
            }
            Err(error) => span.fail(error.kind()),
        }
    }
    outcome.map(|stored| (stored, trace))
}

/// Publishes once, provided that the subject's last message has the sequence
/// `last` (0: that it has none).
///
/// # Errors
/// [`PublishError::Fenced`] when it has another.
pub async fn publish_fenced(
    bus: &Bus,
    message: &Outgoing,
    last: u64,
) -> Result<Stored, PublishError> {
    attempt(bus, message, Some(last)).await
}

async fn attempt(
    bus: &Bus,
    message: &Outgoing,
    fence: Option<u64>,
) -> Result<Stored, PublishError> {
    bus.unless_refused(&message.subject, send(bus, message, fence))
        .await
        .unwrap_or_else(|_| Err(PublishError::Forbidden(message.subject.clone())))
}

async fn send(bus: &Bus, message: &Outgoing, fence: Option<u64>) -> Result<Stored, PublishError> {
    let mut link = bus.link();
    let generation = link.borrow_and_update().generation;
    let mut publish = PublishMessage::build()
        .headers(message.headers.clone())
        .message_id(&message.message_id)
        .payload(message.payload.clone());
    if let Some(last) = fence {
        publish = publish.expected_last_subject_sequence(last);
    }
    let publish = bus
        .jetstream()
        .send_publish(message.subject.clone(), publish);
    let acknowledged = match timeout(ATTEMPT, publish).await {
        Ok(Ok(acknowledged)) => acknowledged,
        Ok(Err(error)) => return Err(explain(message, &error)),
        Err(_) => return Err(PublishError::Unacknowledged(ATTEMPT)),
    };
    tokio::select! {
        answer = timeout(ATTEMPT, acknowledged) => match answer {
            Ok(Ok(PublishAck { sequence, duplicate, .. })) => Ok(Stored { sequence, duplicate }),
            Ok(Err(error)) => Err(explain(message, &error)),
            Err(_) => Err(PublishError::Unacknowledged(ATTEMPT)),
        },
        // An acknowledgement that was under way when the link broke is lost.
        () = relinked(&mut link, generation) => Err(PublishError::Unacknowledged(ATTEMPT)),
    }
}

/// Waits for the link to have come up anew since `generation`.
async fn relinked(link: &mut watch::Receiver<Link>, generation: u64) {
    if link
        .wait_for(|link| link.generation != generation)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

fn explain(message: &Outgoing, error: &NatsError) -> PublishError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishError::NoStream(message.subject.clone()),
        PublishErrorKind::WrongLastSequence => PublishError::Fenced,
        PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge,
        PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending => PublishError::Unacknowledged(ATTEMPT),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::Other => {
            PublishError::Refused(sources(error))
        }
    }
}

fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

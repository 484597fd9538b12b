//! Requests between services: protobuf bodies over NATS request/reply.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt as _;
use prost::Message;
use signalbox_protocol::trace::TraceParent;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::connection::{Bus, BusError};
use crate::trace::{self, Kind, Span, TraceContext};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.rpc";

/// Requests that one service works on at once; further ones wait in the
/// subscription.
const CONCURRENCY: usize = 256;

/// How long one attempt of [`insist`] may take before the request is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody serves it now, or no answer came in time.
    #[error("no answer: {0}")]
    Unavailable(String),
    /// This user may not ask.
    #[error("the bus refuses this user `{0}`")]
    Forbidden(&'static str),
    /// The answer could not be read.
    #[error("unreadable answer")]
    Unreadable,
}

impl CallError {
    /// What kind of error it is, in fixed words.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "no answer",
            Self::Forbidden(_) => "refused",
            Self::Unreadable => "unreadable answer",
        }
    }
}

/// Sends a request and waits for its answer for at most `patience`, as a step
/// of `trace` or else of the trace that the running task works for.
///
/// # Errors
/// [`CallError`]; the request may have been served all the same.
pub async fn call<Req: Message, Rep: Message + Default>(
    bus: &Bus,
    subject: &'static str,
    request: &Req,
    trace: Option<TraceParent>,
    patience: Duration,
) -> Result<Rep, CallError> {
    let mut headers = HeaderMap::new();
    let parent = trace.map(TraceContext::from).or_else(trace::current);
    let span = parent
        .as_ref()
        .and_then(|parent| Span::behind(parent, SCOPE, Kind::Client, || subject.into()));
    if let Some(context) = span.as_ref().map(Span::context).or(parent.as_ref()) {
        context.inject(&mut headers);
    }
    let answer = exchange(bus, subject, headers, request, patience).await;
    if let (Some(mut span), Err(error)) = (span, &answer) {
        span.fail(error.kind());
    }
    answer
}

async fn exchange<Req: Message, Rep: Message + Default>(
    bus: &Bus,
    subject: &'static str,
    headers: HeaderMap,
    request: &Req,
    patience: Duration,
) -> Result<Rep, CallError> {
    let body = request.encode_to_vec().into();
    let request = bus.client().request_with_headers(subject, headers, body);
    let Ok(answer) = bus
        .unless_refused(subject, timeout(patience, request))
        .await
    else {
        return Err(CallError::Forbidden(subject));
    };
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(CallError::Unavailable("nobody serves it".to_owned()));
        }
        Ok(Err(error)) => return Err(CallError::Unavailable(error.to_string())),
        Err(_) => {
            return Err(CallError::Unavailable(format!(
                "nothing within {patience:?}"
            )));
        }
    };
    Rep::decode(answer.payload).map_err(|_| CallError::Unreadable)
}

/// Why a request on a subject of its own got no answer.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody has heard it.
    #[error("nobody serves it")]
    Unheard,
    /// It may have been served all the same.
    #[error("no answer in time")]
    Late,
    /// The answer could not be read.
    #[error("unreadable answer")]
    Unreadable,
}

/// As [`call`], on a subject that depends on the request, and without a span:
/// for what goes back and forth all the time.
///
/// # Errors
/// [`Unanswered`] tells whether it may have been served.
pub async fn ask<Req: Message, Rep: Message + Default>(
    bus: &Bus,
    subject: &str,
    request: &Req,
    patience: Duration,
) -> Result<Rep, Unanswered> {
    let body = request.encode_to_vec().into();
    let answer = bus.client().request(subject.to_owned(), body);
    let answer = match timeout(patience, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(Unanswered::Unheard);
        }
        Ok(Err(_)) | Err(_) => return Err(Unanswered::Late),
    };
    Rep::decode(answer.payload).map_err(|_| Unanswered::Unreadable)
}

/// Nobody has given an answer that settles the matter in time. The request may have
/// been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard;

/// Asks until an answer settles the matter, for what is harmless to repeat: nobody
/// serves a part while it changes hands, and an answer may be lost or say that it
/// is not the moment. `settle` gives what comes of an answer, or nothing where the
/// same is to be asked again.
///
/// # Errors
/// [`Unheard`] when `patience` is over.
pub async fn insist<Req: Message, Rep: Message + Default, T>(
    bus: &Bus,
    subject: &str,
    request: &Req,
    patience: Duration,
    mut settle: impl FnMut(Rep) -> Option<T>,
) -> Result<T, Unheard> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match ask(bus, subject, request, left.min(ATTEMPT)).await {
            Ok(answer) => match settle(answer) {
                Some(settled) => return Ok(settled),
                None => debug!(subject, "not now"),
            },
            Err(error) => debug!(%error, subject, "no answer"),
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(Unheard);
        }
        sleep(PAUSE).await;
    }
}

/// Answers what comes on a subject of its own until the connection ends; what
/// the handler gives nothing for is not answered.
///
/// # Errors
/// When the subscription cannot be made.
pub async fn attend<Req, Rep, F, Fut>(
    bus: &Bus,
    subject: String,
    concurrency: usize,
    handler: F,
) -> Result<(), BusError>
where
    Req: Message + Default,
    Rep: Message,
    F: Fn(Req) -> Fut,
    Fut: Future<Output = Option<Rep>> + Send + 'static,
{
    let mut requests = bus
        .client()
        .subscribe(subject.clone())
        .await
        .map_err(|error| BusError::api(format!("serve {subject}"), error))?;
    let mut running = JoinSet::new();
    while let Some(message) = requests.next().await {
        while running.try_join_next().is_some() {}
        if running.len() >= concurrency {
            running.join_next().await;
        }
        let Some(reply) = message.reply else { continue };
        let Ok(request) = Req::decode(message.payload) else {
            warn!(subject, "unreadable request");
            continue;
        };
        let (answer, client) = (handler(request), bus.client().clone());
        running.spawn(async move {
            let Some(answer) = answer.await else { return };
            let body = answer.encode_to_vec().into();
            if let Err(error) = client.publish(reply, body).await {
                debug!(%error, "answer not sent");
            }
        });
    }
    Ok(())
}

/// What comes on a subject that is not stored.
pub struct Listener(Subscriber);

impl Listener {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn open(bus: &Bus, subject: String) -> Result<Self, BusError> {
        let failed = |cause: &dyn std::fmt::Display| BusError::api("listen", cause);
        let subscriber = bus
            .client()
            .subscribe(subject)
            .await
            .map_err(|error| failed(&error))?;
        // The server has heard of it before anything else is asked.
        bus.client().flush().await.map_err(|error| failed(&error))?;
        Ok(Self(subscriber))
    }

    /// The next message that can be read; `None` when no more come. Cancelling
    /// loses nothing.
    pub async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            let message = self.0.next().await?;
            match M::decode(message.payload) {
                Ok(message) => return Some(message),
                Err(error) => warn!(subject = %message.subject, %error, "unreadable message"),
            }
        }
    }
}

/// Serves a subject until the connection ends, sharing it with the replicas
/// in `group`. A request that cannot be read is dropped with a warning: only
/// our own services may send there. The handler's future runs as a step of the
/// caller's trace.
///
/// # Errors
/// When the subscription cannot be made.
pub async fn serve<Req, Rep, F, Fut>(
    bus: Bus,
    subject: &'static str,
    group: &'static str,
    handler: F,
) -> Result<(), BusError>
where
    Req: Message + Default,
    Rep: Message,
    F: Fn(Req) -> Fut,
    Fut: Future<Output = Rep> + Send + 'static,
{
    let mut requests = bus
        .client()
        .queue_subscribe(subject, group.to_owned())
        .await
        .map_err(|error| BusError::api(format!("serve {subject}"), error))?;
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut running = JoinSet::new();
    while let Some(message) = requests.next().await {
        while running.try_join_next().is_some() {}
        let Some(reply) = message.reply else { continue };
        let span = TraceContext::of(message.headers.as_ref())
            .and_then(|caller| Span::behind(&caller, SCOPE, Kind::Server, || subject.into()));
        let Ok(request) = Req::decode(message.payload) else {
            warn!(subject, "unreadable request");
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let (answer, client) = (handler(request), bus.client().clone());
        running.spawn(async move {
            let body = trace::within(span, answer).await.encode_to_vec().into();
            if let Err(error) = client.publish(reply, body).await {
                debug!(%error, subject, "answer not sent");
            }
            drop(permit);
        });
    }
    // Those who asked before the end still get their answers.
    while running.join_next().await.is_some() {}
    Ok(())
}

//! Who calls: authenticated from the metadata, before anything of the body is
//! read, and let in within bounds.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use signalbox_bus::HeaderMap as BusHeaders;
use signalbox_bus::intake::{Bounds, Gate, Pass};
use signalbox_bus::trace::{self, Kind, Span, TraceContext};
use signalbox_identity::{CredentialId, Principal};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::trace::{TRACEPARENT, TRACESTATE};
use signalbox_service::Shutdown;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;

use super::{events, status, tokens};
use crate::handler::Handler;

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.grpc";
/// Calls at once; further ones get UNAVAILABLE.
const MAX_CALLS: usize = 1_024;
/// How much known callers may have under way. What is made of a body while it
/// is checked can take some twenty times its size.
const BOUNDS: Bounds = Bounds {
    requests_per_credential: 64,
    bytes: 32 * 1024 * 1024,
};
/// How long a call waits for room for its body.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Refusals that are withheld at once; further ones are told without delay.
const MAX_WITHHELD: usize = 256;
/// The longest that a refusal is withheld, well within the time of a call.
const LONGEST_WITHHELD: Duration = Duration::from_secs(10);
/// What precedes a credential in the metadata; case does not matter.
const SCHEME: &str = "bearer ";

/// The methods that callers are authenticated for, with the largest body.
const METHODS: [(&str, &str, usize); 3] = [
    (
        "/signalbox.api.v1.TokenService/VerifyToken",
        "VerifyToken",
        tokens::MAX_MESSAGE_BYTES,
    ),
    (
        "/signalbox.api.v1.EventService/Publish",
        "Publish",
        events::MAX_MESSAGE_BYTES,
    ),
    (
        "/signalbox.api.v1.EventService/PublishBatch",
        "PublishBatch",
        events::MAX_MESSAGE_BYTES,
    ),
];

/// A caller that was let in.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    /// The trace that the call names.
    pub(super) trace: Option<TraceContext>,
    /// Taken by the method, and held until it ends.
    pass: Arc<Mutex<Option<Pass<CredentialId>>>>,
}

impl Caller {
    /// Takes a call apart: its caller, what it counts for until it ends, and
    /// the message.
    pub(super) fn of<M: prost::Message>(
        request: tonic::Request<M>,
    ) -> Result<(Self, Pass<CredentialId>, M), Status> {
        let (_, mut extensions, message) = request.into_parts();
        let caller: Option<Self> = extensions.remove();
        let Some(caller) = caller else {
            return Err(Status::internal("the call was not admitted"));
        };
        let Some(mut pass) = caller.pass.lock().take() else {
            return Err(Status::internal("the call was not admitted"));
        };
        pass.shrink(message.encoded_len());
        Ok((caller, pass, message))
    }
}

/// Lets calls in. Shared by the services.
pub(super) struct Guard {
    handler: Arc<Handler>,
    gate: Gate<CredentialId>,
    calls: Semaphore,
    withheld: Semaphore,
    shutdown: Shutdown,
}

/// Why a call is not let in.
struct Refused {
    status: Status,
    /// How long that is to be withheld.
    delay: Duration,
}

impl From<Complaint> for Refused {
    fn from(complaint: Complaint) -> Self {
        Self {
            status: status::of(&complaint),
            delay: Duration::ZERO,
        }
    }
}

impl Guard {
    pub(super) fn new(handler: Arc<Handler>, shutdown: Shutdown) -> Self {
        Self {
            handler,
            gate: Gate::new(BOUNDS),
            calls: Semaphore::new(MAX_CALLS),
            withheld: Semaphore::new(MAX_WITHHELD),
            shutdown,
        }
    }

    /// Answers a call with a refusal, or with what `inner` makes of it.
    async fn call<S>(&self, mut request: Request<Body>, inner: &mut S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let path = request.uri().path();
        let Some(&(_, method, bytes)) = METHODS.iter().find(|(known, ..)| *known == path) else {
            return Status::unimplemented("no such method").into_http();
        };
        let mut counted = self.handler.metrics.call(method);
        let refused = match self.calls.try_acquire() {
            Ok(_place) => match self.admit(request.headers(), peer(&request), bytes).await {
                Ok(caller) => {
                    let span = span(caller.trace.as_ref(), method);
                    request.extensions_mut().insert(caller);
                    let Ok(response) = trace::within(span, inner.call(request)).await;
                    let response = sized(response, bytes);
                    counted.ended(code(&response));
                    return response;
                }
                Err(refused) => refused,
            },
            Err(_) => Complaint::plain(ErrorCode::Unavailable, "too many calls, try again").into(),
        };
        self.withhold(refused.delay).await;
        counted.ended(refused.status.code());
        refused.status.into_http()
    }

    async fn admit(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        bytes: usize,
    ) -> Result<Caller, Refused> {
        let credential = credential(headers)?;
        let admitted = self.handler.admit_caller(credential, peer).await;
        let principal = admitted.map_err(|refusal| Refused {
            status: status::of_refusal(&refusal),
            delay: Duration::from_millis(refusal.delay_ms.into()),
        })?;
        let pass = self
            .gate
            .wait(&principal.credential, bytes, ROOM_PATIENCE)
            .await?;
        Ok(Caller {
            principal: Arc::new(principal),
            trace: trace_of(headers),
            pass: Arc::new(Mutex::new(Some(pass))),
        })
    }

    /// Waits for as long as a refusal is to be withheld, unless too many are or
    /// the service ends.
    async fn withhold(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        if let Ok(_place) = self.withheld.try_acquire() {
            tokio::select! {
                () = sleep(delay.min(LONGEST_WITHHELD)) => {}
                () = self.shutdown.wait() => {}
            }
        }
    }
}

/// A service whose callers are known.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Guarded<S> {
    pub(super) const fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The services that tonic generates are always ready.
        let (mut inner, guard) = (self.inner.clone(), Arc::clone(&self.guard));
        Box::pin(async move { Ok(guard.call(request, &mut inner).await) })
    }
}

/// The one credential of a call.
fn credential(headers: &HeaderMap) -> Result<&str, Complaint> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (first, second) = (values.next(), values.next());
    first
        .filter(|_| second.is_none())
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_at_checked(SCHEME.len()))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
        .map(|(_, credential)| credential.trim())
        .ok_or_else(|| {
            Complaint::plain(
                ErrorCode::AuthFailed,
                "expected one `authorization: Bearer` with an API key or an access token",
            )
        })
}

fn peer(request: &Request<Body>) -> Option<IpAddr> {
    let info = request.extensions().get::<TcpConnectInfo>()?;
    info.remote_addr().map(|addr| addr.ip())
}

/// The trace that a call names.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut named = BusHeaders::new();
    for name in [TRACEPARENT, TRACESTATE] {
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            named.insert(name, value);
        }
    }
    TraceContext::of(Some(&named))
}

fn span(parent: Option<&TraceContext>, method: &'static str) -> Option<Span> {
    match parent {
        Some(parent) => Span::behind(parent, SCOPE, Kind::Server, || method.into()),
        None => Span::root(SCOPE, Kind::Server, || method.into()),
    }
}

/// How a call ended; one that succeeded says so behind its body.
fn code(response: &Response<Body>) -> Code {
    match Status::from_header_map(response.headers()) {
        Some(status) => status.code(),
        None => Code::Ok,
    }
}

/// The library's complaint about a message that is too large, in our words.
fn sized(response: Response<Body>, bytes: usize) -> Response<Body> {
    if code(&response) != Code::OutOfRange {
        return response;
    }
    let sentence = format!("expected a message of at most {bytes} bytes");
    status::of(&Complaint::plain(ErrorCode::TooLarge, sentence)).into_http()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        credential(&headers).ok().map(str::to_owned)
    }

    #[test]
    fn one_bearer_is_read_and_nothing_else() {
        assert_eq!(read(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["bEARER  abc "]).as_deref(), Some("abc"));
        for bad in [
            &[][..],
            &["abc"],
            &["Basic abc"],
            &["Bearer"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_guarded_methods_are_those_of_the_description() {
        use crate::api::event_service_server::SERVICE_NAME as EVENTS;
        use crate::api::token_service_server::SERVICE_NAME as TOKENS;

        for (path, method, _) in METHODS {
            let service = if method == "VerifyToken" {
                TOKENS
            } else {
                EVENTS
            };
            assert_eq!(path, format!("/{service}/{method}"));
        }
    }
}

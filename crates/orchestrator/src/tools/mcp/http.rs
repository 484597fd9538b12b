//! The protocol over streamable HTTP: a message is a POST, answered by one JSON
//! message or a stream of events; a GET keeps a stream open for what the server
//! says of its own accord. By the HTTP client of the providers, so that there
//! is one: its TLS, no redirects, no proxies, a connection per request.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use parking_lot::Mutex;
use rmcp::model::{ClientNotification, ClientRequest, JsonRpcMessage, RequestId, ServerResult};
use rmcp::service::{RoleClient, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::json;
use signalbox_bus::assignment::Stop;
use signalbox_identity::Secret;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tracing::debug;
use url::Url;

use super::stdio::SendError;
use super::wire::{self, Incoming, MAX_MESSAGE_BYTES};
use crate::provider::failure::{Failure, FailureKind};
use crate::provider::http::{BaseUrl, Body, Client};
use crate::provider::sse::SseParser;

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent on a stream before that is opened anew.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server may take to say whether a session is still there.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the farewell to a server may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait before the stream of a server that ended is opened again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Messages that wait to be taken; more wait in the network.
const INBOX_CAPACITY: usize = 64;
/// The longest session id that is kept, in bytes.
const MAX_SESSION_BYTES: usize = 1024;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Where a server is.
#[derive(Clone, Debug)]
pub struct Address {
    base: BaseUrl,
    path: String,
    authorization: Option<HeaderValue>,
}

impl Address {
    /// Reads an address: https, or http on this machine.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected an https URL such as https://tools.example/mcp, or http on this \
                        machine; without user, query and fragment";
        let base = BaseUrl::parse(text, false).map_err(|_| expected)?;
        let url = Url::parse(text).map_err(|_| expected)?;
        Ok(Self {
            base,
            path: url.path().to_owned(),
            authorization: None,
        })
    }

    /// With a token that is sent with every request.
    ///
    /// # Errors
    /// The token has characters that none has.
    pub fn with_token(mut self, token: &Secret) -> Result<Self, String> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| "expected a token: one line of printable characters")?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }
}

/// A connection to a server, which is many connections.
pub(super) struct Http {
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Incoming>,
    /// What listens to what the server says of its own accord, and asks for the
    /// session where that is in doubt, once there is one.
    listening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

struct Shared {
    server: Arc<str>,
    client: Client,
    address: Address,
    inbox: mpsc::Sender<Incoming>,
    session: Mutex<Session>,
    /// Whether there is nothing more to expect.
    lost: Stop,
    /// That a refusal may mean the session, or just what was refused.
    doubted: Notify,
}

#[derive(Default)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// That the server is ready to be listened to.
    begun: bool,
    /// The requests that are under way: a cancelled one is not waited for.
    under_way: HashMap<RequestId, Stop>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http").field(&self.shared.address).finish()
    }
}

impl Http {
    pub(super) fn new(server: &Arc<str>, client: Client, address: Address) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let shared = Shared {
            server: Arc::clone(server),
            client,
            address,
            inbox: sender,
            session: Mutex::default(),
            lost: Stop::default(),
            doubted: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            inbox,
            listening: None,
        }
    }
}

impl Transport<RoleClient> for Http {
    type Error = SendError;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), SendError>> + Send + 'static {
        Arc::clone(&self.shared).deliver(message)
    }

    async fn receive(&mut self) -> Option<Incoming> {
        loop {
            if self.listening.is_none() && self.shared.session.lock().begun {
                let shared = Arc::clone(&self.shared);
                self.listening = Some(Box::pin(async move {
                    tokio::join!(shared.listen(), shared.watch_session());
                }));
            }
            let listening = async {
                match &mut self.listening {
                    Some(listening) => listening.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = self.inbox.recv() => return message,
                () = self.shared.lost.wait() => return None,
                () = listening => {
                    // There is no session any more.
                    self.listening = Some(Box::pin(std::future::pending()));
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), SendError> {
        self.listening = None;
        self.shared.lost.trigger();
        let session = self.shared.session.lock().id.take();
        if let Some(session) = session {
            let farewell = self.shared.farewell(session);
            timeout(FAREWELL_TIMEOUT, farewell).await.ok();
        }
        Ok(())
    }
}

impl Shared {
    /// Sends a message, and takes all that is said to it.
    async fn deliver(
        self: Arc<Self>,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> Result<(), SendError> {
        let (id, begins) = match &message {
            JsonRpcMessage::Request(request) => (
                Some(request.id.clone()),
                matches!(request.request, ClientRequest::InitializeRequest(_)),
            ),
            _ => (None, false),
        };
        let stop = Stop::default();
        if let Some(id) = &id {
            let mut session = self.session.lock();
            session.under_way.insert(id.clone(), stop.clone());
        }
        let delivered = tokio::select! {
            delivered = self.exchange(&message, id.as_ref(), begins) => delivered,
            // What it says now is of no use to anyone.
            () = stop.wait() => Ok(()),
            () = self.lost.wait() => Err(SendError {
                detail: "the connection has ended".to_owned(),
                perhaps: true,
            }),
        };
        let mut session = self.session.lock();
        if let Some(id) = &id {
            session.under_way.remove(id);
        }
        if let JsonRpcMessage::Notification(notification) = &message {
            match &notification.notification {
                ClientNotification::InitializedNotification(_) => session.begun = true,
                ClientNotification::CancelledNotification(cancelled) => {
                    let id = cancelled.params.request_id.as_ref();
                    if let Some(stop) = id.and_then(|id| session.under_way.get(id)) {
                        stop.trigger();
                    }
                }
                _ => {}
            }
        }
        delivered
    }

    async fn exchange(
        &self,
        message: &TxJsonRpcMessage<RoleClient>,
        id: Option<&RequestId>,
        begins: bool,
    ) -> Result<(), SendError> {
        let unsent = |detail: String| SendError {
            detail,
            perhaps: false,
        };
        let body = serde_json::to_vec(message).map_err(|error| unsent(error.to_string()))?;
        let request = self.request(Method::POST, "application/json, text/event-stream", body);
        let opened = self
            .client
            .open(&self.address.base, CONNECT_TIMEOUT)
            .await
            .map_err(|failure| unsent(failure.to_string()))?;
        let perhaps = |failure: Failure| SendError {
            detail: failure.to_string(),
            perhaps: true,
        };
        let mut body = opened.send(request, READ_TIMEOUT).await.map_err(perhaps)?;
        let status = body.status();
        if self.loses_session(status) {
            return Err(unsent("the server has forgotten the session".to_owned()));
        }
        if !status.is_success() {
            return Err(SendError {
                detail: format!("the server refused with status {status}"),
                // A gateway in between says so as well when it is tired of waiting.
                perhaps: status.is_server_error(),
            });
        }
        if begins {
            let session = body.headers().get(&SESSION).cloned();
            self.session.lock().id = session.filter(|id| id.len() <= MAX_SESSION_BYTES);
        }
        let Some(id) = id else {
            return Ok(());
        };
        let answered = if is_stream(body.headers()) {
            self.read_stream(&mut body, Some(id)).await
        } else {
            self.read_whole(&mut body, id).await
        };
        match answered {
            Ok(true) => Ok(()),
            Ok(false) => Err(SendError {
                detail: "the server ended the stream without an answer".to_owned(),
                perhaps: true,
            }),
            Err(failure) if failure.kind == FailureKind::TooLarge => {
                self.take(wire::too_long(id.clone())).await;
                Ok(())
            }
            Err(failure) => Err(perhaps(failure)),
        }
    }

    /// Takes the one message of a body; whether it is the answer to `id`.
    async fn read_whole(&self, body: &mut Body, id: &RequestId) -> Result<bool, Failure> {
        let mut bytes = Vec::new();
        while let Some(more) = body.next().await? {
            if bytes.len() + more.len() > MAX_MESSAGE_BYTES {
                return Err(Failure::new(FailureKind::TooLarge, "a message is too long"));
            }
            bytes.extend_from_slice(&more);
        }
        let Some(mut message) = wire::read(&self.server, &bytes) else {
            return Ok(false);
        };
        let answers = is_answer(&mut message, id);
        self.take(message).await;
        Ok(answers)
    }

    /// Takes the messages of a stream to its end, or to the answer to `id`;
    /// whether that came.
    async fn read_stream(&self, body: &mut Body, id: Option<&RequestId>) -> Result<bool, Failure> {
        let mut parser = SseParser::bounded(MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES);
        let mut events = Vec::new();
        while let Some(bytes) = body.next().await? {
            let fed = parser.feed(&bytes, &mut events);
            for event in events.drain(..) {
                let Some(mut message) = wire::read(&self.server, event.data.as_bytes()) else {
                    continue;
                };
                let answers = id.is_some_and(|id| is_answer(&mut message, id));
                self.take(message).await;
                if answers {
                    return Ok(true);
                }
            }
            fed?;
        }
        Ok(false)
    }

    async fn take(&self, message: Incoming) {
        if let JsonRpcMessage::Response(response) = &message
            && let ServerResult::InitializeResult(result) = &response.result
        {
            let version = HeaderValue::from_str(result.protocol_version.as_str());
            self.session.lock().version = version.ok();
        }
        // Without a receiver the connection has ended.
        self.inbox.send(message).await.ok();
    }

    /// Keeps a stream open until there is none, or no server.
    async fn listen(&self) {
        loop {
            let request = self.request(Method::GET, "text/event-stream", Vec::new());
            let opened = self.client.open(&self.address.base, CONNECT_TIMEOUT).await;
            let Ok(connection) = opened else {
                self.lost.trigger();
                return;
            };
            if let Ok(mut body) = connection.send(request, READ_TIMEOUT).await {
                let status = body.status();
                if self.loses_session(status) {
                    return;
                }
                if !status.is_success() || !is_stream(body.headers()) {
                    debug!(server = %self.server, %status, "there is nothing to listen to");
                    return;
                }
                if let Err(failure) = self.read_stream(&mut body, None).await {
                    debug!(server = %self.server, %failure, "the stream broke off");
                }
            }
            sleep(LISTEN_AGAIN).await;
        }
    }

    /// Takes what a status says of the session; whether there is none any more.
    fn loses_session(&self, status: StatusCode) -> bool {
        if self.session.lock().id.is_none() {
            return false;
        }
        match status {
            StatusCode::NOT_FOUND => {
                self.lost.trigger();
                true
            }
            // What many servers say of a session that they do not know, and others
            // of one request, which is not to end the calls beside it.
            StatusCode::BAD_REQUEST => {
                self.doubted.notify_one();
                false
            }
            _ => false,
        }
    }

    /// Asks for the session whenever it is in doubt, until it is gone.
    async fn watch_session(&self) {
        while !self.lost.is_triggered() {
            self.doubted.notified().await;
            let answer = timeout(PING_TIMEOUT, self.ping()).await;
            // Without an answer it stays in doubt, and the next refusal asks again.
            if let Ok(Ok(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) = answer {
                self.lost.trigger();
            }
        }
    }

    /// The status of an answer that nobody needs.
    async fn ping(&self) -> Result<StatusCode, Failure> {
        // The other requests have numbers.
        let ping = json!({"jsonrpc": "2.0", "id": "session", "method": "ping"});
        let accept = "application/json, text/event-stream";
        let request = self.request(Method::POST, accept, ping.to_string().into_bytes());
        let connection = self.client.open(&self.address.base, PING_TIMEOUT).await?;
        let answer = connection.send(request, PING_TIMEOUT).await?;
        Ok(answer.status())
    }

    async fn farewell(&self, session: HeaderValue) -> Result<(), Failure> {
        let mut request = self.request(Method::DELETE, "application/json", Vec::new());
        request.headers_mut().insert(SESSION, session);
        let connection = self
            .client
            .open(&self.address.base, FAREWELL_TIMEOUT)
            .await?;
        connection.send(request, FAREWELL_TIMEOUT).await?;
        Ok(())
    }

    fn request(&self, method: Method, accept: &'static str, body: Vec<u8>) -> Request<Full<Bytes>> {
        let has_body = !body.is_empty();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        // Both are parts of an address that was read as one.
        *request.uri_mut() = self.address.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&self.address.base.authority()) {
            headers.insert(header::HOST, host);
        }
        let agent = concat!("signalbox/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if has_body {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        let session = self.session.lock();
        let given = [
            (header::AUTHORIZATION, &self.address.authorization),
            (SESSION, &session.id),
            (VERSION, &session.version),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        request
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/event-stream")
}

/// Whether a message answers the request `id`, of whose answer it is a part. An
/// error of a server that could not read the id has none: it is given it.
fn is_answer(message: &mut Incoming, id: &RequestId) -> bool {
    match message {
        JsonRpcMessage::Response(response) => id.to_string() == response.id.to_string(),
        JsonRpcMessage::Error(error) => {
            let answered = error.id.get_or_insert_with(|| id.clone());
            id.to_string() == answered.to_string()
        }
        _ => false,
    }
}

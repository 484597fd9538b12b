//! One connection's conversation: who it is, what it is subscribed to, and
//! when it ends. Generic over the dialect; sockets are the transport's matter.

mod chat;
mod decide;
mod identity;
mod investigate;
pub(crate) mod meter;
mod standing;
mod subscriptions;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::decision::Decision;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_transport::{CloseCode, Closure, Incoming, Outbound, WebSocket};
use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, info};
use uuid::Uuid;

use self::identity::Expiry;
use self::meter::Meter;
use self::standing::Standing;
use crate::dialect::{Answer, Dialect, Occasion, Request};
use crate::hub::MemberId;
use crate::routes::Visitor;
use crate::shard::{Connection, Presence, Shard};

/// Bad messages in a row that end a connection.
pub(crate) const MAX_STRIKES: u32 = 10;
/// The longest message of a client that has not authenticated, in bytes: a
/// credential and labels, many times over. Strangers may not have the gateway
/// hold a full-sized message each.
pub(crate) const MAX_UNAUTHENTICATED_BYTES: usize = 64 * 1024;
/// When clients that are sent away may return.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Log target of the lines about who came, went and was refused.
pub(crate) const AUDIT: &str = "audit";

type Replay = Pin<Box<dyn Future<Output = ()>>>;

struct Session<D: Dialect> {
    dialect: D,
    name: String,
    visitor: Visitor,
    shard: Rc<Shard>,
    outbound: Outbound,
    member: MemberId,
    standing: Rc<Standing<D>>,
    /// When something is due about the credential.
    deadline: Pin<Box<Sleep>>,
    /// What that is: an announcement, or else the end.
    announcement: Option<Expiry>,
    next_subscription: u64,
    /// The chat that was begun last.
    latest_chat: Option<String>,
    replays: FuturesUnordered<Replay>,
    strikes: u32,
    meter: Meter,
    /// Whether full-sized messages are accepted.
    trusted: bool,
    _presence: Presence,
}

impl<D: Dialect> Drop for Session<D> {
    fn drop(&mut self) {
        self.shard.hub.borrow_mut().leave(self.member);
        self.standing.get_up();
    }
}

/// Tells a client that the gateway is going away.
fn say_farewell<D: Dialect>(outbound: &Outbound) {
    let farewell = D::default().farewell("the gateway is going away", RETRY_AFTER);
    // What is queued goes first: a client that gets it need not resume.
    let _sent = outbound.send_frame(&farewell);
    outbound.close_after_flush(CloseCode::GOING_AWAY, "going away");
}

/// Serves a connection to its end. `credential` came with the upgrade.
pub(crate) async fn run<D: Dialect + 'static>(
    dialect: D,
    shard: Rc<Shard>,
    mut socket: WebSocket,
    visitor: Visitor,
    credential: Result<Option<String>, Complaint>,
) {
    let began = Instant::now();
    let peer = visitor.peer;
    let mut session = Session::new(dialect, shard, socket.outbound(), visitor);
    info!(target: AUDIT, session = %session.name, %peer, dialect = %D::NAME, "connected");
    let limit = session.shard.shared.options.websocket.max_message_bytes;
    socket.set_max_message_bytes(limit.min(MAX_UNAUTHENTICATED_BYTES));
    // What waits for others is large and rare: boxed, it is no part of what
    // every idle connection holds.
    Box::pin(session.enter(credential)).await;
    session.trust(&mut socket);
    let closure = session.converse(&mut socket).await;
    session.shard.counts.note_end(&closure);
    info!(
        target: AUDIT,
        session = %session.name,
        code = closure.code.map(CloseCode::as_u16),
        by = ?closure.by,
        // The client may have chosen it: quoted, it cannot begin a line.
        reason = ?closure.reason,
        bytes = session.outbound.bytes_sent(),
        duration = ?began.elapsed(),
        "disconnected"
    );
}

impl<D: Dialect + 'static> Session<D> {
    fn new(dialect: D, shard: Rc<Shard>, outbound: Outbound, visitor: Visitor) -> Self {
        outbound.set_overload_farewell(|| {
            D::default().farewell(
                "too slow: frames were dropped, return and resume",
                RETRY_AFTER,
            )
        });
        let authentication = shard
            .shared
            .options
            .authentication
            .or(D::AUTHENTICATION)
            .unwrap_or_default();
        let member = shard.hub.borrow_mut().join(outbound.clone());
        let messages_per_minute = shard.shared.options.messages_per_minute;
        let name = format!("ws-session-{}", Uuid::now_v7().simple());
        let standing = Rc::new(Standing::<D>::new(name.clone(), outbound.clone()));
        Self {
            dialect,
            name,
            visitor,
            _presence: shard.enter(Connection {
                outbound: outbound.clone(),
                dialect: D::NAME,
                farewell: say_farewell::<D>,
                holder: standing.clone(),
            }),
            shard,
            outbound,
            member,
            standing,
            deadline: Box::pin(sleep(authentication)),
            announcement: None,
            next_subscription: 0,
            latest_chat: None,
            replays: FuturesUnordered::new(),
            strikes: 0,
            meter: Meter::new(D::NAME, D::METERING, messages_per_minute),
            trusted: false,
        }
    }

    async fn converse(&mut self, socket: &mut WebSocket) -> Closure {
        loop {
            tokio::select! {
                incoming = socket.next() => match incoming {
                    Incoming::Text(text) => {
                        Box::pin(self.hear(&text)).await;
                        self.trust(socket);
                    }
                    Incoming::Binary(_) => {
                        self.outbound.close(CloseCode::UNSUPPORTED_DATA, "expected text frames");
                    }
                    Incoming::Closed(closure) => return closure,
                },
                Some(()) = self.replays.next() => {}
                () = &mut self.deadline => self.time_is_up(),
            }
        }
    }

    /// Accepts full-sized messages of a client that has authenticated.
    fn trust(&mut self, socket: &mut WebSocket) {
        if self.standing.principal().is_some() && !self.trusted {
            self.trusted = true;
            let limit = self.shard.shared.options.websocket.max_message_bytes;
            socket.set_max_message_bytes(limit);
        }
    }

    async fn hear(&mut self, text: &str) {
        let decoded = self.dialect.decode(text);
        // Browsers cannot send the WebSocket's own pings, which are free.
        if !matches!(decoded, Ok(Request::Ping)) {
            let limits = Arc::clone(&self.shard.shared.limits);
            let principal = self.standing.principal();
            let counted = self.meter.count(&limits, principal.as_deref()).await;
            if let Err(excess) = counted {
                debug!(session = %self.name, used = excess.used, limit = excess.limit, "too many messages");
                self.answer(&Answer::LimitExceeded(&excess));
                return;
            }
        }
        let served = match decoded {
            Ok(request) => self.serve(request).await,
            Err(complaint) => Err(complaint),
        };
        match served {
            Ok(()) => self.strikes = 0,
            Err(complaint) => self.strike(&complaint),
        }
    }

    fn strike(&mut self, complaint: &Complaint) {
        debug!(session = %self.name, code = %complaint.code, complaint = complaint.message, "bad message");
        self.refuse(complaint);
        if !is_clients_fault(complaint.code) {
            return;
        }
        self.strikes += 1;
        if self.strikes >= MAX_STRIKES {
            self.outbound
                .close_after_flush(CloseCode::POLICY_VIOLATION, "too many bad messages");
        }
    }

    async fn serve(&mut self, request: Request) -> Result<(), Complaint> {
        match request {
            Request::Authenticate { credential, label } => {
                if let Some(label) = label {
                    debug!(session = %self.name, label, "client");
                }
                self.authenticate(&credential, Occasion::Request).await;
                Ok(())
            }
            Request::Ping => {
                self.answer(&Answer::Pong);
                Ok(())
            }
            Request::Subscribe(asked) => self.subscribe(asked).await,
            Request::Unsubscribe { name, field } => self.unsubscribe(&name, field),
            Request::Decide {
                action_id,
                verdict,
                reason,
                arguments_hash,
            } => {
                let decided_by = self.decider()?;
                let decision = Decision {
                    action_id,
                    verdict,
                    reason,
                    decided_by,
                    arguments_hash,
                };
                self.decide(decision).await
            }
            Request::Chat(asked) => self.chat(asked).await,
            Request::AddNote(asked) => self.add_note(asked).await,
        }
    }

    fn refuse(&self, complaint: &Complaint) {
        self.answer(&Answer::Refused(complaint));
    }

    fn answer(&self, answer: &Answer<'_>) {
        // A connection that takes nothing more is noticed by `converse`.
        if let Some(frame) = self.dialect.answer(answer) {
            let _sent = self.outbound.send_frame(&frame);
        }
    }
}

/// Whether a message that is refused with this code was a bad one. Limits
/// refuse good ones, and outages are not the client's.
pub(crate) const fn is_clients_fault(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::RateLimit | ErrorCode::Unavailable | ErrorCode::Internal
    )
}

//! One connection's conversation: who it is, what it is subscribed to, and
//! when it ends. Generic over the dialect; sockets are the transport's matter.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use signalbox_bus::trace;
use signalbox_identity::{Principal, Role};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::{Dialect as Name, ErrorCode};
use signalbox_transport::{CloseCode, Closure, Incoming, Outbound, WebSocket};
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, info};
use uuid::Uuid;

use crate::access;
use crate::authority::Refusal;
use crate::dialect::{Answer, Dialect, Request, Subscribe};
use crate::hub::{MemberId, Progress, SubscriptionId};
use crate::routes::Visitor;
use crate::shard::{Connection, Presence, Shard};
use crate::spans;

/// Bad messages in a row that end a connection.
const MAX_STRIKES: u32 = 10;
/// Subscriptions that one connection may hold.
const MAX_SUBSCRIPTIONS: usize = 1_024;
/// The longest message of a client that has not authenticated, in bytes: a
/// credential and labels, many times over. Strangers may not have the gateway
/// hold a full-sized message each.
const MAX_UNAUTHENTICATED_BYTES: usize = 64 * 1024;
/// When clients that are sent away may return.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The pause before history that did not answer is read again.
const HISTORY_PAUSE: Duration = Duration::from_millis(250);
/// How far away the deadline of a credential without expiry is.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Log target of the lines about who came, went and was refused.
const AUDIT: &str = "audit";

type Replay = Pin<Box<dyn Future<Output = ()>>>;

/// A subscription by the name that the client knows it by.
struct Held {
    id: SubscriptionId,
    channel: Channel,
}

struct Session<D> {
    dialect: D,
    name: String,
    visitor: Visitor,
    shard: Rc<Shard>,
    outbound: Outbound,
    member: MemberId,
    principal: Option<Principal>,
    /// When the connection ends unless a credential comes or is renewed.
    deadline: Pin<Box<Sleep>>,
    subscriptions: HashMap<String, Held>,
    next_subscription: u64,
    replays: FuturesUnordered<Replay>,
    strikes: u32,
    /// Whether full-sized messages are accepted.
    trusted: bool,
    _presence: Presence,
}

impl<D> Drop for Session<D> {
    fn drop(&mut self) {
        self.shard.hub.borrow_mut().leave(self.member);
    }
}

/// Tells a client that the gateway is going away.
fn say_farewell<D: Dialect>(outbound: &Outbound) {
    let farewell = D::default().answer(&Answer::Farewell {
        message: "the gateway is going away",
        retry_after: RETRY_AFTER,
    });
    // What is queued goes first: a client that gets it need not resume.
    let _sent = outbound.send_frame(&farewell);
    outbound.close_after_flush(CloseCode::GOING_AWAY, "going away");
}

/// Serves a connection to its end. `credential` came with the upgrade.
pub(crate) async fn run<D: Dialect>(
    dialect: D,
    shard: Rc<Shard>,
    mut socket: WebSocket,
    visitor: Visitor,
    credential: Option<String>,
) {
    let began = Instant::now();
    let peer = visitor.peer;
    let mut session = Session::new(dialect, shard, socket.outbound(), visitor);
    info!(target: AUDIT, session = %session.name, %peer, dialect = %D::NAME, "connected");
    let limit = session.shard.shared.options.websocket.max_message_bytes;
    socket.set_max_message_bytes(limit.min(MAX_UNAUTHENTICATED_BYTES));
    if let Some(credential) = credential {
        session.authenticate(&credential).await;
        session.trust(&mut socket);
    }
    let closure = session.converse(&mut socket).await;
    session.shard.counts.note_end(&closure);
    info!(
        target: AUDIT,
        session = %session.name,
        code = closure.code.map(CloseCode::as_u16),
        by = ?closure.by,
        reason = %closure.reason,
        bytes = session.outbound.bytes_sent(),
        duration = ?began.elapsed(),
        "disconnected"
    );
}

impl<D: Dialect> Session<D> {
    fn new(dialect: D, shard: Rc<Shard>, outbound: Outbound, visitor: Visitor) -> Self {
        outbound.set_overload_farewell(dialect.answer(&Answer::Farewell {
            message: "too slow: frames were dropped, return and resume",
            retry_after: RETRY_AFTER,
        }));
        let authentication = shard
            .shared
            .options
            .authentication
            .unwrap_or(D::AUTHENTICATION);
        let member = shard.hub.borrow_mut().join(outbound.clone());
        Self {
            dialect,
            name: format!("ws-session-{}", Uuid::now_v7().simple()),
            visitor,
            _presence: shard.enter(Connection {
                outbound: outbound.clone(),
                dialect: D::NAME,
                farewell: say_farewell::<D>,
            }),
            shard,
            outbound,
            member,
            principal: None,
            deadline: Box::pin(sleep(authentication)),
            subscriptions: HashMap::new(),
            next_subscription: 0,
            replays: FuturesUnordered::new(),
            strikes: 0,
            trusted: false,
        }
    }

    async fn converse(&mut self, socket: &mut WebSocket) -> Closure {
        loop {
            tokio::select! {
                incoming = socket.next() => match incoming {
                    Incoming::Text(text) => {
                        self.hear(&text).await;
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
        if self.principal.is_some() && !self.trusted {
            self.trusted = true;
            let limit = self.shard.shared.options.websocket.max_message_bytes;
            socket.set_max_message_bytes(limit);
        }
    }

    /// The credential expired, or none ever came.
    fn time_is_up(&mut self) {
        let reason = match self.principal {
            Some(_) => "the token has expired",
            None => "not authenticated in time",
        };
        self.refuse(&Complaint::plain(ErrorCode::AuthFailed, reason));
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
        self.deadline.as_mut().reset(Instant::now() + NEVER);
    }

    async fn hear(&mut self, text: &str) {
        let served = match self.dialect.decode(text) {
            Ok(request) => self.serve(request).await,
            Err(complaint) => Err(complaint),
        };
        match served {
            Ok(()) => self.strikes = 0,
            Err(complaint) => self.strike(&complaint),
        }
    }

    fn strike(&mut self, complaint: &Complaint) {
        debug!(session = %self.name, code = %complaint.code, message = %complaint.message, "bad message");
        self.refuse(complaint);
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
                self.authenticate(&credential).await;
                Ok(())
            }
            Request::Ping => {
                self.answer(&Answer::Pong);
                Ok(())
            }
            Request::Subscribe(asked) => self.subscribe(asked).await,
            Request::Unsubscribe { subscription_id } => self.unsubscribe(&subscription_id),
        }
    }

    async fn authenticate(&mut self, credential: &str) {
        let verdict = if *self.shard.shared.bus_present.borrow() {
            self.shard.shared.authority.authenticate(credential).await
        } else {
            // A token that was revoked meanwhile would pass here.
            Err(Refusal::Unavailable)
        };
        let verdict = verdict.and_then(|principal| self.acceptable(principal));
        match verdict {
            Ok(principal) => self.adopt(principal),
            Err(refusal) => {
                info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason = %refusal, "refused");
                match refusal {
                    Refusal::Invalid(reason) => {
                        self.refuse(&Complaint::plain(ErrorCode::AuthFailed, reason));
                        self.outbound
                            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
                    }
                    Refusal::Unavailable => {
                        let message = "credentials cannot be checked now";
                        let farewell = Answer::Farewell {
                            message,
                            retry_after: RETRY_AFTER,
                        };
                        let farewell = self.dialect.answer(&farewell);
                        self.outbound
                            .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
                    }
                }
            }
        }
    }

    /// Whether this connection may go on as `principal`.
    fn acceptable(&self, principal: Principal) -> Result<Principal, Refusal> {
        if principal.role == Some(Role::Agent) && D::NAME != Name::Fleet {
            return Err(Refusal::Invalid(
                "credentials of agents open dialect fleet only",
            ));
        }
        match &self.principal {
            Some(known) if known.subject != principal.subject => {
                Err(Refusal::Invalid("the credential is another user's"))
            }
            _ => Ok(principal),
        }
    }

    fn adopt(&mut self, principal: Principal) {
        self.visitor.ticket.authenticated();
        info!(
            target: AUDIT,
            session = %self.name,
            peer = %self.visitor.peer,
            subject = %principal.subject,
            credential = %principal.credential,
            "authenticated"
        );
        let left = principal.expires_at.map_or(NEVER, |end| {
            Duration::try_from(end - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
        });
        self.deadline
            .as_mut()
            .reset(Instant::now() + left.min(NEVER));
        self.answer(&Answer::Authenticated {
            session_id: &self.name,
            principal: &principal,
        });
        let permissions = principal.permissions;
        self.principal = Some(principal);
        let mut hub = self.shard.hub.borrow_mut();
        self.subscriptions.retain(|_, held| {
            let kept = permissions.contains(access::required(held.channel));
            if !kept {
                hub.unsubscribe(held.id);
            }
            kept
        });
    }

    async fn subscribe(&mut self, asked: Subscribe) -> Result<(), Complaint> {
        let channel = asked.selection.channel;
        self.authorise(channel)?;
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            let message = format!("a connection holds at most {MAX_SUBSCRIPTIONS} subscriptions");
            return Err(Complaint::plain(ErrorCode::RateLimit, message));
        }
        let resumed = match asked.since {
            None => None,
            Some(since) => Some(self.is_recoverable(since).await?),
        };
        let start = asked
            .since
            .filter(|_| resumed == Some(true))
            .map(|since| since.sequence);
        self.next_subscription += 1;
        let name = format!("sub-{}", self.next_subscription);
        let (id, seq, progress) = {
            let mut hub = self.shard.hub.borrow_mut();
            let id = hub.subscribe(self.member, asked.selection, &asked.encoding, start);
            let seq = hub.cursor_of(id);
            // What other subscriptions are owed up to here goes first.
            hub.settle(self.member);
            self.answer(&Answer::Subscribed {
                channel,
                subscription_id: &name,
                seq,
                recovered: resumed,
            });
            (id, seq, hub.catch_up(id))
        };
        debug!(session = %self.name, %channel, %seq, recovered = resumed, "subscribed");
        if progress != Progress::Live {
            let work = replay(Rc::clone(&self.shard), self.outbound.clone(), id);
            self.replays
                .push(Box::pin(trace::within(spans::replay(channel), work)));
        }
        self.subscriptions.insert(name, Held { id, channel });
        Ok(())
    }

    fn authorise(&self, channel: Channel) -> Result<(), Complaint> {
        let Some(principal) = &self.principal else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        let required = access::required(channel);
        if principal.permissions.contains(required) {
            return Ok(());
        }
        Err(Complaint::plain(
            ErrorCode::Forbidden,
            format!("channel {channel} needs permission {required}"),
        ))
    }

    /// Whether everything behind `since` can still be delivered.
    async fn is_recoverable(&self, since: Cursor) -> Result<bool, Complaint> {
        let unavailable = || {
            Complaint::plain(
                ErrorCode::Unavailable,
                "history is out of reach, subscribe again",
            )
        };
        if !*self.shard.shared.bus_present.borrow() {
            return Err(unavailable());
        }
        {
            let hub = self.shard.hub.borrow();
            let here = hub.cursor();
            if since.epoch == here.epoch
                && since.sequence <= here.sequence
                && hub.remembers(since.sequence)
            {
                return Ok(true);
            }
        }
        self.shard
            .shared
            .history
            .reaches(since)
            .await
            .map_err(|error| {
                debug!(%error, "history out of reach");
                unavailable()
            })
    }

    fn unsubscribe(&mut self, name: &str) -> Result<(), Complaint> {
        let Some(held) = self.subscriptions.remove(name) else {
            return Err(Complaint {
                code: ErrorCode::NotFound,
                message: "this connection has no such subscription".to_owned(),
                field: Some("subscription_id".to_owned()),
            });
        };
        let mut hub = self.shard.hub.borrow_mut();
        hub.settle(self.member);
        hub.unsubscribe(held.id);
        self.answer(&Answer::Unsubscribed {
            channel: held.channel,
            subscription_id: name,
        });
        Ok(())
    }

    fn refuse(&self, complaint: &Complaint) {
        self.answer(&Answer::Refused(complaint));
    }

    fn answer(&self, answer: &Answer<'_>) {
        // A connection that takes nothing more is noticed by `converse`.
        let _sent = self.outbound.send_frame(&self.dialect.answer(answer));
    }
}

/// Takes a subscription to the live edge, at the pace of its connection.
async fn replay(shard: Rc<Shard>, outbound: Outbound, id: SubscriptionId) {
    let moved = shard.hub.borrow().moved();
    let mut bus_present = shard.shared.bus_present.clone();
    loop {
        // Without the bus nothing is delivered from memory.
        if bus_present.wait_for(|present| *present).await.is_err() {
            return;
        }
        let changed = moved.notified();
        let progress = shard.hub.borrow_mut().catch_up(id);
        match progress {
            Progress::Live | Progress::Gone => return,
            Progress::Ahead => changed.await,
            Progress::More => yield_now().await,
            Progress::Backlog(backlog) => match shard.shared.history.read(&backlog).await {
                Ok(chapter) => {
                    let mut rest = chapter.events.as_slice();
                    loop {
                        let taken =
                            shard
                                .hub
                                .borrow_mut()
                                .replay(id, backlog.epoch, rest, chapter.covered);
                        rest = &rest[taken..];
                        if rest.is_empty() {
                            break;
                        }
                        outbound.drained().await;
                    }
                    if chapter.covered == backlog.after {
                        // A server that lags has nothing new yet.
                        sleep(HISTORY_PAUSE).await;
                    }
                }
                Err(error) => {
                    debug!(%error, "history not read, trying again");
                    sleep(HISTORY_PAUSE).await;
                }
            },
        }
        outbound.drained().await;
        if outbound.is_closed() {
            return;
        }
    }
}

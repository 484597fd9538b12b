//! One connection's conversation, from its credential to its end.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::frame::fleet::{ClientFrame, ClientMessage};
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_transport::{CloseCode, Closure, Incoming, Outbound, WebSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep};
use tracing::{debug, info};
use uuid::Uuid;

use super::agent::{Agent, Flight};
use super::agents::Note;
use super::asker::Asker;
use super::errands::Errands;
use super::frames::{self, last, now, send_urgent};
use super::identity::Expiry;
use super::meter::Meter;
use super::pack;
use super::standing::{Part, Standing};
use crate::routes::Visitor;
use crate::session::{
    AUDIT, MAX_STRIKES, MAX_UNAUTHENTICATED_BYTES, RETRY_AFTER, is_clients_fault,
};
use crate::shard::{Connection, Presence, Shard};

/// What a dashboard does beside its requests.
type Following = Pin<Box<dyn Future<Output = ()>>>;

/// See the module.
pub(super) struct Session {
    pub(super) name: String,
    pub(super) visitor: Visitor,
    pub(super) shard: Rc<Shard>,
    pub(super) outbound: Outbound,
    pub(super) standing: Rc<Standing>,
    /// When something is due about the credential.
    pub(super) deadline: Pin<Box<Sleep>>,
    /// What that is: an announcement, or else the end.
    pub(super) announcement: Option<Expiry>,
    /// Until when the connection must have a role.
    identification: Pin<Box<Sleep>>,
    heartbeat: Interval,
    pub(super) wants_heartbeat: bool,
    strikes: u32,
    meter: Meter,
    pub(super) following: Option<Following>,
    pub(super) asker: Rc<Asker>,
    pub(super) errands: Errands,
    /// Whether the dashboard goes once what it asked for is done.
    pub(super) is_leaving: bool,
    pub(super) agent: Option<Box<Agent>>,
    pub(super) notes: Option<mpsc::Receiver<Note>>,
    pub(super) flight: Option<Flight>,
    _presence: Presence,
}

/// Tells a client that the gateway is going away.
fn say_farewell(outbound: &Outbound) {
    let message = "the gateway is going away";
    let farewell = last(ErrorCode::ConnectionFailed, message, Some(RETRY_AFTER));
    let _sent = outbound.send_frame(&farewell);
    outbound.close_after_flush(CloseCode::GOING_AWAY, "going away");
}

/// Serves a connection to its end. `credential` came with the upgrade.
pub(crate) async fn run(
    shard: Rc<Shard>,
    mut socket: WebSocket,
    visitor: Visitor,
    credential: Result<Option<String>, Complaint>,
) {
    let began = Instant::now();
    let peer = visitor.peer;
    let mut session = Session::new(shard, socket.outbound(), visitor);
    info!(target: AUDIT, session = %session.name, %peer, dialect = %Dialect::Fleet, "connected");
    let limit = session.shard.shared.options.websocket.max_message_bytes;
    socket.set_max_message_bytes(limit.min(MAX_UNAUTHENTICATED_BYTES));
    Box::pin(session.enter(credential)).await;
    if session.standing.principal().is_some() {
        socket.set_max_message_bytes(limit);
    }
    let closure = session.converse(&mut socket).await;
    drop(socket);
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
    session.following = None;
    session.errands.finish(&session.name).await;
    Box::pin(session.depart()).await;
}

impl Session {
    fn new(shard: Rc<Shard>, outbound: Outbound, visitor: Visitor) -> Self {
        outbound.set_overload_farewell(|| {
            last(
                ErrorCode::ConnectionFailed,
                "too slow: frames were dropped, return and resume",
                Some(RETRY_AFTER),
            )
        });
        let options = shard.shared.options.fleet;
        let name = format!("ws-session-{}", Uuid::now_v7().simple());
        let standing = Rc::new(Standing::new(name.clone(), outbound.clone()));
        let asker = Asker::new(
            name.clone(),
            Rc::clone(&shard),
            outbound.clone(),
            Rc::clone(&standing),
        );
        let mut heartbeat = interval_at(Instant::now() + options.heartbeat, options.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            name,
            visitor,
            _presence: shard.enter(Connection {
                outbound: outbound.clone(),
                dialect: Dialect::Fleet,
                farewell: say_farewell,
                holder: standing.clone(),
            }),
            shard,
            outbound,
            standing,
            // Until it authenticates it is being closed.
            deadline: Box::pin(sleep(options.identification)),
            announcement: None,
            identification: Box::pin(sleep(options.identification)),
            heartbeat,
            wants_heartbeat: false,
            strikes: 0,
            meter: Meter::new(options),
            following: None,
            asker: Rc::new(asker),
            errands: Errands::default(),
            is_leaving: false,
            agent: None,
            notes: None,
            flight: None,
        }
    }

    /// The connection has a role, and needs none any more.
    pub(super) fn identified(&mut self) {
        self.strikes = 0;
    }

    async fn converse(&mut self, socket: &mut WebSocket) -> Closure {
        loop {
            self.send_report();
            if self.errands.is_empty() && std::mem::take(&mut self.is_leaving) {
                self.outbound
                    .close_after_flush(CloseCode::NORMAL, "goodbye");
            }
            let agent = self.agent.as_deref();
            // A relay that is slow slows those who want something of it, and
            // fills no memory.
            let is_full = agent.is_some_and(Agent::is_full) || self.errands.is_full();
            let is_full = is_full && !self.outbound.is_closed();
            let is_open = agent.is_some_and(Agent::is_open);
            let is_stranger = self.standing.part() == Part::Stranger;
            tokio::select! {
                incoming = socket.next(), if !is_full => match incoming {
                    Incoming::Text(text) => Box::pin(self.hear(&text)).await,
                    Incoming::Binary(_) => {
                        self.outbound.close(CloseCode::UNSUPPORTED_DATA, "expected text frames");
                    }
                    Incoming::Closed(closure) => return closure,
                },
                Some(note) = next(&mut self.notes), if is_open => self.take_note(note),
                reply = landed(&mut self.flight) => self.take_reply(reply),
                () = self.errands.advance(), if !self.errands.is_empty() => {}
                () = followed(&mut self.following) => self.following = None,
                () = &mut self.deadline => self.time_is_up(),
                () = &mut self.identification, if is_stranger && !self.outbound.is_closed() => {
                    let reason = "neither dashboard:connect nor agent:connect came in time";
                    info!(target: AUDIT, session = %self.name, reason, "time is up");
                    self.outbound.close_after_flush(CloseCode::POLICY_VIOLATION, reason);
                }
                _ = self.heartbeat.tick(), if self.wants_heartbeat => send_urgent(
                    &self.outbound,
                    &ServerFrame::HeartbeatPing { timestamp: now() },
                ),
            }
        }
    }

    async fn hear(&mut self, text: &str) {
        let most = self.shard.shared.options.websocket.max_message_bytes;
        let message = ClientMessage::read(text);
        let request_id = message.request_id.clone();
        match pack::open(message, most) {
            Ok(messages) => {
                for message in messages {
                    if self.outbound.is_closed() || self.is_leaving {
                        return;
                    }
                    self.hear_one(message).await;
                }
            }
            Err(complaint) => {
                if self.is_within_limits(None, request_id.as_deref()).await {
                    self.strike(&complaint, request_id.as_deref());
                }
            }
        }
    }

    async fn is_within_limits(&mut self, kind: Option<&str>, request_id: Option<&str>) -> bool {
        let limits = Arc::clone(&self.shard.shared.limits);
        match self.meter.count(&limits, kind).await {
            Ok(()) => true,
            Err(excess) => {
                debug!(session = %self.name, kind, what = excess.what, "too many messages");
                let _sent = self
                    .outbound
                    .send_urgent(&frames::excess(&excess, request_id));
                false
            }
        }
    }

    async fn hear_one(&mut self, message: ClientMessage) {
        let request_id = message.request_id;
        if !self
            .is_within_limits(message.kind, request_id.as_deref())
            .await
        {
            return;
        }
        let served = match message.body {
            Ok(frame) => self.serve(frame, request_id.clone()).await,
            Err(complaint) => Err(complaint),
        };
        match served {
            Ok(()) => self.strikes = 0,
            Err(complaint) => self.strike(&complaint, request_id.as_deref()),
        }
    }

    fn strike(&mut self, complaint: &Complaint, request_id: Option<&str>) {
        debug!(session = %self.name, code = %complaint.code, complaint = complaint.message, "bad message");
        let _sent = self
            .outbound
            .send_urgent(&frames::complaint(complaint, request_id));
        if !is_clients_fault(complaint.code) {
            return;
        }
        self.strikes += 1;
        if self.strikes >= MAX_STRIKES {
            self.outbound
                .close_after_flush(CloseCode::POLICY_VIOLATION, "too many bad messages");
        }
    }

    async fn serve(
        &mut self,
        frame: ClientFrame,
        request_id: Option<String>,
    ) -> Result<(), Complaint> {
        let id = request_id.as_deref();
        match (self.standing.part(), frame) {
            (_, ClientFrame::DashboardConnect(asked)) => {
                self.connect_dashboard(asked, request_id).await
            }
            (_, ClientFrame::AgentConnect(asked)) => self.connect_agent(asked, request_id),
            (Part::Stranger, _) => Err(Complaint::plain(
                ErrorCode::Forbidden,
                "dashboard:connect or agent:connect comes first",
            )),
            (_, ClientFrame::HeartbeatPing) => {
                send_urgent(
                    &self.outbound,
                    &ServerFrame::HeartbeatPong {
                        request_id: id,
                        timestamp: now(),
                    },
                );
                Ok(())
            }
            (_, ClientFrame::HeartbeatPong) => Ok(()),
            (
                _,
                ClientFrame::RefreshToken {
                    token,
                    refresh_token,
                },
            ) => self.refresh(token, refresh_token, id).await,
            (Part::Dashboard, frame) => self.serve_dashboard(frame, request_id),
            (Part::Agent, frame) => self.serve_agent(frame, id),
        }
    }

    fn serve_agent(&mut self, frame: ClientFrame, id: Option<&str>) -> Result<(), Complaint> {
        match frame {
            ClientFrame::AgentDisconnect { agent_id } => self.disconnect_agent(&agent_id),
            ClientFrame::AgentStatus(status) => self.agent_status(status),
            ClientFrame::CommandStatus(report) => self.command_status(report, id),
            ClientFrame::CommandComplete(report) => self.command_complete(report, id),
            ClientFrame::TerminalOutput(output) => self.agent_output(output, id),
            ClientFrame::TerminalClear { agent_id } => self.agent_clear(agent_id),
            ClientFrame::EmergencyConfirmed { stop_id } => self.agent_stopped(stop_id),
            _ => Err(Complaint::plain(
                ErrorCode::Forbidden,
                "only dashboards send this",
            )),
        }
    }
}

/// The next note, where the connection is an agent's.
async fn next(notes: &mut Option<mpsc::Receiver<Note>>) -> Option<Note> {
    match notes {
        Some(notes) => notes.recv().await,
        None => std::future::pending().await,
    }
}

/// The answer to the report that is on its way.
async fn landed(flight: &mut Option<Flight>) -> Option<signalbox_protocol::wire::AgentReply> {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

/// The end of what a dashboard does beside its requests.
async fn followed(following: &mut Option<Following>) {
    match following {
        Some(following) => following.await,
        None => std::future::pending().await,
    }
}

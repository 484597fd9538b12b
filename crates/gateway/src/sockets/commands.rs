//! What clients say: each client's commands one after the other, in the order
//! in which they came.

use std::rc::Rc;
use std::time::Duration;

use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::socketio::{ClientEvent, dialect_of};
use signalbox_protocol::frame::workspace::named_room;
use signalbox_protocol::frame::{pipeline as pipeline_frame, workspace as workspace_frame};
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_socketio::{Ack, Event};
use tracing::debug;

use super::Sockets;
use super::seat::Seat;
use crate::dialect::{pipeline, workspace};

/// Commands of one client that wait for their turn; with one more its transport
/// is closed.
const INBOX_CAPACITY: usize = 256;
/// Bad messages in a row after which a client has to leave.
const MAX_STRIKES: u32 = 10;

/// A command that waits for its turn.
pub(super) struct Waiting {
    /// What is asked for, or what is wrong with it.
    asked: Result<ClientEvent, Complaint>,
    reply: Reply,
}

/// How a command is answered.
pub(super) struct Reply {
    /// In whose words.
    dialect: Dialect,
    /// The room that it named, if any.
    room: Option<String>,
    /// The acknowledgement that it wants, if any.
    ack: Option<Ack>,
}

impl Waiting {
    fn read(seat: &Seat, event: &Event<'_>, ack: Option<Ack>) -> Self {
        let own = seat.dialect;
        let (name, arguments) = (event.name.as_ref(), event.arguments.as_slice());
        let dialect = dialect_of(own, name, arguments).unwrap_or(own);
        let asked = if event.attachments.is_empty() {
            ClientEvent::decode(own, name, arguments)
        } else {
            Err(Complaint::plain(
                ErrorCode::InvalidMessage,
                "binary data is of no use here",
            ))
        };
        Self {
            asked,
            reply: Reply {
                dialect,
                room: named_room(arguments).filter(|_| dialect == Dialect::Workspace),
                ack,
            },
        }
    }
}

impl Reply {
    /// Says what is wrong: in the acknowledgement, or by an event.
    pub(super) fn refuse(self, seat: &Seat, complaint: &Complaint, retry: Option<Duration>) {
        debug!(session = %seat.name, code = %complaint.code, complaint = complaint.message, "refused");
        let room = self.room.as_deref();
        let in_workspace = self.dialect == Dialect::Workspace;
        match self.ack {
            Some(ack) => seat.acknowledge(
                ack,
                &if in_workspace {
                    workspace::failure(complaint, room, retry)
                } else {
                    pipeline::failure(complaint, retry)
                },
            ),
            None => seat.say(&if in_workspace {
                workspace::complaint(complaint, &seat.socket.id(), room, retry)
            } else {
                pipeline::complaint(complaint, retry)
            }),
        }
    }

    /// Says that it was done.
    pub(super) fn confirm(self, seat: &Seat, answer: &serde_json::Value) {
        if let Some(ack) = self.ack {
            seat.acknowledge(ack, answer);
        }
    }
}

impl Sockets {
    /// Takes an event of a client.
    pub(super) fn hear(self: &Rc<Self>, seat: &Rc<Seat>, event: &Event<'_>, ack: Option<Ack>) {
        if seat.over.get() {
            return;
        }
        let waiting = Waiting::read(seat, event, ack);
        if seat.inbox.borrow().len() >= INBOX_CAPACITY {
            debug!(session = %seat.name, "too many commands wait");
            seat.send_back(&self.clock);
            return;
        }
        seat.inbox.borrow_mut().push_back(waiting);
        self.work(seat);
    }

    /// Works on a client's commands, unless somebody does.
    pub(super) fn work(self: &Rc<Self>, seat: &Rc<Seat>) {
        if seat.working.replace(true) {
            return;
        }
        let (desk, seat) = (Rc::clone(self), Rc::clone(seat));
        self.tasks.spawn(async move {
            loop {
                let next = seat.inbox.borrow_mut().pop_front();
                match next {
                    Some(waiting) if !seat.over.get() => desk.attend(&seat, waiting).await,
                    Some(_) => {}
                    None => break,
                }
            }
            seat.working.set(false);
        });
    }

    async fn attend(self: &Rc<Self>, seat: &Rc<Seat>, waiting: Waiting) {
        let Waiting { asked, reply } = waiting;
        let refused = seat.refused.borrow().clone();
        if let Some(refused) = refused {
            let complaint = Complaint::plain(refused.code, refused.message);
            reply.refuse(seat, &complaint, None);
            return;
        }
        let is_ping = matches!(
            asked,
            Ok(ClientEvent::Workspace(workspace_frame::ClientEvent::Ping))
        );
        if !is_ping && let Some((excess, resets_in)) = self.count(seat).await {
            let complaint = Complaint::plain(ErrorCode::RateLimit, excess);
            reply.refuse(seat, &complaint, Some(resets_in));
            return;
        }
        let complaint = match asked {
            Ok(asked) => match self.serve(seat, asked, reply).await {
                Ok(()) => return seat.strikes.set(0),
                Err(refused) => refused,
            },
            Err(complaint) => Refused { complaint, reply },
        };
        self.strike(seat, complaint);
    }

    /// Counts a message; tells when it is one too many.
    async fn count(&self, seat: &Seat) -> Option<(String, Duration)> {
        let principal = seat.principal();
        let mut meter = seat.meter.take()?;
        let limits = &self.shard.shared.limits;
        let counted = meter.count(limits, principal.as_deref()).await;
        seat.meter.set(Some(meter));
        let excess = counted.err()?;
        let message = format!("{} of {} messages a minute", excess.used, excess.limit);
        Some((message, excess.resets_in))
    }

    fn strike(&self, seat: &Seat, refused: Refused) {
        let Refused { complaint, reply } = refused;
        reply.refuse(seat, &complaint, None);
        let is_clients_fault = !matches!(
            complaint.code,
            ErrorCode::RateLimit | ErrorCode::Unavailable | ErrorCode::Internal
        );
        if !is_clients_fault {
            return;
        }
        let strikes = seat.strikes.get() + 1;
        seat.strikes.set(strikes);
        if strikes >= MAX_STRIKES {
            seat.send_away(&self.clock);
        }
    }

    async fn serve(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        asked: ClientEvent,
        reply: Reply,
    ) -> Result<(), Refused> {
        match asked {
            ClientEvent::Pipeline(pipeline_frame::ClientEvent::Authenticate { token }) => {
                self.authenticate(seat, &token, reply.ack).await;
                Ok(())
            }
            ClientEvent::Pipeline(pipeline_frame::ClientEvent::Subscribe(narrowing)) => {
                self.narrow(seat, &narrowing, reply).await
            }
            ClientEvent::Workspace(_) if seat.principal().is_none() => Err(Refused {
                complaint: Complaint::plain(ErrorCode::AuthMissing, "no token was given"),
                reply,
            }),
            ClientEvent::Workspace(workspace_frame::ClientEvent::Ping) => {
                reply.confirm(seat, &workspace::pong());
                Ok(())
            }
            ClientEvent::Workspace(workspace_frame::ClientEvent::Subscribe { room, since }) => {
                self.join(seat, room, since, reply).await
            }
            ClientEvent::Workspace(workspace_frame::ClientEvent::Unsubscribe { room }) => {
                self.quit(seat, &room, reply).await;
                Ok(())
            }
        }
    }
}

/// A command that was not done, and how to say so.
pub(super) struct Refused {
    pub(super) complaint: Complaint,
    pub(super) reply: Reply,
}

//! Who a connection is and what it is subscribed to: the part of a session that
//! a revocation changes at once, whatever the session itself is waiting for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::rc::Rc;

use signalbox_identity::{Permission, Principal};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_transport::{CloseCode, Outbound};

use super::RETRY_AFTER;
use crate::access;
use crate::authority::REVOKED;
use crate::chat::Seat;
use crate::dialect::{Answer, Dialect, Occasion};
use crate::hub::SubscriptionId;
use crate::investigation::Attendance;
use crate::shard::{Holder, Shard};

/// A subscription by the name that the client knows it by.
pub(super) enum Held {
    /// To events.
    Events {
        id: SubscriptionId,
        channel: Channel,
        /// Keeps the user in the investigation that it names.
        attendance: Option<Attendance>,
    },
    /// To the user's chats, or one of them.
    Chats { session: Option<String> },
}

impl Held {
    /// The channel that was subscribed to.
    pub(super) const fn channel(&self) -> Channel {
        match self {
            Self::Events { channel, .. } => *channel,
            Self::Chats { .. } => Channel::AgentChat,
        }
    }
}

/// See the module. Shared by the session and its entry in the shard's list.
pub(super) struct Standing<D> {
    session: String,
    outbound: Outbound,
    principal: RefCell<Option<Rc<Principal>>>,
    subscriptions: RefCell<HashMap<String, Held>>,
    /// Where the connection sits while it takes part in chats.
    seat: RefCell<Option<Rc<Seat>>>,
    dialect: PhantomData<D>,
}

impl<D: Dialect> Standing<D> {
    pub(super) fn new(session: String, outbound: Outbound) -> Self {
        Self {
            session,
            outbound,
            principal: RefCell::default(),
            subscriptions: RefCell::default(),
            seat: RefCell::default(),
            dialect: PhantomData,
        }
    }

    /// Who the connection is, if it has authenticated.
    pub(super) fn principal(&self) -> Option<Rc<Principal>> {
        self.principal.borrow().clone()
    }

    /// The subscription of this name.
    pub(super) fn find(&self, name: &str) -> Option<SubscriptionId> {
        match self.subscriptions.borrow().get(name)? {
            Held::Events { id, .. } => Some(*id),
            Held::Chats { .. } => None,
        }
    }

    /// Whether a subscription names the investigation.
    pub(super) fn attends(&self, investigation_id: &str) -> bool {
        self.subscriptions.borrow().values().any(|held| match held {
            Held::Events { attendance, .. } => attendance
                .as_ref()
                .is_some_and(|one| one.investigation_id() == investigation_id),
            Held::Chats { .. } => false,
        })
    }

    /// Ends a subscription to events, and tells the client why.
    pub(super) fn dismiss(&self, shard: &Shard, name: &str, complaint: &Complaint) {
        let Some(held) = self.release(name) else {
            return;
        };
        if let Held::Events { id, .. } = &held {
            shard.hub.borrow_mut().unsubscribe(*id);
        }
        self.answer(&Answer::Refused(complaint));
        self.answer(&Answer::Unsubscribed {
            channel: held.channel(),
            subscription_id: name,
        });
    }

    /// Where the connection sits while it takes part in chats.
    pub(super) fn seat(&self) -> Option<Rc<Seat>> {
        self.seat.borrow().clone()
    }

    /// Takes part in chats.
    pub(super) fn sit(&self, seat: Rc<Seat>) {
        *self.seat.borrow_mut() = Some(seat);
    }

    /// How many subscriptions there are.
    pub(super) fn len(&self) -> usize {
        self.subscriptions.borrow().len()
    }

    /// Puts a subscription on the list.
    pub(super) fn hold(&self, name: String, held: Held) {
        self.subscriptions.borrow_mut().insert(name, held);
    }

    /// Takes a subscription off the list.
    pub(super) fn release(&self, name: &str) -> Option<Held> {
        self.subscriptions.borrow_mut().remove(name)
    }

    /// Takes part in chats no longer.
    pub(super) fn get_up(&self) {
        if let Some(seat) = self.seat.borrow_mut().take() {
            seat.leave();
        }
    }

    /// Shows nothing of chats any more, and says so where something was shown
    /// without a subscription.
    fn leave_chats(&self) {
        let Some(seat) = self.seat.borrow_mut().take() else {
            return;
        };
        let was_used = seat.is_used();
        seat.leave();
        if was_used {
            let required = Permission::ChatAgents;
            let message = format!("chats are shown no longer: they need permission {required}");
            let complaint = Complaint::plain(ErrorCode::Forbidden, message);
            self.answer(&Answer::Refused(&complaint));
        }
    }

    pub(super) fn answer(&self, answer: &Answer<'_>) {
        if let Some(frame) = D::default().answer(answer) {
            let _sent = self.outbound.send_frame(&frame);
        }
    }
}

impl<D: Dialect> Holder for Standing<D> {
    fn name(&self) -> &str {
        &self.session
    }

    fn principal(&self) -> Option<Rc<Principal>> {
        Self::principal(self)
    }

    /// Goes on as `principal`: subscriptions that it is not entitled to end,
    /// and the client is told of each.
    fn go_on_as(&self, shard: &Shard, principal: Principal) {
        let permissions = principal.permissions;
        *self.principal.borrow_mut() = Some(Rc::new(principal));
        let lost: Vec<(String, Held)> = self
            .subscriptions
            .borrow_mut()
            .extract_if(|_, held| access::missing(permissions, held.channel()).is_some())
            .collect();
        for (name, held) in lost {
            let channel = held.channel();
            let Some(required) = access::missing(permissions, channel) else {
                continue;
            };
            match held {
                Held::Events { id, .. } => shard.hub.borrow_mut().unsubscribe(id),
                Held::Chats { session } => {
                    if let Some(seat) = self.seat() {
                        seat.unsubscribe(session.as_deref());
                    }
                }
            }
            let complaint = Complaint::plain(
                ErrorCode::Forbidden,
                format!(
                    "subscription {name} has ended: channel {channel} needs permission {required}",
                ),
            );
            self.answer(&Answer::Refused(&complaint));
            self.answer(&Answer::Unsubscribed {
                channel,
                subscription_id: &name,
            });
        }
        if !permissions.contains(Permission::ChatAgents) {
            self.leave_chats();
        }
    }

    /// Ends all that the connection has, and the connection.
    fn end(&self, shard: &Shard) {
        *self.principal.borrow_mut() = None;
        let held: Vec<Held> = self
            .subscriptions
            .borrow_mut()
            .drain()
            .map(|(_, held)| held)
            .collect();
        for held in held {
            if let Held::Events { id, .. } = held {
                shard.hub.borrow_mut().unsubscribe(id);
            }
        }
        self.get_up();
        let last = D::default().answer(&Answer::Denied {
            reason: REVOKED,
            occasion: Occasion::Request,
        });
        let code = CloseCode::POLICY_VIOLATION;
        match last {
            Some(frame) => self.outbound.close_with(frame, code, REVOKED),
            None => self.outbound.close(code, REVOKED),
        }
    }

    fn send_away(&self, message: &'static str) {
        let farewell = D::default().farewell(message, RETRY_AFTER);
        self.outbound
            .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
    }
}

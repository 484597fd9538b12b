//! Who a connection is: the part of a session that a revocation changes at
//! once, whatever the session itself is waiting for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use signalbox_identity::{Permission, Principal, Role};
use signalbox_protocol::ErrorCode;
use signalbox_transport::{CloseCode, Outbound};

use super::frames::last;
use crate::authority::REVOKED;
use crate::session::RETRY_AFTER;
use crate::shard::{Holder, Shard};

/// What a connection is used as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// It has not said.
    #[default]
    Stranger,
    /// It watches, and asks for commands.
    Dashboard,
    /// It runs commands.
    Agent,
}

/// See the module. Shared by the session and its entry in the shard's list.
pub(super) struct Standing {
    session: String,
    outbound: Outbound,
    principal: RefCell<Option<Rc<Principal>>>,
    expired: Cell<bool>,
    part: Cell<Part>,
}

impl Standing {
    pub(super) fn new(session: String, outbound: Outbound) -> Self {
        Self {
            session,
            outbound,
            principal: RefCell::default(),
            expired: Cell::default(),
            part: Cell::default(),
        }
    }

    /// Who the connection is, if it has authenticated.
    pub(super) fn principal(&self) -> Option<Rc<Principal>> {
        self.principal.borrow().clone()
    }

    /// What the connection is used as.
    pub(super) fn part(&self) -> Part {
        self.part.get()
    }

    /// Takes the connection as a dashboard's or an agent's from now on.
    pub(super) fn play(&self, part: Part) {
        self.part.set(part);
    }

    /// Whether the connection may do this now.
    pub(super) fn permits(&self, permission: Permission) -> bool {
        let principal = self.principal();
        let has = principal.is_some_and(|principal| principal.permissions.contains(permission));
        has && !self.expired.get()
    }

    /// The credential has expired: what was asked for and is not begun is not
    /// permitted any more.
    pub(super) fn expire(&self) {
        self.expired.set(true);
    }

    /// Closes the connection. What is queued was meant for someone who had the
    /// right to it.
    fn close(&self, reason: &str) {
        *self.principal.borrow_mut() = None;
        let frame = last(ErrorCode::AuthFailed, reason, None);
        self.outbound
            .close_with(frame, CloseCode::POLICY_VIOLATION, reason);
    }
}

impl Holder for Standing {
    fn name(&self) -> &str {
        &self.session
    }

    fn principal(&self) -> Option<Rc<Principal>> {
        Self::principal(self)
    }

    /// Goes on as `principal`, unless it may not be what it is.
    fn go_on_as(&self, _: &Shard, principal: Principal) {
        let is_entitled = match self.part.get() {
            Part::Stranger => true,
            Part::Dashboard => principal.permissions.contains(Permission::ReadAgents),
            Part::Agent => principal.role == Some(Role::Agent),
        };
        *self.principal.borrow_mut() = Some(Rc::new(principal));
        if !is_entitled {
            self.close("the credential no longer grants this");
        }
    }

    fn end(&self, _: &Shard) {
        self.close(REVOKED);
    }

    fn send_away(&self, message: &'static str) {
        let farewell = last(ErrorCode::ConnectionFailed, message, Some(RETRY_AFTER));
        self.outbound
            .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
    }
}

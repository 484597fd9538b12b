//! What becomes of a client whose credential is taken back while it is there.

use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::{Dialect, ErrorCode};

use super::seat::Seat;
use crate::authority::REVOKED;
use crate::dialect::{pipeline, workspace};
use crate::shard::{Holder, Shard};

impl Holder for Seat {
    fn name(&self) -> &str {
        &self.name
    }

    fn principal(&self) -> Option<Rc<Principal>> {
        Self::principal(self)
    }

    fn go_on_as(&self, _: &Shard, principal: Principal) {
        if let Some(desk) = self.desk.upgrade() {
            desk.go_on_as(self, principal);
        }
    }

    fn end(&self, _: &Shard) {
        if let Some(desk) = self.desk.upgrade() {
            self.withdraw(&desk.clock);
            desk.part(self, ErrorCode::AuthFailed, REVOKED);
        }
    }

    fn send_away(&self, message: &'static str) {
        let Some(desk) = self.desk.upgrade() else {
            return;
        };
        match self.dialect {
            Dialect::Workspace => self.say(&workspace::refusal(&workspace::Refused {
                code: ErrorCode::AuthFailed,
                message,
            })),
            _ => self.say(&pipeline::auth_error(ErrorCode::AuthFailed, message)),
        }
        // Nothing is kept: a session would go on without the key.
        self.forgotten.set(true);
        self.send_back(&desk.clock);
    }
}

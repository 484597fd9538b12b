//! Sessions of other gateways that come to a connection here.

use std::sync::Arc;

use signalbox_bus::subject::GatewayId;
use signalbox_protocol::wire::Nothing;
use signalbox_protocol::wire::neighbour_reply::Outcome;
use signalbox_protocol::wire::neighbour_request::What;
use signalbox_socketio::SessionState;
use signalbox_socketio::engine::{Claim, LocalFuture, Owner};

use super::calls::Calls;
use super::state;

/// A gateway that has a session.
pub(super) struct RemoteOwner {
    pub(super) calls: Arc<Calls>,
    pub(super) gateway: GatewayId,
    pub(super) sid: String,
}

impl Owner for RemoteOwner {
    fn make_way(self: Box<Self>) -> LocalFuture<Option<Box<dyn Claim>>> {
        Box::pin(async move {
            let patience = self.calls.patience().moving;
            let what = What::MakeWay(Nothing {});
            let asked = self.calls.ask(self.gateway, self.sid, what, patience);
            match asked.await {
                Ok((number, Outcome::Granted(_))) => {
                    let claim: Box<dyn Claim> = Box::new(RemoteClaim {
                        calls: Arc::clone(&self.calls),
                        gateway: self.gateway,
                        number,
                    });
                    Some(claim)
                }
                _ => None,
            }
        })
    }
}

/// The right to take a session over. Dropped, the gateway that has it is told.
struct RemoteClaim {
    calls: Arc<Calls>,
    gateway: GatewayId,
    /// Of the request to make way.
    number: u64,
}

impl Claim for RemoteClaim {
    fn hand_over(self: Box<Self>) -> LocalFuture<Option<SessionState>> {
        Box::pin(async move {
            let patience = self.calls.patience().moving;
            let what = What::HandOver(self.calls.answer_subject(self.number));
            let asked = self.calls.ask(self.gateway, String::new(), what, patience);
            match asked.await {
                Ok((_, Outcome::Session(state))) => state::from_wire(state),
                _ => None,
            }
        })
    }
}

impl Drop for RemoteClaim {
    fn drop(&mut self) {
        self.calls.give_up(self.gateway, self.number);
    }
}

//! The seam above Engine.IO: who is let in, and what becomes of messages.

use std::{future::Future, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::request::Parts;
use signalbox_transport::PendingUpgrade;
use tokio::time::Instant;

use super::{Answer, ClientState, EndReason, Link, Owner, Session, SessionRequest};
use crate::Malformed;

/// A message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(Bytes),
}

/// Takes an upgrade over on behalf of the shard that has the session.
pub type TakeUpgrade = Box<dyn FnOnce(PendingUpgrade)>;

/// What becomes of an upgrade of a session that is not here.
pub enum UpgradeElsewhere {
    /// The connection goes to the session: to another shard of this process, where
    /// [`Engine::upgrade`](super::Engine::upgrade) goes on.
    HandOn(TakeUpgrade),
    /// The session comes to the connection, from an engine that no connection can be handed to.
    Fetch(Box<dyn Owner>),
}

/// What a layer wants after a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Nothing.
    Done,
    /// Another call.
    Again(Instant),
    /// The end of the session.
    End,
}

/// What speaks above Engine.IO, one per shard. [`SocketIo`](crate::SocketIo) is the one that
/// matters.
///
/// None of these waits; what takes longer is a task of the layer's own. All are called on the
/// shard's thread, and never from within each other or from a call of [`Link`].
pub trait Layer: Sized + 'static {
    /// What is kept of the request that opened a session.
    type Opening: 'static;
    /// What is kept of a session.
    type Session: 'static;

    /// Makes the id of a new session. Ids are secrets: they must not be guessable.
    fn session_id(&self) -> String {
        crate::random_id()
    }

    /// Looks at a request that would open a session and keeps what later decisions need: the
    /// request itself is forgotten.
    ///
    /// # Errors
    /// The answer for one that is refused.
    fn admit(&self, request: &Parts, peer: IpAddr) -> Result<Self::Opening, Answer>;

    /// Begins a session.
    fn open(&self, link: &Rc<Link>, opening: Self::Opening) -> Self::Session;

    /// Takes a message.
    ///
    /// # Errors
    /// What is wrong with it; the session ends.
    fn message(&self, session: &Rc<Session<Self>>, message: Message<'_>) -> Result<(), Malformed>;

    /// Called when the time of [`Link::set_deadline`] has come.
    fn deadline(&self, session: &Rc<Session<Self>>, now: Instant) -> Deadline;

    /// Called once for every session, when it has ended.
    fn ended(&self, session: &Rc<Session<Self>>, reason: EndReason);

    /// Called after this side has left a namespace.
    fn left(&self, _session: &Rc<Session<Self>>, _namespace: &str) {}

    /// Answers a request to a session that is not here: on another shard or gateway, if the id says
    /// so. `None` if it is nowhere.
    ///
    /// The future is dropped when the client gives up; what was handed on must then end too, as a
    /// poll that nobody waits for.
    fn elsewhere(&self, _request: SessionRequest) -> impl Future<Output = Option<Answer>> {
        async { None }
    }

    /// What becomes of an upgrade of a session that is not here. `None` if nobody has the session;
    /// the client then stays with polling.
    fn upgrade_elsewhere(&self, _sid: &str) -> Option<UpgradeElsewhere> {
        None
    }

    /// Whether something of a session is in progress that would be lost if it moved now.
    fn is_busy(&self, _session: &Session<Self>) -> bool {
        false
    }

    /// What another engine needs to go on with a session; `None` if it cannot. Changes nothing,
    /// since it is also called to find out whether a session could move.
    fn freeze(&self, _session: &Session<Self>) -> Option<ClientState> {
        None
    }

    /// Called in place of [`ended`](Self::ended), right behind [`freeze`](Self::freeze), when a
    /// session has moved to another engine.
    fn moved(&self, _session: &Rc<Session<Self>>) {}

    /// What to keep of the request that opened a session elsewhere, with `here` of the request that
    /// has it come here.
    fn thaw_opening(&self, _here: Self::Opening, _opening: &[u8]) -> Option<Self::Opening> {
        None
    }

    /// Goes on with a session that has come from elsewhere, behind [`open`](Self::open). False if
    /// it cannot; the session then ends. Nothing is taken from the client meanwhile.
    fn thaw(
        &self,
        _session: &Rc<Session<Self>>,
        _state: ClientState,
    ) -> impl Future<Output = bool> {
        async { false }
    }
}

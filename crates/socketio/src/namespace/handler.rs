//! The seam to the user of the crate: who may join, and what happens to events.

use std::{borrow::Cow, fmt, future::Future, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::request::Parts;
use serde_json::value::RawValue;

use super::{Ack, Connecting, Socket, Verdict};
use crate::{Answer, EndReason, Link, SessionRequest, UpgradeElsewhere};

/// An event of a client.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its name; of a client that uses numbers, the number.
    pub name: Cow<'a, str>,
    /// Its arguments, as JSON; valid, but not looked into.
    pub arguments: Vec<&'a RawValue>,
    /// Its binary parts, for which placeholders `{"_placeholder": true, "num": N}` stand in the
    /// arguments. Those of them that stand there have a part.
    pub attachments: &'a [Bytes],
}

/// Why a socket left its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The client left the namespace.
    ClientLeft,
    /// This side ended it with [`Socket::disconnect`].
    ServerLeft,
    /// The whole session ended.
    Ended(EndReason),
    /// The session goes on elsewhere, with what [`Handler::freeze`] gave: its client notices
    /// nothing, and a [`Handler::thaw`] there takes the place of a CONNECT.
    Moved,
}

impl fmt::Display for DisconnectReason {
    /// In the words of the protocol's own server where it has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientLeft => f.write_str("client namespace disconnect"),
            Self::ServerLeft => f.write_str("server namespace disconnect"),
            Self::Ended(reason) => reason.fmt(f),
            Self::Moved => f.write_str("moved"),
        }
    }
}

/// What a server does with its sockets; one per shard.
///
/// Apart from [`connect`](Self::connect), [`thaw`](Self::thaw) and [`elsewhere`](Self::elsewhere)
/// nothing here waits: what takes longer is a task of the handler's own. All are called on the shard's thread, never
/// from within each other or from a call of [`Socket`].
pub trait Handler: Sized + 'static {
    /// What is kept of the request that opened an Engine.IO session: a credential in its query, who
    /// the client is. It lives as long as the session, the request does not.
    type Opening: 'static;
    /// What is kept of a socket. It is dropped when the socket has left.
    type Data: 'static;

    /// Makes the id of a new Engine.IO session, in which the instance may be named. Ids are secrets
    /// of their clients: see [`random_id`](crate::random_id).
    fn session_id(&self) -> String {
        crate::random_id()
    }

    /// Looks at a request that would open a session.
    ///
    /// # Errors
    /// The answer for one that is refused, see [`Answer::denied`].
    fn open(&self, request: &Parts, peer: IpAddr) -> Result<Self::Opening, Answer>;

    /// Called when a session begins, before anything of it is read: for its limits.
    fn opened(&self, _link: &Rc<Link>, _opening: &Rc<Self::Opening>) {}

    /// Decides whether a client may join a namespace, and joins its rooms.
    ///
    /// The client has no answer yet, and hears of nothing before it but what is emitted here, which
    /// is how missed events are replayed. Join where nothing is awaited any more: the answer goes
    /// out right behind the verdict, so that nothing comes between. Events that come meanwhile are
    /// kept, within bounds, and handed over once the client is in. The future is dropped when the
    /// client leaves.
    fn connect(
        self: Rc<Self>,
        connecting: Connecting<Self>,
    ) -> impl Future<Output = Verdict<Self::Data>>;

    /// Called right behind the answer to a CONNECT, for what is said first.
    fn connected(&self, _socket: &Socket, _data: &Rc<Self::Data>) {}

    /// Takes an event. `ack` is there if the client wants an acknowledgement.
    fn event(&self, socket: &Socket, data: &Rc<Self::Data>, event: Event<'_>, ack: Option<Ack>);

    /// Called once for every socket that was accepted, when it has left.
    fn disconnect(&self, socket: &Socket, data: &Rc<Self::Data>, reason: DisconnectReason);

    /// See [`Layer::elsewhere`](crate::Layer::elsewhere).
    fn elsewhere(&self, _request: SessionRequest) -> impl Future<Output = Option<Answer>> {
        async { None }
    }

    /// See [`Layer::upgrade_elsewhere`](crate::Layer::upgrade_elsewhere).
    fn upgrade_elsewhere(&self, _sid: &str) -> Option<UpgradeElsewhere> {
        None
    }

    /// Whether something is in progress for a socket that would be lost if it moved now. A move waits
    /// for the end of it, for a while.
    fn is_busy(&self, _socket: &Socket, _data: &Rc<Self::Data>) -> bool {
        false
    }

    /// What another server's [`thaw`](Self::thaw) needs to go on with a socket: rooms, the position
    /// up to which events were sent, who the user is. `None` if it cannot move now; its client
    /// stays with polling. Changes nothing, since it is also called to find that out.
    ///
    /// When the socket does move, [`disconnect`](Self::disconnect) with
    /// [`Moved`](DisconnectReason::Moved) follows at once, and nothing that is emitted from there
    /// on is sent. Never called while an [`Ack`] of the session is held.
    fn freeze(&self, _socket: &Socket, _data: &Rc<Self::Data>) -> Option<Vec<u8>> {
        None
    }

    /// What another server's [`thaw_opening`](Self::thaw_opening) needs; `None` if the session
    /// cannot move.
    fn freeze_opening(&self, _opening: &Self::Opening) -> Option<Vec<u8>> {
        None
    }

    /// What to keep of the request that opened a session on another server, as
    /// [`freeze_opening`](Self::freeze_opening) there gave it. `here` is what [`open`](Self::open)
    /// made of the upgrade request that has the session come here.
    fn thaw_opening(&self, _here: Self::Opening, _opening: &[u8]) -> Option<Self::Opening> {
        None
    }

    /// Goes on with a socket of another server, which has the id and the recovery that it had.
    /// `None` if that cannot be; the session ends, and its client returns.
    ///
    /// What is emitted here reaches the client behind everything that was sent there. Send what was
    /// missed, and join where nothing is awaited any more. Nothing is taken from the client
    /// meanwhile; the future is dropped when it takes too long.
    fn thaw(
        self: Rc<Self>,
        _socket: Socket,
        _opening: Rc<Self::Opening>,
        _data: Vec<u8>,
    ) -> impl Future<Output = Option<Self::Data>> {
        async { None }
    }

    /// Called right behind [`thaw`](Self::thaw), in place of [`connected`](Self::connected).
    fn thawed(&self, _socket: &Socket, _data: &Rc<Self::Data>) {}
}

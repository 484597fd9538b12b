//! The seam to the user of the crate: who may join, and what happens to events.

use std::{borrow::Cow, fmt, future::Future, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::request::Parts;
use serde_json::value::RawValue;

use super::{Ack, Connecting, Socket, Verdict};
use crate::{Answer, EndReason, Link, SessionRequest, engine::TakeUpgrade};

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
}

impl fmt::Display for DisconnectReason {
    /// In the words of the protocol's own server where it has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientLeft => f.write_str("client namespace disconnect"),
            Self::ServerLeft => f.write_str("server namespace disconnect"),
            Self::Ended(reason) => reason.fmt(f),
        }
    }
}

/// What a server does with its sockets; one per shard.
///
/// Apart from [`connect`](Self::connect) and [`elsewhere`](Self::elsewhere) nothing here waits:
/// what takes longer is a task of the handler's own. All are called on the shard's thread, never
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
    fn upgrade_elsewhere(&self, _sid: &str) -> Option<TakeUpgrade> {
        None
    }
}

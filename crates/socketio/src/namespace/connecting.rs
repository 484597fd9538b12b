//! A CONNECT that awaits its verdict.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::{Handler, Socket};

/// What a client that returns says about the session that it had.
#[derive(Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The secret that it was given then. Whether it is genuine is for the handler to find out.
    pub pid: String,
    /// The offset of the last event that it received, if any did.
    pub offset: Option<String>,
}

impl std::fmt::Debug for Recovery {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovery")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// A client that wants to join a namespace.
pub struct Connecting<H: Handler> {
    socket: Socket,
    auth: Map<String, Value>,
    opening: Rc<H::Opening>,
}

impl<H: Handler> Connecting<H> {
    pub(super) fn new(socket: Socket, auth: Map<String, Value>, opening: Rc<H::Opening>) -> Self {
        Self {
            socket,
            auth,
            opening,
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.socket.namespace()
    }

    /// What the client sent with its CONNECT; empty if nothing.
    pub fn auth(&self) -> &Map<String, Value> {
        &self.auth
    }

    /// What was kept of the request that opened the session.
    pub fn opening(&self) -> &Rc<H::Opening> {
        &self.opening
    }

    /// The socket that it will be. What is emitted now reaches the client ahead of the answer.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What the client says about a session that it had, if it asks for its recovery.
    pub fn recovery(&self) -> Option<Recovery> {
        let text = |key: &str| Some(self.auth.get(key)?.as_str()?.to_owned());
        Some(Recovery {
            pid: text("pid")?,
            offset: text("offset"),
        })
    }

    /// Lets the client recover this session later: the answer carries `pid`, and from now on the
    /// client takes the last argument of each event for an offset if it is a string.
    ///
    /// A new `pid` says that nothing was recovered, the one that the client brought that everything
    /// was.
    pub fn offer_recovery(&self, pid: impl Into<Box<str>>) {
        self.socket.offer_recovery(pid.into());
    }

    /// Gives the socket the id that it had in the recovered session.
    pub fn restore_id(&self, id: impl Into<Rc<str>>) {
        self.socket.restore_id(id.into());
    }
}

/// What is decided about a CONNECT.
#[derive(Debug)]
pub enum Verdict<D> {
    /// The client is in; `D` is kept with its socket.
    Accept(D),
    /// The client is not; the stock libraries do not try again.
    Refuse(Refusal),
    /// Not now: the transport is closed without an answer, and the stock libraries return.
    Close,
}

/// What a refused client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A sentence.
    pub message: String,
    /// What the client finds beside it, as `err.data` in JavaScript.
    pub data: Option<Value>,
}

impl Refusal {
    /// A refusal without data.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            data: None,
        }
    }

    /// The answer for a namespace that does not exist, as the protocol's own server words it.
    pub fn invalid_namespace() -> Self {
        Self::new("Invalid namespace")
    }
}

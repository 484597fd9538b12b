//! A session as plain values, on its way from one engine to another.

use std::{fmt, time::Duration};

use bytes::Bytes;

/// Everything that another engine needs to go on with a session.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SessionState {
    /// Its id, which stays.
    pub sid: String,
    /// What was sent and not fetched, oldest first.
    pub queue: Vec<QueuedPacket>,
    /// The longest message accepted.
    pub max_payload: usize,
    /// Until the heartbeat is looked at next.
    pub beat_in: Duration,
    /// Whether a pong is awaited until then; otherwise a ping is due.
    pub pong_awaited: bool,
    /// Whether the session is no stranger any more.
    pub settled: bool,
    /// What the layer above goes on with.
    pub client: ClientState,
}

/// An Engine.IO packet that waits for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueuedPacket {
    /// Text, with the type of the packet in front.
    Text(String),
    /// The bytes of a binary message.
    Binary(Bytes),
}

/// The Socket.IO part of a session.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientState {
    /// What the handler keeps of the request that opened the session.
    pub opening: Vec<u8>,
    /// How long the session may still be in no namespace, if it is in none.
    pub lonely_for: Option<Duration>,
    /// Whether a namespace was left.
    pub left_any: bool,
    /// A message whose attachments have not all come.
    pub partial: Option<PartialMessage>,
    /// The namespaces that the session is in.
    pub sockets: Vec<SocketState>,
}

/// A message of the client whose attachments have not all come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialMessage {
    /// Its text.
    pub packet: String,
    /// The attachments that have come.
    pub attachments: Vec<Bytes>,
}

/// A client in a namespace.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SocketState {
    /// The namespace.
    pub namespace: String,
    /// The id that the client knows itself by.
    pub id: String,
    /// The secret for a recovery, if one was offered.
    pub pid: Option<String>,
    /// The id of the next event that asks for an acknowledgement.
    pub next_ack: u64,
    /// What the handler keeps.
    pub data: Vec<u8>,
}

impl ClientState {
    /// About how many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        let partial = self.partial.as_ref().map_or(0, |partial| {
            partial.packet.len() + partial.attachments.iter().map(Bytes::len).sum::<usize>()
        });
        let sockets = self.sockets.iter().map(|socket| {
            socket.namespace.len()
                + socket.id.len()
                + socket.pid.as_ref().map_or(0, String::len)
                + socket.data.len()
        });
        self.opening.len() + partial + sockets.sum::<usize>()
    }
}

impl fmt::Debug for SessionState {
    /// Without the id, which is a secret, and without what is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionState")
            .field("queued", &self.queue.len())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientState {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientState")
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SocketState {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketState")
            .field("namespace", &self.namespace)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

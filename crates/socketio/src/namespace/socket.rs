//! A handle to one client in one namespace: what is sent to it, and its end.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::value::RawValue;
use signalbox_transport::{Outbound, Sent};
use tokio::time::Instant;

use super::acks::{AckError, Acknowledgement, Acks};
use crate::{Link, Packet, PacketBuilder, engine::SocketState};

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// The handler decides.
    Connecting,
    /// In its namespace.
    Connected,
    /// Told to leave by this side.
    Disconnected,
    /// Out of its namespace.
    Left,
}

/// A client in a namespace; a clone is another handle to the same.
///
/// It stays usable after the client has left: sending then does nothing.
#[derive(Clone)]
pub struct Socket(Rc<Inner>);

struct Inner {
    id: RefCell<Rc<str>>,
    namespace: Rc<str>,
    link: Rc<Link>,
    state: Cell<State>,
    pid: RefCell<Option<Box<str>>>,
    next_ack: Cell<u64>,
    max_acks: usize,
    acks: RefCell<Option<Box<Acks>>>,
}

impl PartialEq for Socket {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Socket {}

impl Socket {
    pub(super) fn new(namespace: &str, link: Rc<Link>, max_acks: usize) -> Self {
        Self(Rc::new(Inner {
            id: RefCell::new(crate::random_id().into()),
            namespace: namespace.into(),
            link,
            state: Cell::new(State::Connecting),
            pid: RefCell::default(),
            next_ack: Cell::default(),
            max_acks,
            acks: RefCell::default(),
        }))
    }

    /// A socket as it was on another engine, and what the handler there kept. It may be sent to, and
    /// is in its namespace with [`resume`](Self::resume).
    pub(super) fn thaw(state: SocketState, link: Rc<Link>, max_acks: usize) -> (Self, Vec<u8>) {
        let socket = Self::new(&state.namespace, link, max_acks);
        socket.restore_id(state.id.into());
        if let Some(pid) = state.pid {
            socket.offer_recovery(pid.into());
        }
        // An acknowledgement of an event that was sent there is not taken for one of an event of
        // here.
        socket.0.next_ack.set(state.next_ack);
        (socket, state.data)
    }

    /// What another engine needs beside what the handler keeps.
    pub(super) fn freeze(&self, data: Vec<u8>) -> SocketState {
        let inner = &*self.0;
        SocketState {
            namespace: inner.namespace.to_string(),
            id: inner.id.borrow().to_string(),
            pid: inner.pid.borrow().as_deref().map(str::to_owned),
            next_ack: inner.next_ack.get(),
            data,
        }
    }

    /// The id that the client knows itself by; not a secret.
    pub fn id(&self) -> Rc<str> {
        Rc::clone(&self.0.id.borrow())
    }

    /// The namespace.
    pub fn namespace(&self) -> &Rc<str> {
        &self.0.namespace
    }

    /// The session, which other sockets may share.
    pub fn link(&self) -> &Rc<Link> {
        &self.0.link
    }

    /// The way out of the session, for a fan-out that sends frames of many packets at once. It is
    /// shared with the session's other namespaces and outlives this socket in its namespace: who
    /// keeps it lets go of it in [`Handler::disconnect`](crate::Handler::disconnect).
    pub fn outbound(&self) -> &Outbound {
        self.0.link.outbound()
    }

    /// Whether the client is in its namespace.
    pub fn is_connected(&self) -> bool {
        self.0.state.get() == State::Connected
    }

    /// Whether the client takes the last argument of each event for an offset.
    pub fn is_recoverable(&self) -> bool {
        self.0.pid.borrow().is_some()
    }

    /// Sends a packet, which must be of this namespace.
    ///
    /// To a recoverable client an event that ends in a string without being an offset is sent with
    /// a further argument `null`, or the client would later ask for that offset.
    pub fn emit(&self, packet: &Packet) -> Sent {
        if self.0.state.get() > State::Connected {
            return Sent::Closed;
        }
        if packet.ends_in_string() && self.is_recoverable() {
            return self.outbound().send(packet.guarded().frames());
        }
        self.outbound().send(packet.frames())
    }

    /// Sends an event and waits for its acknowledgement.
    ///
    /// The event is sent at once, whether the future is awaited or not. Do not await it within
    /// [`Handler::connect`](crate::Handler::connect): the client does not acknowledge anything
    /// before it is in.
    pub fn emit_with_ack(
        &self,
        event: PacketBuilder,
        limit: Duration,
    ) -> impl Future<Output = Result<Acknowledgement, AckError>> + use<> {
        let sent = self.ask(event, limit);
        async move { sent?.await.unwrap_or(Err(AckError::Disconnected)) }
    }

    fn ask(
        &self,
        event: PacketBuilder,
        limit: Duration,
    ) -> Result<tokio::sync::oneshot::Receiver<super::acks::Answered>, AckError> {
        if self.0.state.get() > State::Connected {
            return Err(AckError::Disconnected);
        }
        let until = Instant::now() + limit;
        let id = self.0.next_ack.get();
        let answered = {
            let mut acks = self.0.acks.borrow_mut();
            let acks = acks.get_or_insert_default();
            if acks.len() >= self.0.max_acks {
                return Err(AckError::TooMany);
            }
            acks.push(id, until)
        };
        self.0.next_ack.set(id + 1);
        self.0.link.set_deadline(until);
        match self.emit(&event.id(id).build()) {
            Sent::Closed => Err(AckError::Disconnected),
            _ => Ok(answered),
        }
    }

    /// Ends the namespace: the client leaves it and does not return by itself. The transport stays
    /// for the session's other namespaces.
    pub fn disconnect(&self) {
        if self.0.state.get() > State::Connected {
            return;
        }
        self.0.state.set(State::Disconnected);
        let packet = Packet::disconnect(&self.0.namespace);
        // A session that takes no more ends by itself.
        let _sent = self.outbound().send(packet.frames());
        self.0.link.leave(&self.0.namespace);
    }

    /// Closes the transport after what is queued, with all namespaces of the session: the stock
    /// libraries return.
    pub fn close(&self) {
        self.0.link.close();
    }

    pub(super) fn offer_recovery(&self, pid: Box<str>) {
        *self.0.pid.borrow_mut() = Some(pid);
    }

    pub(super) fn restore_id(&self, id: Rc<str>) {
        *self.0.id.borrow_mut() = id;
    }

    /// Lets the client in and says so to it.
    pub(super) fn enter(&self) {
        let inner = &*self.0;
        inner.state.set(State::Connected);
        let packet = Packet::connect(
            &inner.namespace,
            &inner.id.borrow(),
            inner.pid.borrow().as_deref(),
        );
        // A session that takes no more ends by itself.
        let _sent = inner.link.outbound().send(packet.frames());
    }

    /// Lets a client go on that was let in elsewhere.
    pub(super) fn resume(&self) {
        if self.0.state.get() == State::Connecting {
            self.0.state.set(State::Connected);
        }
    }

    /// Whether this side has ended the namespace.
    pub(super) fn was_disconnected(&self) -> bool {
        self.0.state.get() == State::Disconnected
    }

    /// Marks the end; whoever waits for an acknowledgement learns of it.
    pub(super) fn leave(&self) {
        self.0.state.set(State::Left);
        self.0.acks.take();
    }

    pub(super) fn acknowledged(&self, id: u64, arguments: &[&RawValue], attachments: &[Bytes]) {
        let mut slot = self.0.acks.borrow_mut();
        let Some(acks) = slot.as_mut() else {
            return;
        };
        acks.settle(id, || Acknowledgement {
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            attachments: attachments.to_vec(),
        });
        if acks.len() == 0 {
            *slot = None;
        }
    }

    /// Gives up acknowledgements whose time is over; gives the next deadline.
    pub(super) fn expire_acks(&self, now: Instant) -> Option<Instant> {
        let mut slot = self.0.acks.borrow_mut();
        let next = slot.as_mut()?.expire(now);
        if next.is_none() {
            *slot = None;
        }
        next
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.0.id.borrow())
            .field("namespace", &self.0.namespace)
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}

/// The acknowledgement that a client wants. Dropped, it is never sent: the client's own time-out
/// ends its wait.
#[derive(Debug)]
pub struct Ack {
    socket: Socket,
    id: u64,
}

impl Ack {
    pub(super) fn new(socket: Socket, id: u64) -> Self {
        socket.link().owe();
        Self { socket, id }
    }

    /// Sends it, with the arguments that `fill` appends.
    pub fn send(self, fill: impl FnOnce(PacketBuilder) -> PacketBuilder) -> Sent {
        let packet = fill(Packet::ack(self.socket.namespace(), self.id)).build();
        self.socket.emit(&packet)
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        self.socket.link().owe_less();
    }
}

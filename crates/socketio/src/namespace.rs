//! Socket.IO 5: namespaces, events and acknowledgements of each session. What they mean is for a
//! [`Handler`].

mod acks;
mod connecting;
mod handler;
mod layer;
mod moving;
mod socket;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::{task::AbortHandle, time::Instant};

pub use self::{
    acks::{AckError, Acknowledgement},
    connecting::{Connecting, Recovery, Refusal, Verdict},
    handler::{DisconnectReason, Event, Handler},
    socket::{Ack, Socket},
};
use crate::{
    Malformed, Packet,
    codec::{
        Assembled, Assembler, AssemblyLimits, Body, Header, SocketPacket, arguments,
        decode_socket_packet,
    },
    engine::Session,
};

/// Messages that are kept for a namespace whose CONNECT awaits its verdict; one more is out of
/// turn and ends the session. The stock libraries send none before the answer.
const MAX_HELD: usize = 32;
/// Bytes of those messages together; more end the session.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// Settings of the Socket.IO layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketIoOptions {
    /// How long a session may be in no namespace; default 30 s. Then its transport is closed, unless
    /// the handler still decides on a CONNECT.
    pub connect_timeout: Duration,
    /// Namespaces of one session; default 16. The next is refused with CONNECT_ERROR.
    pub max_namespaces: usize,
    /// Bounds of messages with binary attachments; default 10 attachments, as in the protocol's own
    /// libraries, and 1,048,576 bytes together. More ends the session.
    pub assembly: AssemblyLimits,
    /// Acknowledgements that a socket may owe; default 1,024. Beyond it asking for one fails.
    pub max_pending_acks: usize,
}

impl Default for SocketIoOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            max_namespaces: 16,
            assembly: AssemblyLimits {
                attachments: 10,
                bytes: 1_048_576,
            },
            max_pending_acks: 1_024,
        }
    }
}

/// The layer between an [`Engine`](crate::Engine) and a [`Handler`].
pub struct SocketIo<H: Handler> {
    handler: Rc<H>,
    options: SocketIoOptions,
}

/// What is kept of a session.
pub struct Client<H: Handler> {
    opening: Rc<H::Opening>,
    members: RefCell<Vec<Member<H>>>,
    /// A message whose attachments have not all come.
    assembler: RefCell<Option<Box<Assembler>>>,
    /// When a session in no namespace is closed.
    lonely_until: Cell<Option<Instant>>,
    /// Whether a namespace was left: packets for it may still be on their way.
    left_any: Cell<bool>,
}

/// A namespace that a session is in, or about to be.
struct Member<H: Handler> {
    socket: Socket,
    state: MemberState<H>,
}

enum MemberState<H: Handler> {
    /// The handler decides; what comes meanwhile waits.
    Connecting(AbortHandle, Vec<Assembled>),
    /// In, with what the handler keeps.
    In(Rc<H::Data>),
}

impl<H: Handler> Drop for Member<H> {
    fn drop(&mut self) {
        if let MemberState::Connecting(task, _) = &self.state {
            task.abort();
        }
    }
}

impl<H: Handler> Client<H> {
    fn position(&self, namespace: &str) -> Option<usize> {
        self.members
            .borrow()
            .iter()
            .position(|member| &**member.socket.namespace() == namespace)
    }

    /// The socket of a namespace that the session is in.
    fn member(&self, namespace: &str) -> Option<(Socket, Rc<H::Data>)> {
        let members = self.members.borrow();
        members.iter().find_map(|member| match &member.state {
            MemberState::In(data) if &**member.socket.namespace() == namespace => {
                Some((member.socket.clone(), Rc::clone(data)))
            }
            _ => None,
        })
    }

    fn take(&self, namespace: &str) -> Option<Member<H>> {
        let index = self.position(namespace)?;
        let mut members = self.members.borrow_mut();
        let member = members.remove(index);
        members.shrink_to_fit();
        Some(member)
    }

    /// Keeps a message for a namespace that awaits its verdict; `None` if there is none.
    fn hold(&self, message: Assembled) -> Option<Result<(), Malformed>> {
        let mut members = self.members.borrow_mut();
        let namespace = message.header().namespace;
        let held = members
            .iter_mut()
            .find_map(|member| match &mut member.state {
                MemberState::Connecting(_, held) if &**member.socket.namespace() == namespace => {
                    Some(held)
                }
                _ => None,
            })?;
        let bytes = held.iter().map(Assembled::bytes).sum::<usize>() + message.bytes();
        if held.len() >= MAX_HELD || bytes > MAX_HELD_BYTES {
            return Some(Err(Malformed::State));
        }
        held.push(message);
        Some(Ok(()))
    }

    fn is_awaiting_verdict(&self) -> bool {
        let members = self.members.borrow();
        members
            .iter()
            .any(|member| matches!(member.state, MemberState::Connecting(..)))
    }

    fn is_lonely(&self) -> bool {
        let members = self.members.borrow();
        !members
            .iter()
            .any(|member| matches!(member.state, MemberState::In(_)))
    }
}

impl<H: Handler> SocketIo<H> {
    /// The layer over `handler`.
    pub fn new(handler: Rc<H>, options: SocketIoOptions) -> Self {
        Self { handler, options }
    }

    /// The handler.
    pub fn handler(&self) -> &Rc<H> {
        &self.handler
    }

    fn connect(
        &self,
        session: &Rc<Session<Self>>,
        namespace: &str,
        auth: Map<String, Value>,
    ) -> Result<(), Malformed> {
        let (link, client) = (&session.link, &session.data);
        if client.position(namespace).is_some() {
            return Err(Malformed::State);
        }
        if link.core().draining.get() {
            link.close();
            return Ok(());
        }
        if client.members.borrow().len() >= self.options.max_namespaces {
            let refusal = Packet::connect_error(namespace, "too many namespaces", None);
            // A session that takes no more ends by itself.
            let _sent = link.outbound().send(refusal.frames());
            return Ok(());
        }
        let socket = Socket::new(namespace, Rc::clone(link), self.options.max_pending_acks);
        let connecting = Connecting::new(socket.clone(), auth, Rc::clone(&client.opening));
        let handler = Rc::clone(&self.handler);
        let ours = Rc::clone(session);
        let task = link.core().spawn(async move {
            let socket = connecting.socket().clone();
            let verdict = Rc::clone(&handler).connect(connecting).await;
            let held = decide(&handler, &ours, &socket, verdict);
            for message in held {
                let Some((socket, data)) = ours.data.member(message.header().namespace) else {
                    break;
                };
                let (payload, attachments) = (&message.payload, &message.attachments);
                hand_over(
                    &*handler,
                    &socket,
                    &data,
                    message.header(),
                    payload,
                    attachments,
                )
                .ok();
            }
        });
        // Room for exactly one: hardly anyone is in a second.
        let mut members = client.members.borrow_mut();
        members.reserve_exact(1);
        members.push(Member {
            socket,
            state: MemberState::Connecting(task, Vec::new()),
        });
        Ok(())
    }

    /// Ends a membership and says so to the handler, once.
    fn depart(&self, client: &Client<H>, member: &Member<H>, reason: DisconnectReason) {
        member.socket.leave();
        client.left_any.set(true);
        if let MemberState::In(data) = &member.state {
            self.handler.disconnect(&member.socket, data, reason);
        }
    }

    /// After a namespace was left: the next, or the end.
    fn look_lonely(&self, session: &Session<Self>) {
        let (link, client) = (&session.link, &session.data);
        if client.is_lonely() && !link.is_ended() {
            let until = Instant::now() + self.options.connect_timeout;
            client.lonely_until.set(Some(until));
            link.set_deadline(until);
        }
    }

    fn deliver(
        &self,
        client: &Client<H>,
        header: Header<'_>,
        payload: &str,
        attachments: &[Bytes],
    ) -> Result<(), Malformed> {
        let Some((socket, data)) = client.member(header.namespace) else {
            // What is no message is not kept either.
            arguments(header.body, payload)?;
            let mut message = Assembled::bare(header, payload);
            message.attachments = attachments.to_vec();
            return client
                .hold(message)
                .unwrap_or_else(|| self.stray(client, header.namespace));
        };
        hand_over(&*self.handler, &socket, &data, header, payload, attachments)
    }

    /// A packet for a namespace that the session is not in: it may have crossed the end of a
    /// namespace, but a session that never was in one broke the protocol.
    fn stray(&self, client: &Client<H>, namespace: &str) -> Result<(), Malformed> {
        if client.left_any.get() && client.position(namespace).is_none() {
            Ok(())
        } else {
            Err(Malformed::State)
        }
    }

    fn text(&self, session: &Rc<Session<Self>>, text: &str) -> Result<(), Malformed> {
        let client = &session.data;
        if client.assembler.borrow().is_some() {
            return Err(Malformed::AttachmentAwaited);
        }
        match decode_socket_packet(text, self.options.assembly.attachments)? {
            SocketPacket::Connect { namespace, auth } => self.connect(session, namespace, auth),
            SocketPacket::Disconnect { namespace } => {
                let Some(member) = client.take(namespace) else {
                    return self.stray(client, namespace);
                };
                self.depart(client, &member, DisconnectReason::ClientLeft);
                self.look_lonely(session);
                Ok(())
            }
            SocketPacket::Message {
                header,
                attachments: 0,
                payload,
            } => self.deliver(client, header, payload, &[]),
            SocketPacket::Message {
                header,
                attachments,
                payload,
            } => {
                // What could not be delivered is not kept either.
                if client.position(header.namespace).is_none() && !client.left_any.get() {
                    return Err(Malformed::State);
                }
                let assembler =
                    Assembler::new(header, attachments, payload, &self.options.assembly)?;
                *client.assembler.borrow_mut() = Some(Box::new(assembler));
                Ok(())
            }
        }
    }

    fn binary(&self, client: &Client<H>, bytes: Bytes) -> Result<(), Malformed> {
        let assembled = {
            let mut slot = client.assembler.borrow_mut();
            let assembler = slot.as_mut().ok_or(Malformed::Unannounced)?;
            let assembled = assembler.take(bytes)?;
            if assembled.is_some() {
                *slot = None;
            }
            assembled
        };
        match assembled {
            Some(whole) => self.deliver(client, whole.header(), &whole.payload, &whole.attachments),
            None => Ok(()),
        }
    }
}

/// Gives a message to the handler, or an acknowledgement to who waits for it.
fn hand_over<H: Handler>(
    handler: &H,
    socket: &Socket,
    data: &Rc<H::Data>,
    header: Header<'_>,
    payload: &str,
    attachments: &[Bytes],
) -> Result<(), Malformed> {
    let (name, arguments) = arguments(header.body, payload)?;
    if !socket.is_connected() {
        return Ok(());
    }
    match header.body {
        Body::Event { ack } => {
            let ack = ack.map(|id| Ack::new(socket.clone(), id));
            let event = Event {
                name,
                arguments,
                attachments,
            };
            handler.event(socket, data, event, ack);
        }
        Body::Ack { id } => socket.acknowledged(id, &arguments, attachments),
    }
    Ok(())
}

/// Carries out a verdict. Nothing comes between it and the answer to the client. Gives the messages
/// that waited for it.
fn decide<H: Handler>(
    handler: &Rc<H>,
    session: &Session<SocketIo<H>>,
    socket: &Socket,
    verdict: Verdict<H::Data>,
) -> Vec<Assembled> {
    let mut held = Vec::new();
    let (link, client) = (&session.link, &session.data);
    let namespace = socket.namespace();
    link.core().calmer.notify_waiters();
    match verdict {
        // Its end is under way.
        Verdict::Accept(_) if socket.was_disconnected() => {}
        Verdict::Accept(data) => {
            let data = Rc::new(data);
            {
                let mut members = client.members.borrow_mut();
                let member = members.iter_mut().find(|member| member.socket == *socket);
                let Some(member) = member else {
                    return held;
                };
                if let MemberState::Connecting(_, waiting) = &mut member.state {
                    held = std::mem::take(waiting);
                }
                member.state = MemberState::In(Rc::clone(&data));
            }
            socket.enter();
            client.lonely_until.set(None);
            link.settle();
            handler.connected(socket, &data);
        }
        Verdict::Refuse(refusal) => {
            drop(client.take(namespace));
            let packet = Packet::connect_error(namespace, &refusal.message, refusal.data.as_ref());
            // A session that takes no more ends by itself.
            let _sent = link.outbound().send(packet.frames());
        }
        Verdict::Close => {
            drop(client.take(namespace));
            link.close();
        }
    }
    held
}

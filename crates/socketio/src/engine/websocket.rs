//! WebSocket connections: sessions that begin on one, and those that move to one.

use std::rc::Rc;

use signalbox_transport::{CloseCode, Frame, Incoming, PendingUpgrade, WebSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::{Chore, EndReason, Engine, Layer, Session, Transport, core::Unsettled};
use crate::codec::{EnginePacket, decode_packet};

/// The longest message of a connection that is not a session's yet.
const MAX_PROBE_BYTES: usize = 64;
const PROBE: &str = "probe";

impl<L: Layer> Engine<L> {
    /// Serves a session from its first byte to its last.
    pub(super) async fn serve_websocket(
        self: Rc<Self>,
        pending: PendingUpgrade,
        opening: L::Opening,
        unsettled: Unsettled,
    ) {
        let socket = match timeout(self.options.upgrade_timeout, pending.complete()).await {
            Ok(Ok((stream, read_ahead))) => {
                let options = self.websocket_options(self.options.max_payload);
                WebSocket::new(stream, read_ahead, &options)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => return,
        };
        match socket {
            Ok(socket) => {
                let sid = self.layer.session_id().into();
                let session = self.begin(sid, opening, unsettled, Some(socket.outbound()));
                let open = Frame::text(&self.open_packet(&session.link));
                // One that is gone already says so to its reader.
                let _sent = session.link.outbound().send_frame(&open);
                self.converse(&session, socket).await;
            }
            Err(error) => debug!(%error, "connection lost at its start"),
        }
    }

    /// Reads a session's messages to the end of the connection, which may outlive the session by
    /// the closing grace.
    pub(super) async fn converse(&self, session: &Rc<Session<L>>, mut socket: WebSocket) {
        let link = &session.link;
        let _panicked = self.unattended(session);
        let mut max_payload = self.options.max_payload;
        loop {
            if link.max_payload() != max_payload {
                max_payload = link.max_payload();
                socket.set_max_message_bytes(max_payload);
            }
            let taken = match socket.next().await {
                Incoming::Closed(closure) => {
                    self.end(session, EndReason::of(&closure));
                    return;
                }
                _ if link.is_ended() => continue,
                Incoming::Text(text) => {
                    decode_packet(&text).and_then(|packet| self.packet(session, packet))
                }
                Incoming::Binary(bytes) => self.packet(session, EnginePacket::Binary(bytes)),
            };
            if let Err(malformed) = taken {
                self.refuse(session, malformed);
            }
        }
    }

    /// Lets a WebSocket connection take over a session that polls.
    pub(super) async fn probe(self: Rc<Self>, sid: &str, pending: PendingUpgrade) {
        let deadline = Instant::now() + self.options.upgrade_timeout;
        let Some(mut socket) = self.take_connection(pending, deadline).await else {
            return;
        };
        let session = self.find(sid).filter(|session| {
            let link = &session.link;
            link.transport() == Transport::Polling && !link.is_ended() && !link.probing.get()
        });
        let Some(session) = session else {
            turn_away(socket, "the session cannot be upgraded").await;
            return;
        };
        session.link.probing.set(true);
        session.link.made_way.set(false);
        let probed = {
            let _probing = Probing(&session);
            timeout_at(deadline, handshake(&session, &mut socket)).await == Ok(true)
                && self.take_over(&session, &mut socket)
        };
        if probed {
            self.converse(&session, socket).await;
        } else {
            turn_away(socket, "upgrade not completed").await;
        }
    }

    /// A connection that is no session's yet.
    pub(super) async fn take_connection(
        &self,
        pending: PendingUpgrade,
        deadline: Instant,
    ) -> Option<WebSocket> {
        let (stream, read_ahead) = timeout_at(deadline, pending.complete()).await.ok()?.ok()?;
        let options = self.websocket_options(MAX_PROBE_BYTES);
        WebSocket::new(stream, read_ahead, &options).ok()
    }

    /// Sees to it that a session ends even should the layer panic.
    pub(super) fn unattended<'a>(&'a self, session: &'a Session<L>) -> Unattended<'a, L> {
        Unattended {
            engine: self,
            session,
        }
    }

    /// Moves a session to a connection that has completed the handshake.
    fn take_over(&self, session: &Session<L>, socket: &mut WebSocket) -> bool {
        let link = &session.link;
        if link.is_ended() {
            return false;
        }
        // Before the old socket is dropped, which would otherwise end the session.
        link.transport.set(Transport::WebSocket);
        if !socket.adopt(link.outbound()) {
            link.transport.set(Transport::Polling);
            return false;
        }
        let polling = link.polling.take();
        // A client that has not waited for its last poll is told to go on.
        if let Some(polling) = polling {
            polling.answer_noop();
        }
        socket.set_max_message_bytes(link.max_payload());
        true
    }
}

/// The probe and its answer, then the end of the upgrade. False if the client does otherwise.
async fn handshake<L: Layer>(session: &Session<L>, socket: &mut WebSocket) -> bool {
    if !is_probe(&socket.next().await) {
        return false;
    }
    answer_probe(socket);
    // The poll that waits would keep the client from going on.
    if let Some(polling) = &*session.link.polling.borrow()
        && polling.is_idle()
    {
        session.link.made_way.set(true);
        polling.answer_noop();
    }
    is_completion(&socket.next().await)
}

pub(super) fn is_probe(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Text(probe) if decode_packet(probe) == Ok(EnginePacket::Ping(PROBE)))
}

pub(super) fn answer_probe(socket: &WebSocket) {
    // One that is gone already says so to its reader.
    let _sent = socket.outbound().send_frame(&Frame::text("3probe"));
}

pub(super) fn is_completion(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Text(end) if decode_packet(end) == Ok(EnginePacket::Upgrade))
}

/// Closes a connection that is no session's.
pub(super) async fn turn_away(mut socket: WebSocket, reason: &str) {
    socket.outbound().close(CloseCode::POLICY_VIOLATION, reason);
    socket.closed().await;
}

/// Ends the attempt when dropped.
struct Probing<'a, L: Layer>(&'a Session<L>);

impl<L: Layer> Drop for Probing<'_, L> {
    fn drop(&mut self) {
        self.0.link.probing.set(false);
    }
}

/// Has a session ended at the next turn, if it has not been by then.
pub(super) struct Unattended<'a, L: Layer> {
    engine: &'a Engine<L>,
    session: &'a Session<L>,
}

impl<L: Layer> Drop for Unattended<'_, L> {
    fn drop(&mut self) {
        let link = &self.session.link;
        if !link.is_ended() {
            let chore = Chore::End(link.key, EndReason::TransportError);
            self.engine.core.add_chore(chore);
        }
    }
}

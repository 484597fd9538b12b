//! Sessions that move from the engine where they poll to the one where their WebSocket connection
//! has arrived.
//!
//! The engine that has the session decides alone: it lets one connection at a time prepare, and
//! gives the session away at most once. Whatever fails after that ends the session, and its client
//! returns as after any break; there are never two that have it.

use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use signalbox_transport::{Frame, FrameKind, Outbound, PendingUpgrade, WebSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::{
    EndReason, Engine, Layer, Link, QueuedPacket, Session, SessionState, Transport,
    core::Unsettled,
    websocket::{answer_probe, is_completion, is_probe, turn_away},
};

/// How often a handler that is busy is asked whether it still is.
const BUSY_LOOK: Duration = Duration::from_millis(20);

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The engine that has a session, as one sees it that has a WebSocket connection for it.
pub trait Owner {
    /// See [`Engine::make_way`]. `None` if the session does not move; its client stays with polling.
    fn make_way(self: Box<Self>) -> LocalFuture<Option<Box<dyn Claim>>>;
}

/// The right to take a session over. Dropped, it lets the session go on where it is.
pub trait Claim {
    /// See [`Departure::hand_over`].
    fn hand_over(self: Box<Self>) -> LocalFuture<Option<SessionState>>;
}

/// A session of an engine that is about to move. Dropped, it lets the session go on.
pub struct Departure<L: Layer> {
    engine: Rc<Engine<L>>,
    session: Rc<Session<L>>,
}

impl<L: Layer> Departure<L> {
    /// Takes the session out of its engine, with everything that its client has not fetched.
    ///
    /// From this call on the session takes no requests. What is in progress, as a body, a verdict
    /// or an owed acknowledgement, has [`move_patience`](super::EngineOptions::move_patience) to
    /// end. `None` if it does not, or if the session has ended or is too large.
    pub async fn hand_over(self) -> Option<SessionState> {
        let (engine, session) = (&self.engine, &self.session);
        session.link.frozen.set(true);
        let patience = engine.options.move_patience;
        timeout(patience, engine.calm(session)).await.ok()?;
        engine.export(session)
    }
}

impl<L: Layer> Claim for Departure<L> {
    fn hand_over(self: Box<Self>) -> LocalFuture<Option<SessionState>> {
        Box::pin(Self::hand_over(*self))
    }
}

impl<L: Layer> Drop for Departure<L> {
    fn drop(&mut self) {
        let link = &self.session.link;
        link.frozen.set(false);
        link.probing.set(false);
    }
}

impl<L: Layer> Engine<L> {
    /// Prepares a session that polls for its move to another engine, which has answered no probe
    /// yet: waits until nothing is in progress, and answers the poll that would keep the client
    /// from going on.
    ///
    /// `None` if there is no such session, if another connection is about to take it over, if it
    /// stays busy for [`move_patience`](super::EngineOptions::move_patience), or if the layer above
    /// cannot let it go. It then polls on as if nothing had been asked.
    pub async fn make_way(self: &Rc<Self>, sid: &str) -> Option<Departure<L>> {
        self.turn();
        let session = self.find(sid)?;
        let link = &session.link;
        if !is_movable(link) {
            return None;
        }
        let patience = self.options.move_patience;
        timeout(patience, self.calm(&session)).await.ok()?;
        self.turn();
        // Asked again behind the wait: of two that want the session the first has it.
        if !is_movable(link) {
            return None;
        }
        self.layer.freeze(&session)?;
        let polling = link.polling.borrow().clone()?;
        link.probing.set(true);
        link.made_way.set(polling.is_idle());
        polling.answer_noop();
        Some(Departure {
            engine: Rc::clone(self),
            session: Rc::clone(&session),
        })
    }

    /// Waits until nothing of a session is in progress, or it has ended. Handlers do not tell when
    /// they are done, so that they are asked.
    async fn calm(&self, session: &Session<L>) {
        loop {
            let mut calmer = pin!(self.core.calmer.notified());
            calmer.as_mut().enable();
            if session.link.is_ended() || !self.is_busy(session) {
                return;
            }
            timeout(BUSY_LOOK, calmer).await.ok();
        }
    }

    fn is_busy(&self, session: &Session<L>) -> bool {
        let link = &session.link;
        let pushing = link
            .polling
            .borrow()
            .as_ref()
            .is_some_and(|polling| polling.pushing.get());
        pushing || link.owes() || self.layer.is_busy(session)
    }

    /// Turns a session into values and forgets it. Nothing is awaited, so that nothing comes
    /// between what is taken along and what is not.
    fn export(&self, session: &Rc<Session<L>>) -> Option<SessionState> {
        self.turn();
        let link = &session.link;
        if link.is_ended() || link.transport() != Transport::Polling || self.is_busy(session) {
            return None;
        }
        let client = self.layer.freeze(session)?;
        let bytes = client.bytes() + link.outbound().queued_bytes();
        if bytes > self.options.max_move_bytes {
            debug!(bytes, session = ?link, "too much to move");
            return None;
        }
        // A client that has not waited for its last poll is told to go on.
        link.polling.borrow().as_ref()?.answer_noop();
        let frames = link.outbound().surrender()?;
        link.ended.set(true);
        let beat = link.beat.get();
        let state = SessionState {
            sid: link.sid().to_string(),
            queue: frames.iter().filter_map(packet).collect(),
            max_payload: link.max_payload(),
            beat_in: beat.due.saturating_duration_since(Instant::now()),
            pong_awaited: beat.awaiting,
            settled: link.settle(),
            client,
        };
        debug!(queued = state.queue.len(), session = ?link, "session handed over");
        self.forget(link);
        self.layer.moved(session);
        Some(state)
    }

    /// Has a session of another engine come here, to a connection that was agreed to.
    pub(super) fn fetch(
        self: &Rc<Self>,
        sid: &str,
        pending: PendingUpgrade,
        owner: Box<dyn Owner>,
        opening: L::Opening,
        unsettled: Unsettled,
    ) {
        let engine = Rc::clone(self);
        let sid = sid.to_owned();
        self.core.spawn(async move {
            let deadline = Instant::now() + engine.options.upgrade_timeout;
            let Some(mut socket) = engine.take_connection(pending, deadline).await else {
                return;
            };
            let handshake = timeout_at(deadline, agree(owner, &mut socket));
            let Ok(Some(claim)) = handshake.await else {
                turn_away(socket, "upgrade not completed").await;
                return;
            };
            let limit = engine.options.upgrade_timeout;
            match timeout(limit, claim.hand_over()).await {
                Ok(Some(state)) if state.sid == sid => {
                    engine.go_on(state, socket, opening, unsettled).await;
                }
                // The client takes its upgrade for done: it returns.
                _ => turn_away(socket, "the session did not move").await,
            }
        });
    }

    /// Goes on with a session that has come here.
    async fn go_on(
        self: &Rc<Self>,
        state: SessionState,
        mut socket: WebSocket,
        opening: L::Opening,
        unsettled: Unsettled,
    ) {
        let imported = self.import(&state, socket.outbound(), opening, unsettled);
        let Some(session) = imported else {
            turn_away(socket, "the session cannot go on here").await;
            return;
        };
        socket.set_max_message_bytes(session.link.max_payload());
        let _panicked = self.unattended(&session);
        let limit = self.options.upgrade_timeout;
        // Nothing is read meanwhile: what the client says finds everything in its place.
        let thawed = timeout(limit, self.layer.thaw(&session, state.client)).await;
        if thawed != Ok(true) {
            self.end(&session, EndReason::ServerClosed);
        }
        self.converse(&session, socket).await;
    }

    fn import(
        &self,
        state: &SessionState,
        outbound: Outbound,
        opening: L::Opening,
        unsettled: Unsettled,
    ) -> Option<Rc<Session<L>>> {
        let sid = state.sid.as_str();
        if self.by_sid.borrow().contains_key(sid) {
            return None;
        }
        let opening = self.layer.thaw_opening(opening, &state.client.opening)?;
        let session = self.begin(sid.into(), opening, unsettled, Some(outbound));
        let link = &session.link;
        link.set_max_payload(state.max_payload);
        self.set_beat(link, Instant::now() + state.beat_in, state.pong_awaited);
        if state.settled {
            link.settle();
        }
        let queue: Vec<Frame> = state.queue.iter().map(frame).collect();
        // One that is gone already says so to its reader.
        let _sent = link.outbound().send(queue.iter());
        Some(session)
    }
}

/// Whether a connection may prepare to take a session over.
fn is_movable(link: &Link) -> bool {
    link.transport() == Transport::Polling
        && !link.is_ended()
        && !link.probing.get()
        && !link.outbound().is_closed()
}

/// The probe, the way made for it, its answer, and the end of the upgrade. `None` if the client
/// does otherwise or the session stays where it is.
async fn agree(owner: Box<dyn Owner>, socket: &mut WebSocket) -> Option<Box<dyn Claim>> {
    if !is_probe(&socket.next().await) {
        return None;
    }
    // A client whose probe was answered takes the upgrade for certain, so that the answer waits.
    let claim = owner.make_way().await?;
    answer_probe(socket);
    is_completion(&socket.next().await).then_some(claim)
}

fn packet(frame: &Frame) -> Option<QueuedPacket> {
    match Frame::dissect(frame.as_bytes())? {
        (FrameKind::Text, text) => Some(QueuedPacket::Text(
            String::from_utf8_lossy(text).into_owned(),
        )),
        (FrameKind::Binary, bytes) => Some(QueuedPacket::Binary(bytes.to_vec().into())),
        // A session that polls has no use for these.
        (FrameKind::Close | FrameKind::Ping | FrameKind::Pong, _) => None,
    }
}

fn frame(packet: &QueuedPacket) -> Frame {
    match packet {
        QueuedPacket::Text(text) => Frame::text(text),
        QueuedPacket::Binary(bytes) => Frame::binary(bytes),
    }
}

//! Engine.IO 4, the server's side, for the sessions of one shard: long-polling, WebSocket, the
//! upgrade from one to the other, heartbeats and limits. What the messages mean is for a
//! [`Layer`].

pub(crate) mod core;
mod http_requests;
mod layer;
mod link;
mod moving;
mod options;
mod poll;
mod polling;
mod request;
mod state;
mod websocket;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future,
    net::IpAddr,
    rc::Rc,
    time::Duration,
};

use signalbox_transport::{Frame, Outbound, WebSocketOptions};
use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::debug;

use self::{
    core::{Chore, Core, Key, TimerKind, Unsettled},
    link::Beat,
    polling::{Polling, PollingSocket},
    request::Refused,
};
pub use self::{
    layer::{Deadline, Layer, Message, TakeUpgrade, UpgradeElsewhere},
    link::{EndReason, Link, Transport},
    moving::{Claim, Departure, LocalFuture, Owner},
    options::EngineOptions,
    request::{Answer, SessionRequest, Verb},
    state::{ClientState, PartialMessage, QueuedPacket, SessionState, SocketState},
};
use crate::codec::{EnginePacket, Malformed};

/// How long the driver sleeps without a timer.
const IDLE: Duration = Duration::from_secs(3600);

/// A session and what the layer above keeps of it.
pub struct Session<L: Layer> {
    /// The session itself.
    pub link: Rc<Link>,
    /// The layer's own.
    pub data: L::Session,
}

/// The sessions of one shard.
///
/// It does something only while [`run`](Self::run) is polled. Everything happens on one thread, in
/// a place that can run local tasks.
pub struct Engine<L: Layer> {
    layer: L,
    options: EngineOptions,
    core: Rc<Core>,
    sessions: RefCell<Slab<Rc<Session<L>>>>,
    by_sid: RefCell<HashMap<Rc<str>, Key>>,
    /// Sessions ever opened.
    opened: Cell<u32>,
    ping: Frame,
    /// Woken when the last session has ended.
    empty: Notify,
}

impl<L: Layer> Engine<L> {
    /// An engine below `layer`.
    pub fn new(layer: L, options: EngineOptions) -> Rc<Self> {
        Rc::new(Self {
            layer,
            options,
            core: Rc::default(),
            sessions: RefCell::default(),
            by_sid: RefCell::default(),
            opened: Cell::default(),
            ping: Frame::text("2"),
            empty: Notify::new(),
        })
    }

    /// The layer above.
    pub fn layer(&self) -> &L {
        &self.layer
    }

    /// Runs heartbeats, deadlines and callbacks; never ends. Dropping it ends everything without a
    /// word to clients or to the layer.
    pub async fn run(&self) {
        let _stop = Stop(&self.core);
        loop {
            self.turn();
            let next = self.core.next_timer();
            tokio::select! {
                () = self.core.wake.notified() => {}
                () = sleep_until(next.unwrap_or_else(|| Instant::now() + IDLE)) => {}
                () = future::poll_fn(|cx| self.core.poll_tasks(cx)) => {}
            }
        }
    }

    /// Opens no more sessions and lets nobody into a namespace: who asks is sent away by the close
    /// of its transport, never by a refusal that it would take for good.
    pub fn drain(&self) {
        self.core.draining.set(true);
    }

    /// The sessions, for telling them to go with [`Link::close`], as slowly as the caller likes.
    pub fn links(&self) -> Vec<Rc<Link>> {
        let sessions = self.sessions.borrow();
        sessions
            .iter()
            .map(|(_, session)| Rc::clone(&session.link))
            .collect()
    }

    /// How many sessions there are, with those whose last answer has not been fetched.
    pub fn session_count(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Waits until there is no session.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.sessions.borrow().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Does everything that is due. Also called ahead of each request, so that no request finds a
    /// session whose time is over.
    fn turn(&self) {
        loop {
            let chores = self.core.take_chores();
            let now = Instant::now();
            let timer = self.core.take_due(now);
            if chores.is_empty() && timer.is_none() {
                return;
            }
            for chore in chores {
                self.attend(chore);
            }
            if let Some((at, key, kind)) = timer
                && let Some(session) = self.session(key)
            {
                self.fire(&session, kind, at, now);
            }
        }
    }

    fn attend(&self, chore: Chore) {
        match chore {
            Chore::End(key, reason) => {
                if let Some(session) = self.session(key) {
                    self.end(&session, reason);
                }
            }
            Chore::PollingGone(key) => {
                if let Some(session) = self.session(key)
                    && session.link.transport() == Transport::Polling
                {
                    let closure = session.link.outbound().closure();
                    let reason = closure
                        .as_ref()
                        .map_or(EndReason::TransportError, EndReason::of);
                    self.end(&session, reason);
                    self.forget(&session.link);
                }
            }
            Chore::Left(key, namespace) => {
                if let Some(session) = self.session(key) {
                    self.layer.left(&session, &namespace);
                }
            }
        }
    }

    fn fire(&self, session: &Rc<Session<L>>, kind: TimerKind, at: Instant, now: Instant) {
        let link = &session.link;
        if link.is_ended() {
            return;
        }
        match kind {
            TimerKind::Heartbeat => self.beat(session, at, now),
            TimerKind::Noop => {
                if link.probing.get()
                    && let Some(polling) = &*link.polling.borrow()
                {
                    polling.answer_noop();
                }
            }
            TimerKind::Layer => {
                if link.deadline.get() != Some(at) {
                    return;
                }
                link.deadline.set(None);
                match self.layer.deadline(session, now) {
                    Deadline::Done => {}
                    Deadline::Again(at) => link.set_deadline(at),
                    Deadline::End => self.end(session, EndReason::Unsettled),
                }
            }
        }
    }

    /// Sends a ping that is due, or ends a session that has not answered one.
    fn beat(&self, session: &Rc<Session<L>>, at: Instant, now: Instant) {
        let link = &session.link;
        let Beat { due, awaiting } = link.beat.get();
        if due != at {
            return;
        }
        // A shard that was held up has not read the answers that came meanwhile, and sends its pings
        // late: its clients must not pay for it.
        let timeout = self.options.ping_timeout;
        let late = now - at > timeout / 2;
        let due = if late { now } else { at } + timeout;
        if awaiting && !late {
            self.end(session, EndReason::PingTimeout);
            return;
        }
        if !awaiting {
            // One that is closed or too slow ends by itself.
            let _sent = link.outbound().send_frame(&self.ping);
        }
        self.set_beat(link, due, true);
    }

    fn set_beat(&self, link: &Link, due: Instant, awaiting: bool) {
        link.beat.set(Beat { due, awaiting });
        self.core.set_timer(due, link.key, TimerKind::Heartbeat);
    }

    /// Takes a packet from a session.
    fn packet(&self, session: &Rc<Session<L>>, packet: EnginePacket<'_>) -> Result<(), Malformed> {
        let message = match packet {
            EnginePacket::Text(text) => Message::Text(text),
            EnginePacket::Binary(bytes) => Message::Binary(bytes),
            EnginePacket::Pong(_) => {
                let Beat { due, awaiting } = session.link.beat.get();
                if awaiting {
                    // Pings keep their rate, however long their answers take.
                    let due = due - self.options.ping_timeout + self.options.ping_interval;
                    self.set_beat(&session.link, due.max(Instant::now()), false);
                }
                return Ok(());
            }
            EnginePacket::Close => {
                if let Some(polling) = &*session.link.polling.borrow() {
                    polling.client_left.set(true);
                }
                self.end(session, EndReason::ClientClosed);
                return Ok(());
            }
            EnginePacket::Upgrade | EnginePacket::Noop => return Ok(()),
            // Only a server sends pings.
            EnginePacket::Ping(_) => return Err(Malformed::EngineType),
        };
        self.layer.message(session, message)
    }

    /// Ends a session for what it sent.
    fn refuse(&self, session: &Rc<Session<L>>, malformed: Malformed) {
        debug!(%malformed, "session ended");
        self.end(session, EndReason::Malformed);
    }

    /// The only way out: tells the layer once, and closes the transport.
    fn end(&self, session: &Rc<Session<L>>, reason: EndReason) {
        let link = &session.link;
        if link.ended.replace(true) {
            return;
        }
        debug!(%reason, session = ?link, "session ended");
        link.settle();
        self.core.calmer.notify_waiters();
        let (code, text) = reason.close_frame();
        link.outbound().close(code, text);
        // A client that is sent away may fetch what is left with its next poll, until the closing
        // grace is over. Anyone else is a stranger from here on.
        let lingers = matches!(
            reason,
            EndReason::ClientClosed | EndReason::ServerClosed | EndReason::SlowReader
        );
        match link.transport() {
            Transport::Polling if lingers => {}
            Transport::Polling => {
                link.outbound().end();
                self.forget(link);
            }
            Transport::WebSocket => self.forget(link),
        }
        self.layer.ended(session, reason);
    }

    /// Removes a session from the lists.
    fn forget(&self, link: &Link) {
        let mut sessions = self.sessions.borrow_mut();
        let index = link.key.index as usize;
        if sessions
            .get(index)
            .is_none_or(|session| session.link.key != link.key)
        {
            return;
        }
        let session = sessions.remove(index);
        self.by_sid.borrow_mut().remove(link.sid());
        if sessions.is_empty() {
            // What a wave of sessions needed is given back after it.
            sessions.shrink_to_fit();
            self.by_sid.borrow_mut().shrink_to_fit();
            self.empty.notify_waiters();
        }
        // What the layer keeps may have something to say at its end.
        drop(sessions);
        drop(session);
    }

    fn session(&self, key: Key) -> Option<Rc<Session<L>>> {
        let sessions = self.sessions.borrow();
        let session = sessions.get(key.index as usize)?;
        (session.link.key == key).then(|| Rc::clone(session))
    }

    fn find(&self, sid: &str) -> Option<Rc<Session<L>>> {
        let key = self.by_sid.borrow().get(sid).copied()?;
        self.session(key)
    }

    /// Room for one more session of that address.
    fn make_room(&self, peer: IpAddr) -> Result<Unsettled, Refused> {
        if self.core.draining.get() {
            return Err(Refused::Draining);
        }
        if self.sessions.borrow().len() >= self.options.max_sessions {
            return Err(Refused::Full);
        }
        self.core
            .count(peer, self.options.max_unsettled_per_address)
            .ok_or(Refused::Unsettled)
    }

    /// Begins a session over polling, or over the outbound of a WebSocket connection.
    fn begin(
        &self,
        sid: Rc<str>,
        opening: L::Opening,
        unsettled: Unsettled,
        websocket: Option<Outbound>,
    ) -> Rc<Session<L>> {
        let number = self.opened.get();
        self.opened.set(number.wrapping_add(1));
        let index = self.sessions.borrow().vacant_key();
        let key = Key {
            index: u32::try_from(index).expect("sessions fit in memory"),
            number,
        };
        let polling = websocket.is_none().then(Rc::<Polling>::default);
        let outbound = websocket.unwrap_or_else(|| {
            let socket = PollingSocket::new(
                Rc::clone(polling.as_ref().expect("one or the other")),
                Rc::clone(&self.core),
                key,
                self.options.max_payload,
            );
            Outbound::new(socket, self.options.queue())
        });
        let link = Rc::new(Link::new(
            key,
            Rc::clone(&sid),
            outbound,
            Rc::clone(&self.core),
            polling,
            unsettled,
            &self.options,
        ));
        let data = self.layer.open(&link, opening);
        let session = Rc::new(Session { link, data });
        let due = session.link.beat.get().due;
        self.core.set_timer(due, key, TimerKind::Heartbeat);
        self.by_sid.borrow_mut().insert(sid, key);
        // The layer opens no sessions, so that the place is still vacant.
        let inserted = self.sessions.borrow_mut().insert(Rc::clone(&session));
        debug_assert_eq!(inserted, index, "sessions begin one at a time");
        session
    }

    /// The first packet of a session.
    fn open_packet(&self, link: &Link) -> String {
        let upgrades: &[&str] = match link.transport() {
            Transport::Polling => &["websocket"],
            Transport::WebSocket => &[],
        };
        let open = serde_json::json!({
            "sid": **link.sid(),
            "upgrades": upgrades,
            "pingInterval": millis(self.options.ping_interval),
            "pingTimeout": millis(self.options.ping_timeout),
            "maxPayload": self.options.max_payload,
        });
        format!("0{open}")
    }

    fn websocket_options(&self, max_message_bytes: usize) -> WebSocketOptions {
        WebSocketOptions {
            max_message_bytes,
            // The protocol has a heartbeat of its own.
            silence: Duration::MAX,
            send_buffer_bytes: self.options.send_buffer_bytes,
            outbound: self.options.queue(),
        }
    }
}

/// Ends the tasks of an engine that is no longer run. They hold the engine, so that nothing else
/// would.
struct Stop<'a>(&'a Core);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

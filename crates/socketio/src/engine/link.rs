//! One session as the layer above sees it: what is sent, how it travels, and its end.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use signalbox_transport::{CloseCode, ClosedBy, Closure, Frame, Outbound, Sent};
use tokio::time::Instant;

use super::{
    EngineOptions,
    core::{Chore, Core, Key, TimerKind, Unsettled},
    polling::Polling,
};

/// How the packets of a session travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// A WebSocket connection.
    WebSocket,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The client closed it.
    ClientClosed,
    /// This side closed it.
    ServerClosed,
    /// The network broke, a poll was given up, or a body did not come.
    TransportError,
    /// A ping was not answered.
    PingTimeout,
    /// The client sent what it may not.
    Malformed,
    /// The client sent more than it may in one message or body.
    TooLarge,
    /// The client took too little of what was sent.
    SlowReader,
    /// The layer above gave up waiting, as for a CONNECT.
    Unsettled,
}

impl EndReason {
    /// What a connection's end means for its session.
    pub(super) fn of(closure: &Closure) -> Self {
        match (closure.by, closure.code) {
            (ClosedBy::Peer, _) => Self::ClientClosed,
            (ClosedBy::Network, _) => Self::TransportError,
            (ClosedBy::Timeout, _) => Self::PingTimeout,
            (ClosedBy::Us, Some(CloseCode::TRY_AGAIN_LATER)) => Self::SlowReader,
            (ClosedBy::Us, Some(CloseCode::MESSAGE_TOO_BIG)) => Self::TooLarge,
            (
                ClosedBy::Us,
                Some(
                    CloseCode::PROTOCOL_ERROR
                    | CloseCode::INVALID_PAYLOAD
                    | CloseCode::UNSUPPORTED_DATA,
                ),
            ) => Self::Malformed,
            (ClosedBy::Us, _) => Self::ServerClosed,
        }
    }

    /// The Close frame for it.
    pub(super) fn close_frame(self) -> (CloseCode, &'static str) {
        match self {
            Self::ClientClosed => (CloseCode::NORMAL, "closed"),
            Self::ServerClosed => (CloseCode::GOING_AWAY, "going away"),
            Self::TransportError => (CloseCode::GOING_AWAY, "transport broke"),
            Self::PingTimeout => (CloseCode::GOING_AWAY, "no answer to ping"),
            Self::Malformed => (CloseCode::PROTOCOL_ERROR, "malformed packet"),
            Self::TooLarge => (CloseCode::MESSAGE_TOO_BIG, "message too big"),
            Self::SlowReader => (CloseCode::TRY_AGAIN_LATER, "reader too slow"),
            Self::Unsettled => (CloseCode::POLICY_VIOLATION, "not connected in time"),
        }
    }
}

impl fmt::Display for EndReason {
    /// In the words of the protocol's own server where it has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientClosed => "transport close",
            Self::ServerClosed => "server close",
            Self::TransportError => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::Malformed => "parse error",
            Self::TooLarge => "payload too large",
            Self::SlowReader => "reader too slow",
            Self::Unsettled => "not connected in time",
        })
    }
}

/// When a session's heartbeat is looked at next, and for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub(super) due: Instant,
    /// Whether a pong is awaited; otherwise a ping is due.
    pub(super) awaiting: bool,
}

/// A session of an [`Engine`](super::Engine).
pub struct Link {
    pub(super) key: Key,
    sid: Rc<str>,
    outbound: Outbound,
    pub(super) core: Rc<Core>,
    pub(super) beat: Cell<Beat>,
    pub(super) transport: Cell<Transport>,
    pub(super) ended: Cell<bool>,
    /// Whether a WebSocket connection is about to take over.
    pub(super) probing: Cell<bool>,
    /// Whether a poll was answered with nothing for it.
    pub(super) made_way: Cell<bool>,
    /// Whether the session is on its way to another engine, and takes no requests.
    pub(super) frozen: Cell<bool>,
    /// Acknowledgements that this side owes.
    owed: Cell<usize>,
    max_payload: Cell<usize>,
    /// The earliest deadline that the layer above has set.
    pub(super) deadline: Cell<Option<Instant>>,
    /// Present while the session polls, or its last answer has not been fetched.
    pub(super) polling: RefCell<Option<Rc<Polling>>>,
    /// Present until the session is settled.
    unsettled: Cell<Option<Unsettled>>,
}

impl Link {
    pub(super) fn new(
        key: Key,
        sid: Rc<str>,
        outbound: Outbound,
        core: Rc<Core>,
        polling: Option<Rc<Polling>>,
        unsettled: Unsettled,
        options: &EngineOptions,
    ) -> Self {
        Self {
            key,
            sid,
            outbound,
            core,
            beat: Cell::new(Beat {
                due: Instant::now() + options.ping_interval,
                awaiting: false,
            }),
            transport: Cell::new(match polling {
                Some(_) => Transport::Polling,
                None => Transport::WebSocket,
            }),
            ended: Cell::default(),
            probing: Cell::default(),
            made_way: Cell::default(),
            frozen: Cell::default(),
            owed: Cell::default(),
            max_payload: Cell::new(options.max_payload),
            deadline: Cell::default(),
            polling: RefCell::new(polling),
            unsettled: Cell::new(Some(unsettled)),
        }
    }

    /// The session's id, a secret of its client.
    pub fn sid(&self) -> &Rc<str> {
        &self.sid
    }

    /// The way out, which stays the same when the transport changes. A frame is one Engine.IO
    /// packet: text with its type in front, or the bytes of a binary message.
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// How packets travel now.
    pub fn transport(&self) -> Transport {
        self.transport.get()
    }

    /// Whether the session has ended.
    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// Sends a text message. It is framed for this session alone: what goes to many is built once
    /// as a [`Packet`](crate::Packet).
    pub fn send_text(&self, text: &str) -> Sent {
        let frame = Frame::text(&["4", text].concat());
        self.outbound.send_frame(&frame)
    }

    /// Sends a binary message.
    pub fn send_binary(&self, bytes: &[u8]) -> Sent {
        self.outbound.send_frame(&Frame::binary(bytes))
    }

    /// Closes the transport after what is queued; a client of the stock libraries returns.
    ///
    /// The layer above hears of it at the engine's next turn. A client that polls has the closing
    /// grace to fetch what is left.
    pub fn close(&self) {
        self.close_for(EndReason::ServerClosed);
    }

    pub(crate) fn close_for(&self, reason: EndReason) {
        let (code, text) = reason.close_frame();
        self.outbound.close_after_flush(code, text);
        self.core.add_chore(Chore::End(self.key, reason));
    }

    /// Says that the session is no stranger any more: it does not count against its address. Tells
    /// whether that was known.
    pub fn settle(&self) -> bool {
        self.unsettled.take().is_none()
    }

    /// Counts an acknowledgement that this side owes.
    pub(crate) fn owe(&self) {
        self.owed.set(self.owed.get() + 1);
    }

    /// Counts one that was given, or never will be.
    pub(crate) fn owe_less(&self) {
        self.owed.set(self.owed.get() - 1);
        self.core.calmer.notify_waiters();
    }

    pub(super) fn owes(&self) -> bool {
        self.owed.get() > 0
    }

    /// Changes the longest message or polling body accepted, from the next one on.
    pub fn set_max_payload(&self, bytes: usize) {
        self.max_payload.set(bytes);
    }

    /// The longest message or polling body accepted.
    pub fn max_payload(&self) -> usize {
        self.max_payload.get()
    }

    /// Has the layer above called at `at`; an earlier deadline stays.
    pub fn set_deadline(&self, at: Instant) {
        if self.deadline.get().is_none_or(|before| at < before) {
            self.deadline.set(Some(at));
            self.core.set_timer(at, self.key, TimerKind::Layer);
        }
    }

    /// What the engine's sessions share.
    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    pub(crate) fn leave(&self, namespace: &Rc<str>) {
        self.core
            .add_chore(Chore::Left(self.key, Rc::clone(namespace)));
    }
}

impl fmt::Debug for Link {
    /// Without the id, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("number", &self.key.number)
            .field("transport", &self.transport.get())
            .field("ended", &self.ended.get())
            .finish_non_exhaustive()
    }
}

//! The seam between the core and the dialects: a dialect turns client frames
//! into [`Request`]s, and [`Answer`]s and events into frames. It knows no
//! socket and no bus.

pub(crate) mod mesh;
pub(crate) mod pipeline;
pub(crate) mod threat;
pub(crate) mod workspace;

use std::time::Duration;

use serde::Serialize;
use signalbox_identity::Principal;
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::socketio::NAMESPACE;
use signalbox_protocol::frame::threat::chat::{
    CancelChat, ChatFrame, ChatMessage, ResumeChat, StartChat,
};
use signalbox_protocol::frame::threat::investigation::{AddNote, InvestigationFrame};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::{Dialect as Name, ErrorCode};
use signalbox_socketio::Packet;
use signalbox_transport::Frame;
use time::OffsetDateTime;

use crate::hub::{Encode, HubEvent, Selection};

/// What clients are told when their token is about to expire.
const EXPIRING: &str = "the token is about to expire, authenticate with a fresh one";

/// What a client asks for, in the core's words.
#[derive(Debug)]
pub(crate) enum Request {
    /// Check who I am.
    Authenticate {
        /// An API key or a JWT.
        credential: String,
        /// What the client calls itself, for the audit log.
        label: Option<String>,
    },
    /// Send me these events.
    Subscribe(Subscribe),
    /// Stop sending them.
    Unsubscribe {
        /// The subscription's name on this connection.
        name: String,
        /// The field that had it, for the complaint that there is none.
        field: &'static str,
    },
    /// Decide on a response action.
    Decide {
        /// The action.
        action_id: String,
        /// What is to become of it.
        verdict: Verdict,
        /// Why.
        reason: Option<String>,
        /// The hash of the arguments that the decider has seen.
        arguments_hash: Option<String>,
    },
    /// Something about chats with agents.
    Chat(Chat),
    /// Note something in an investigation.
    AddNote(AddNote),
    /// Are you there?
    Ping,
}

/// What a client asks for about chats. One dialect has them, so its words are
/// the core's.
#[derive(Debug)]
pub(crate) enum Chat {
    /// Begin one.
    Start(StartChat),
    /// Say this.
    Say(ChatMessage),
    /// End the answer.
    Cancel(CancelChat),
    /// Go on.
    Resume(ResumeChat),
    /// Show me my chats.
    Follow {
        /// This one only.
        session: Option<String>,
        /// Whether the client hopes for what it missed.
        is_resumed: bool,
    },
}

/// A request for events.
#[derive(Debug)]
pub(crate) struct Subscribe {
    /// How the client will name it; a subscription of that name is replaced.
    /// `None` where the session makes up a name.
    pub(crate) name: Option<String>,
    /// The channel that they come on, which has to be allowed.
    pub(crate) channel: Channel,
    /// Which ones.
    pub(crate) selection: Selection,
    /// How to write them.
    pub(crate) encoding: Encoding,
    /// After which position to go on.
    pub(crate) since: Option<Cursor>,
}

/// When a credential came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// With the upgrade request.
    Upgrade,
    /// In a frame.
    Request,
}

/// What the core answers.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// The credential was accepted.
    Authenticated {
        /// Names the connection.
        session_id: &'a str,
        /// Who it is.
        principal: &'a Principal,
        /// When it came.
        occasion: Occasion,
    },
    /// The credential was not accepted, and the connection ends.
    Denied {
        /// For people.
        reason: &'a str,
        /// When it came.
        occasion: Occasion,
    },
    /// The credential is about to expire; a fresh one keeps the connection.
    Expiring {
        /// When.
        expires_at: OffsetDateTime,
    },
    /// The credential has expired, and the connection ends.
    Expired {
        /// For people.
        reason: &'a str,
    },
    /// Events follow.
    Subscribed {
        /// The channel.
        channel: Channel,
        /// Names the subscription on this connection.
        subscription_id: &'a str,
        /// Every event behind this position will come.
        seq: Cursor,
        /// Whether all that was missed follows; `None` when nothing was asked
        /// for.
        recovered: Option<bool>,
    },
    /// No more events come of this subscription.
    Unsubscribed {
        /// The channel.
        channel: Channel,
        /// The subscription that ended.
        subscription_id: &'a str,
    },
    /// The decision stands.
    Decided(&'a Decision),
    /// Somebody decided before.
    DecidedBefore(&'a Decision),
    /// The action could be decided on until then.
    DecidedTooLate(Timestamp),
    /// What there is to say about a chat.
    Chat(&'a ChatFrame<'a>),
    /// What there is to say about an investigation.
    Investigation(&'a InvestigationFrame<'a>),
    /// The message was one too many.
    LimitExceeded(&'a Excess),
    /// Yes.
    Pong,
    /// The request was not served.
    Refused(&'a Complaint),
}

/// A limit, and how far it is exceeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excess {
    /// What is limited.
    pub(crate) limit_type: &'static str,
    /// Attempts in the current window, refused ones included.
    pub(crate) used: u64,
    /// How many are served.
    pub(crate) limit: u32,
    /// How long the window still lasts.
    pub(crate) resets_in: Duration,
}

/// Whose messages are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metering {
    /// Those of a user, over all connections and gateways, by the limit of the
    /// credential.
    User,
    /// Those of the connection, by the gateway's setting.
    Connection,
}

/// One dialect's side of a connection.
pub(crate) trait Dialect: Default {
    /// Which it is.
    const NAME: Name;
    /// How long a connection may stay without a credential; `None` where it
    /// must come with the upgrade.
    const AUTHENTICATION: Option<Duration>;
    /// Whose messages are counted together.
    const METERING: Metering;

    /// Reads a client's frame.
    ///
    /// # Errors
    /// What to tell the client is wrong with it.
    fn decode(&self, text: &str) -> Result<Request, Complaint>;

    /// Writes an answer; `None` where the dialect has no frame for it.
    fn answer(&self, answer: &Answer<'_>) -> Option<Frame>;

    /// Writes that the connection ends and the client may return after this
    /// time.
    fn farewell(&self, message: &str, retry_after: Duration) -> Frame;
}

/// How events are written for a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// As dialect `threat` writes them.
    Threat(threat::Projection),
    /// As dialect `mesh` writes them.
    Mesh,
    /// As dialect `pipeline` writes them.
    Pipeline {
        /// Whether the position stands behind the event, for clients that take
        /// part in connection state recovery.
        offset: bool,
    },
    /// As dialect `workspace` writes them.
    Workspace {
        /// As for `pipeline`.
        offset: bool,
    },
}

impl Encode for Encoding {
    fn encode(&self, event: &HubEvent, cursor: Cursor) -> Option<Frame> {
        match self {
            Self::Threat(projection) => threat::encode(event, cursor, projection),
            Self::Mesh => mesh::encode(event, cursor),
            Self::Pipeline { offset } => pipeline::encode(event, cursor, *offset),
            Self::Workspace { offset } => workspace::encode(event, cursor, *offset),
        }
    }

    fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Threat(one), Self::Threat(other)) => Self::Threat(one.union(other)),
            (Self::Pipeline { offset: one }, Self::Pipeline { offset: other }) => Self::Pipeline {
                offset: *one || *other,
            },
            (Self::Workspace { offset: one }, Self::Workspace { offset: other }) => {
                Self::Workspace {
                    offset: *one || *other,
                }
            }
            // A channel's events are written in one dialect for a connection.
            (Self::Threat(_) | Self::Mesh | Self::Pipeline { .. } | Self::Workspace { .. }, _) => {
                self.clone()
            }
        }
    }

    fn out_of_turn(&self) -> Self {
        match self {
            Self::Threat(_) | Self::Mesh => self.clone(),
            Self::Pipeline { .. } => Self::Pipeline { offset: false },
            Self::Workspace { .. } => Self::Workspace { offset: false },
        }
    }
}

/// A text frame with a value's JSON.
///
/// # Panics
/// Never: every value written here has string keys and finite numbers.
fn write(value: &impl Serialize) -> Frame {
    let json = serde_json::to_vec(value).expect("frames have string keys and finite numbers");
    Frame::text_bytes(&json)
}

/// An event of Socket.IO with one argument, and behind it the position from
/// which a client with connection state recovery goes on.
///
/// # Panics
/// Never: every value written here has string keys and finite numbers.
fn packet(name: &str, argument: &impl Serialize, offset: Option<Cursor>) -> Packet {
    let packet = Packet::event(NAMESPACE, name)
        .argument(argument)
        .expect("frames have string keys and finite numbers");
    match offset {
        Some(offset) => packet.offset(&offset.to_string()).build(),
        None => packet.build(),
    }
}

/// A time in whole milliseconds, as frames have it.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The channel of this name, if the dialect has it.
///
/// # Errors
/// UNKNOWN_CHANNEL, with those that it has.
fn channel(name: &str, known: &[Channel]) -> Result<Channel, Complaint> {
    known
        .iter()
        .copied()
        .find(|channel| channel.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|channel| channel.name()).collect();
            Complaint {
                code: ErrorCode::UnknownChannel,
                message: format!("unknown channel `{name}`: expected {}", names.join(", ")),
                field: Some("channel".to_owned()),
            }
        })
}

//! The seam between the core and the dialects: a dialect turns client frames
//! into [`Request`]s, and [`Answer`]s and events into frames. It knows no
//! socket and no bus.

pub(crate) mod threat;

use std::time::Duration;

use signalbox_identity::Principal;
use signalbox_protocol::Dialect as Name;
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_transport::Frame;

use crate::hub::{Encode, HubEvent, Selection};

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
        /// As the confirmation named it.
        subscription_id: String,
    },
    /// Decide on a response action.
    Decide {
        /// The action.
        action_id: String,
        /// What is to become of it.
        verdict: Verdict,
        /// Why.
        reason: Option<String>,
    },
    /// Are you there?
    Ping,
}

/// A request for events.
#[derive(Debug)]
pub(crate) struct Subscribe {
    /// Which ones.
    pub(crate) selection: Selection,
    /// How to write them.
    pub(crate) encoding: Encoding,
    /// After which position to go on.
    pub(crate) since: Option<Cursor>,
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
    /// The message was one too many.
    LimitExceeded(&'a Excess),
    /// Yes.
    Pong,
    /// The request was not served.
    Refused(&'a Complaint),
    /// The connection ends, and the client may return after this time.
    Farewell {
        /// For people.
        message: &'a str,
        /// When to come back.
        retry_after: Duration,
    },
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
    /// When the window ends.
    pub(crate) resets_at: Timestamp,
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
    /// How long a connection may stay without a credential.
    const AUTHENTICATION: Duration;
    /// Whose messages are counted together.
    const METERING: Metering;

    /// Reads a client's frame.
    ///
    /// # Errors
    /// What to tell the client is wrong with it.
    fn decode(&self, text: &str) -> Result<Request, Complaint>;

    /// Writes an answer.
    fn answer(&self, answer: &Answer<'_>) -> Frame;
}

/// How events are written for a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// As dialect `threat` writes them.
    Threat(threat::Projection),
}

impl Encode for Encoding {
    fn encode(&self, event: &HubEvent, cursor: Cursor) -> Option<Frame> {
        match self {
            Self::Threat(projection) => threat::encode(event, cursor, projection),
        }
    }
}

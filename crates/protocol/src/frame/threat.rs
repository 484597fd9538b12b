//! Frames of dialect `threat`.

pub mod chat;
pub mod investigation;
pub mod shape;

use serde::Serialize;

use self::chat::{CancelChat, ChatMessage, ResumeChat, StartChat};
use self::investigation::AddNote;
use super::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use crate::cursor::Cursor;
use crate::decision::Verdict;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;
use crate::timestamp::Timestamp;

/// The longest name of a type, channel or subscription, and the longest
/// resume offset, in bytes.
const MAX_WORD_BYTES: usize = MAX_NAME_BYTES;

/// The longest reason of a decision, in bytes.
const MAX_REASON_BYTES: usize = 1_024;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// Says who it is.
    Authenticate {
        /// An API key or a JWT.
        token: String,
        /// What it says of itself; labels, never an identity.
        client: ClientInfo,
    },
    /// Asks for a channel's events.
    Subscribe(Subscribe),
    /// Ends a subscription.
    Unsubscribe {
        /// As the confirmation named it.
        subscription_id: String,
    },
    /// Decides on a response action.
    DecideAction(DecideAction),
    /// Begins a chat with an agent.
    StartChat(StartChat),
    /// Says something to the agent.
    ChatMessage(ChatMessage),
    /// Ends an answer that is being written.
    CancelChat(CancelChat),
    /// Goes on with a chat.
    ResumeChat(ResumeChat),
    /// Notes something in an investigation.
    AddNote(AddNote),
    /// Asks for a `pong`.
    Ping,
}

/// Labels that a client gives itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The program.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Whom it says it serves.
    pub user_id: Option<String>,
}

/// A request for a channel's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The channel's name.
    pub channel: String,
    /// Accepted values by filter key.
    pub filters: Vec<(String, Vec<String>)>,
    /// Narrows to one investigation.
    pub investigation_id: Option<String>,
    /// Narrows to one chat.
    pub session_id: Option<String>,
    /// Narrows updates to these metrics.
    pub metrics: Option<Vec<String>>,
    /// The `seq` after which to go on.
    pub since: Option<Cursor>,
}

/// A decision on a response action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecideAction {
    /// The action.
    pub action_id: String,
    /// What is to become of it.
    pub verdict: Verdict,
    /// Why, for those who read it later.
    pub reason: Option<String>,
    /// The hash of the arguments that the decider has seen.
    pub arguments_hash: Option<String>,
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// INVALID_JSON, INVALID_MESSAGE with the field's name, or UNKNOWN_TYPE.
    pub fn decode(text: &str) -> Result<Self, Complaint> {
        let mut fields = Fields::parse(text)?;
        let kind = fields.text("type", MAX_WORD_BYTES)?;
        match kind.as_str() {
            "authenticate" => authenticate(fields),
            "subscribe" => subscribe(fields).map(Self::Subscribe),
            "unsubscribe" => Ok(Self::Unsubscribe {
                subscription_id: fields.text("subscription_id", MAX_WORD_BYTES)?,
            }),
            "action_decision" => decide(fields).map(Self::DecideAction),
            "start_chat" => chat::start(fields).map(Self::StartChat),
            "chat_message" => chat::message(fields).map(Self::ChatMessage),
            "cancel_chat" => chat::cancel(fields).map(Self::CancelChat),
            "resume_chat" => chat::resume(fields).map(Self::ResumeChat),
            "add_investigation_note" => investigation::add_note(fields).map(Self::AddNote),
            "ping" => Ok(Self::Ping),
            _ => Err(Complaint {
                code: ErrorCode::UnknownType,
                message: format!(
                    "unknown type `{kind}`: expected authenticate, subscribe, unsubscribe, action_decision, start_chat, chat_message, cancel_chat, resume_chat, add_investigation_note or ping"
                ),
                field: Some("type".to_owned()),
            }),
        }
    }
}

fn authenticate(mut fields: Fields) -> Result<ClientFrame, Complaint> {
    let token = fields.text("token", MAX_TOKEN_BYTES)?;
    let client = match fields.optional_object("client_info")? {
        None => ClientInfo::default(),
        Some(mut info) => ClientInfo {
            name: info.optional_text("name", MAX_NAME_BYTES)?,
            version: info.optional_text("version", MAX_NAME_BYTES)?,
            user_id: info.optional_text("user_id", MAX_NAME_BYTES)?,
        },
    };
    Ok(ClientFrame::Authenticate { token, client })
}

fn subscribe(mut fields: Fields) -> Result<Subscribe, Complaint> {
    let channel = fields.text("channel", MAX_WORD_BYTES)?;
    let filters = match fields.optional_object("filters")? {
        None => Vec::new(),
        Some(filters) => filters.into_lists()?,
    };
    let since = fields.optional_cursor("since")?;
    Ok(Subscribe {
        channel,
        filters,
        investigation_id: fields.optional_id("investigation_id")?,
        session_id: fields.optional_id("session_id")?,
        metrics: fields.optional_texts("metrics")?,
        since,
    })
}

fn decide(mut fields: Fields) -> Result<DecideAction, Complaint> {
    let action_id = fields.id("action_id")?;
    let word = fields.word("decision", Verdict::WORDS)?;
    Ok(DecideAction {
        action_id,
        verdict: Verdict::parse(word).ok_or_else(|| Complaint::field("decision", "a verdict"))?,
        reason: fields.optional_text("reason", MAX_REASON_BYTES)?,
        arguments_hash: fields.optional_text("arguments_hash", MAX_WORD_BYTES)?,
    })
}

/// What a client is sent, apart from events.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// The credential was accepted.
    AuthSuccess {
        /// Names this connection in logs and support requests.
        session_id: &'a str,
        /// What it may do.
        permissions: Vec<String>,
        /// What it may do how often.
        rate_limits: RateLimits,
    },
    /// Events of the channel follow.
    SubscriptionConfirmed {
        /// The channel's name.
        channel: &'a str,
        /// For `unsubscribe`.
        subscription_id: &'a str,
        /// Every event behind this position will come.
        seq: Cursor,
        /// Whether all that was missed since `since` follows; absent without
        /// `since`.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// No more events come of this subscription.
    UnsubscriptionConfirmed {
        /// The channel's name.
        channel: &'a str,
        /// The subscription that ended.
        subscription_id: &'a str,
    },
    /// The decision stands and is on its way to those who act on it.
    ActionDecisionRecorded {
        /// The action.
        action_id: &'a str,
        /// What is to become of it.
        decision: Verdict,
    },
    /// The message was one too many and was not processed.
    RateLimitExceeded {
        /// The limit, by its name in `auth_success`.
        limit_type: &'a str,
        /// Messages in the current window, refused ones included, and how many
        /// are served: `61/60`.
        current_usage: String,
        /// When the window ends.
        reset_time: Timestamp,
    },
    /// Answers `ping`.
    Pong,
    /// Something went wrong.
    Error {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: &'a str,
        /// The field at fault.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
        /// When to try again, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// When the token expires, or the action did.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// Who decided before.
        #[serde(skip_serializing_if = "Option::is_none")]
        decided_by: Option<&'a str>,
        /// What was decided before.
        #[serde(skip_serializing_if = "Option::is_none")]
        decision: Option<Verdict>,
    },
}

/// Limits that apply to a connection's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimits {
    /// Client frames a minute.
    pub messages_per_minute: u32,
    /// Chats started an hour.
    pub agent_chats_per_hour: u32,
}

/// An event whose data stands under `data`.
#[derive(Debug, Serialize)]
pub struct NestedEvent<'a, L, D> {
    /// The frame's type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// Fields that the dialect has beside `data`.
    #[serde(flatten)]
    pub lifted: L,
    /// When it happened.
    pub timestamp: Timestamp,
    /// What happened.
    pub data: D,
    /// The producer's id.
    pub id: &'a str,
    /// The position behind it.
    pub seq: Cursor,
}

/// An event whose data stands at the top level.
#[derive(Debug, Serialize)]
pub struct FlatEvent<'a, F> {
    /// The frame's type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The fields of its data.
    #[serde(flatten)]
    pub fields: F,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The producer's id.
    pub id: &'a str,
    /// The position behind it.
    pub seq: Cursor,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> (ErrorCode, Option<String>) {
        let complaint = ClientFrame::decode(text).unwrap_err();
        (complaint.code, complaint.field)
    }

    #[test]
    fn reads_the_documented_frames() {
        let frame = r#"{"type":"authenticate","token":"k","client_info":{"name":"d","version":"1","user_id":"u"}}"#;
        let ClientFrame::Authenticate { token, client } = ClientFrame::decode(frame).unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (token.as_str(), client.user_id.as_deref()),
            ("k", Some("u"))
        );
        let frame = r#"{"type":"subscribe","channel":"threat_alerts","filters":{"severity":["HIGH"]},"since":"a-3"}"#;
        let ClientFrame::Subscribe(subscribe) = ClientFrame::decode(frame).unwrap() else {
            panic!()
        };
        assert_eq!(
            subscribe.filters,
            [("severity".to_owned(), vec!["HIGH".to_owned()])]
        );
        assert_eq!(subscribe.since.unwrap().sequence, 3);
        let frame =
            r#"{"type":"action_decision","action_id":"a","decision":"reject","reason":"no"}"#;
        let expected = DecideAction {
            action_id: "a".to_owned(),
            verdict: Verdict::Reject,
            reason: Some("no".to_owned()),
            arguments_hash: None,
        };
        assert_eq!(
            ClientFrame::decode(frame),
            Ok(ClientFrame::DecideAction(expected))
        );
        assert_eq!(
            ClientFrame::decode(r#"{"type":"ping","extra":1}"#),
            Ok(ClientFrame::Ping)
        );
    }

    #[test]
    fn complaints_carry_code_and_field() {
        use ErrorCode::{InvalidJson, InvalidMessage, UnknownType};
        let field = |name: &str| (InvalidMessage, Some(name.to_owned()));
        assert_eq!(complaint("{"), (InvalidJson, None));
        assert_eq!(complaint("7"), (InvalidMessage, None));
        assert_eq!(complaint("{}"), field("type"));
        assert_eq!(
            complaint(r#"{"type":"nope"}"#),
            (UnknownType, Some("type".into()))
        );
        assert_eq!(complaint(r#"{"type":"authenticate"}"#), field("token"));
        assert_eq!(
            complaint(r#"{"type":"authenticate","token":"x","client_info":1}"#),
            field("client_info")
        );
        assert_eq!(complaint(r#"{"type":"subscribe"}"#), field("channel"));
        let subscribe =
            |rest: &str| complaint(&format!(r#"{{"type":"subscribe","channel":"c",{rest}}}"#));
        assert_eq!(subscribe(r#""filters":[]"#), field("filters"));
        assert_eq!(
            subscribe(r#""filters":{"severity":"HIGH"}"#),
            field("filters.severity")
        );
        assert_eq!(
            subscribe(r#""filters":{"severity":[]}"#),
            field("filters.severity")
        );
        assert_eq!(subscribe(r#""since":"x""#), field("since"));
        assert_eq!(
            subscribe(r#""investigation_id":"a b""#),
            field("investigation_id")
        );
        assert_eq!(subscribe(r#""metrics":[1]"#), field("metrics"));
        let decide = |rest: &str| complaint(&format!(r#"{{"type":"action_decision"{rest}}}"#));
        assert_eq!(decide(""), field("action_id"));
        assert_eq!(decide(r#","action_id":"a b""#), field("action_id"));
        assert_eq!(decide(r#","action_id":"a""#), field("decision"));
        assert_eq!(
            decide(r#","action_id":"a","decision":"maybe""#),
            field("decision")
        );
        assert_eq!(
            decide(r#","action_id":"a","decision":"approve","reason":7"#),
            field("reason")
        );
        assert_eq!(
            decide(r#","action_id":"a","decision":"approve","arguments_hash":7"#),
            field("arguments_hash")
        );
        assert_eq!(
            complaint(r#"{"type":"unsubscribe","subscription_id":""}"#),
            field("subscription_id")
        );
    }

    #[test]
    fn absent_options_are_left_out() {
        let frame = ServerFrame::Error {
            code: ErrorCode::Forbidden,
            message: "no",
            field: None,
            retry_after: None,
            expires_at: None,
            decided_by: None,
            decision: None,
        };
        assert_eq!(
            serde_json::to_string(&frame).unwrap(),
            r#"{"type":"error","code":"FORBIDDEN","message":"no"}"#
        );
        assert_eq!(
            serde_json::to_string(&ServerFrame::Pong).unwrap(),
            r#"{"type":"pong"}"#
        );
    }
}

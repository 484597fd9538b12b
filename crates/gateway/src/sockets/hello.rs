//! What a CONNECT asks for: which dialect, as whom, and how it wants to be
//! answered.

use serde_json::{Map, Value};
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Cursor;

use super::opening::Opening;

/// How a client of dialect `workspace` is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RefuseBy {
    /// Let in, told by an event, and sent out of the namespace.
    #[default]
    Event,
    /// Not let in.
    ConnectError,
}

/// A credential that came with a CONNECT or its session.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// None, or an empty one.
    Missing,
    /// What may be one.
    Given(String),
    /// An API key in a URL, where it may not be.
    KeyInUrl,
}

/// What a CONNECT asks for.
pub(super) struct Hello {
    pub(super) dialect: Dialect,
    pub(super) token: Token,
    /// Whether the client takes part in the recovery of connections.
    pub(super) recovery: bool,
    pub(super) refuse_by: RefuseBy,
    /// After which position to go on; the error is what is wrong with it.
    pub(super) since: Result<Option<Cursor>, &'static str>,
}

impl Hello {
    /// Reads `auth`, and what came with the session. `refuse_by` is for those
    /// who do not say.
    pub(super) fn read(opening: &Opening, auth: &Map<String, Value>, refuse_by: RefuseBy) -> Self {
        let text = |key: &str| auth.get(key).and_then(Value::as_str);
        let named = text("dialect").or(opening.dialect.as_deref());
        let has_token = auth.contains_key("token") || opening.token.is_some();
        let meant = match named {
            Some("workspace") => Dialect::Workspace,
            Some("pipeline") => Dialect::Pipeline,
            _ if has_token => Dialect::Workspace,
            _ => Dialect::Pipeline,
        };
        Self {
            dialect: only_served(opening, meant),
            token: token(opening, auth),
            recovery: auth
                .get("recovery")
                .and_then(Value::as_bool)
                .unwrap_or(opening.takes_offsets),
            refuse_by: match text("errors") {
                Some("connect_error") => RefuseBy::ConnectError,
                Some("event") => RefuseBy::Event,
                _ => refuse_by,
            },
            since: match auth.get("since") {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => text.parse().map(Some).map_err(|_| NO_CURSOR),
                Some(_) => Err(NO_CURSOR),
            },
        }
    }
}

const NO_CURSOR: &str = "`since` is not a resume offset that this server gave out";

/// On a listener with one of the two, everybody speaks that one.
fn only_served(opening: &Opening, meant: Dialect) -> Dialect {
    match (opening.serves(meant), meant) {
        (true, _) => meant,
        (false, Dialect::Pipeline) => Dialect::Workspace,
        (false, _) => Dialect::Pipeline,
    }
}

/// The credential: from `auth`, else from the URL.
fn token(opening: &Opening, auth: &Map<String, Value>) -> Token {
    match auth.get("token") {
        Some(Value::String(token)) if !token.is_empty() => return Token::Given(token.clone()),
        // Something that no credential can be is looked at as one.
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            return Token::Given(value.to_string());
        }
        Some(Value::String(_) | Value::Null) | None => {}
    }
    match opening.token.as_deref() {
        None | Some("") => Token::Missing,
        // URLs end up in logs and histories; a key would live on there.
        Some(key) if key.starts_with(signalbox_identity::API_KEY_PREFIX) => Token::KeyInUrl,
        Some(token) => Token::Given(token.to_owned()),
    }
}

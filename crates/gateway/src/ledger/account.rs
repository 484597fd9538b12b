//! What the ledger keeps of a session, and how it lies on the bus.

use std::collections::BTreeMap;
use std::rc::Rc;

use signalbox_identity::{ApiKeyId, FamilyId, Principal};
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::wire::{
    JoinedRoom, PipelineNarrowing, RecoverableSession, SessionPrincipal,
};
use time::OffsetDateTime;

/// What is kept of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The id by which the client knows itself.
    pub(crate) socket_id: String,
    /// What it speaks.
    pub(crate) dialect: Dialect,
    /// Who it is, once it has authenticated.
    pub(crate) principal: Option<Rc<Principal>>,
    /// Where the stream was when the session began: the start for a client
    /// that has received nothing.
    pub(crate) connected_at: Cursor,
    /// The rooms that it is in.
    pub(crate) rooms: BTreeMap<String, Joined>,
    /// What it has narrowed the events of `pipeline` to.
    pub(crate) narrowing: Option<Narrowing>,
    /// Whether a client of `workspace` gets the events of `pipeline` as well.
    pub(crate) with_pipeline: bool,
}

/// How a session is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Since this position, from which on everything came in turn.
    At(Cursor),
    /// With a replay of older events that is not over.
    Replaying,
    /// With a replay that was over at this position. What it brought came out
    /// of turn with other rooms' events and has no place in the client's own
    /// position: only something that came later proves that it arrived.
    ReplayedUntil(Cursor),
}

impl Joined {
    /// Behind which sequence a client that stands at `offset` is owed the
    /// room's events; `None` where nobody can say.
    pub(crate) fn start(self, offset: Cursor) -> Option<u64> {
        match self {
            Self::At(joined) if joined.epoch == offset.epoch => {
                Some(joined.sequence.max(offset.sequence))
            }
            // In a later life of the stream everything came after.
            Self::At(_) => Some(offset.sequence),
            Self::Replaying => None,
            Self::ReplayedUntil(end) => {
                let is_behind = end.epoch != offset.epoch || end.sequence < offset.sequence;
                is_behind.then_some(offset.sequence)
            }
        }
    }
}

/// What a client of `pipeline` wants; an empty list stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrowing {
    /// Categories.
    pub(crate) categories: Vec<String>,
    /// Event types.
    pub(crate) event_types: Vec<String>,
    /// The least priority.
    pub(crate) min_priority: Option<String>,
}

/// An entry that this version cannot make sense of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("field `{0}` of a session makes no sense")]
pub(crate) struct InvalidAccount(&'static str);

impl From<&Account> for RecoverableSession {
    fn from(account: &Account) -> Self {
        let rooms = account.rooms.iter().map(|(name, joined)| {
            let mut room = JoinedRoom {
                name: name.clone(),
                ..JoinedRoom::default()
            };
            match joined {
                Joined::At(position) => room.joined_at = position.to_string(),
                Joined::Replaying => {}
                Joined::ReplayedUntil(position) => room.replayed_until = position.to_string(),
            }
            room
        });
        Self {
            socket_id: account.socket_id.clone(),
            dialect: account.dialect.name().to_owned(),
            principal: account.principal.as_deref().map(message),
            connected_at: account.connected_at.to_string(),
            rooms: rooms.collect(),
            narrowing: account
                .narrowing
                .as_ref()
                .map(|narrowing| PipelineNarrowing {
                    categories: narrowing.categories.clone(),
                    event_types: narrowing.event_types.clone(),
                    min_priority: narrowing.min_priority.clone().unwrap_or_default(),
                }),
            with_pipeline: account.with_pipeline,
            ..Self::default()
        }
    }
}

impl TryFrom<RecoverableSession> for Account {
    type Error = InvalidAccount;

    fn try_from(session: RecoverableSession) -> Result<Self, InvalidAccount> {
        let rooms = session.rooms.into_iter().map(|room| {
            let wrong = |_| InvalidAccount("rooms");
            let joined = match (room.joined_at.as_str(), room.replayed_until.as_str()) {
                ("", "") => Joined::Replaying,
                ("", end) => Joined::ReplayedUntil(end.parse().map_err(wrong)?),
                (position, _) => Joined::At(position.parse().map_err(wrong)?),
            };
            Ok((room.name, joined))
        });
        let principal = session.principal.map(principal).transpose()?;
        Ok(Self {
            socket_id: session.socket_id,
            dialect: session
                .dialect
                .parse()
                .map_err(|_| InvalidAccount("dialect"))?,
            principal: principal.map(Rc::new),
            connected_at: session
                .connected_at
                .parse()
                .map_err(|_| InvalidAccount("connected_at"))?,
            rooms: rooms.collect::<Result<_, _>>()?,
            narrowing: session.narrowing.map(|narrowing| Narrowing {
                categories: narrowing.categories,
                event_types: narrowing.event_types,
                min_priority: Some(narrowing.min_priority).filter(|least| !least.is_empty()),
            }),
            with_pipeline: session.with_pipeline,
        })
    }
}

fn message(principal: &Principal) -> SessionPrincipal {
    let origin = &principal.origin;
    let text = |id: Option<String>| id.unwrap_or_default();
    SessionPrincipal {
        principal: Some(principal.into()),
        expires_at_ns: principal.expires_at.map(nanoseconds),
        key_id: text(origin.key.as_ref().map(ToString::to_string)),
        family_id: text(origin.family.as_ref().map(ToString::to_string)),
        issued_at_ns: origin.issued_at.map(nanoseconds),
    }
}

/// The principal of a message. What it may do is at most what its role grants
/// by this version; revocations are to be asked about it.
fn principal(message: SessionPrincipal) -> Result<Principal, InvalidAccount> {
    let principal = message.principal.ok_or(InvalidAccount("principal"))?;
    let mut principal = Principal::try_from(principal).map_err(|_| InvalidAccount("principal"))?;
    principal.expires_at = time(message.expires_at_ns, "expires_at_ns")?;
    let origin = &mut principal.origin;
    origin.issued_at = time(message.issued_at_ns, "issued_at_ns")?;
    origin.key = match message.key_id.as_str() {
        "" => None,
        id => Some(ApiKeyId::parse(id).map_err(|_| InvalidAccount("key_id"))?),
    };
    origin.family = match message.family_id {
        id if id.is_empty() => None,
        id => Some(FamilyId::new(id).map_err(|_| InvalidAccount("family_id"))?),
    };
    Ok(principal)
}

/// Times beyond the year 2262 become its end.
fn nanoseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn time(
    nanoseconds: Option<i64>,
    field: &'static str,
) -> Result<Option<OffsetDateTime>, InvalidAccount> {
    nanoseconds
        .map(|at| OffsetDateTime::from_unix_timestamp_nanos(at.into()))
        .transpose()
        .map_err(|_| InvalidAccount(field))
}

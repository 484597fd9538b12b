//! The event streams: what they are, made by one step and verified by all.
//!
//! | stream | subjects | keeps |
//! |---|---|---|
//! | EVENTS | `events.<known domain>.>` | until a router has stored or refused it |
//! | TOPICS | `topics.*.*.*` | by age and bytes |
//! | DLQ | `dlq.>` | refused events for 30 days |
//! | CHAT | `log.chat.*.*` | the logs of chats by age and bytes; repeated on `live.` |
//! | TERM | `log.term.*` | the logs of commands by age and bytes; repeated on `live.` |

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, kv};
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;

use crate::connection::{Bus, BusError};
use crate::key::SESSIONS_STREAM;
use crate::subject::LogKind;
use crate::{key, subject};

/// The producers' work queue.
pub const EVENTS: &str = "EVENTS";
/// The routed events, in the order in which gateways deliver them.
pub const TOPICS: &str = "TOPICS";
/// The refused events.
pub const DLQ: &str = "DLQ";
/// The logs of commands.
pub const TERM: &str = "TERM";

/// The logs of chats.
pub const CHAT: &str = "CHAT";

/// How long a bucket whose entries expire remembers that one has.
pub const LEASE_MARKER: Duration = Duration::from_secs(60);

const GIB: u64 = 1024 * 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Events of one type that may wait in EVENTS: a domain whose router is stuck
/// must not fill the stream for the others.
const MAX_WAITING_PER_TYPE: i64 = 500_000;
/// How long it is known who decided on an action.
const DECISIONS_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The duplicate window of a stream that needs none: what is written by
/// compare-and-set is found by reading, and each id would be held in memory.
const NO_DUPLICATES: Duration = Duration::from_secs(1);
/// Consumers that TOPICS may have: one per gateway and per tool that follows.
const MAX_TOPICS_CONSUMERS: i32 = 4_096;

/// How the streams are sized and replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Copies of each stream: 1 on one machine, 3 in a cluster.
    pub replicas: usize,
    /// The most that may wait in EVENTS, in bytes; producers are refused
    /// beyond it.
    pub events_bytes: u64,
    /// The most that TOPICS keeps, in bytes; the oldest go first.
    pub topics_bytes: u64,
    /// How long TOPICS keeps an event.
    pub topics_age: Duration,
    /// How long TOPICS recognises a repeated publish by its id.
    pub duplicate_window: Duration,
    /// How long DLQ keeps a refused event.
    pub dlq_age: Duration,
    /// The most that DLQ keeps, in bytes.
    pub dlq_bytes: u64,
    /// How long a session that nobody refreshes can be come back to.
    pub sessions_age: Duration,
    /// The most that sessions may take, in bytes; those that were refreshed
    /// the longest ago go first.
    pub sessions_bytes: u64,
    /// How long TERM keeps what commands have written.
    pub term_age: Duration,
    /// The most that TERM keeps, in bytes; the oldest goes first.
    pub term_bytes: u64,
    /// How long CHAT keeps what was said.
    pub chat_age: Duration,
    /// The most that CHAT keeps, in bytes; the oldest goes first.
    pub chat_bytes: u64,
    /// The most that is kept of investigations, in bytes; notes are refused when
    /// half of it is taken.
    pub investigations_bytes: u64,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            replicas: 1,
            events_bytes: 4 * GIB,
            topics_bytes: 8 * GIB,
            topics_age: DAY,
            duplicate_window: Duration::from_secs(600),
            dlq_age: 30 * DAY,
            dlq_bytes: GIB,
            sessions_age: 2 * DAY,
            sessions_bytes: GIB,
            term_age: DAY,
            term_bytes: 4 * GIB,
            chat_age: 30 * DAY,
            chat_bytes: 4 * GIB,
            investigations_bytes: GIB,
        }
    }
}

impl StreamSettings {
    /// The same, with all streams together in at most half of `free_bytes`.
    #[must_use]
    pub fn fitted_to(self, free_bytes: u64) -> Self {
        let wanted = self.events_bytes
            + self.topics_bytes
            + self.dlq_bytes
            + self.sessions_bytes
            + self.term_bytes
            + self.chat_bytes
            + self.investigations_bytes;
        let room = free_bytes / 2;
        if wanted <= room {
            return self;
        }
        let share = |bytes: u64| (u128::from(bytes) * u128::from(room) / u128::from(wanted)) as u64;
        Self {
            events_bytes: share(self.events_bytes),
            topics_bytes: share(self.topics_bytes),
            dlq_bytes: share(self.dlq_bytes),
            sessions_bytes: share(self.sessions_bytes),
            term_bytes: share(self.term_bytes),
            chat_bytes: share(self.chat_bytes),
            investigations_bytes: share(self.investigations_bytes),
            ..self
        }
    }
}

/// Makes streams and buckets, or brings them up to date. Needs the
/// administrator's rights.
///
/// # Errors
/// When the bus refuses or does not answer.
pub async fn init(bus: &Bus, settings: &StreamSettings) -> Result<(), BusError> {
    for config in [
        events(settings),
        topics(settings),
        dlq(settings),
        sessions(settings),
        term(settings),
        chat(settings),
    ] {
        let name = config.name.clone();
        bus.jetstream()
            .create_or_update_stream(config)
            .await
            .map_err(|error| BusError::api(format!("make stream {name}"), error))?;
    }
    let expiring = [
        key::INVESTIGATIONS,
        key::LEASES,
        key::PRESENCE,
        key::REFRESH_FAMILIES,
        key::REVOCATIONS,
    ];
    let lasting = [
        key::AGENTS,
        key::API_KEYS,
        key::FLEET,
        key::SIGNING_KEYS,
        key::USERS,
    ];
    for bucket in lasting.into_iter().chain(expiring) {
        let config = kv::Config {
            bucket: bucket.to_owned(),
            history: 1,
            num_replicas: settings.replicas,
            // Anybody who may look on can have as many investigations as they like.
            max_bytes: match bucket {
                key::INVESTIGATIONS => bytes(settings.investigations_bytes),
                _ => -1,
            },
            // Without markers, those who watch would not hear of an expiry.
            limit_markers: expiring.contains(&bucket).then_some(LEASE_MARKER),
            ..kv::Config::default()
        };
        bus.jetstream()
            .create_or_update_key_value(config)
            .await
            .map_err(|error| BusError::api(format!("make bucket {bucket}"), error))?;
    }
    // A letter that is gone needs no record, nor does an action that ended long
    // ago.
    for (bucket, max_age) in [
        (key::REPLAYS, settings.dlq_age),
        (key::DECISIONS, DECISIONS_AGE),
        // Also what says of an answer that it is over; nobody goes on with one
        // whose log is gone.
        (key::CHATS, settings.chat_age + DAY),
    ] {
        let config = kv::Config {
            bucket: bucket.to_owned(),
            history: 1,
            max_age,
            num_replicas: settings.replicas,
            ..kv::Config::default()
        };
        bus.jetstream()
            .create_or_update_key_value(config)
            .await
            .map_err(|error| BusError::api(format!("make bucket {bucket}"), error))?;
    }
    Ok(())
}

/// Checks that a stream is there and does what this version relies on; newer
/// settings pass. Returns its epoch and state.
///
/// # Errors
/// [`BusError::Stream`] says what is wrong and what to run.
pub async fn verify(bus: &Bus, name: &'static str) -> Result<StreamState, BusError> {
    let info = info(bus, name).await?;
    let wanted = match name {
        EVENTS => events(&StreamSettings::default()),
        TOPICS => topics(&StreamSettings::default()),
        TERM => term(&StreamSettings::default()),
        CHAT => chat(&StreamSettings::default()),
        _ => dlq(&StreamSettings::default()),
    };
    let problem = |problem: &str| BusError::Stream {
        stream: name,
        problem: problem.to_owned(),
    };
    let config = &info.config;
    if wanted
        .subjects
        .iter()
        .any(|subject| !config.subjects.contains(subject))
    {
        return Err(problem("it does not take all subjects of this version"));
    }
    if config.retention != wanted.retention {
        return Err(problem("its retention policy is another"));
    }
    if config.discard != wanted.discard {
        return Err(problem("its discard policy is another"));
    }
    if matches!(name, TOPICS | TERM | CHAT) && !config.allow_direct {
        return Err(problem("it does not allow direct get"));
    }
    if matches!(name, TERM | CHAT) && config.republish.is_none() {
        return Err(problem("it does not repeat what it stores"));
    }
    Ok(StreamState::from(&info))
}

/// What a reader needs to know of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's life.
    pub epoch: Epoch,
    /// The sequence of its oldest message; one past the last when empty.
    pub first: u64,
    /// The sequence of its newest message, 0 when it never had one.
    pub last: u64,
}

impl From<&Info> for StreamState {
    fn from(info: &Info) -> Self {
        let micros = info.created.unix_timestamp_nanos() / 1_000;
        Self {
            epoch: Epoch::from_unix_micros(u64::try_from(micros).unwrap_or(1).max(1)),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
        }
    }
}

/// The stream's state as its leader has it.
///
/// # Errors
/// When the stream does not exist or the bus does not answer.
pub async fn state(bus: &Bus, name: &'static str) -> Result<StreamState, BusError> {
    info(bus, name).await.map(|info| StreamState::from(&info))
}

/// How many bytes a stream takes, and how many it may.
pub(crate) async fn filling(bus: &Bus, name: &'static str) -> Result<(u64, Option<u64>), BusError> {
    let info = info(bus, name).await?;
    let most = u64::try_from(info.config.max_bytes).ok();
    Ok((info.state.bytes, most.filter(|most| *most > 0)))
}

/// How long the bucket of sessions keeps what is not refreshed, after a check
/// that it is there and keeps the newest of each.
pub(crate) async fn sessions_lifetime(bus: &Bus) -> Result<Duration, BusError> {
    let config = info(bus, SESSIONS_STREAM).await?.config;
    if config.max_messages_per_subject != 1 || config.max_age.is_zero() {
        return Err(BusError::Stream {
            stream: SESSIONS_STREAM,
            problem: "it does not keep one entry of each session for a while".to_owned(),
        });
    }
    Ok(config.max_age)
}

/// How long the stream recognises a repeated publish by its id.
///
/// # Errors
/// When the stream does not exist or the bus does not answer.
pub async fn duplicate_window(bus: &Bus, name: &'static str) -> Result<Duration, BusError> {
    info(bus, name)
        .await
        .map(|info| info.config.duplicate_window)
}

async fn info(bus: &Bus, name: &'static str) -> Result<Info, BusError> {
    let subject = format!("$JS.API.STREAM.INFO.{name}");
    match bus
        .unless_refused(&subject, bus.jetstream().get_stream(name))
        .await?
    {
        Ok(stream) => Ok(stream.cached_info().clone()),
        Err(error) => match error.kind() {
            jetstream::context::GetStreamErrorKind::JetStream(_) => Err(BusError::Stream {
                stream: name,
                problem: error.to_string(),
            }),
            _ => Err(BusError::api(format!("look up stream {name}"), error)),
        },
    }
}

fn events(settings: &StreamSettings) -> Config {
    Config {
        name: EVENTS.to_owned(),
        description: Some(
            "events as producers published them, until a router took them".to_owned(),
        ),
        subjects: Domain::ALL.into_iter().map(subject::events_of).collect(),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_bytes: bytes(settings.events_bytes),
        max_messages_per_subject: MAX_WAITING_PER_TYPE,
        discard_new_per_subject: true,
        duplicate_window: settings.duplicate_window,
        ..base(settings)
    }
}

fn topics(settings: &StreamSettings) -> Config {
    Config {
        name: TOPICS.to_owned(),
        description: Some("routed events, in the order of delivery".to_owned()),
        subjects: vec![format!("{}.*.*.*", subject::TOPICS_PREFIX)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(settings.topics_bytes),
        max_age: settings.topics_age,
        duplicate_window: settings.duplicate_window.min(settings.topics_age),
        max_consumers: MAX_TOPICS_CONSUMERS,
        allow_direct: true,
        deny_delete: true,
        ..base(settings)
    }
}

fn dlq(settings: &StreamSettings) -> Config {
    Config {
        name: DLQ.to_owned(),
        description: Some("events that routers refused, with the reason".to_owned()),
        subjects: vec![format!("{}.>", subject::DLQ_PREFIX)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(settings.dlq_bytes),
        max_age: settings.dlq_age,
        duplicate_window: settings.duplicate_window.min(settings.dlq_age),
        allow_direct: true,
        ..base(settings)
    }
}

/// The bucket of sessions. Unlike other buckets it drops the oldest entries
/// when it is full instead of refusing new ones: a session that somebody is in
/// is refreshed, so that the oldest are those of clients that stayed away.
fn sessions(settings: &StreamSettings) -> Config {
    Config {
        name: SESSIONS_STREAM.to_owned(),
        description: Some("Socket.IO sessions that clients may come back to".to_owned()),
        subjects: vec![format!("$KV.{}.>", key::SESSIONS)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages_per_subject: 1,
        max_bytes: bytes(settings.sessions_bytes),
        max_age: settings.sessions_age,
        duplicate_window: NO_DUPLICATES.min(settings.sessions_age),
        deny_delete: true,
        ..base(settings)
    }
}

fn term(settings: &StreamSettings) -> Config {
    let logs = subject::logs_of(LogKind::Term);
    Config {
        name: TERM.to_owned(),
        description: Some("what commands have written, a log for each".to_owned()),
        subjects: vec![logs.clone()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(settings.term_bytes),
        max_age: settings.term_age,
        duplicate_window: settings.duplicate_window.min(settings.term_age),
        allow_direct: true,
        republish: Some(Republish {
            source: logs,
            destination: format!("{}.term.{{{{wildcard(1)}}}}", subject::LIVE_LOG_PREFIX),
            headers_only: false,
        }),
        ..base(settings)
    }
}

fn chat(settings: &StreamSettings) -> Config {
    let logs = subject::logs_of(LogKind::Chat);
    Config {
        name: CHAT.to_owned(),
        description: Some("what people and agents have said, a log for each chat".to_owned()),
        subjects: vec![logs.clone()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(settings.chat_bytes),
        max_age: settings.chat_age,
        duplicate_window: NO_DUPLICATES.min(settings.chat_age),
        allow_direct: true,
        republish: Some(Republish {
            source: logs,
            destination: format!(
                "{}.chat.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
                subject::LIVE_LOG_PREFIX
            ),
            headers_only: false,
        }),
        ..base(settings)
    }
}

fn base(settings: &StreamSettings) -> Config {
    Config {
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_messages: -1,
        metadata: HashMap::from([(
            "signalbox.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        )]),
        ..Config::default()
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_fit_half_of_a_small_disk_and_keep_their_proportions() {
        let wanted = StreamSettings::default();
        assert_eq!(wanted.fitted_to(100 * GIB), wanted);
        let small = wanted.fitted_to(2 * GIB);
        let logs = small.events_bytes + small.topics_bytes + small.dlq_bytes + small.term_bytes;
        let rest = small.sessions_bytes + small.chat_bytes + small.investigations_bytes;
        assert!(logs + rest <= GIB);
        assert_eq!(small.topics_bytes / small.events_bytes, 2);
    }
}

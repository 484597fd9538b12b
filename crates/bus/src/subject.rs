//! Every subject on the bus is built and read here: one file, so that no two of
//! them can mean the same.
//!
//! ```text
//! events.<domain>.<type>                        producers -> routers
//! topics.<channel>.<object|->.<user|global|->   routers -> gateways
//! dlq.<domain>.<type>                           routers -> operators
//! svc.<service>.<method>                        requests between services
//! svc.gateway.<id>.ask, .answer.<number>        gateways -> one gateway
//! svc.relay.<shard>.<method>                    gateways -> the shard's relay
//! svc.agents.<gateway>                   relays -> an agent's gateway
//! svc.orchestrator.<shard>.chat                 gateways -> the shard's orchestrator
//! svc.orchestrator.<shard>.investigation        likewise
//! log.term.<command>                            a log's owner -> its stream
//! log.chat.<user>.<session>                     likewise, in a group per user
//! live.log.<kind>.<id>                          the server, as it stores them
//! live.fleet.<shard>                            relays -> all gateways
//! tools.<name>                                  orchestrators -> responders
//! ```
//! Ids in slots are prefixed `=` and have every byte outside `[A-Za-z0-9_-]`
//! written as `%XX`, so that no id can be mistaken for a reserved word or
//! reach another subject.

use std::fmt;
use std::str::FromStr;

use signalbox_protocol::catalogue::{self, Audience, Channel, EventType, Topic};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::fleet::Shard;

/// Everything that producers publish.
pub const EVENTS_PREFIX: &str = "events";
/// Everything that routers store.
pub const TOPICS_PREFIX: &str = "topics";
/// Everything that routers refuse.
pub const DLQ_PREFIX: &str = "dlq";

/// Requests to verify an API key.
pub const VERIFY_KEY: &str = "svc.auth.verify_key";
/// Requests to issue an access token.
pub const ISSUE_TOKEN: &str = "svc.auth.issue_token";
/// Requests to exchange a refresh token.
pub const REFRESH_TOKEN: &str = "svc.auth.refresh_token";
/// Requests of bearers to revoke what they hold.
pub const REVOKE: &str = "svc.auth.revoke";
/// Requests of administrators, with their credential.
pub const MANAGE: &str = "svc.auth.manage";
/// Requests to fetch the keys of an external issuer.
pub const REFRESH_ISSUER: &str = "svc.auth.refresh_issuer";
/// Requests of administrators whose authority is that they may send here.
pub const ADMIN_MANAGE: &str = "svc.admin.manage";
/// Everything that gateways tell each other.
pub const GATEWAYS_PREFIX: &str = "svc.gateway";
/// Questions to every gateway about who is connected; answered one token below.
pub const GATEWAY_STATS: &str = "svc.gateway.stats";
/// Says to every gateway that a session was taken over.
pub const GATEWAY_TAKEN_OVER: &str = "svc.gateway.taken_over";
/// The queue group that auth replicas share.
pub const AUTH_GROUP: &str = "auth";

const ASK: &str = "ask";
const ANSWER: &str = "answer";

/// What a running gateway is called by the others; new at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatewayId(u64);

impl GatewayId {
    /// The id with this number, which the caller takes at random.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The subject on which it is asked.
    #[must_use]
    pub fn ask(self) -> String {
        format!("{GATEWAYS_PREFIX}.{self}.{ASK}")
    }

    /// The subject on which it is answered.
    #[must_use]
    pub fn answer(self, number: u64) -> String {
        format!("{GATEWAYS_PREFIX}.{self}.{ANSWER}.{number}")
    }

    /// The wildcard for both.
    #[must_use]
    pub fn all(self) -> String {
        format!("{GATEWAYS_PREFIX}.{self}.>")
    }

    /// The number in a subject on which it is answered.
    #[must_use]
    pub fn parse_answer(self, subject: &str) -> Option<u64> {
        let (gateway, number) = parse_gateway_answer(subject)?;
        (gateway == self).then_some(number)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Not the id of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 hexadecimal digits in lower case")]
pub struct InvalidGatewayId;

impl FromStr for GatewayId {
    type Err = InvalidGatewayId;

    /// Takes exactly what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, InvalidGatewayId> {
        let digits = text.len() == 16
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidGatewayId)
    }
}

/// Gateway and number of a subject on which a gateway is answered.
#[must_use]
pub fn parse_gateway_answer(subject: &str) -> Option<(GatewayId, u64)> {
    let rest = subject.strip_prefix(GATEWAYS_PREFIX)?.strip_prefix('.')?;
    let mut tokens = rest.split('.');
    let (gateway, kind, number) = (tokens.next()?, tokens.next()?, tokens.next()?);
    if kind != ANSWER || tokens.next().is_some() {
        return None;
    }
    Some((gateway.parse().ok()?, number.parse().ok()?))
}

/// Everything that relays are asked.
pub const RELAY_PREFIX: &str = "svc.relay";
/// Requests to stop all agents, to let them go on, or how that stands.
pub const EMERGENCY: &str = "svc.relay.emergency";
/// The queue group that relays share for what any of them can answer.
pub const RELAY_GROUP: &str = "relay";
/// Everything that gateways are asked about their connections with agents.
pub const GATEWAY_AGENTS: &str = "svc.agents.*";
/// What changes in the fleet.
pub const FLEET_PREFIX: &str = "live.fleet";
/// Every call of a tool that a responder answers.
pub const TOOLS_PREFIX: &str = "tools";

/// The subject on which a tool is called; its name is a token.
#[must_use]
pub fn tool(name: &str) -> String {
    format!("{TOOLS_PREFIX}.{name}")
}

/// Everything in logs.
pub const LOG_PREFIX: &str = "log";
/// Everything in logs, as the server repeats it when it stores it.
pub const LIVE_LOG_PREFIX: &str = "live.log";

/// A kind of log, which has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// The output of a command.
    Term,
    /// A chat with an agent. Logs are in groups, one per user: the group stands
    /// in front of the last `/` of a log's id.
    Chat,
}

impl LogKind {
    /// The kind as it stands in subjects.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Chat => "chat",
        }
    }

    /// Whether logs of this kind are in groups.
    #[must_use]
    pub const fn is_grouped(self) -> bool {
        match self {
            Self::Term => false,
            Self::Chat => true,
        }
    }
}

/// Everything that orchestrators are asked.
pub const ORCHESTRATOR_PREFIX: &str = "svc.orchestrator";

/// Requests about the chats of a shard's users.
#[must_use]
pub fn orchestrator_chat(shard: Shard) -> String {
    format!("{ORCHESTRATOR_PREFIX}.{shard}.chat")
}

/// Requests about the investigations of a shard.
#[must_use]
pub fn orchestrator_investigation(shard: Shard) -> String {
    format!("{ORCHESTRATOR_PREFIX}.{shard}.investigation")
}

/// Where the events of an investigation are on TOPICS, all in one order.
#[must_use]
pub fn investigation(investigation_id: &str) -> String {
    topic(&Topic {
        channel: Channel::InvestigationProgress,
        object: Some(investigation_id.to_owned()),
        audience: Audience::Nobody,
    })
}

/// Requests for commands on the agents of a shard.
#[must_use]
pub fn relay_commands(shard: Shard) -> String {
    format!("{RELAY_PREFIX}.{shard}.command")
}

/// Reports of the agents of a shard.
#[must_use]
pub fn relay_agents(shard: Shard) -> String {
    format!("{RELAY_PREFIX}.{shard}.agent")
}

/// Requests for all that is known of a shard.
#[must_use]
pub fn relay_snapshot(shard: Shard) -> String {
    format!("{RELAY_PREFIX}.{shard}.snapshot")
}

/// What a gateway is to tell agents that are connected to it.
#[must_use]
pub fn gateway_agent(gateway: &str) -> String {
    format!("svc.agents.{gateway}")
}

/// What changes in a shard.
#[must_use]
pub fn fleet(shard: Shard) -> String {
    format!("{FLEET_PREFIX}.{shard}")
}

/// A log in its stream.
#[must_use]
pub fn log(kind: LogKind, id: &str) -> String {
    let mut subject = format!("{LOG_PREFIX}.{}.", kind.token());
    if kind.is_grouped() {
        let (group, id) = id.rsplit_once('/').unwrap_or(("", id));
        push_id(&mut subject, group);
        subject.push('.');
        push_id(&mut subject, id);
    } else {
        push_id(&mut subject, id);
    }
    subject
}

/// A log as it grows.
#[must_use]
pub fn live_log(kind: LogKind, id: &str) -> String {
    format!("live.{}", log(kind, id))
}

/// All logs of a group in their stream.
#[must_use]
pub fn logs_in(kind: LogKind, group: &str) -> String {
    let mut subject = format!("{LOG_PREFIX}.{}.", kind.token());
    push_id(&mut subject, group);
    subject.push_str(".*");
    subject
}

/// All logs of a group as they grow.
#[must_use]
pub fn live_logs_in(kind: LogKind, group: &str) -> String {
    format!("live.{}", logs_in(kind, group))
}

/// All logs of a kind in their stream.
#[must_use]
pub fn logs_of(kind: LogKind) -> String {
    let id = if kind.is_grouped() { "*.*" } else { "*" };
    format!("{LOG_PREFIX}.{}.{id}", kind.token())
}

/// All logs of a kind as they grow.
#[must_use]
pub fn live_logs_of(kind: LogKind) -> String {
    format!("live.{}", logs_of(kind))
}

/// The id of a log of this kind, by its subject in the stream or live.
#[must_use]
pub fn log_id(kind: LogKind, subject: &str) -> Option<String> {
    let subject = subject.strip_prefix("live.").unwrap_or(subject);
    let rest = subject.strip_prefix(LOG_PREFIX)?.strip_prefix('.')?;
    let token = rest.strip_prefix(kind.token())?.strip_prefix('.')?;
    if !kind.is_grouped() {
        return parse_id(token);
    }
    let (group, id) = token.split_once('.')?;
    Some(format!("{}/{}", parse_id(group)?, parse_id(id)?))
}

/// The prefix of the inboxes of a user, who may subscribe to no other.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

const EMPTY: &str = "-";
const GLOBAL: &str = "global";

/// The subject on which producers publish a type of event.
#[must_use]
pub fn event(domain: Domain, name: &str) -> String {
    format!("{EVENTS_PREFIX}.{domain}.{name}")
}

/// The wildcard for all events of a domain.
#[must_use]
pub fn events_of(domain: Domain) -> String {
    format!("{EVENTS_PREFIX}.{domain}.>")
}

/// Domain and type name of a producer's subject.
#[must_use]
pub fn parse_event(subject: &str) -> Option<(Domain, &str)> {
    let (prefix, rest) = subject.split_once('.')?;
    let (domain, name) = rest.split_once('.')?;
    (prefix == EVENTS_PREFIX && !name.is_empty()).then_some((domain.parse().ok()?, name))
}

/// The type of the event on a producer's subject; `None` where there is no such.
#[must_use]
pub fn event_type(subject: &str) -> Option<&'static EventType> {
    let (domain, name) = parse_event(subject)?;
    catalogue::find(domain, name)
}

/// The subject of refused events of a type.
#[must_use]
pub fn dead_letter(domain: Domain, name: &str) -> String {
    format!("{DLQ_PREFIX}.{domain}.{name}")
}

/// The wildcard for all refused events, or for those of a domain.
#[must_use]
pub fn dead_letters(domain: Option<Domain>) -> String {
    match domain {
        None => format!("{DLQ_PREFIX}.>"),
        Some(domain) => format!("{DLQ_PREFIX}.{domain}.>"),
    }
}

/// The subject of a topic.
#[must_use]
pub fn topic(topic: &Topic) -> String {
    let mut subject = format!("{TOPICS_PREFIX}.{}.", topic.channel);
    match &topic.object {
        None => subject.push_str(EMPTY),
        Some(id) => push_id(&mut subject, id),
    }
    subject.push('.');
    push_audience(&mut subject, &topic.audience);
    subject
}

/// The topic of a stored event; `None` for subjects that this version does
/// not know, which a newer router may write.
#[must_use]
pub fn parse_topic(subject: &str) -> Option<Topic> {
    let mut tokens = subject.split('.');
    let (prefix, channel) = (tokens.next()?, tokens.next()?);
    let (object, user) = (tokens.next()?, tokens.next()?);
    if prefix != TOPICS_PREFIX || tokens.next().is_some() {
        return None;
    }
    Some(Topic {
        channel: channel.parse::<Channel>().ok()?,
        object: match object {
            EMPTY => None,
            token => Some(parse_id(token)?),
        },
        audience: match user {
            EMPTY => Audience::Nobody,
            GLOBAL => Audience::Everyone,
            token => Audience::User(parse_id(token)?),
        },
    })
}

/// The channel in a subject of TOPICS, as text; empty where there is none.
#[must_use]
pub fn channel_of(topic: &str) -> &str {
    topic.split('.').nth(1).unwrap_or_default()
}

/// The wildcard for everything on a channel, or for one object's part of it.
#[must_use]
pub fn topics_of(channel: Channel, object: Option<&str>) -> String {
    let mut subject = format!("{TOPICS_PREFIX}.{channel}.");
    match object {
        None => subject.push('>'),
        Some(id) => {
            push_id(&mut subject, id);
            subject.push_str(".*");
        }
    }
    subject
}

/// The wildcard for what is addressed like this: `None` is any channel, any
/// object or none, any audience or none.
#[must_use]
pub fn topics_to(
    channel: Option<Channel>,
    object: Option<&str>,
    audience: Option<&Audience>,
) -> String {
    const ANY: &str = "*";
    let mut subject = format!("{TOPICS_PREFIX}.");
    subject.push_str(channel.map_or(ANY, Channel::name));
    subject.push('.');
    match object {
        None => subject.push_str(ANY),
        Some(id) => push_id(&mut subject, id),
    }
    subject.push('.');
    match audience {
        None => subject.push_str(ANY),
        Some(audience) => push_audience(&mut subject, audience),
    }
    subject
}

fn push_audience(subject: &mut String, audience: &Audience) {
    match audience {
        Audience::Nobody => subject.push_str(EMPTY),
        Audience::Everyone => subject.push_str(GLOBAL),
        Audience::User(id) => push_id(subject, id),
    }
}

fn push_id(subject: &mut String, id: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    subject.push('=');
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            subject.push('%');
            subject.push(char::from(HEX[usize::from(byte >> 4)]));
            subject.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn parse_id(token: &str) -> Option<String> {
    let mut bytes = token.strip_prefix('=')?.bytes();
    let mut id = Vec::with_capacity(token.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            id.push(u8::from_str_radix(digits, 16).ok()?);
        } else if byte == b'.' {
            // More than one token.
            return None;
        } else {
            id.push(byte);
        }
    }
    String::from_utf8(id).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn producers_subjects_are_read_back() {
        let subject = event(Domain::Workflow, "step.completed");
        assert_eq!(subject, "events.workflow.step.completed");
        assert_eq!(
            parse_event(&subject),
            Some((Domain::Workflow, "step.completed"))
        );
        for subject in [
            "events.threat",
            "events.threat.",
            "events.nope.x",
            "topics.threat.x",
        ] {
            assert_eq!(parse_event(subject), None, "{subject}");
        }
    }

    #[test]
    fn unknown_topics_are_told_apart() {
        for subject in [
            "topics.threat_alerts.-",
            "topics.threat_alerts.-.-.-",
            "topics.nope.-.-",
            "topics.threat_alerts.x.-",
            "topics.threat_alerts.=%4.-",
            "other.threat_alerts.-.-",
        ] {
            assert_eq!(parse_topic(subject), None, "{subject}");
        }
    }

    #[test]
    fn gateways_are_named_in_one_way_only() {
        let id = GatewayId::new(0xab);
        assert_eq!(id.ask(), "svc.gateway.00000000000000ab.ask");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "ab",
            "00000000000000AB",
            "+0000000000000ab",
            "00000000000000a*",
            "0000000000000.>b",
            "000000000000000ab",
        ] {
            assert_eq!(text.parse::<GatewayId>(), Err(InvalidGatewayId), "{text}");
        }
        assert_eq!(parse_gateway_answer(&id.answer(7)), Some((id, 7)));
        assert_eq!(id.parse_answer(&id.answer(7)), Some(7));
        assert_eq!(GatewayId::new(1).parse_answer(&id.answer(7)), None);
        for subject in [
            "svc.gateway.00000000000000ab.ask",
            "svc.gateway.00000000000000ab.answer",
            "svc.gateway.00000000000000ab.answer.x",
            "svc.gateway.00000000000000ab.answer.1.2",
            "svc.gateway.ab.answer.1",
            "svc.gatewayx.00000000000000ab.answer.1",
            "events.threat.x",
        ] {
            assert_eq!(parse_gateway_answer(subject), None, "{subject}");
        }
    }

    #[test]
    fn logs_in_groups_are_followed_by_their_group() {
        let id = "corp.*/ada/chat-1";
        let subject = log(LogKind::Chat, id);
        assert_eq!(subject, "log.chat.=corp%2E%2A%2Fada.=chat-1");
        assert_eq!(log_id(LogKind::Chat, &subject).as_deref(), Some(id));
        let live = live_log(LogKind::Chat, id);
        assert_eq!(log_id(LogKind::Chat, &live).as_deref(), Some(id));
        let group = live_logs_in(LogKind::Chat, "corp.*/ada");
        assert_eq!(group, "live.log.chat.=corp%2E%2A%2Fada.*");
        assert_eq!(logs_of(LogKind::Chat), "log.chat.*.*");
        assert_eq!(logs_of(LogKind::Term), "log.term.*");
        for subject in [
            "log.chat.=a",
            "log.chat.=a.b",
            "log.chat.=a.=b.=c",
            "log.term.=a.=b",
        ] {
            assert_eq!(log_id(LogKind::Chat, subject), None, "{subject}");
        }
    }

    #[test]
    fn wildcards_cover_the_channel_or_one_object() {
        assert_eq!(
            topics_of(Channel::ThreatAlerts, None),
            "topics.threat_alerts.>"
        );
        let one = topics_of(Channel::InvestigationProgress, Some("a.b"));
        assert_eq!(one, "topics.investigation_progress.=a%2Eb.*");
    }

    #[test]
    fn wildcards_cover_one_slot_on_any_channel() {
        let user = Audience::User("u 1".to_owned());
        for (object, audience, expected) in [
            (None, None, "topics.*.*.*"),
            (Some("7"), None, "topics.*.=7.*"),
            (None, Some(&user), "topics.*.*.=u%201"),
            (None, Some(&Audience::Everyone), "topics.*.*.global"),
        ] {
            assert_eq!(topics_to(None, object, audience), expected);
        }
        let one = topics_to(Some(Channel::ThreatAlerts), None, Some(&Audience::Everyone));
        assert_eq!(one, "topics.threat_alerts.*.global");
    }

    #[test]
    fn a_log_is_found_by_both_of_its_subjects() {
        let id = "a.b/c";
        assert_eq!(log(LogKind::Term, id), "log.term.=a%2Eb%2Fc");
        for subject in [log(LogKind::Term, id), live_log(LogKind::Term, id)] {
            assert_eq!(log_id(LogKind::Term, &subject).as_deref(), Some(id));
        }
        for subject in [
            "log.term.x",
            "log.chat.=x",
            "topics.term.=x",
            "log.terms.=x",
        ] {
            assert_eq!(log_id(LogKind::Term, subject), None, "{subject}");
        }
    }

    #[test]
    fn every_shard_has_its_subjects() {
        let shard = Shard::of_agent("agent-1");
        assert_eq!(relay_commands(shard), format!("svc.relay.{shard}.command"));
        assert_eq!(relay_agents(shard), format!("svc.relay.{shard}.agent"));
        assert_eq!(relay_snapshot(shard), format!("svc.relay.{shard}.snapshot"));
        assert_eq!(fleet(shard), format!("live.fleet.{shard}"));
    }

    proptest! {
        #[test]
        fn any_id_survives_in_one_token(object in "\\PC{1,40}", user in "[ -~]{1,40}") {
            let given = Topic {
                channel: Channel::InvestigationProgress,
                object: Some(object),
                audience: Audience::User(user),
            };
            let subject = topic(&given);
            prop_assert_eq!(subject.split('.').count(), 4);
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'));
            prop_assert_eq!(parse_topic(&subject), Some(given));
        }
    }
}

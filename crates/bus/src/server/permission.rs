//! The users of a generated server configuration and the subjects that each
//! may publish and subscribe to: one table, and so one file, deny by default.
//!
//! A consumer delivers to whatever subject its creator names, which the server
//! does not check; the right to create consumers is therefore given only to
//! services that are trusted with the bus itself, and never to producers.

use std::fmt;

use signalbox_protocol::domain::Domain;
use signalbox_protocol::investigation::{COLLABORATION, NOTE_ADDED};

use crate::{
    key::{
        self, AGENTS, API_KEYS, CHATS, DECISIONS, FLEET, GATEWAY, INVESTIGATIONS,
        INVESTIGATIONS_STREAM, LEASES, ORCHESTRATOR, PRESENCE, REFRESH_FAMILIES, RELAY, REPLAYS,
        REVOCATIONS, SESSIONS, SESSIONS_STREAM, SIGNING_KEYS, USERS,
    },
    stream::{CHAT, DLQ, EVENTS, TERM, TOPICS},
    subject::{
        self, ADMIN_MANAGE, DLQ_PREFIX, EVENTS_PREFIX, FLEET_PREFIX, GATEWAY_AGENTS,
        GATEWAYS_PREFIX, LIVE_LOG_PREFIX, LOG_PREFIX, LogKind, ORCHESTRATOR_PREFIX, RELAY_PREFIX,
        TOOLS_PREFIX, TOPICS_PREFIX,
    },
};

/// The requests that the auth service answers.
const AUTH_REQUESTS: &str = "svc.auth.>";

/// The buckets that the auth service alone writes.
const AUTH_BUCKETS: [&str; 5] = [API_KEYS, SIGNING_KEYS, USERS, REFRESH_FAMILIES, REVOCATIONS];

/// Someone who connects to the managed server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum User {
    /// Creates and changes streams and buckets; may do everything in the account.
    Admin,
    /// Publishes events, and nothing else.
    Producer,
    /// Takes events in and is the only one to write topics and dead letters.
    Router,
    /// Reads topics, public signing keys and revocations, asks the auth service,
    /// publishes the events of producers that come over HTTP, records who
    /// decided what, keeps the sessions that clients may come back to, declares
    /// who is in which investigation, and asks other gateways about the sessions
    /// that they have.
    Gateway,
    /// Answers the auth requests and owns the buckets of keys, users, refresh
    /// families and revocations.
    Auth,
    /// Holds agents and their commands: owns their bucket and the logs of
    /// commands, and publishes what becomes of agents.
    Relay,
    /// Holds chats with agents: owns their logs and what is known of answers that
    /// are being written, reads topics for what agents are asked about, and has
    /// relays run commands, whose logs it reads. Tells who is in investigations, and
    /// keeps what was noted there.
    Orchestrator,
    /// Reads topics, dead letters and the logs of commands for people who look on.
    Observer,
    /// Reads dead letters and publishes them again as events.
    Operator,
    /// Has the auth service manage keys and users, and nothing else.
    Registrar,
    /// Answers calls of tools, and nothing else.
    Responder,
}

/// The subjects that a user may use; everything else is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subject patterns that may be published to.
    pub publish: Vec<String>,
    /// Subject patterns that may be subscribed to.
    pub subscribe: Vec<String>,
    /// Whether a received request may be answered on its reply subject.
    pub allow_responses: bool,
}

impl User {
    /// Every user of the generated configuration.
    pub const ALL: [Self; 11] = [
        Self::Admin,
        Self::Producer,
        Self::Router,
        Self::Gateway,
        Self::Auth,
        Self::Relay,
        Self::Orchestrator,
        Self::Observer,
        Self::Operator,
        Self::Registrar,
        Self::Responder,
    ];

    /// The name with which the user connects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Producer => "producer",
            Self::Router => "router",
            Self::Gateway => "gateway",
            Self::Auth => "auth",
            Self::Relay => "relay",
            Self::Orchestrator => "orchestrator",
            Self::Observer => "observer",
            Self::Operator => "operator",
            Self::Registrar => "registrar",
            Self::Responder => "responder",
        }
    }

    /// The prefix of the only subjects on which the user may receive answers;
    /// a client must be told to use it instead of the library's default.
    #[must_use]
    pub fn inbox_prefix(self) -> String {
        subject::inbox_prefix(self.name())
    }

    /// What the user may do; `None` stands for everything in the account.
    #[must_use]
    pub fn permissions(self) -> Option<Permissions> {
        let mut publish = Vec::new();
        let mut subscribe = vec![below(&self.inbox_prefix())];
        let mut allow_responses = false;
        match self {
            Self::Admin => return None,
            Self::Producer => publish.push(below(EVENTS_PREFIX)),
            Self::Router => {
                publish.extend([TOPICS_PREFIX, DLQ_PREFIX].map(below));
                publish.extend(["$JS.API.INFO", "$JS.FC.>"].map(str::to_owned));
                publish.extend([EVENTS, TOPICS, DLQ].map(stream_info));
                publish.extend(take_work(EVENTS, EVENTS_PREFIX));
                publish.push(format!("$KV.{LEASES}.>"));
                publish.extend(read_bucket(LEASES));
                publish.extend(get_messages(TOPICS));
            }
            Self::Gateway => {
                publish.extend(["$JS.API.INFO", "$JS.FC.>", AUTH_REQUESTS].map(str::to_owned));
                publish.push(below(EVENTS_PREFIX));
                publish.extend(read_stream(TOPICS));
                publish.extend(read_bucket(SIGNING_KEYS));
                publish.push(format!("$KV.{DECISIONS}.>"));
                publish.extend(read_bucket(DECISIONS));
                publish.extend(read_bucket(REVOCATIONS));
                publish.push(below(GATEWAYS_PREFIX));
                subscribe.push(below(GATEWAYS_PREFIX));
                // One by one: nothing here needs all of them.
                publish.push(format!("$KV.{SESSIONS}.>"));
                publish.push(stream_info(SESSIONS_STREAM));
                publish.push(get_from_leader(SESSIONS_STREAM));
                publish.push(below(RELAY_PREFIX));
                publish.extend(read_stream(TERM));
                subscribe.extend([GATEWAY_AGENTS.to_owned(), below(FLEET_PREFIX)]);
                publish.push(below(ORCHESTRATOR_PREFIX));
                publish.push(stream_info(CHAT));
                publish.extend(get_messages(CHAT));
                subscribe.push(subject::live_logs_of(LogKind::Chat));
                // Who is in investigations here, and that the gateway lives.
                publish.push(key::DECLARATIONS.to_owned());
                publish.push(format!("$KV.{LEASES}.{GATEWAY}>"));
                let leases = format!("KV_{LEASES}");
                publish.extend([stream_info(&leases), get_from_leader(&leases)]);
                publish.push(stream_info(INVESTIGATIONS_STREAM));
                publish.extend(get_messages(INVESTIGATIONS_STREAM));
                allow_responses = true;
            }
            Self::Relay => {
                let term = LogKind::Term.token();
                publish.extend(["$JS.API.INFO", "$JS.FC.>"].map(str::to_owned));
                publish.push(format!("{EVENTS_PREFIX}.{}.>", Domain::Agent));
                publish.push(format!("{LOG_PREFIX}.{term}.*"));
                // Tips of logs, beside what the server repeats.
                publish.push(format!("{LIVE_LOG_PREFIX}.{term}.*"));
                publish.extend([below(FLEET_PREFIX), GATEWAY_AGENTS.to_owned()]);
                publish.push(stream_info(TERM));
                publish.extend(get_messages(TERM));
                publish.push(format!("$KV.{LEASES}.{RELAY}>"));
                publish.extend([AGENTS, FLEET].map(|bucket| format!("$KV.{bucket}.>")));
                for bucket in [LEASES, AGENTS, FLEET] {
                    publish.extend(read_bucket(bucket));
                }
                subscribe.push(below(RELAY_PREFIX));
                allow_responses = true;
            }
            Self::Orchestrator => {
                publish.extend(["$JS.API.INFO", "$JS.FC.>"].map(str::to_owned));
                publish.push(subject::logs_of(LogKind::Chat));
                // Tips of logs, beside what the server repeats.
                publish.push(subject::live_logs_of(LogKind::Chat));
                // TERM's logs, and verbs for commands: a chat may have some run.
                for stream in [CHAT, TOPICS, TERM] {
                    publish.push(stream_info(stream));
                    publish.extend(get_messages(stream));
                }
                publish.push(format!("{RELAY_PREFIX}.*.command"));
                subscribe.push(subject::live_logs_of(LogKind::Term));
                publish.push(format!("$KV.{LEASES}.{ORCHESTRATOR}>"));
                publish.push(format!("$KV.{CHATS}.>"));
                // What is told of investigations, and declarations of gateways
                // that are gone.
                let events = [COLLABORATION, NOTE_ADDED];
                publish.extend(events.map(|name| subject::event(Domain::Threat, name)));
                publish.push(format!("$KV.{INVESTIGATIONS}.>"));
                publish.push(key::DECLARATIONS.to_owned());
                for bucket in [LEASES, CHATS, INVESTIGATIONS, PRESENCE] {
                    publish.extend(read_bucket(bucket));
                }
                // Of actions, on which people decide, and of decisions.
                for name in ["action_update", "action_decided"] {
                    publish.push(subject::event(Domain::Threat, name));
                }
                publish.push(format!("$KV.{DECISIONS}.*"));
                publish.extend(read_bucket(DECISIONS));
                // How far agents are in investigations.
                publish.push(subject::event(Domain::Threat, "investigation_update"));
                // Calls of tools that others answer.
                publish.push(format!("{TOOLS_PREFIX}.*"));
                subscribe.push(below(ORCHESTRATOR_PREFIX));
                allow_responses = true;
            }
            Self::Auth => {
                publish.extend(["$JS.API.INFO", "$JS.FC.>"].map(str::to_owned));
                for bucket in AUTH_BUCKETS {
                    publish.push(format!("$KV.{bucket}.>"));
                    publish.extend(read_bucket(bucket));
                }
                subscribe.extend([AUTH_REQUESTS, ADMIN_MANAGE].map(str::to_owned));
                allow_responses = true;
            }
            Self::Observer => {
                publish.extend(["$JS.API.INFO", "$JS.FC.>"].map(str::to_owned));
                publish.extend(read_stream(TOPICS));
                publish.extend(read_stream(DLQ));
                // Of commands, to export them; no consumer is needed for that.
                publish.push(stream_info(TERM));
                publish.extend(get_messages(TERM));
            }
            Self::Operator => {
                let replays = format!("KV_{REPLAYS}");
                publish.extend([below(EVENTS_PREFIX), format!("$KV.{REPLAYS}.>")]);
                publish.push("$JS.API.INFO".to_owned());
                publish.extend([DLQ, EVENTS, replays.as_str()].map(stream_info));
                publish.extend(get_messages(DLQ));
                publish.extend(get_messages(&replays));
            }
            Self::Registrar => publish.push(ADMIN_MANAGE.to_owned()),
            Self::Responder => {
                subscribe.push(below(TOOLS_PREFIX));
                allow_responses = true;
            }
        }
        Some(Permissions {
            publish,
            subscribe,
            allow_responses,
        })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn below(prefix: &str) -> String {
    format!("{prefix}.>")
}

fn stream_info(stream: &str) -> String {
    format!("$JS.API.STREAM.INFO.{stream}")
}

/// Single messages by sequence or subject: from any replica, and from the leader.
fn get_messages(stream: &str) -> [String; 3] {
    [
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        get_from_leader(stream),
    ]
}

fn get_from_leader(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.GET.{stream}")
}

/// Everything that reading a stream takes, with consumers of one's own.
fn read_stream(stream: &str) -> Vec<String> {
    let mut subjects = vec![stream_info(stream)];
    subjects.extend(get_messages(stream));
    // Without a token behind the stream for a consumer that has no name yet,
    // as the library's own ordered consumers and watches of buckets.
    subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
    subjects.extend(
        ["CREATE", "DELETE", "INFO"].map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.>")),
    );
    subjects
}

/// Reading of a bucket, which is a stream with a prefixed name.
fn read_bucket(bucket: &str) -> Vec<String> {
    read_stream(&format!("KV_{bucket}"))
}

/// Taking from a work queue through pull consumers of one's own, which replace
/// those of others; each must name what it takes below `prefix`.
fn take_work(stream: &str, prefix: &str) -> Vec<String> {
    let mut subjects = vec![
        format!("$JS.ACK.{stream}.>"),
        format!("$JS.API.CONSUMER.NAMES.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.*.{prefix}.>"),
    ];
    subjects.extend(
        ["INFO", "RESET", "DELETE", "MSG.NEXT"]
            .map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.*")),
    );
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishes(user: User, subject: &str) -> bool {
        let Some(permissions) = user.permissions() else {
            return true;
        };
        permissions
            .publish
            .iter()
            .any(|pattern| match pattern.strip_suffix('>') {
                Some(prefix) => subject.starts_with(prefix),
                None => matches(pattern, subject),
            })
    }

    fn matches(pattern: &str, subject: &str) -> bool {
        let (pattern, subject) = (pattern.split('.'), subject.split('.'));
        pattern.clone().count() == subject.clone().count()
            && pattern
                .zip(subject)
                .all(|(pattern, token)| pattern == "*" || pattern == token)
    }

    #[test]
    fn only_the_router_writes_topics_and_dead_letters() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Router);
            assert_eq!(publishes(user, "topics.x.-.-.global"), trusted, "{user}");
            assert_eq!(publishes(user, "dlq.x.y"), trusted, "{user}");
        }
    }

    #[test]
    fn buckets_have_one_writer_and_only_admin_changes_streams() {
        for user in User::ALL {
            let admin = user == User::Admin;
            assert_eq!(
                publishes(user, "$KV.signing_keys.k1"),
                admin || user == User::Auth,
                "{user}"
            );
            assert_eq!(
                publishes(user, "$KV.leases.router.threat"),
                admin || user == User::Router,
                "{user}"
            );
            for subject in [
                "$JS.API.STREAM.DELETE.TOPICS",
                "$JS.API.STREAM.PURGE.EVENTS",
                "$JS.API.STREAM.CREATE.X",
            ] {
                assert_eq!(publishes(user, subject), admin, "{user} {subject}");
            }
        }
    }

    #[test]
    fn only_auth_writes_what_decides_who_gets_in() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Auth);
            for bucket in AUTH_BUCKETS {
                let subject = format!("$KV.{bucket}.x");
                assert_eq!(publishes(user, &subject), trusted, "{user} {bucket}");
            }
            for secret in [API_KEYS, USERS, REFRESH_FAMILIES] {
                let subject = format!("$JS.API.DIRECT.GET.KV_{secret}.x");
                assert_eq!(publishes(user, &subject), trusted, "{user} {secret}");
            }
        }
    }

    #[test]
    fn gateways_ask_relays_and_read_logs_and_write_none() {
        for user in User::ALL {
            let asks = matches!(user, User::Admin | User::Gateway);
            for subject in ["svc.relay.0.agent", subject::EMERGENCY] {
                assert_eq!(publishes(user, subject), asks, "{user} {subject}");
            }
            // The orchestrator has commands run, and nothing else of a fleet.
            let commands = asks || user == User::Orchestrator;
            let subject = "svc.relay.0.command";
            assert_eq!(publishes(user, subject), commands, "{user}");
        }
        let consumer = format!("$JS.API.CONSUMER.CREATE.{TERM}.x");
        assert!(publishes(User::Gateway, &consumer));
        for subject in [
            "log.term.=x",
            "live.log.term.=x",
            "live.fleet.0",
            "svc.agents.x",
        ] {
            assert!(!publishes(User::Gateway, subject), "{subject}");
        }
        let subscribe = User::Gateway.permissions().map(|it| it.subscribe);
        let subscribe = subscribe.unwrap_or_default();
        assert!(subscribe.contains(&GATEWAY_AGENTS.to_owned()));
        assert!(subscribe.contains(&"live.log.chat.*.*".to_owned()));
        assert_eq!(subscribe.len(), 5, "{subscribe:?}");
    }

    #[test]
    fn only_the_orchestrator_writes_chats() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Orchestrator);
            for subject in [
                "log.chat.=ada.=chat-0",
                "live.log.chat.=ada.=chat-0",
                "$KV.chats.0.ada.chat-0",
                "$KV.leases.orchestrator.shard.0",
            ] {
                let also = subject.starts_with("$KV.leases") && user == User::Router;
                let allowed = publishes(user, subject);
                assert_eq!(allowed, trusted || also, "{user} {subject}");
            }
            let asks = matches!(user, User::Admin | User::Gateway);
            let subject = "svc.orchestrator.0.chat";
            assert_eq!(publishes(user, subject), asks, "{user}");
            let reads = trusted || user == User::Gateway;
            let subject = "$JS.API.DIRECT.GET.CHAT";
            assert_eq!(publishes(user, subject), reads, "{user}");
        }
        for subject in [
            "events.threat.x",
            "topics.x.-.-",
            "log.term.=x",
            "$KV.leases.relay.shard.0",
            "$KV.agents.0.x",
            "svc.relay.0.agent",
            "svc.relay.0.snapshot",
            "svc.relay.emergency",
            "live.log.term.=x",
            "$JS.API.CONSUMER.CREATE.TERM.x",
        ] {
            assert!(!publishes(User::Orchestrator, subject), "{subject}");
        }
        for subject in ["svc.relay.0.command", "$JS.API.DIRECT.GET.TERM"] {
            assert!(publishes(User::Orchestrator, subject), "{subject}");
        }
    }

    #[test]
    fn gateways_and_the_orchestrator_record_decisions_and_tell_of_actions() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Gateway | User::Orchestrator);
            for subject in [
                "$KV.decisions.ab",
                "$JS.API.STREAM.MSG.GET.KV_decisions",
                "$JS.API.CONSUMER.CREATE.KV_decisions.x",
            ] {
                assert_eq!(publishes(user, subject), trusted, "{user} {subject}");
            }
            let tells = trusted || matches!(user, User::Producer | User::Operator);
            for subject in [
                "events.threat.action_update",
                "events.threat.action_decided",
                "events.threat.investigation_update",
            ] {
                assert_eq!(publishes(user, subject), tells, "{user} {subject}");
            }
        }
        for subject in ["events.threat.threat_alert", "events.threat.action_updates"] {
            assert!(!publishes(User::Orchestrator, subject), "{subject}");
        }
    }

    #[test]
    fn only_the_orchestrator_has_tools_called_and_responders_may_do_nothing_else() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Orchestrator);
            assert_eq!(publishes(user, "tools.lookup_host"), trusted, "{user}");
            let hears = user.permissions().is_some_and(|permissions| {
                let mut subjects = permissions.subscribe.iter();
                subjects.any(|subject| subject.starts_with(TOOLS_PREFIX))
            });
            assert_eq!(hears, user == User::Responder, "{user}");
        }
        let permissions = User::Responder.permissions().unwrap();
        assert_eq!(permissions.publish, [""; 0]);
        assert_eq!(permissions.subscribe, ["_INBOX_responder.>", "tools.>"]);
        assert!(permissions.allow_responses);
    }

    #[test]
    fn gateways_declare_who_is_there_and_orchestrators_say_so() {
        for user in User::ALL {
            let (admin, gateway) = (user == User::Admin, user == User::Gateway);
            let orchestrator = user == User::Orchestrator;
            let declares = admin || gateway || orchestrator;
            let subject = key::declaration("inv-1", "ada", "g1");
            assert_eq!(publishes(user, &subject), declares, "{user}");
            let life = format!("$KV.leases.{}", key::gateway_life("g1"));
            let lives = admin || gateway || user == User::Router;
            assert_eq!(publishes(user, &life), lives, "{user}");
            let part = key::InvestigationPart::Note;
            let record = key::investigation_record(part, "inv-1", "note-1");
            let records = admin || orchestrator;
            assert_eq!(publishes(user, &record), records, "{user}");
            let reads = "$JS.API.DIRECT.GET.KV_investigations";
            assert_eq!(publishes(user, reads), records || gateway, "{user}");
        }
        let told = "events.threat.investigation_note_added";
        assert!(publishes(User::Orchestrator, told));
    }

    #[test]
    fn only_the_registrar_manages_without_a_credential() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Registrar);
            assert_eq!(publishes(user, ADMIN_MANAGE), trusted, "{user}");
            let asks = matches!(user, User::Admin | User::Gateway);
            assert_eq!(publishes(user, subject::MANAGE), asks, "{user}");
        }
    }

    #[test]
    fn only_gateways_hear_and_ask_gateways() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Gateway);
            let subject = subject::GatewayId::new(1).ask();
            assert_eq!(publishes(user, &subject), trusted, "{user}");
            let Some(permissions) = user.permissions() else {
                continue;
            };
            let hears = permissions
                .subscribe
                .iter()
                .any(|pattern| subject.starts_with(pattern.trim_end_matches('>')));
            assert_eq!(hears, user == User::Gateway, "{user}");
        }
    }

    #[test]
    fn only_the_relay_writes_agents_logs_and_the_emergency_stop() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Relay);
            for subject in [
                "$KV.agents.0.a",
                "$KV.fleet.stop",
                "log.term.=cmd-0",
                "live.log.term.=cmd-0",
                "live.fleet.0",
                "svc.agents.g",
                "$KV.leases.relay.shard.0",
            ] {
                let also = subject.starts_with("$KV.leases") && user == User::Router;
                assert_eq!(
                    publishes(user, subject),
                    trusted || also,
                    "{user} {subject}"
                );
            }
        }
        for subject in [
            "events.threat.x",
            "topics.x.-.-",
            "$KV.leases.router.threat",
            "$KV.leases.member.x",
            "log.chat.=x.=y",
        ] {
            assert!(!publishes(User::Relay, subject), "{subject}");
        }
    }

    #[test]
    fn only_the_operator_keeps_the_record_of_replays() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Operator);
            assert_eq!(publishes(user, "$KV.dlq_replays.a-1"), trusted, "{user}");
        }
    }

    #[test]
    fn only_gateways_keep_sessions_and_read_them_one_by_one() {
        for user in User::ALL {
            let trusted = matches!(user, User::Admin | User::Gateway);
            for subject in ["$KV.sessions.ab", "$JS.API.STREAM.MSG.GET.KV_sessions"] {
                assert_eq!(publishes(user, subject), trusted, "{user} {subject}");
            }
            for subject in [
                "$JS.API.CONSUMER.CREATE.KV_sessions.x",
                "$JS.API.DIRECT.GET.KV_sessions",
                "$JS.API.STREAM.PURGE.KV_sessions",
            ] {
                assert_eq!(publishes(user, subject), user == User::Admin, "{subject}");
            }
        }
    }

    #[test]
    fn nobody_but_admin_hears_another_users_answers() {
        for user in User::ALL {
            let Some(permissions) = user.permissions() else {
                continue;
            };
            assert!(
                !permissions
                    .subscribe
                    .iter()
                    .any(|subject| subject.starts_with('>') || subject.starts_with('*'))
            );
            let inboxes = permissions
                .subscribe
                .iter()
                .filter(|subject| subject.starts_with("_INBOX"));
            assert_eq!(inboxes.collect::<Vec<_>>(), [&format!("_INBOX_{user}.>")]);
        }
    }
}

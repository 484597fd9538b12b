//! Every KV bucket and key is named here.

use sha2::{Digest as _, Sha256};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::investigation;

/// Bucket: API keys by id.
pub const API_KEYS: &str = "api_keys";
/// Bucket: what verifies access tokens: the public halves of our own signing
/// keys by key id, and below [`issuer`] the external issuers with their keys.
pub const SIGNING_KEYS: &str = "signing_keys";
/// Bucket: users by name.
pub const USERS: &str = "users";
/// Bucket: the lines of refresh tokens, by family. Each ends by itself.
pub const REFRESH_FAMILIES: &str = "refresh_families";
/// Bucket: what no longer holds of credentials in use. Watched by gateways; an
/// entry expires when no token is left that it could concern.
pub const REVOCATIONS: &str = "revocations";
/// The stream that the bucket of revocations is.
pub const REVOCATIONS_STREAM: &str = "KV_revocations";
/// The wildcard for all entries of the bucket of revocations in its stream.
pub const REVOCATIONS_ENTRIES: &str = "$KV.revocations.>";
/// Bucket: which dead letters were replayed, by their position in DLQ.
pub const REPLAYS: &str = "dlq_replays";

/// Bucket: decisions on response actions, by action.
pub const DECISIONS: &str = "decisions";
/// The stream that the bucket of decisions is.
pub const DECISIONS_STREAM: &str = "KV_decisions";

/// The key of an action in [`DECISIONS`]: its id in hexadecimal, since ids may
/// have characters that keys may not.
#[must_use]
pub fn decision(action_id: &str) -> String {
    hexadecimal(action_id.as_bytes())
}

/// The key of a dead letter in [`REPLAYS`].
#[must_use]
pub fn replay(letter: Cursor) -> String {
    letter.to_string()
}

/// Bucket: all that must last about the agents of the fleet, by shard and id.
pub const AGENTS: &str = "agents";
/// The stream that the bucket of agents is.
pub const AGENTS_STREAM: &str = "KV_agents";

/// An agent's document, as a subject of [`AGENTS_STREAM`].
#[must_use]
pub fn agent(agent_id: &str) -> String {
    let shard = Shard::of_agent(agent_id);
    format!("$KV.{AGENTS}.{shard}.{}", plain(agent_id))
}

/// The wildcard for a shard's documents in [`AGENTS_STREAM`].
#[must_use]
pub fn agents_of(shard: Shard) -> String {
    format!("$KV.{AGENTS}.{shard}.*")
}

/// Bucket: what holds for the whole fleet.
pub const FLEET: &str = "fleet";
/// The stream that the bucket of the fleet is.
pub const FLEET_STREAM: &str = "KV_fleet";
/// The emergency stop, as a subject of [`FLEET_STREAM`].
pub const EMERGENCY_STOP: &str = "$KV.fleet.stop";

/// The lease of the relay that holds a shard.
#[must_use]
pub fn relay_lease(shard: Shard) -> String {
    format!("{RELAY}shard.{shard}")
}

/// The lease by which a relay says that it is alive.
#[must_use]
pub fn relay_member(id: &str) -> String {
    format!("{RELAY}member.{id}")
}

/// Whether a key of the bucket of leases is a relay's sign of life.
#[must_use]
pub fn is_relay_member(key: &str) -> bool {
    key.strip_prefix(RELAY)
        .is_some_and(|rest| rest.starts_with(MEMBER))
}

/// What the keys of relays begin with in the bucket of leases.
pub const RELAY: &str = "relay.";

/// Bucket: the answers that agents are writing, by shard, user and session.
pub const CHATS: &str = "chats";
/// The stream that the bucket of chats is.
pub const CHATS_STREAM: &str = "KV_chats";

/// The answer that is being written in a session, as a subject of
/// [`CHATS_STREAM`].
#[must_use]
pub fn open_turn(shard: Shard, user_id: &str, session_id: &str) -> String {
    format!(
        "$KV.{CHATS}.{shard}.{}.{}",
        plain(user_id),
        plain(session_id)
    )
}

/// The wildcard for the answers that are being written in a shard, in
/// [`CHATS_STREAM`].
#[must_use]
pub fn open_turns_of(shard: Shard) -> String {
    format!("$KV.{CHATS}.{shard}.*.*")
}

/// What the keys of orchestrators begin with in the bucket of leases.
pub const ORCHESTRATOR: &str = "orchestrator.";

/// The lease of the orchestrator that holds a shard.
#[must_use]
pub fn orchestrator_lease(shard: Shard) -> String {
    format!("{ORCHESTRATOR}shard.{shard}")
}

/// The lease by which an orchestrator says that it is alive.
#[must_use]
pub fn orchestrator_member(id: &str) -> String {
    format!("{ORCHESTRATOR}{MEMBER}{id}")
}

/// Whether a key of the bucket of leases is an orchestrator's sign of life.
#[must_use]
pub fn is_orchestrator_member(key: &str) -> bool {
    key.strip_prefix(ORCHESTRATOR)
        .is_some_and(|rest| rest.starts_with(MEMBER))
}

/// Bucket: who is in which investigation, as gateways declare it, by shard,
/// investigation, user and gateway.
pub const PRESENCE: &str = "presence";
/// The stream that the bucket of declarations is.
pub const PRESENCE_STREAM: &str = "KV_presence";
/// The wildcard for all declarations in [`PRESENCE_STREAM`].
pub const DECLARATIONS: &str = "$KV.presence.>";

/// A gateway's declaration that a user is in an investigation, as a subject of
/// [`PRESENCE_STREAM`].
#[must_use]
pub fn declaration(investigation_id: &str, user_id: &str, gateway: &str) -> String {
    let shard = investigation::shard(investigation_id);
    let (investigation, user) = (plain(investigation_id), plain(user_id));
    format!("$KV.{PRESENCE}.{shard}.{investigation}.{user}.{gateway}")
}

/// What the keys of gateways begin with in the bucket of leases.
pub const GATEWAY: &str = "gateway.";

/// The lease by which a gateway says that it is alive.
#[must_use]
pub fn gateway_life(id: &str) -> String {
    format!("{GATEWAY}{id}")
}

/// The gateway whose sign of life a key of the bucket of leases is.
#[must_use]
pub fn gateway_of_life(key: &str) -> Option<&str> {
    key.strip_prefix(GATEWAY)
}

/// Bucket: what must last about investigations, by shard, kind and
/// investigation.
pub const INVESTIGATIONS: &str = "investigations";
/// The stream that the bucket of investigations is.
pub const INVESTIGATIONS_STREAM: &str = "KV_investigations";

/// What is kept of an investigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvestigationPart {
    /// That it is known.
    Head,
    /// Somebody who is there.
    Member,
    /// A note whose event may not be stored yet.
    FreshNote,
    /// A note whose event is stored.
    Note,
}

impl InvestigationPart {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Head, Self::Member, Self::FreshNote, Self::Note];

    const fn token(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Member => "member",
            Self::FreshNote => "fresh",
            Self::Note => "note",
        }
    }
}

/// One record of an investigation, as a subject of [`INVESTIGATIONS_STREAM`]:
/// a user's by the user, a note's by the note, and the head's by anything but
/// nothing.
#[must_use]
pub fn investigation_record(part: InvestigationPart, investigation_id: &str, id: &str) -> String {
    let shard = investigation::shard(investigation_id);
    let (investigation, id) = (plain(investigation_id), plain(id));
    format!(
        "$KV.{INVESTIGATIONS}.{shard}.{}.{investigation}.{id}",
        part.token()
    )
}

/// The wildcard for all records of an investigation, or for one part of them.
#[must_use]
pub fn investigation_records(part: Option<InvestigationPart>, investigation_id: &str) -> String {
    let shard = investigation::shard(investigation_id);
    let part = part.map_or("*", InvestigationPart::token);
    format!(
        "$KV.{INVESTIGATIONS}.{shard}.{part}.{}.*",
        plain(investigation_id)
    )
}

/// The wildcard for one part of all investigations of a shard.
#[must_use]
pub fn investigations_of(shard: Shard, part: InvestigationPart) -> String {
    format!("$KV.{INVESTIGATIONS}.{shard}.{}.*.*", part.token())
}

/// Which part of an investigation a subject of [`INVESTIGATIONS_STREAM`] is.
#[must_use]
pub fn part_of_investigation(subject: &str) -> Option<InvestigationPart> {
    let token = subject.split('.').nth(3)?;
    InvestigationPart::ALL
        .into_iter()
        .find(|part| part.token() == token)
}

/// The lease of the orchestrator that looks after the investigations of a
/// shard, beside the chats of others.
#[must_use]
pub fn investigations_lease(shard: Shard) -> String {
    format!("{ORCHESTRATOR}investigations.{shard}")
}

/// The lease by which an orchestrator says that it looks after investigations.
#[must_use]
pub fn investigations_member(id: &str) -> String {
    format!("{ORCHESTRATOR}{INVESTIGATOR}{id}")
}

/// Whether a key of the bucket of leases is such a sign of life.
#[must_use]
pub fn is_investigations_member(key: &str) -> bool {
    key.strip_prefix(ORCHESTRATOR)
        .is_some_and(|rest| rest.starts_with(INVESTIGATOR))
}

const INVESTIGATOR: &str = "investigator.";

/// Bucket: who does what of the things that one at a time may do, and who is
/// there to do them.
pub const LEASES: &str = "leases";
/// The stream that the bucket of leases is.
pub const LEASES_STREAM: &str = "KV_leases";

const MEMBER: &str = "member.";

/// The lease of the router that works on a domain.
#[must_use]
pub fn router_lease(domain: Domain) -> String {
    format!("router.{domain}")
}

/// The lease by which a router says that it is alive.
#[must_use]
pub fn member(id: &str) -> String {
    format!("{MEMBER}{id}")
}

/// Whether a key of the bucket of leases is a router's sign of life.
#[must_use]
pub fn is_member(key: &str) -> bool {
    key.starts_with(MEMBER)
}

/// Bucket: Socket.IO sessions that clients may come back to.
pub const SESSIONS: &str = "sessions";
/// The stream that the bucket of sessions is.
pub const SESSIONS_STREAM: &str = "KV_sessions";

/// The key of a session in [`SESSIONS`]: the SHA-256 of its `pid` in
/// hexadecimal, since the `pid` is a secret of the client's and readers of the
/// bus are not to learn it.
#[must_use]
pub fn session(pid: &str) -> String {
    hexadecimal(&Sha256::digest(pid))
}

const ISSUER: &str = "issuer.";

/// An external issuer in [`SIGNING_KEYS`]. Our own keys have no dot in their
/// ids.
#[must_use]
pub fn issuer(name: &str) -> String {
    format!("{ISSUER}{}", plain(name))
}

/// Whether a key of [`SIGNING_KEYS`] is an external issuer.
#[must_use]
pub fn is_issuer(key: &str) -> bool {
    key.starts_with(ISSUER)
}

/// A user in [`USERS`].
#[must_use]
pub fn user(name: &str) -> String {
    plain(name)
}

/// The revocation of an API key in [`REVOCATIONS`].
#[must_use]
pub fn revoked_key(id: &str) -> String {
    format!("key.{}", plain(id))
}

/// The revocation of one token, by its `jti`.
#[must_use]
pub fn revoked_token(id: &str) -> String {
    format!("token.{}", plain(id))
}

/// The revocation of a refresh family.
#[must_use]
pub fn revoked_family(id: &str) -> String {
    format!("family.{}", plain(id))
}

/// The revocation of all that a user holds.
#[must_use]
pub fn revoked_user(subject: &str) -> String {
    format!("user.{}", plain(subject))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            text.push_str(&format!("{byte:02x}"));
            text
        })
}

/// Any text as one token of a key: bytes outside `[A-Za-z0-9_-]` become `=XX`.
fn plain(text: &str) -> String {
    let mut key = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            key.push(char::from(byte));
        } else {
            key.push_str(&format!("={byte:02X}"));
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::cursor::Epoch;

    use super::*;

    /// Whether `text` can be a key of a bucket as it is: what NATS allows, less
    /// the dot.
    fn is_plain(text: &str) -> bool {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    }

    #[test]
    fn keys_are_plain() {
        let letter = Cursor {
            epoch: Epoch::from_unix_micros(0xabc),
            sequence: 7,
        };
        assert_eq!(replay(letter), "abc-7");
        assert!(is_plain(&replay(letter)) && !is_plain("a.b"));
        assert_eq!(decision("a.é*"), "612ec3a92a");
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(session("abc"), digest);
    }

    #[test]
    fn any_investigation_and_user_have_a_record_of_their_own() {
        let (id, user) = ("inv.1 *", "corp|ada");
        let shard = investigation::shard(id);
        let declared = declaration(id, user, "g1");
        let expected = format!("$KV.presence.{shard}.inv=2E1=20=2A.corp=7Cada.g1");
        assert_eq!(declared, expected);
        for part in InvestigationPart::ALL {
            let record = investigation_record(part, id, user);
            assert_eq!(record.split('.').count(), 6, "{record}");
            assert_eq!(part_of_investigation(&record), Some(part));
            let one = investigation_records(Some(part), id);
            assert!(record.starts_with(one.trim_end_matches('*')), "{one}");
        }
        assert_eq!(
            part_of_investigation("$KV.investigations.0.other.a.b"),
            None
        );
        assert_eq!(gateway_of_life(&gateway_life("g1")), Some("g1"));
        assert_eq!(gateway_of_life("orchestrator.member.x"), None);
        // Those who look after chats and after investigations are counted apart.
        let member = investigations_member("o1");
        assert!(is_investigations_member(&member) && !is_orchestrator_member(&member));
        assert!(!is_investigations_member(&orchestrator_member("o1")));
    }

    #[test]
    fn any_text_is_one_token_of_a_key() {
        assert_eq!(user("ada.l@büro"), "ada=2El=40b=C3=BCro");
        assert_eq!(revoked_user("corp|ada"), "user.corp=7Cada");
        // Two texts never meet in one key.
        assert_ne!(user("a=2E"), user("a."));
        assert!(is_issuer(&issuer("https://id.example/x")) && !is_issuer("abc_-1"));
    }
}

//! Text form, hashes and records.

use proptest::prelude::*;

use super::*;

fn record(key: &ApiKey) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        role: Role::Operator,
        name: "console".to_owned(),
        subject: UserId::new("user-1").unwrap(),
        projects: vec!["apollo".to_owned()],
        agent_id: Some(AgentId::new("agent-1").unwrap()),
        limits: Limits::default(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        revoked: false,
    }
}

#[test]
fn generated_keys_have_the_documented_form_and_differ() {
    let (a, b) = (ApiKey::generate(), ApiKey::generate());
    let text = a.expose();
    let parts: Vec<&str> = text.expose().split('_').collect();
    assert_eq!((parts[0], parts[1].len(), parts[2].len()), ("sbk", 12, 43));
    assert_eq!(parts.len(), 3);
    assert_ne!(a.id(), b.id());
    assert_ne!(a.hash(), b.hash());
}

#[test]
fn the_hash_is_that_of_the_secret_part() {
    let key = ApiKey::parse(&format!("sbk_{}_{}", "a".repeat(12), "A".repeat(43))).unwrap();
    assert_eq!(
        key.hash(),
        ApiKeyHash(Sha256::digest("A".repeat(43)).into())
    );
}

#[test]
fn text_of_another_form_is_refused() {
    let good = format!("sbk_{}_{}", "a".repeat(12), "A".repeat(43));
    assert!(ApiKey::parse(&good).is_ok());
    let bad = [
        String::new(),
        "sbk_".to_owned(),
        good[1..].to_owned(),
        format!("{good} "),
        format!("{good}B"),
        good[..good.len() - 1].to_owned(),
        good.replacen("sbk", "SBK", 1),
        good.replacen("aaa", "aA1", 1),
        good.replacen("AAA", "A_A", 1),
        good.replacen("AA", "é", 1),
        good.replacen("sbk_", "sbk__", 1),
    ];
    for text in bad {
        assert_eq!(
            ApiKey::parse(&text).map(|_| ()),
            Err(InvalidApiKey),
            "{text}"
        );
    }
}

#[test]
fn only_the_right_key_authenticates() {
    let (key, other) = (ApiKey::generate(), ApiKey::generate());
    let record = record(&key);
    let principal = record.authenticate(&key).unwrap();
    assert_eq!(principal, record.principal());
    assert_eq!(principal.credential.as_str(), key.id().as_str());
    assert_eq!(principal.permissions, Role::Operator.permissions());
    assert_eq!(principal.expires_at, None);

    assert_eq!(record.authenticate(&other), None);
    let same_id = ApiKey {
        id: key.id().clone(),
        secret: other.secret.clone(),
    };
    assert_eq!(record.authenticate(&same_id), None);
    let same_secret = ApiKey {
        id: other.id().clone(),
        secret: key.secret.clone(),
    };
    assert_eq!(record.authenticate(&same_secret), None);
}

#[test]
fn a_revoked_key_does_not_authenticate() {
    let key = ApiKey::generate();
    let mut record = record(&key);
    record.revoked = true;
    assert_eq!(record.authenticate(&key), None);
}

#[test]
fn neither_debug_nor_a_stored_record_shows_the_secret() {
    let key = ApiKey::generate();
    let record = record(&key);
    let stored = serde_json::to_string(&record).unwrap();
    let hash = String::from(key.hash());
    for shown in [format!("{key:?}"), format!("{record:?}"), stored.clone()] {
        assert!(!shown.contains(key.secret.expose()), "{shown}");
    }
    assert!(!format!("{record:?}").contains(&hash));
    assert!(stored.contains(&hash));
}

#[test]
fn records_round_trip() {
    let before = record(&ApiKey::generate());
    let json = serde_json::to_string(&before).unwrap();
    let after: ApiKeyRecord = serde_json::from_str(&json).unwrap();
    assert_eq!(after, before);
    assert!(
        json.contains("\"created_at\":\"1970-01-01T00:00:00Z\""),
        "{json}"
    );
}

proptest! {
    #[test]
    fn text_round_trips(id in "[a-z2-7]{12}", secret in "[A-Za-z0-9]{43}") {
        let text = format!("sbk_{id}_{secret}");
        let key = ApiKey::parse(&text).unwrap();
        prop_assert_eq!(key.id().as_str(), id);
        let exposed = key.expose();
        prop_assert_eq!(exposed.expose(), text);
    }

    #[test]
    fn no_text_panics(text in "(sbk_)?.{0,70}") {
        ApiKey::parse(&text).ok();
    }
}

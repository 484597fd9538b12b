//! Words, sets and their JSON.

use proptest::prelude::*;

use super::*;

#[test]
fn every_permission_has_its_own_bit_and_word() {
    let all: Vec<Permission> = Permissions::ALL.iter().collect();
    assert_eq!(all.len(), Permission::NAMED.len() + Domain::ALL.len());
    for permission in all {
        assert_eq!(Permission::from_bit(permission.bit()), Some(permission));
        assert_eq!(permission.to_string().parse(), Ok(permission));
    }
}

#[test]
fn words_are_those_of_the_wire() {
    let words: Vec<String> = Permissions::ALL.words().collect();
    assert_eq!(
        words,
        [
            "read_threats",
            "chat_agents",
            "execute_actions",
            "read_network",
            "read_consensus",
            "read_security",
            "read_monitoring",
            "read_pipelines",
            "read_scans",
            "read_debug",
            "read_system",
            "read_architecture",
            "read_agents",
            "run_commands",
            "transfer_files",
            "emergency_stop",
            "publish:*",
            "admin",
        ]
    );
    assert_eq!(
        Permission::Publish(Domain::Threat).to_string(),
        "publish:threat"
    );
}

#[test]
fn unknown_words_grant_nothing_and_spoil_nothing() {
    let json = r#"["fly", "admin ", "publish:", "publish:moon", "read_scans", "publish:ai"]"#;
    let set: Permissions = serde_json::from_str(json).unwrap();
    let expected = [Permission::ReadScans, Permission::Publish(Domain::Ai)];
    assert_eq!(set, Permissions::of(&expected));
    assert!("publish:moon".parse::<Permission>().is_err());
    assert!("publish:*".parse::<Permission>().is_err());
}

#[test]
fn publish_star_is_every_domain_and_nothing_else() {
    let set = Permissions::from_words(["publish:*"]);
    assert!(
        Domain::ALL
            .iter()
            .all(|d| set.contains(Permission::Publish(*d)))
    );
    assert_eq!(set, Permissions::PUBLISH);
    assert!(!set.contains(Permission::Admin));
    assert_eq!(serde_json::to_string(&set).unwrap(), r#"["publish:*"]"#);
}

fn any_permissions() -> impl Strategy<Value = Permissions> {
    any::<u64>().prop_map(|bits| Permissions(bits).intersection(Permissions::ALL))
}

proptest! {
    #[test]
    fn json_round_trips(set in any_permissions()) {
        let json = serde_json::to_string(&set).unwrap();
        prop_assert_eq!(serde_json::from_str::<Permissions>(&json).unwrap(), set);
        prop_assert_eq!(set.iter().collect::<Permissions>(), set);
    }

    #[test]
    fn sets_behave_as_sets(a in any_permissions(), b in any_permissions()) {
        for permission in Permissions::ALL.iter() {
            let (in_a, in_b) = (a.contains(permission), b.contains(permission));
            prop_assert_eq!(a.union(b).contains(permission), in_a || in_b);
            prop_assert_eq!(a.intersection(b).contains(permission), in_a && in_b);
        }
    }

    #[test]
    fn no_word_panics(word in ".{0,40}") {
        Permissions::from_words([word.as_str()]);
    }
}

//! What entries leave of principals.

use serde_json::json;
use time::Duration;

use super::*;
use crate::permission::Permissions;

const KEY: &str = "abcdefghijk2";

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

/// A token of a user, issued at second 1,000.
fn token(role: Role) -> Principal {
    Principal {
        subject: UserId::new("ada").unwrap(),
        name: "Ada".to_owned(),
        role: Some(role),
        permissions: role.permissions(),
        projects: vec!["apollo".to_owned(), "gemini".to_owned()],
        agent_id: None,
        limits: Limits::default(),
        expires_at: Some(at(2_000)),
        credential: CredentialId::new("t1").unwrap(),
        origin: crate::Origin {
            key: None,
            family: FamilyId::new("f1").ok(),
            issued_at: Some(at(1_000)),
        },
    }
}

/// The same of an API key.
fn token_of_key(role: Role) -> Principal {
    let mut principal = token(role);
    principal.origin.key = Some(ApiKeyId::parse(KEY).unwrap());
    principal
}

fn entry(target: Target) -> Revocation {
    Revocation {
        target,
        not_before: Some(at(9_999_999)),
        grant: None,
        changed_at: at(1_500),
        expires_at: at(3_000),
    }
}

fn grant(role: Role, projects: &[&str]) -> Grant {
    Grant {
        role,
        projects: projects.iter().map(|&project| project.to_owned()).collect(),
        agent_id: None,
        limits: Limits::default(),
    }
}

fn changed(target: Target, grant: Grant) -> Revocation {
    Revocation {
        not_before: None,
        grant: Some(grant),
        ..entry(target)
    }
}

fn user() -> Target {
    Target::User(UserId::new("ada").unwrap())
}

fn key() -> Target {
    Target::Key(ApiKeyId::parse(KEY).unwrap())
}

#[test]
fn each_target_hits_its_own_and_nothing_else() {
    let targets = [
        Target::Token(CredentialId::new("t1").unwrap()),
        Target::Family(FamilyId::new("f1").unwrap()),
        user(),
        key(),
    ];
    let hits = |principal: &Principal| {
        let hit = |target: &Target| principal.is_hit_by(&entry(target.clone()));
        targets.iter().map(hit).collect::<Vec<_>>()
    };
    assert_eq!(hits(&token(Role::Viewer)), [true, true, true, false]);
    // Keys that act as a user are revoked one by one.
    assert_eq!(hits(&token_of_key(Role::Viewer)), [true, true, false, true]);
    let mut other = token(Role::Viewer);
    other.subject = UserId::new("bob").unwrap();
    other.credential = CredentialId::new("t2").unwrap();
    other.origin.family = None;
    assert_eq!(hits(&other), [false; 4]);
}

#[test]
fn a_key_itself_is_hit_by_its_entry() {
    let mut principal = token_of_key(Role::Viewer);
    principal.credential = CredentialId::new(KEY).unwrap();
    principal.origin.issued_at = None;
    principal.expires_at = None;
    assert_eq!(entry(key()).judge(&principal), Verdict::Ended);
}

#[test]
fn a_user_comes_back_with_what_is_issued_later() {
    let mut revocation = entry(user());
    revocation.not_before = Some(at(1_000));
    assert_eq!(
        revocation.judge(&token(Role::Viewer)),
        Verdict::Untouched,
        "issued at that very moment"
    );
    revocation.not_before = Some(at(1_001));
    assert_eq!(revocation.judge(&token(Role::Viewer)), Verdict::Ended);
    let mut ageless = token(Role::Viewer);
    ageless.origin.issued_at = None;
    assert_eq!(revocation.judge(&ageless), Verdict::Ended);
}

#[test]
fn a_change_narrows_and_never_widens() {
    let narrowed = |role, grant| match changed(user(), grant).judge(&token(role)) {
        Verdict::Narrowed(less) => *less,
        Verdict::Untouched => token(role),
        Verdict::Ended => panic!("ended"),
    };
    let both = ["apollo", "gemini"];
    let demoted = narrowed(Role::Analyst, grant(Role::Viewer, &both));
    assert_eq!(demoted.permissions, Role::Viewer.permissions());
    assert_eq!(demoted.role, Some(Role::Viewer));

    let promoted = narrowed(Role::Viewer, grant(Role::Admin, &[]));
    assert_eq!(promoted, token(Role::Viewer));

    let moved = narrowed(Role::Analyst, grant(Role::Operator, &["gemini", "vostok"]));
    assert!(!moved.permissions.contains(Permission::RunCommands));
    assert!(!moved.permissions.contains(Permission::ChatAgents));
    assert!(moved.permissions.contains(Permission::ExecuteActions));
    assert_eq!(moved.projects, ["gemini"]);
}

#[test]
fn a_narrow_token_of_a_promoted_user_keeps_its_role() {
    let mut narrow = token(Role::Viewer);
    narrow.permissions = Permissions::of(&[Permission::ReadThreats]);
    let revocation = changed(user(), grant(Role::Admin, &[]));
    assert_eq!(revocation.judge(&narrow), Verdict::Untouched);
}

#[test]
fn limits_follow_the_change_both_ways() {
    let mut wider = grant(Role::Viewer, &["apollo", "gemini"]);
    wider.limits.messages_per_minute = 1_000;
    let Verdict::Narrowed(principal) = changed(user(), wider).judge(&token(Role::Viewer)) else {
        panic!("untouched");
    };
    assert_eq!(principal.limits.messages_per_minute, 1_000);
}

#[test]
fn agents_stay_the_agents_that_they_are_or_end() {
    let agent = |id: &str| AgentId::new(id).ok();
    let mut principal = token_of_key(Role::Agent);
    principal.agent_id = agent("a7");
    let verdict = |role, agent_id| {
        let projects = grant(role, &["apollo", "gemini"]);
        changed(
            key(),
            Grant {
                agent_id,
                ..projects
            },
        )
        .judge(&principal)
    };
    assert_eq!(verdict(Role::Agent, None), Verdict::Untouched);
    assert_eq!(verdict(Role::Agent, agent("a7")), Verdict::Untouched);
    assert_eq!(verdict(Role::Agent, agent("a8")), Verdict::Ended);
    assert_eq!(verdict(Role::Viewer, agent("a7")), Verdict::Ended);
    assert_eq!(verdict(Role::Admin, None), Verdict::Ended);
}

#[test]
fn the_set_applies_all_that_concerns_a_principal() {
    let viewer = changed(key(), grant(Role::Viewer, &["apollo"]));
    let family = entry(Target::Family(FamilyId::new("f1").unwrap()));
    let mut all: Revocations = [viewer, entry(user())].into_iter().collect();
    let principal = token_of_key(Role::Analyst);
    let Verdict::Narrowed(less) = all.judge(&principal) else {
        panic!("not narrowed");
    };
    assert_eq!(less.projects, ["apollo"]);
    all.insert(family.clone());
    assert_eq!(all.judge(&principal), Verdict::Ended);
    all.remove(&family.target);
    assert_ne!(all.judge(&principal), Verdict::Ended);
    all.prune(at(3_000));
    assert!(all.is_empty());
    assert_eq!(all.judge(&principal), Verdict::Untouched);
}

#[test]
fn entries_are_readable_json() {
    let mut revocation = entry(user());
    revocation.not_before = Some(at(1_000));
    let json = serde_json::to_value(&revocation).unwrap();
    assert_eq!(
        json,
        json!({
            "target": {"kind": "user", "id": "ada"},
            "not_before": "1970-01-01T00:16:40Z",
            "changed_at": "1970-01-01T00:25:00Z",
            "expires_at": "1970-01-01T00:50:00Z",
        })
    );
    assert_eq!(
        serde_json::from_value::<Revocation>(json).unwrap(),
        revocation
    );
}

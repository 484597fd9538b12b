//! Users and their passwords:
//! - a login gives what the record grants, and changes to it take hold
//! - nothing tells which users exist
//! - a thousand wrong passwords are answered later and later, and mostly not
//!   even looked at, while others log in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use signalbox_auth::{BackOff, Options};
use signalbox_bus::key;
use signalbox_identity::{Permission, Role, Verdict};
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target};

use crate::common::{Managed, PASSWORD, Service, World, request_for};

fn change(username: &str) -> wire::ChangeUser {
    wire::ChangeUser {
        username: username.to_owned(),
        ..wire::ChangeUser::default()
    }
}

#[tokio::test]
async fn a_login_grants_what_the_record_says() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada.l@example", "operator").await;
    let issued = world.login("ada.l@example", PASSWORD, "").await.unwrap();
    let principal = world
        .claims(&issued.access_token, "signalbox")
        .await
        .principal();
    assert_eq!(principal.subject.as_str(), "ada.l@example");
    assert_eq!(principal.role, Some(Role::Operator));
    assert!(principal.permissions.contains(Permission::RunCommands));
    assert_eq!(principal.projects, ["apollo", "gemini"]);
    assert_eq!(principal.origin.key, None);
    let bucket = world.bucket(key::USERS).await;
    let stored = bucket
        .get(key::user("ada.l@example"))
        .await
        .unwrap()
        .unwrap();
    let stored = String::from_utf8(stored.to_vec()).unwrap();
    assert!(stored.contains("$argon2id$") && !stored.contains(PASSWORD));
}

#[tokio::test]
async fn bad_logins_are_refused_alike() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "viewer").await;
    world.add_user("bob", "viewer").await;
    world.add_user("eve", "viewer").await;
    let mut disable = change("bob");
    disable.disabled = Some(true);
    world.manage(Operation::ChangeUser(disable)).await.unwrap();
    let delete = wire::DeleteUser {
        username: "eve".to_owned(),
    };
    world.manage(Operation::DeleteUser(delete)).await.unwrap();
    let mut refusals = Vec::new();
    for (user, password) in [
        ("ada", "wrong password"),
        ("ada", ""),
        ("bob", PASSWORD),
        ("eve", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        refusals.push(world.login(user, password, "").await.unwrap_err());
    }
    let expected = wire::Refusal {
        code: "AUTH_FAILED".to_owned(),
        message: "the username or the password is wrong".to_owned(),
        ..wire::Refusal::default()
    };
    assert_eq!(refusals, vec![expected; 5]);
    world.login("ada", PASSWORD, "").await.unwrap();
}

#[tokio::test]
async fn a_thousand_wrong_passwords_are_answered_later_and_later() {
    let world = World::new().await;
    let options = Options {
        // So long that no delay ends while the test runs.
        back_off: BackOff {
            first_delay: std::time::Duration::from_secs(10),
            ..BackOff::default()
        },
        ..world.options()
    };
    let _auth = Service::start(options).await;
    world.add_user("ada", "viewer").await;
    let mut looked_at = Vec::new();
    let mut withheld = 0;
    for number in 0..1_000 {
        let guess = format!("wrong password {number}");
        let refusal = world.login("ada", &guess, "192.0.2.7").await.unwrap_err();
        match refusal.code.as_str() {
            "AUTH_FAILED" => looked_at.push(refusal.delay_ms),
            "RATE_LIMIT" => {
                assert!((1..=30_000).contains(&refusal.delay_ms));
                withheld += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        looked_at,
        [
            0, 0, 0, 10_000, 20_000, 30_000, 30_000, 30_000, 30_000, 30_000, 30_000
        ]
    );
    assert_eq!(withheld, 1_000 - 11);
    // The right one is not looked at from there either, but from elsewhere.
    let refusal = world.login("ada", PASSWORD, "192.0.2.7").await.unwrap_err();
    assert_eq!(refusal.code, "RATE_LIMIT");
    world.login("ada", PASSWORD, "192.0.2.8").await.unwrap();
    // A key cannot be guessed, so a good one is accepted from anywhere.
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let request = wire::IssueTokenRequest {
        context: Some(common::from("192.0.2.7")),
        ..request_for(&key)
    };
    world.issue(request).await.unwrap();
}

#[tokio::test]
async fn wrong_secrets_of_keys_are_counted_too() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let stranger = signalbox_identity::ApiKey::generate();
    let secret = stranger.expose().expose()["sbk_".len() + 13..].to_owned();
    let wrong = format!("sbk_{}_{secret}", key.id());
    let mut delays = Vec::new();
    for _ in 0..6 {
        delays.push(world.verify(&wrong).await.unwrap_err().delay_ms);
    }
    assert_eq!(delays, [0, 0, 0, 250, 500, 1_000]);
    world.verify(key.expose().expose()).await.unwrap();
}

#[tokio::test]
async fn a_new_password_and_a_ban_end_all_tokens() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "viewer").await;
    let before = world.login("ada", PASSWORD, "").await.unwrap();
    let mut asked = change("ada");
    asked.password = Some("another long password".to_owned());
    world.manage(Operation::ChangeUser(asked)).await.unwrap();
    assert_eq!(world.judge(&before.access_token).await, Verdict::Ended);
    world.refresh(&before.refresh_token).await.unwrap_err();
    world.login("ada", PASSWORD, "").await.unwrap_err();

    let after = world
        .login("ada", "another long password", "")
        .await
        .unwrap();
    assert_eq!(world.judge(&after.access_token).await, Verdict::Untouched);
    let ban = async |disabled| {
        let mut asked = change("ada");
        asked.disabled = Some(disabled);
        world.manage(Operation::ChangeUser(asked)).await.unwrap();
    };
    ban(true).await;
    assert_eq!(world.judge(&after.access_token).await, Verdict::Ended);
    world.refresh(&after.refresh_token).await.unwrap_err();
    ban(false).await;
    world.refresh(&after.refresh_token).await.unwrap_err();
    world
        .login("ada", "another long password", "")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_smaller_role_narrows_open_connections_and_the_next_token() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "analyst").await;
    let issued = world.login("ada", PASSWORD, "").await.unwrap();
    let mut asked = change("ada");
    asked.role = Some("viewer".to_owned());
    asked.projects = Some(wire::Names {
        names: vec!["gemini".to_owned()],
    });
    world.manage(Operation::ChangeUser(asked)).await.unwrap();
    let Verdict::Narrowed(left) = world.judge(&issued.access_token).await else {
        panic!("not narrowed");
    };
    assert_eq!(left.permissions, Role::Viewer.permissions());
    assert_eq!(left.projects, ["gemini"]);
    let next = world.refresh(&issued.refresh_token).await.unwrap();
    let principal = world
        .claims(&next.access_token, "signalbox")
        .await
        .principal();
    assert_eq!(principal.role, Some(Role::Viewer));
    assert_eq!(principal.projects, ["gemini"]);
    assert_eq!(world.judge(&next.access_token).await, Verdict::Untouched);
}

#[tokio::test]
async fn one_of_the_same_name_inherits_nothing() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "admin").await;
    let former = world.login("ada", PASSWORD, "").await.unwrap();
    let delete = || {
        Operation::DeleteUser(wire::DeleteUser {
            username: "ada".to_owned(),
        })
    };
    world.manage(delete()).await.unwrap();
    assert_eq!(world.manage(delete()).await.unwrap_err().code, "NOT_FOUND");
    world.add_user("ada", "viewer").await;
    assert_eq!(world.judge(&former.access_token).await, Verdict::Ended);
    world.refresh(&former.refresh_token).await.unwrap_err();
    let new = world.login("ada", PASSWORD, "").await.unwrap();
    assert_eq!(world.judge(&new.access_token).await, Verdict::Untouched);
}

#[tokio::test]
async fn unfit_users_are_refused_by_their_field() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "viewer").await;
    let good = wire::CreateUser {
        username: "bob".to_owned(),
        password: PASSWORD.to_owned(),
        role: "viewer".to_owned(),
        ..wire::CreateUser::default()
    };
    for (field, changed) in [
        (
            "username",
            wire::CreateUser {
                username: "a b".into(),
                ..good.clone()
            },
        ),
        (
            "username",
            wire::CreateUser {
                username: "corp|ada".into(),
                ..good.clone()
            },
        ),
        (
            "username",
            wire::CreateUser {
                username: "ada".into(),
                ..good.clone()
            },
        ),
        (
            "password",
            wire::CreateUser {
                password: "short".into(),
                ..good.clone()
            },
        ),
        (
            "role",
            wire::CreateUser {
                role: "emperor".into(),
                ..good.clone()
            },
        ),
        (
            "role",
            wire::CreateUser {
                role: "agent".into(),
                ..good.clone()
            },
        ),
        (
            "projects",
            wire::CreateUser {
                projects: vec!["a b".into()],
                ..good.clone()
            },
        ),
        (
            "name",
            wire::CreateUser {
                name: "\u{7}".into(),
                ..good.clone()
            },
        ),
    ] {
        let refusal = world
            .manage(Operation::CreateUser(changed))
            .await
            .unwrap_err();
        assert_eq!(refusal.field, field);
        let taken = refusal.message.ends_with("already taken");
        let code = ["INVALID_MESSAGE", "ALREADY_EXISTS"][usize::from(taken)];
        assert_eq!(refusal.code, code);
        assert!(
            refusal.message.contains(&format!("`{field}`")),
            "{}",
            refusal.message
        );
    }
    let page = |after: &str| {
        Operation::ListUsers(wire::ListUsers {
            after: after.to_owned(),
            limit: 1,
        })
    };
    world.manage(Operation::CreateUser(good)).await.unwrap();
    let Managed::Users(first) = world.manage(page("")).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (first.users[0].username.as_str(), first.more),
        ("ada", true)
    );
    let Managed::Users(second) = world.manage(page("ada")).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (second.users[0].username.as_str(), second.more),
        ("bob", false)
    );
}

#[tokio::test]
async fn changes_at_once_are_all_made() {
    let world = World::new().await;
    let _one = Service::start(world.options()).await;
    let _two = Service::start(world.options()).await;
    world.add_user("ada", "analyst").await;
    let issued = world.login("ada", PASSWORD, "").await.unwrap();
    let mut asked = Vec::new();
    for number in 1..=8_u32 {
        let mut limit = change("ada");
        limit.messages_per_minute = Some(number);
        let mut role = change("ada");
        role.role = Some(if number % 2 == 0 { "viewer" } else { "analyst" }.to_owned());
        asked.extend([limit, role]);
    }
    let changes = asked
        .into_iter()
        .map(|one| world.manage(Operation::ChangeUser(one)));
    for changed in futures_util::future::join_all(changes).await {
        changed.unwrap();
    }
    // The entry says what the record says, whoever wrote it last.
    let Managed::Users(users) = world
        .manage(Operation::ListUsers(wire::ListUsers::default()))
        .await
        .unwrap()
    else {
        panic!()
    };
    let (role, limit) = (&users.users[0].role, users.users[0].messages_per_minute);
    let principal = world
        .claims(&issued.access_token, "signalbox")
        .await
        .principal();
    let left = match world.judge(&issued.access_token).await {
        Verdict::Narrowed(left) => *left,
        other => panic!("{other:?}"),
    };
    assert_eq!(left.role.unwrap().as_str(), role);
    assert_eq!(left.limits.messages_per_minute, limit);
    assert_eq!(left.subject, principal.subject);
}

#[tokio::test]
async fn a_subject_ends_with_all_keys_that_act_as_it() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("user-7", "viewer").await;
    let login = world.login("user-7", PASSWORD, "").await.unwrap();
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let of_key = world.issue(request_for(&key)).await.unwrap();
    let other = world
        .add_api_key(Role::Viewer, |record| {
            record.subject = signalbox_identity::UserId::new("user-8").unwrap();
        })
        .await;
    let target = revocation_target::Target::Subject("user-7".to_owned());
    let target = wire::RevocationTarget {
        target: Some(target),
    };
    world.manage(Operation::Revoke(target)).await.unwrap();
    for token in [&login.access_token, &of_key.access_token] {
        assert_eq!(world.judge(token).await, Verdict::Ended);
    }
    world.verify(key.expose().expose()).await.unwrap_err();
    world.refresh(&of_key.refresh_token).await.unwrap_err();
    world.verify(other.expose().expose()).await.unwrap();
}

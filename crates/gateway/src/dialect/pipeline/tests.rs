//! What permissions and narrowing leave of the events.

use signalbox_identity::{CredentialId, Limits, Role, UserId};

use super::*;

fn principal(role: Role) -> Principal {
    Principal {
        subject: UserId::new("ada").unwrap(),
        name: "Ada".to_owned(),
        role: Some(role),
        permissions: role.permissions(),
        projects: Vec::new(),
        agent_id: None,
        limits: Limits::default(),
        expires_at: None,
        credential: CredentialId::new("c").unwrap(),
        origin: signalbox_identity::Origin::default(),
    }
}

fn channels(role: Role, narrowing: &Narrowing) -> Vec<Channel> {
    let selections = selections(&principal(role), narrowing);
    let all = selections
        .iter()
        .flat_map(|selection| selection.channels.iter());
    all.collect()
}

#[test]
fn permissions_decide_what_there_is() {
    let everything = Narrowing::default();
    let viewer = channels(Role::Viewer, &everything);
    assert!(viewer.contains(&Channel::PipelineEvents));
    assert!(viewer.contains(&Channel::PipelineUserNotifications));
    assert!(!viewer.contains(&Channel::PipelineDebug));
    assert!(!viewer.contains(&Channel::PipelineUserActions));
    assert!(channels(Role::Operator, &everything).contains(&Channel::PipelineDebug));
    assert!(channels(Role::Admin, &everything).contains(&Channel::PipelineUserActions));
    let personal = selections(&principal(Role::Viewer), &everything);
    let personal = personal
        .iter()
        .find(|selection| selection.audience.is_some());
    assert_eq!(
        personal.unwrap().audience,
        Some(Audience::User("ada".into()))
    );
}

#[test]
fn narrowing_takes_away_and_never_adds() {
    let narrowed = |categories: &[&str]| Narrowing {
        categories: categories.iter().map(ToString::to_string).collect(),
        ..Narrowing::default()
    };
    assert_eq!(
        channels(Role::Viewer, &narrowed(&["SYSTEM", "DEBUG"])),
        [Channel::PipelineSystem]
    );
    assert_eq!(
        channels(Role::Viewer, &narrowed(&["USER"])),
        [Channel::PipelineUserNotifications]
    );
    assert!(channels(Role::Viewer, &narrowed(&["DEBUG"])).is_empty());
    let least = |word: &str| Narrowing {
        min_priority: Some(word.to_owned()),
        ..Narrowing::default()
    };
    assert!(filter(&least("HIGH")).is_some());
    assert!(filter(&least("LOW")).is_none(), "which is everything");
    assert!(filter(&Narrowing::default()).is_none());
}

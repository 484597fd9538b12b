//! What permissions and narrowing leave of the events.

use signalbox_identity::{CredentialId, Limits, Role, UserId};
use signalbox_protocol::domain::Domain;

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
fn what_is_named_must_be_allowed() {
    use Category::{Debug, System, User};
    let lacking = |role, categories: &[Category], kind: Option<&str>| {
        let find = |name| signalbox_protocol::catalogue::find(Domain::Pipeline, name).unwrap();
        let asked = Subscribe {
            categories: Some(categories.to_vec()).filter(|all| !all.is_empty()),
            event_types: kind.map(|name| vec![find(name)]),
            ..Subscribe::default()
        };
        lacking(&principal(role), &asked)
    };
    let debug = Some(Permission::ReadDebug);
    assert_eq!(lacking(Role::Viewer, &[], None), None);
    assert_eq!(lacking(Role::Viewer, &[System, Debug], None), debug);
    assert_eq!(lacking(Role::Operator, &[System, Debug], None), None);
    // Notifications are everyone's, what users do is not.
    assert_eq!(lacking(Role::Viewer, &[User], None), None);
    let action = lacking(Role::Viewer, &[], Some("user_action"));
    assert_eq!(action, Some(Permission::Admin));
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

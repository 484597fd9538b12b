//! Who may be in which room, and what rooms bring.

use serde_json::json;
use signalbox_identity::{CredentialId, Limits, Permissions, Role, UserId};

use super::*;

fn principal(role: Role, projects: &[&str]) -> Principal {
    Principal {
        subject: UserId::new("ada").unwrap(),
        name: "Ada".to_owned(),
        role: Some(role),
        permissions: role.permissions(),
        projects: projects.iter().map(ToString::to_string).collect(),
        agent_id: None,
        limits: Limits::default(),
        expires_at: None,
        credential: CredentialId::new("c").unwrap(),
        origin: signalbox_identity::Origin::default(),
    }
}

#[test]
fn rooms_open_to_those_who_may() {
    let may = |principal: &Principal, room: &str| may_enter(principal, &room.parse().unwrap());
    let viewer = principal(Role::Viewer, &["p"]);
    for (room, expected) in [
        ("global", true),
        ("user:ada", true),
        ("user:eve", false),
        ("project:p", true),
        ("project:q", false),
        ("agent:any", true),
    ] {
        assert_eq!(may(&viewer, room), expected, "{room}");
    }
    assert!(may(&principal(Role::Admin, &[]), "project:q"));
    assert!(!may(&principal(Role::Admin, &[]), "user:eve"));
    let nobody = Principal {
        permissions: Permissions::NONE,
        ..principal(Role::Viewer, &[])
    };
    assert!(!may(&nobody, "agent:any"));
}

#[test]
fn rooms_are_addresses() {
    let user = selection(&Room::User("ada".into()));
    assert_eq!(user.audience, Some(Audience::User("ada".into())));
    assert!(user.channels.contains(Channel::AgentEvents));
    let project = selection(&Room::Project("p".into()));
    assert_eq!(
        (project.object.as_deref(), &project.audience),
        (Some("p"), &None)
    );
    // An agent of the same id is another object.
    assert!(!project.channels.contains(Channel::AgentEvents));
    let agent = selection(&Room::Agent("p".into()));
    assert!(!agent.channels.contains(Channel::ProjectEvents));
    assert_eq!(selection(&Room::Global).audience, Some(Audience::Everyone));
}

#[test]
fn refusals_have_the_documented_shape() {
    let complaint = Complaint {
        code: ErrorCode::InvalidRoom,
        message: "m".to_owned(),
        field: Some("room".to_owned()),
    };
    assert_eq!(
        failure(&complaint, Some("team:x"), None),
        json!({"status": "error", "error_code": "INVALID_ROOM", "error_message": "m", "room": "team:x"})
    );
    let refused = refusal_data(&Refused {
        code: ErrorCode::AuthMissing,
        message: "m",
    });
    assert_eq!(
        refused["data"],
        json!({"error_code": "AUTH_MISSING", "error_message": "m", "connection_id": null})
    );
    assert_eq!(pong(), json!({"status": "pong"}));
}

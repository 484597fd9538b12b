//! Socket.IO 5 over Engine.IO 4 over WebSocket, as a client of namespace `/ws`
//! that gives its token in the handshake.

use serde_json::{Value, json};
use signalbox_protocol::domain::Domain;

use super::{Ask, Dialect, Events, Heard, Subject, object};

/// The field of an event's data that names its object, a project.
const OBJECT_FIELD: &str = "project_id";

pub(super) const SOCKETIO: Dialect = Dialect {
    name: "socketio",
    needs_token: true,
    path: |_| "/socket.io/?EIO=4&transport=websocket".to_owned(),
    hello: |_| None,
    hear,
    // Without a project, events of this kind go to everyone.
    broadcast: Events {
        domain: Domain::Workflow,
        name: "started",
        object_field: None,
        fields: r#"{"workflow_id":"bench"}"#,
    },
    objects: Events {
        domain: Domain::Workflow,
        name: "started",
        object_field: Some(OBJECT_FIELD),
        fields: r#"{"workflow_id":"bench"}"#,
    },
};

fn hear(ask: &Ask<'_>, packet: &str) -> Heard {
    let mut kinds = packet.chars();
    match (kinds.next(), kinds.next()) {
        (Some('0'), _) => Heard::Say(format!("40/ws,{}", json!({"token": ask.token}))),
        (Some('2'), None) => Heard::Say("3".to_owned()),
        (Some('4'), Some('0')) => match ask.subject {
            Subject::Nothing | Subject::Broadcast => Heard::Confirmed {
                seq: None,
                recovered: None,
            },
            // Rooms have no wildcard: the client of all objects is in none.
            Subject::Objects => Heard::Refused("socketio cannot watch every object".to_owned()),
            Subject::Object(target) => {
                let room = format!("project:{}", object(ask.run, target));
                let mut arguments = json!({"room": room});
                if let Some(since) = ask.since {
                    arguments["since"] = since.into();
                }
                Heard::Say(format!("42/ws,1{}", json!(["subscribe", arguments])))
            }
        },
        (Some('4'), Some('1')) => Heard::Refused("the server left the namespace".to_owned()),
        (Some('4'), Some('3')) => acknowledged(packet),
        (Some('4'), Some('4')) => Heard::Refused(format!("connect refused: {packet}")),
        (Some('4'), Some('2')) => match body(packet) {
            Value::Array(event) if event.first().is_some_and(is_error) => {
                Heard::Refused(event.get(1).map(Value::to_string).unwrap_or_default())
            }
            _ => Heard::Other,
        },
        _ => Heard::Other,
    }
}

fn is_error(name: &Value) -> bool {
    matches!(name.as_str(), Some("connection_error" | "auth_error"))
}

fn acknowledged(packet: &str) -> Heard {
    let answer = body(packet)[0].clone();
    if answer["status"] == "success" {
        return Heard::Confirmed {
            seq: answer["seq"].as_str().map(str::to_owned),
            recovered: answer["recovered"].as_bool(),
        };
    }
    Heard::Refused(answer.to_string())
}

/// The JSON array of a packet, behind its kind, namespace and number.
fn body(packet: &str) -> Value {
    let json = packet.find('[').map_or("", |start| &packet[start..]);
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::ASK;
    use super::*;

    fn say(heard: Heard) -> String {
        match heard {
            Heard::Say(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_goes_through_both_layers() {
        let ask = Ask {
            subject: Subject::Object(3),
            ..ASK
        };
        assert_eq!(
            say(hear(&ask, r#"0{"sid":"x"}"#)),
            r#"40/ws,{"token":"t.o.k"}"#
        );
        assert_eq!(say(hear(&ask, "2")), "3");
        let subscribe = say(hear(&ask, r#"40/ws,{"sid":"y"}"#));
        assert_eq!(
            subscribe,
            r#"42/ws,1["subscribe",{"room":"project:bench-000000ab-3"}]"#
        );
        let heard = hear(&ask, r#"43/ws,1[{"status":"success","seq":"e-1"}]"#);
        assert_eq!(
            heard,
            Heard::Confirmed {
                seq: Some("e-1".into()),
                recovered: None
            }
        );
        assert_eq!(
            hear(&ask, r#"42/ws,["connection_established",{}]"#),
            Heard::Other
        );
    }

    #[test]
    fn refusals_are_heard_on_every_layer() {
        for packet in [
            r#"44/ws,{"message":"no"}"#,
            "41/ws,",
            r#"43/ws,1[{"status":"error","error_code":"INVALID_ROOM"}]"#,
            r#"42/ws,["connection_error",{"error_code":"AUTH_FAILED"}]"#,
        ] {
            assert!(matches!(hear(&ASK, packet), Heard::Refused(_)), "{packet}");
        }
    }
}

//! Dialect `mesh`.

use serde_json::json;
use signalbox_protocol::domain::Domain;

use super::{Ask, Dialect, Events, Heard, Subject, complaint, object, text, typed};

/// The field of an event's data by which objects are told apart.
const OBJECT_FIELD: &str = "bench_object";

pub(super) const MESH: Dialect = Dialect {
    name: "mesh",
    needs_token: true,
    path: |ask| format!("/api/v1/ws?token={}", ask.token),
    hello: |ask| Some(first_message(ask)),
    hear,
    broadcast: Events {
        domain: Domain::Network,
        name: "node_left",
        object_field: None,
        fields: "{}",
    },
    objects: Events {
        domain: Domain::Monitoring,
        name: "alert_raised",
        object_field: Some(OBJECT_FIELD),
        fields: "{}",
    },
};

/// The URL has authenticated the client, so that it may subscribe at once; one
/// that subscribes to nothing asks for a sign of life instead.
fn first_message(ask: &Ask<'_>) -> String {
    let mut message = match ask.subject {
        Subject::Nothing => return json!({"type": "ping"}).to_string(),
        Subject::Broadcast => json!({"channel": "network_events"}),
        Subject::Objects => json!({"channel": "monitoring_events"}),
        Subject::Object(target) => json!({
            "channel": "monitoring_events",
            "filter": {"data": {OBJECT_FIELD: object(ask.run, target)}},
        }),
    };
    message["type"] = "subscribe".into();
    if let Some(since) = ask.since {
        message["since"] = since.into();
    }
    message.to_string()
}

fn hear(_: &Ask<'_>, message: &str) -> Heard {
    let (kind, body) = typed(message);
    let place = |key: &str| {
        if body[key].is_null() {
            &body["data"]
        } else {
            &body
        }
    };
    match kind.as_str() {
        "pong" => Heard::Confirmed {
            seq: None,
            recovered: None,
        },
        "subscribed" => Heard::Confirmed {
            seq: text(place("seq"), "seq"),
            recovered: place("recovered")["recovered"].as_bool(),
        },
        "error" => Heard::Refused(complaint(&body["data"])),
        _ => Heard::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ASK;
    use super::*;

    #[test]
    fn the_first_message_subscribes() {
        assert_eq!((MESH.path)(&ASK), "/api/v1/ws?token=t.o.k");
        let ask = Ask {
            subject: Subject::Object(3),
            ..ASK
        };
        let hello = (MESH.hello)(&ask).unwrap();
        assert!(hello.contains("bench-000000ab-3"), "{hello}");
        let heard = hear(
            &ask,
            r#"{"type":"subscribed","data":{"channel":"x","seq":"e-1"},"timestamp":"t"}"#,
        );
        assert_eq!(
            heard,
            Heard::Confirmed {
                seq: Some("e-1".into()),
                recovered: None
            }
        );
        let heard = hear(
            &ask,
            r#"{"type":"error","data":{"code":"FORBIDDEN","message":"no"},"timestamp":"t"}"#,
        );
        assert_eq!(heard, Heard::Refused("FORBIDDEN: no".into()));
    }
}

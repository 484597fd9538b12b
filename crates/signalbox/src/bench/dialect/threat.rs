//! Dialect `threat`.

use serde_json::json;
use signalbox_protocol::domain::Domain;

use super::{Ask, Dialect, Events, Heard, Subject, complaint, object, text, typed};

pub(super) const THREAT: Dialect = Dialect {
    name: "threat",
    needs_token: false,
    path: |_| "/v1/ws".to_owned(),
    hello: |ask| Some(json!({"type": "authenticate", "token": ask.token}).to_string()),
    hear,
    broadcast: Events {
        domain: Domain::Threat,
        name: "threat_alert",
        object_field: None,
        fields: r#"{"incident_id":"bench","threat_type":"load","severity":"HIGH"}"#,
    },
    objects: Events {
        domain: Domain::Threat,
        name: "investigation_update",
        object_field: Some("investigation_id"),
        fields: r#"{"progress":1,"status":"RUNNING"}"#,
    },
};

fn hear(ask: &Ask<'_>, message: &str) -> Heard {
    let (kind, body) = typed(message);
    match kind.as_str() {
        "auth_success" => match subscription(ask) {
            Some(subscribe) => Heard::Say(subscribe),
            None => Heard::Confirmed {
                seq: None,
                recovered: None,
            },
        },
        "subscription_confirmed" => Heard::Confirmed {
            seq: text(&body, "seq"),
            recovered: body["recovered"].as_bool(),
        },
        "error" => Heard::Refused(complaint(&body)),
        _ => Heard::Other,
    }
}

fn subscription(ask: &Ask<'_>) -> Option<String> {
    let mut subscribe = match ask.subject {
        Subject::Nothing => return None,
        Subject::Broadcast => json!({"channel": "threat_alerts"}),
        Subject::Objects => json!({"channel": "investigation_progress"}),
        Subject::Object(target) => json!({
            "channel": "investigation_progress",
            "investigation_id": object(ask.run, target),
        }),
    };
    subscribe["type"] = "subscribe".into();
    if let Some(since) = ask.since {
        subscribe["since"] = since.into();
    }
    Some(subscribe.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::ASK;
    use super::*;

    #[test]
    fn a_session_goes_from_hello_to_confirmed() {
        let ask = Ask {
            subject: Subject::Object(3),
            since: Some("e-1"),
            ..ASK
        };
        let hello = (THREAT.hello)(&ask).unwrap();
        assert!(hello.contains("t.o.k"), "{hello}");
        let Heard::Say(subscribe) = hear(&ask, r#"{"type":"auth_success"}"#) else {
            panic!("authentication is followed by a subscription");
        };
        assert!(subscribe.contains("bench-000000ab-3") && subscribe.contains("e-1"));
        let confirmed = hear(
            &ask,
            r#"{"type":"subscription_confirmed","seq":"e-2","recovered":true}"#,
        );
        let expected = Heard::Confirmed {
            seq: Some("e-2".into()),
            recovered: Some(true),
        };
        assert_eq!(confirmed, expected);
        let refused = hear(
            &ask,
            r#"{"type":"error","code":"AUTH_FAILED","message":"no"}"#,
        );
        assert_eq!(refused, Heard::Refused("AUTH_FAILED: no".into()));
    }

    #[test]
    fn authentication_alone_is_enough_when_nothing_is_subscribed_to() {
        let ask = Ask {
            subject: Subject::Nothing,
            ..ASK
        };
        let heard = hear(&ask, r#"{"type":"auth_success"}"#);
        assert!(matches!(heard, Heard::Confirmed { .. }));
    }
}

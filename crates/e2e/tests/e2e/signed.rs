//! M8: events of types that must be signed reach clients only with the
//! signature of a key for that type; the others are dead letters, with the
//! reason, and a replay of them is judged anew.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap, header};
use signalbox_identity::SigningKey;
use signalbox_protocol::envelope::CE_ID;
use signalbox_testkit::{Arguments, DEADLINE, Platform, Process, WsClient, signalbox};
use tempfile::TempDir;

use crate::dlq::{dlq, letters};

/// As no serialiser writes it, so that any rewriting breaks the signature.
const PAYLOAD: &str = r#"{ "node_id":"node_1",  "load": 1.50 }"#;

/// An event's id and headers, and what the reason of its refusal says.
type Case<'a> = (&'a str, &'a [(&'static str, &'a str)], Option<&'a str>);

/// Key pairs in files `<name>.pub` and `<name>.key`.
struct Keys(TempDir);

impl Keys {
    fn new(names: &[&str]) -> (Self, Vec<SigningKey>) {
        let keys = Self(tempfile::tempdir().unwrap());
        let make = |name: &&str| {
            let key = SigningKey::generate().unwrap();
            std::fs::write(keys.path(name, "pub"), key.public_key().to_pem()).unwrap();
            std::fs::write(keys.path(name, "key"), key.to_pkcs8_pem().expose()).unwrap();
            key
        };
        let made = names.iter().map(make).collect();
        (keys, made)
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.0.path().join(name).with_extension(extension)
    }

    /// The router's argument that `node_joined` may be signed by a key.
    fn required(&self, name: &str) -> String {
        let path = self.path(name, "pub");
        format!("--require-signature=network.node_joined={}", path.display())
    }
}

async fn platform(arguments: &[&str]) -> Platform {
    let arguments = Arguments {
        router: arguments,
        ..Arguments::default()
    };
    Platform::start_as(1, arguments).await
}

async fn subscriber(platform: &Platform) -> WsClient {
    let token = platform.token("viewer").await;
    let mut client = WsClient::connect(&platform.gateways[0].mesh_url(&token), &[]).await;
    client
        .send_json(&json!({"type": "subscribe", "channel": "network_events"}))
        .await;
    client.expect("subscribed").await;
    client
}

/// Publishes `node_joined` with these headers, as a producer of its own make.
async fn send(bus: &Bus, id: &str, payload: &str, given: &[(&'static str, &str)]) {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    for (name, value) in given {
        headers.insert(*name, *value);
    }
    let message = Outgoing {
        subject: "events.network.node_joined".into(),
        message_id: format!("network/test/{id}"),
        headers,
        payload: payload.to_owned().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

/// Runs `signalbox publish` with a private key.
async fn publish_signed(platform: &Platform, key: &Path, arguments: &[&str]) -> Process {
    let mut command = signalbox();
    command
        .arg("publish")
        .args(arguments)
        .arg("--sign")
        .arg(key)
        .args(["network.node_joined", PAYLOAD])
        .env("NATS_URL", platform.nats.url(User::Producer));
    let process = Process::spawn(command);
    process.wait(DEADLINE).await;
    process
}

#[tokio::test]
async fn signed_events_reach_clients_and_others_are_dead_letters() {
    let (keys, made) = Keys::new(&["sensor", "spare", "stranger"]);
    let platform = platform(&[&keys.required("sensor"), &keys.required("spare")]).await;
    let mut client = subscriber(&platform).await;
    let bus = platform.bus(User::Producer).await;
    let signed = |key: usize, text: &str| {
        made[key]
            .sign_detached(text.as_bytes())
            .unwrap()
            .to_string()
    };
    let (sensor, spare, stranger) = (signed(0, PAYLOAD), signed(1, PAYLOAD), signed(2, PAYLOAD));
    let other = signed(0, r#"{"node_id":"node_1","load":1.5}"#);
    let cases: [Case<'_>; 10] = [
        ("no-id", &[(header::SIGNATURE, &sensor)], None),
        (
            "by-file",
            &[(header::SIGNATURE, &spare), (header::KEY_ID, "spare")],
            None,
        ),
        (
            "by-thumbprint",
            &[
                (header::SIGNATURE, &sensor),
                (header::KEY_ID, made[0].kid()),
            ],
            None,
        ),
        ("missing", &[], Some("must be signed")),
        (
            "only-id",
            &[(header::KEY_ID, "sensor")],
            Some("must be signed"),
        ),
        (
            "tampered",
            &[(header::SIGNATURE, &other)],
            Some("not that of this payload"),
        ),
        (
            "wrong-key",
            &[(header::SIGNATURE, &stranger)],
            Some("not that of this payload"),
        ),
        (
            "swapped",
            &[(header::SIGNATURE, &spare), (header::KEY_ID, "sensor")],
            Some("not that of this payload"),
        ),
        (
            "unknown-key",
            &[(header::SIGNATURE, &stranger), (header::KEY_ID, "stranger")],
            Some("no key \"stranger\""),
        ),
        (
            "garbled",
            &[(header::SIGNATURE, "%%%")],
            Some("base64 of 64 bytes"),
        ),
    ];
    let mut refused = 0;
    for (id, headers, reason) in cases {
        send(&bus, id, PAYLOAD, headers).await;
        if let Some(reason) = reason {
            refused += 1;
            let letter = letters(&platform, refused).await.pop().unwrap();
            assert_eq!(letter["id"], id);
            assert!(
                letter["reason"].as_str().unwrap().contains(reason),
                "{letter}"
            );
            continue;
        }
        let frame = client.expect("network_event").await;
        assert_eq!(frame["id"], id);
        let data: Value = serde_json::from_str(PAYLOAD).unwrap();
        assert_eq!(frame["data"], data);
    }
    // Another type needs no signature.
    let left = Outgoing {
        subject: "events.network.node_left".into(),
        message_id: "left".into(),
        headers: HeaderMap::new(),
        payload: "{}".into(),
    };
    publish(&bus, &left, DEADLINE).await.unwrap();
    assert_eq!(client.expect("network_event").await["event"], "node_left");
}

#[tokio::test]
async fn the_tool_signs() {
    let (keys, _) = Keys::new(&["sensor", "stranger"]);
    let platform = platform(&[&keys.required("sensor")]).await;
    let mut client = subscriber(&platform).await;
    let key = keys.path("sensor", "key");
    for arguments in [&["--id", "a"][..], &["--id", "b", "--key-id", "sensor"]] {
        let process = publish_signed(&platform, &key, arguments).await;
        assert!(
            process.stderr().lines().is_empty(),
            "{:?}",
            process.stderr().lines()
        );
        assert_eq!(client.expect("network_event").await["id"], arguments[1]);
    }
    publish_signed(&platform, &keys.path("stranger", "key"), &[]).await;
    letters(&platform, 1).await;
    // A public key cannot sign.
    let process = publish_signed(&platform, &keys.path("sensor", "pub"), &[]).await;
    assert_eq!(process.exit_status().unwrap().code(), Some(64));
}

/// A dead letter has the payload and the signature as they were, so that it
/// is judged anew: by a router that knows the key it is good, tampered with it
/// stays bad.
#[tokio::test]
async fn a_replay_is_verified_again() {
    let (keys, made) = Keys::new(&["sensor", "spare"]);
    let redact = "--redact-fields=password";
    let mut platform = platform(&[&keys.required("sensor"), redact]).await;
    let mut client = subscriber(&platform).await;
    let bus = platform.bus(User::Producer).await;
    let signature = made[1]
        .sign_detached(PAYLOAD.as_bytes())
        .unwrap()
        .to_string();
    let headers = [
        (header::SIGNATURE, signature.as_str()),
        (header::KEY_ID, "spare"),
    ];
    send(&bus, "late", PAYLOAD, &headers).await;
    let tampered = PAYLOAD.replace("node_1", "node_2");
    send(&bus, "tampered", &tampered, &headers).await;
    letters(&platform, 2).await;
    let (code, raw, stderr) = dlq(&platform, &["show", "1", "--raw"]).await;
    assert_eq!((code, raw), (Some(0), vec![PAYLOAD.to_owned()]), "{stderr}");

    platform.router.process.kill9();
    let arguments = [&keys.required("sensor"), &keys.required("spare"), redact];
    let arguments = arguments.map(AsRef::<str>::as_ref);
    platform.router = platform.start_router_with(&arguments).await;
    let (code, _, stderr) = dlq(&platform, &["replay", "--all"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(client.expect("network_event").await["id"], "late");
    let again = letters(&platform, 3).await.pop().unwrap();
    assert_eq!(again["id"], "tampered");
    let reason = again["reason"].as_str().unwrap();
    assert!(reason.contains("not that of this payload"), "{again}");
}

#[tokio::test]
async fn a_router_without_its_keys_does_not_start() {
    let (keys, _) = Keys::new(&["sensor"]);
    let absent = keys.required("absent");
    let private = keys.required("sensor").replace(".pub", ".key");
    for (argument, told) in [
        (absent.as_str(), "absent.pub"),
        (private.as_str(), "sensor.key: not an Ed25519 public key"),
        (
            "--require-signature=network.nope=x",
            "no event type `network.nope`",
        ),
        (
            "--require-signature=network.node_joined",
            "DOMAIN.TYPE=KEYFILE",
        ),
    ] {
        let mut command = signalbox();
        command.args(["router", argument]);
        let process = Process::spawn(command);
        let status = process.wait(DEADLINE).await;
        let words = process.stderr().lines().join("\n");
        assert_eq!(status.code(), Some(64), "{words}");
        assert!(words.contains(told), "{words}");
    }
}

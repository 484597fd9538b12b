//! G3 below the level of messages: whatever bytes a client sends, it gets the
//! close code that the protocol has for it, the gateway lives on and nobody
//! else notices.

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Follower, Platform, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::events::{alert, send};
use crate::raw::{BINARY, CLOSE, PING, Raw, TEXT, connect, frame, header, local};

const TEN_MEGABYTES: usize = 10 * 1024 * 1024;
/// The longest message from a client that has not authenticated.
const UNAUTHENTICATED_BYTES: usize = 64 * 1024;
/// First header bytes that are valid somewhere.
const KINDS: [u8; 8] = [TEXT, BINARY, PING, CLOSE, 0x8a, 0x01, 0x00, 0x80];
/// Connections that send garbage.
const GARBAGE: usize = 200;

/// Sends everything while reading, since the answer to bytes that are too many
/// comes ahead of their end; gives the close code.
async fn close_code_for(raw: Raw, bytes: Vec<u8>) -> u16 {
    let (reading, mut writing) = raw.0.into_split();
    let sender = tokio::spawn(async move {
        // The gateway may hang up before the end.
        writing.write_all(&bytes).await.ok();
        writing
    });
    let mut raw = ReadHalf(reading);
    let code = raw.close_code().await;
    drop(timeout(DEADLINE, sender).await.unwrap().unwrap());
    code
}

/// The reading half of [`Raw`], after `auth_success`.
struct ReadHalf(tokio::net::tcp::OwnedReadHalf);

impl ReadHalf {
    async fn close_code(&mut self) -> u16 {
        timeout(DEADLINE, async {
            loop {
                let mut head = [0; 2];
                self.0.read_exact(&mut head).await.unwrap();
                assert!(head[1] <= 125, "no long frames are expected here");
                let mut payload = vec![0; usize::from(head[1])];
                self.0.read_exact(&mut payload).await.unwrap();
                if head[0] == CLOSE {
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
            }
        })
        .await
        .unwrap()
    }
}

/// A gateway that takes any number of connections from one address at once.
async fn platform() -> Platform {
    Platform::start_with(1, &["--connect-rate", "0"]).await
}

/// The gateway runs, answers and has not panicked anywhere.
async fn assert_unharmed(platform: &Platform) {
    let gateway = &platform.gateways[0];
    assert_eq!(get(gateway.admin, "/live").await.0, 200);
    assert_eq!(get(gateway.admin, "/ready").await.0, 200);
    assert_eq!(gateway.process.exit_status(), None);
    let log = gateway.process.stderr().lines();
    let panic = log.iter().find(|line| line.contains("panicked"));
    assert_eq!(panic, None);
}

#[tokio::test]
async fn every_violation_has_its_close_code() {
    let platform = platform().await;
    let token = platform.token("viewer").await;
    let listener = platform.gateways[0].listener();
    let mut unmasked = header(TEXT, 2, 0);
    unmasked.extend(b"{}");
    // Which mask was meant cannot be known: it is text that is none.
    let mut wrongly_masked = header(TEXT, 8, 0x80);
    wrongly_masked.extend([0; 4]);
    wrongly_masked.extend([0xff; 8]);
    let fragments: Vec<u8> = std::iter::once(frame(0x01, &[b'x'; 100_000]))
        .chain((0..100).map(|_| frame(0x00, &[b'x'; 100_000])))
        .flatten()
        .collect();
    let cases = [
        ("10 MB", frame(TEXT, &vec![b'x'; TEN_MEGABYTES]), 1009),
        ("10 MB in fragments", fragments, 1009),
        (
            "a length of 2^63",
            {
                let mut bytes = vec![TEXT, 0xff, 0x80];
                bytes.extend([0; 11]);
                bytes
            },
            1009,
        ),
        ("binary", frame(BINARY, b"\x00\x01"), 1003),
        ("not UTF-8", frame(TEXT, b"\"\xff\xfe\""), 1007),
        ("a torn character at the end", frame(TEXT, b"\"\xc3"), 1007),
        ("wrongly masked", wrongly_masked, 1007),
        ("unmasked", unmasked, 1002),
        ("first reserved bit", frame(TEXT | 0x40, b"{}"), 1002),
        ("second reserved bit", frame(TEXT | 0x20, b"{}"), 1002),
        ("third reserved bit", frame(TEXT | 0x10, b"{}"), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a ping in fragments", frame(PING & 0x7f, b"x"), 1002),
        ("an unknown data opcode", frame(0x83, b"x"), 1002),
        ("an unknown control opcode", frame(0x8b, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        (
            "a message within another",
            [frame(0x01, b"x"), frame(TEXT, b"x")].concat(),
            1002,
        ),
        ("half a close code", frame(CLOSE, &[3]), 1002),
    ];
    for (what, bytes, code) in cases {
        let raw = Raw::open(listener, &token).await;
        assert_eq!(close_code_for(raw, bytes).await, code, "{what}");
    }
    assert_unharmed(&platform).await;
}

#[tokio::test]
async fn deep_nesting_is_bad_json_and_the_connection_stays() {
    let platform = platform().await;
    let token = platform.token("viewer").await;
    let mut raw = Raw::open(platform.gateways[0].listener(), &token).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let message = format!(r#"{{"type":"ping","x":{nested}}}"#);
        raw.send(TEXT, message.as_bytes()).await;
        assert_eq!(raw.json().await["code"], "INVALID_JSON");
    }
    raw.send(TEXT, br#"{"type":"ping"}"#).await;
    assert_eq!(raw.json().await["type"], "pong");
}

/// One byte per frame, one write per byte, a ping between any two.
#[tokio::test]
async fn a_message_in_single_bytes_is_a_message() {
    let platform = platform().await;
    let token = platform.token("viewer").await;
    let mut raw = Raw::open(platform.gateways[0].listener(), &token).await;
    let message = r#"{"type":"subscribe","channel":"threat_alerts","grüße":"ß"}"#;
    let last = message.len() - 1;
    let mut pings = 0;
    for (index, byte) in message.bytes().enumerate() {
        let opcode = if index == 0 { 0x01 } else { 0x00 };
        let fin = if index == last { 0x80 } else { 0x00 };
        let mut bytes = frame(opcode | fin, &[byte]);
        if index < last && index % 10 == 0 {
            bytes.extend(frame(PING, &[byte]));
            pings += 1;
        }
        for byte in bytes {
            raw.write(&[byte]).await;
        }
    }
    for _ in 0..pings {
        assert_eq!(raw.receive().await.unwrap().0, 0x8a);
    }
    assert_eq!(raw.json().await["type"], "subscription_confirmed");
}

/// Strangers cannot have the gateway hold a megabyte each.
#[tokio::test]
async fn long_messages_are_for_those_who_authenticated() {
    let platform = platform().await;
    let token = platform.token("viewer").await;
    let listener = platform.gateways[0].listener();
    let message = |bytes: usize| {
        let rest = bytes - r#"{"type":"ping","x":""}"#.len();
        format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(rest))
    };
    let long = message(UNAUTHENTICATED_BYTES + 1);
    let mut stranger = Raw::stranger(local(1), listener).await;
    stranger
        .send(TEXT, message(UNAUTHENTICATED_BYTES).as_bytes())
        .await;
    assert_eq!(stranger.json().await["type"], "pong");
    assert_eq!(
        close_code_for(stranger, frame(TEXT, long.as_bytes())).await,
        1009
    );

    let mut known = Raw::stranger(local(1), listener).await;
    let hello = json!({"type": "authenticate", "token": token}).to_string();
    // In one write: the limit has to move between the two.
    let both = [
        frame(TEXT, hello.as_bytes()),
        frame(TEXT, message(1_048_576).as_bytes()),
    ];
    known.write(&both.concat()).await;
    assert_eq!(known.json().await["type"], "auth_success");
    assert_eq!(known.json().await["type"], "pong");
    let too_long = frame(TEXT, message(1_048_577).as_bytes());
    assert_eq!(close_code_for(known, too_long).await, 1009);
}

/// A reproducible source of bytes (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = 1 + self.next() % 4_096;
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Sends `bytes` and no more, and takes what comes until the gateway hangs up.
async fn babble(raw: tokio::net::TcpStream, bytes: Vec<u8>) {
    let (mut reading, mut writing) = raw.into_split();
    let end = async {
        // The gateway may hang up at the first wrong byte.
        writing.write_all(&bytes).await.ok();
        writing.shutdown().await.ok();
        let mut sink = [0; 1024];
        while matches!(reading.read(&mut sink).await, Ok(1..)) {}
    };
    timeout(DEADLINE, end)
        .await
        .expect("the gateway hangs up on a client that says no more");
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let platform = platform().await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.token("viewer").await;
    let listener = platform.gateways[0].listener();
    let (expect, expected) = watch::channel(None);
    let (subscribed, mut confirmed) = mpsc::channel(1);
    let follower = Follower {
        gateways: vec![listener],
        token: token.clone(),
        filters: serde_json::Value::Null,
    };
    let follower = tokio::spawn(follower.follow(expected, subscribed));
    timeout(DEADLINE, confirmed.recv()).await.unwrap().unwrap();

    let mut noise = Noise(20_241_219);
    let mut ids = Vec::new();
    for number in 0..GARBAGE {
        let mut bytes = noise.bytes();
        // In place of HTTP, right behind the upgrade, as the payload of a
        // valid frame, or as those of valid frames of any kind.
        match number % 4 {
            0 => {
                babble(connect(local(1), listener, None).await, bytes).await;
            }
            kind => {
                match kind {
                    1 => {}
                    2 => bytes = frame(TEXT, &bytes),
                    _ => {
                        let any = bytes.chunks(50).flat_map(|chunk| {
                            let kind = KINDS[usize::from(chunk[0]) % KINDS.len()];
                            frame(kind, &chunk[1..])
                        });
                        bytes = any.collect();
                    }
                }
                babble(Raw::open(listener, &token).await.0, bytes).await;
            }
        }
        if number % 10 == 0 {
            let id = format!("e-{number}");
            send(&bus, "threat_alert", &id, &alert("HIGH")).await;
            ids.push(id);
        }
    }
    expect.send(Some(ids.len())).unwrap();
    let record = timeout(DEADLINE, follower).await.unwrap().unwrap();
    assert_eq!(record.ids, ids);
    assert_eq!(record.returns, 0);
    assert_unharmed(&platform).await;
}

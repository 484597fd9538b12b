//! F7, G8, G9: output reaches dashboards whole, in order and once: cut at any
//! byte, late, returning, stalled, and through the death of a gateway.

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, WsClient};
use tokio::net::{TcpSocket, TcpStream};

use crate::fleet_world::{Agent, MOMENT, Screen, UNLIMITED, World, connect, find, hear, join, run};

/// A text of many kinds of characters.
fn text(lines: usize) -> String {
    (0..lines)
        .map(|line| format!("{line} plain, ümläut, €, 日本語, 😀 family 👨‍👩‍👧\n"))
        .collect()
}

/// Starts a command on an agent; gives its id.
async fn start(dashboard: &mut WsClient, agent: &mut Agent) -> String {
    let id = run(dashboard, &agent.id.clone(), "make").await;
    assert_eq!(agent.executes().await["commandId"], id.as_str());
    agent
        .says(
            "command:status",
            json!({"commandId": id, "status": "running"}),
        )
        .await;
    id
}

#[tokio::test]
async fn characters_that_are_cut_anywhere_come_whole() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut dashboard, &mut agent).await;
    let whole = text(3);
    for (offset, byte) in whole.bytes().enumerate() {
        agent.writes_bytes(&id, offset, &[byte]).await;
    }
    agent.completes(&id, 0).await;
    let mut screen = Screen::default();
    screen.watch(&mut dashboard, &id).await;
    assert_eq!(screen.text, whole);
    // Bytes that are no text come as they are, beside a stand-in.
    let id = start(&mut dashboard, &mut agent).await;
    let odd = b"ok \xff\xfe \xe2\x82 end \xf0\x9f";
    agent.writes_bytes(&id, 0, odd).await;
    agent.completes(&id, 3).await;
    let mut screen = Screen::default();
    let complete = screen.watch(&mut dashboard, &id).await;
    assert_eq!(screen.bytes, odd);
    assert!(screen.text.contains('\u{fffd}'));
    assert_eq!(complete["status"], "failed");
}

#[tokio::test]
async fn a_late_dashboard_gets_what_was_before_and_then_what_comes() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let mut agent = world.agent_with("a-1", json!({"concurrency": 2})).await;
    let first = start(&mut dashboard, &mut agent).await;
    let second = start(&mut dashboard, &mut agent).await;
    let mut here = (Screen::default(), Screen::default());
    for number in 0..50 {
        agent.writes(&first, &format!("one {number}\n")).await;
        agent.writes(&second, &format!("two {number}\n")).await;
    }
    while !(here.0.text.ends_with("49\n") && here.1.text.ends_with("49\n")) {
        let message = dashboard.next_json(DEADLINE).await;
        here.0.see(&first, &message);
        here.1.see(&second, &message);
    }
    let mut late = world.dashboard("viewer").await;
    agent.writes(&first, "and more\n").await;
    agent.completes(&first, 0).await;
    let mut there = Screen::default();
    let complete = there.watch(&mut late, &first).await;
    here.0.watch(&mut dashboard, &first).await;
    assert_eq!(there.text, here.0.text);
    assert!(there.replayed > 0);
    assert_eq!(complete.get("replay"), None, "{complete}");
    // What was cleared is not for those who come later.
    agent.says("terminal:clear", json!({})).await;
    hear(&mut late, "terminal:clear").await;
    agent.writes(&second, "after\n").await;
    find(&mut late, |message| {
        message["output"]["content"] == "after\n"
    })
    .await;
    let mut later = world.dashboard("viewer").await;
    let seen = find(&mut later, |message| message["type"] == "terminal:output").await;
    assert_eq!(seen["output"]["content"], "after\n");
    assert_eq!(seen["replay"], true);
}

#[tokio::test]
async fn a_dashboard_that_returns_misses_nothing_and_hears_nothing_twice() {
    let world = World::start(2).await;
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut operator, &mut agent).await;
    let whole = text(120);
    let bytes = whole.as_bytes();
    // Odd sizes, so that characters are cut between records.
    let pieces: Vec<&[u8]> = bytes.chunks(37).collect();
    let mut screen = Screen::default();
    let mut place = 0;
    let mut written = 0;
    let key = world.platform.api_key("viewer");
    for (round, pieces) in pieces.chunks(25).enumerate() {
        let gateway = &world.platform.gateways[round % 2];
        let mut dashboard = connect(gateway.listener(), &key).await;
        let mut fields = json!({});
        if let Some(seq) = &screen.last {
            fields["resumeFrom"] = json!(seq);
        }
        let list = join(&mut dashboard, fields).await;
        if screen.last.is_some() {
            assert_eq!(list["recovered"], true);
        }
        screen.last = Some(list["seq"].as_str().unwrap().to_owned());
        for piece in pieces {
            agent.writes_bytes(&id, place, piece).await;
            place += piece.len();
        }
        // Leaves in the middle of what comes.
        written += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        screen.watch_bytes(&mut dashboard, &id, written / 2).await;
    }
    agent.completes(&id, 0).await;
    let mut dashboard = connect(world.platform.gateways[1].listener(), &key).await;
    join(&mut dashboard, json!({"resumeFrom": screen.last})).await;
    screen.watch(&mut dashboard, &id).await;
    assert_eq!(screen.text, whole);
}

#[tokio::test]
async fn a_position_of_another_time_is_not_recovered() {
    let world = World::start(1).await;
    let (_, list) = world
        .dashboard_with("viewer", json!({"resumeFrom": "1-0.7"}))
        .await;
    assert_eq!(list["recovered"], false);
    let seq = list["seq"].as_str().unwrap();
    let (epoch, _) = seq.split_once('-').unwrap();
    let beyond = format!("{epoch}-0.1000000");
    let (_, list) = world
        .dashboard_with("viewer", json!({"resumeFrom": beyond}))
        .await;
    assert_eq!(list["recovered"], false);
}

/// What the test puts in each message.
const LINE_BYTES: usize = 8_000;

/// G9: one that reads nothing is sent away, nobody else notices it, and what it
/// missed is there when it returns.
#[tokio::test]
async fn a_stalled_dashboard_slows_nobody_and_can_resume() {
    let arguments = [&UNLIMITED[..], &["--send-buffer-bytes", "65536"]].concat();
    let world = World::start_with(1, &arguments).await;
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut operator, &mut agent).await;
    let addr = world.platform.gateways[0].listener();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream: TcpStream = socket.connect(addr).await.unwrap();
    let bearer = format!("Bearer {}", world.platform.api_key("viewer"));
    let headers = [("Authorization", bearer.as_str())];
    let mut stalled = WsClient::connect_over(stream, &world.url(), &headers)
        .await
        .unwrap();
    join(&mut stalled, json!({})).await;
    let mut live = Screen::default();
    let line = format!("{}\n", "x".repeat(LINE_BYTES));
    let writing = async {
        for _ in 0..1_500 {
            agent.writes(&id, &line).await;
        }
    };
    tokio::join!(
        writing,
        live.watch_bytes(&mut operator, &id, 1_500 * line.len())
    );
    agent.completes(&id, 0).await;
    live.watch(&mut operator, &id).await;
    // Now it reads what was sent to it, up to its dismissal.
    let (frames, closed) = stalled.drain(DEADLINE).await;
    assert_eq!(closed.code, Some(1013), "{closed:?}");
    let mut seen = Screen::default();
    for frame in &frames {
        seen.see(&id, frame);
    }
    assert_eq!(frames.last().unwrap()["code"], "CONNECTION_FAILED");
    assert!(seen.bytes.len() < live.bytes.len());
    let (mut back, list) = world
        .dashboard_with("viewer", json!({"resumeFrom": seen.last}))
        .await;
    assert_eq!(list["recovered"], true);
    seen.watch(&mut back, &id).await;
    assert_eq!(seen.bytes, live.bytes);
}

/// F10: refreshed in time, a connection outlives its tokens while output runs.
#[tokio::test]
async fn output_runs_on_over_three_lives_of_a_token() {
    let arguments = [&UNLIMITED[..], &["--expiry-notice", "3"]].concat();
    let world = World::start_with(1, &arguments).await;
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut operator, &mut agent).await;
    let mut viewer = world.open(&world.token("viewer", 5).await).await;
    join(&mut viewer, json!({})).await;
    let mut screen = Screen::default();
    let mut refreshed = 0;
    let mut number = 0;
    while refreshed < 3 {
        agent.writes(&id, &format!("{number}\n")).await;
        number += 1;
        loop {
            let message = viewer.next_json(DEADLINE).await;
            if message["type"] == "auth:refresh-needed" {
                let token = world.token("viewer", 5 + refreshed).await;
                viewer
                    .send_json(&json!({"type": "auth:refresh-token", "token": token}))
                    .await;
            }
            refreshed += u32::from(message["type"] == "auth:refresh-success");
            assert_ne!(message["type"], "auth:refresh-failed", "{message}");
            screen.see(&id, &message);
            if screen.text.ends_with(&format!("{}\n", number - 1)) {
                break;
            }
        }
    }
    agent.completes(&id, 0).await;
    screen.watch(&mut viewer, &id).await;
    let expected: String = (0..number).map(|number| format!("{number}\n")).collect();
    assert_eq!(screen.text, expected);
}

/// F7, G8: a gateway dies; dashboard and agent go on at another, with nothing
/// lost or doubled.
#[tokio::test]
async fn a_gateway_dies_and_nothing_is_lost() {
    let mut world = World::start(2).await;
    let token = world.agent_token("a-1").await;
    let key = world.platform.api_key("viewer");
    let mut operator = connect(
        world.platform.gateways[1].listener(),
        &world.platform.api_key("operator"),
    )
    .await;
    join(&mut operator, json!({})).await;
    let capable = json!({"capabilities": ["ack", "journal"]});
    let doomed = world.platform.gateways[0].listener();
    let (mut agent, _) = Agent::connect(doomed, &token, "a-1", capable.clone()).await;
    let mut dashboard = connect(doomed, &key).await;
    join(&mut dashboard, json!({})).await;
    let id = start(&mut operator, &mut agent).await;
    let whole = text(200);
    let bytes = whole.as_bytes();
    let half = bytes.len() / 2;
    for (number, piece) in bytes[..half].chunks(101).enumerate() {
        agent.writes_bytes(&id, number * 101, piece).await;
    }
    let mut screen = Screen::default();
    screen.watch_bytes(&mut dashboard, &id, half / 3).await;
    world.platform.gateways[0].process.kill9();
    let left = world.platform.gateways[1].listener();
    let mut returning = capable;
    returning["running"] = json!([id]);
    let (mut agent, connected) = Agent::connect(left, &token, "a-1", returning).await;
    // What is stored it need not send again.
    let stored = connected["offsets"][0]["offset"].as_u64().unwrap_or(0);
    let mut place = usize::try_from(stored).unwrap();
    assert!(place >= half / 3, "{connected}");
    while place < bytes.len() {
        let piece = &bytes[place..(place + 103).min(bytes.len())];
        agent.writes_bytes(&id, place, piece).await;
        place += piece.len();
    }
    find(&mut agent.client, |message| {
        message["type"] == "terminal:ack" && message["offset"] == bytes.len() as u64
    })
    .await;
    agent.completes(&id, 0).await;
    let mut dashboard = connect(left, &key).await;
    let list = join(&mut dashboard, json!({"resumeFrom": screen.last})).await;
    assert_eq!(list["recovered"], true);
    screen.watch(&mut dashboard, &id).await;
    assert_eq!(screen.text, whole);
    world.platform.gateways.remove(0);
}

/// F12: containers are for those who asked.
#[tokio::test]
async fn output_is_packed_for_those_who_asked() {
    let world = World::start(1).await;
    let mut plain = world.dashboard("operator").await;
    let (mut packed, _) = world
        .dashboard_with("viewer", json!({"capabilities": ["batch", "compressed"]}))
        .await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut plain, &mut agent).await;
    let messages: Vec<Value> = (0..20)
        .map(|number| {
            json!({"type": "terminal:output", "agentId": "a-1", "commandId": id,
                "output": {"type": "stdout", "content": format!("{number} {}\n", "y".repeat(400))}})
        })
        .collect();
    agent
        .says(
            "batch",
            json!({"messages": messages, "count": messages.len()}),
        )
        .await;
    agent.completes(&id, 0).await;
    let mut screen = Screen::default();
    screen.watch(&mut plain, &id).await;
    let mut unpacked = Screen::default();
    let mut containers = 0;
    'all: loop {
        let message = packed.next_json(DEADLINE).await;
        let mut messages = vec![message.clone()];
        if message["type"] == "compressed" {
            containers += 1;
            let inner = inflate(&message);
            assert_eq!(inner["type"], message["originalType"]);
            messages = vec![inner];
        }
        if messages[0]["type"] == "batch" {
            containers += 1;
            let list = messages[0]["messages"].as_array().unwrap().clone();
            assert_eq!(messages[0]["count"], list.len());
            messages = list;
        }
        for message in &messages {
            if unpacked.see(&id, message) {
                break 'all;
            }
        }
    }
    assert!(containers > 0);
    assert_eq!(unpacked.text, screen.text);
}

fn inflate(message: &Value) -> Value {
    use std::io::Read as _;
    let bytes = crate::fleet_world::decode(message["data"].as_str().unwrap());
    assert_eq!(message["compressedSize"], bytes.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(message["originalSize"], text.len());
    serde_json::from_str(&text).unwrap()
}

/// A dashboard hears nothing of what it may not see: not before it says what it
/// is, and not without permission.
#[tokio::test]
async fn nothing_reaches_those_who_were_not_let_in() {
    let world = World::start(1).await;
    let mut operator = world.dashboard("operator").await;
    let mut stranger = world.open(&world.platform.api_key("viewer")).await;
    let mut agent = world.agent("a-1").await;
    let id = start(&mut operator, &mut agent).await;
    agent.writes(&id, "secret\n").await;
    find(&mut operator, |message| {
        message["type"] == "terminal:output"
    })
    .await;
    let heard = tokio::time::timeout(MOMENT, stranger.next_message(DEADLINE)).await;
    assert!(heard.is_err(), "{heard:?}");
}

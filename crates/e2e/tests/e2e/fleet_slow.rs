//! F13, G9: what is urgent overtakes what waits for a slow dashboard or agent, on
//! gateways with one shard and with several, and what waits for a relay; and dashboards that read nothing
//! cost a bounded amount of memory, are sent away, and can resume.

use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::stream::TERM;
use signalbox_protocol::fleet::{Shard, command_id};
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient, eventually, settle};
use tokio::net::TcpSocket;

use crate::fleet_viewer::place;
use crate::fleet_world::{Agent, Screen, UNLIMITED, World, connect, find, hear, join, run};
use crate::metrics::Page;

/// What the kernel keeps for a connection at the gateway.
const SEND_BUFFER: &str = "16384";
/// What the kernel of a client takes that does not read.
const RECEIVE_BUFFER_BYTES: u32 = 4_096;
/// Output that may come ahead of what is urgent: what the kernels have, and the
/// frame in progress. A gateway hands a connection 256 KiB at once.
const AHEAD_BYTES: usize = 128 * 1024;
/// What is in a line.
const LINE_BYTES: usize = 8_000;
/// Lines that come at once, and so wait in a connection's queue.
const BATCH: usize = 28;
/// Lines that wait: more than a queue has, less than the gateway keeps.
const LINES: usize = 10 * BATCH;
/// Dashboards that do not read, so that every shard has some.
const SLOW: usize = 4;
const AGENT: &str = "a-1";

/// A connection whose kernel takes little.
async fn narrow(world: &World, credential: &str) -> WsClient {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    let addr = world.platform.gateways[0].listener();
    let stream = socket.connect(addr).await.unwrap();
    let bearer = format!("Bearer {credential}");
    let headers = [("Authorization", bearer.as_str())];
    let connected = WsClient::connect_over(stream, &world.url(), &headers).await;
    connected.unwrap()
}

/// A world whose gateway has so many shards and small kernel buffers, and leaves
/// those whom it sends away the time to hear it.
async fn world(shards: &str) -> World {
    let arguments = [
        "--send-buffer-bytes",
        SEND_BUFFER,
        "--shards",
        shards,
        "--close-grace",
        "300",
    ];
    World::start_with(1, &[&UNLIMITED[..], &arguments].concat()).await
}

async fn start(dashboard: &mut WsClient, agent: &mut Agent) -> String {
    let id = run(dashboard, &agent.id.clone(), "make").await;
    assert_eq!(agent.executes().await["commandId"], id.as_str());
    let running = json!({"commandId": id, "status": "running"});
    agent.says("command:status", running).await;
    id
}

/// Everything that is urgent is ahead of the output that waits, for dashboards of
/// any shard; and the output is whole all the same.
async fn urgent_overtakes_output(shards: &str) {
    let world = world(shards).await;
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent(AGENT).await;
    let id = start(&mut operator, &mut agent).await;
    let mut slow = Vec::new();
    let key = world.platform.api_key("operator");
    for _ in 0..SLOW {
        let mut client = narrow(&world, &key).await;
        join(&mut client, json!({})).await;
        slow.push(client);
    }
    let line = format!("{}\n", "x".repeat(LINE_BYTES - 1));
    let output = json!({
        "type": "terminal:output",
        "agentId": AGENT,
        "commandId": id,
        "output": {"type": "stdout", "content": line},
    });
    let mut live = Screen::default();
    for batch in 1..=LINES / BATCH {
        let batch_of_lines = json!({"messages": vec![&output; BATCH], "count": BATCH});
        agent.says("batch", batch_of_lines).await;
        let expected = batch * BATCH * LINE_BYTES;
        live.watch_bytes(&mut operator, &id, expected).await;
    }
    // Those who are behind hear of it where they are.
    agent
        .says(
            "agent:status",
            json!({"status": "busy", "metrics": {"m": 1}}),
        )
        .await;
    hear(&mut operator, "agent:status").await;
    // Of the agent's shard, so that the relay looks for it.
    let unknown = command_id(Shard::of_agent(AGENT), &"0".repeat(32)).unwrap();
    for client in &mut slow {
        for message in [
            json!({"type": "heartbeat:ping"}),
            json!({"type": "nope"}),
            json!({"type": "command:interrupt", "commandId": unknown}),
            json!({"type": "auth:refresh-token", "token": "nonsense"}),
            json!({"type": "system:emergency-stop", "reason": "enough"}),
        ] {
            client.send_json(&message).await;
        }
    }
    // The last message of each has been heard, and what it asked for has happened.
    eventually("what they said is heard", DEADLINE, async || {
        let log = world.platform.gateways[0].process.stderr().lines();
        let heard = log.iter().filter(|line| line.contains("emergency stop"));
        (heard.count() >= SLOW).then_some(())
    })
    .await;
    hear(&mut operator, "system:emergency-status").await;
    hear(&mut agent.client, "system:emergency-stop").await;
    for client in &mut slow {
        let mut screen = Screen::default();
        let mut reached = None;
        let mut missing = vec![
            "heartbeat:pong",
            "validation:error",
            "command:error",
            "auth:refresh-failed",
            "system:emergency-stop",
            "system:emergency-status",
        ];
        while screen.bytes.len() < LINES * LINE_BYTES {
            let message = client.next_json(DEADLINE).await;
            screen.see(&id, &message);
            if let Some(seq) = message["seq"].as_str() {
                let place = Some(place(seq));
                assert!(place >= reached, "back to {place:?} from {reached:?}");
                reached = place;
            }
            let kind = message["type"].as_str().unwrap();
            let is_early = screen.bytes.len() <= AHEAD_BYTES;
            missing.retain(|one| *one != kind || !is_early);
        }
        assert!(missing.is_empty(), "{missing:?} did not overtake");
        assert_eq!(screen.bytes, live.bytes);
    }
}

#[tokio::test]
async fn what_is_urgent_overtakes_output_to_a_slow_dashboard() {
    urgent_overtakes_output("1").await;
}

#[tokio::test]
async fn what_is_urgent_overtakes_output_on_several_shards() {
    urgent_overtakes_output("3").await;
}

/// Bytes of one input, and how many wait for the agent.
const INPUT_BYTES: usize = 40_000;
const INPUTS: usize = 16;

#[tokio::test]
async fn what_is_urgent_overtakes_input_to_a_slow_agent() {
    let world = world("2").await;
    let mut operator = world.dashboard("operator").await;
    let token = world.agent_token(AGENT).await;
    let mut client = narrow(&world, &token).await;
    client
        .send_json(&json!({
            "type": "agent:connect",
            "agentId": AGENT,
            "agentType": "scripted",
            "version": "1.0.0",
        }))
        .await;
    hear(&mut client, "agent:connected").await;
    let mut agent = Agent {
        id: AGENT.to_owned(),
        client,
    };
    let id = start(&mut operator, &mut agent).await;
    for number in 0..INPUTS {
        let content = format!("{number:02}{}", "i".repeat(INPUT_BYTES - 2));
        let input = json!({
            "type": "terminal:input",
            "commandId": id,
            "content": content,
            "requestId": "r",
        });
        operator.send_json(&input).await;
        hear(&mut operator, "request:done").await;
    }
    agent.says("heartbeat:ping", json!({})).await;
    agent.says("nope", json!({})).await;
    for kind in ["command:interrupt", "system:emergency-stop"] {
        let message = json!({"type": kind, "commandId": id, "requestId": "r"});
        operator.send_json(&message).await;
        find(&mut operator, |message| message["type"] == "request:done").await;
    }
    // The command, the input, the interrupt, the stop, and its interrupt.
    eventually("deliveries", DEADLINE, async || {
        let page = Page::of(&world.relay).await;
        let told = page.number("signalbox_relay_deliveries_total", &[]);
        (told >= 3 + INPUTS as u64).then_some(())
    })
    .await;
    let mut ahead = 0;
    let mut inputs = 0;
    let mut missing = vec![
        "command:interrupt",
        "system:emergency-stop",
        "heartbeat:pong",
        "validation:error",
    ];
    while inputs < INPUTS {
        let message = agent.client.next_json(DEADLINE).await;
        let kind = message["type"].as_str().unwrap();
        if kind == "terminal:input" {
            let content = message["content"].as_str().unwrap();
            assert!(content.starts_with(&format!("{inputs:02}")), "out of order");
            (inputs, ahead) = (inputs + 1, ahead + content.len());
        }
        missing.retain(|one| *one != kind || ahead > AHEAD_BYTES);
    }
    assert!(missing.is_empty(), "{missing:?} did not overtake");
}

/// Seconds that a relay's leases last where nobody is to have its shards once it
/// is killed.
const LONG_LEASE: &str = "600";

/// An agent of a shard of which this holds.
fn agent_where(holds: impl Fn(Shard) -> bool) -> String {
    let ids = (0..).map(|number| format!("a-{number}"));
    let mut fitting = ids.filter(|id| holds(Shard::of_agent(id)));
    fitting.next().unwrap()
}

#[tokio::test]
async fn nothing_waits_for_a_request_that_no_relay_answers() {
    let platform = Platform::start_with(1, &UNLIMITED).await;
    let relay = platform.start_relay(&["--lease-ttl", LONG_LEASE]).await;
    let dying = platform.start_relay(&["--lease-ttl", LONG_LEASE]).await;
    let world = World { platform, relay };
    let theirs = eventually("half of the shards", DEADLINE, async || {
        let lines = dying.process.stderr().lines();
        let serves = |shard: &Shard| {
            let line = format!("shard served shard={shard} ");
            lines.iter().any(|one| one.contains(&line))
        };
        let shards: Vec<Shard> = Shard::all().filter(serves).collect();
        (shards.len() >= Shard::COUNT / 2).then_some(shards)
    })
    .await;
    let lost = agent_where(|shard| theirs.contains(&shard));
    let mut operator = world.dashboard("operator").await;
    let mut agent = world
        .agent(&agent_where(|shard| !theirs.contains(&shard)))
        .await;
    let id = start(&mut operator, &mut agent).await;
    agent.writes(&id, "hello\n").await;
    Screen::default().watch_bytes(&mut operator, &id, 6).await;
    dying.process.kill9();

    let mut client = world.open(&world.platform.api_key("operator")).await;
    let mut messages = vec![json!({"type": "dashboard:connect", "dashboardId": "d"})];
    messages.extend((0..3).map(|number| {
        json!({
            "type": "command:request",
            "agentId": lost,
            "command": "make",
            "queueIfOffline": true,
            "requestId": format!("request-{number}"),
        })
    }));
    messages.push(json!({"type": "system:emergency-stop", "requestId": "stop"}));
    let batch = json!({"type": "batch", "messages": messages, "count": messages.len()});
    client.send_json(&batch).await;
    let (mut screen, mut is_stopped) = (Screen::default(), false);
    while !is_stopped || screen.bytes.is_empty() {
        let message = client.next_json(DEADLINE).await;
        assert_ne!(message["type"], "command:error", "{message} came first");
        is_stopped |= message["requestId"] == "stop";
        screen.see(&id, &message);
    }
    hear(&mut agent.client, "system:emergency-stop").await;
    // The first was asked for before, the others come too late.
    for (number, code) in [(0, "TIMEOUT"), (1, "EMERGENCY_STOP"), (2, "EMERGENCY_STOP")] {
        let error = hear(&mut client, "command:error").await;
        assert_eq!(error["requestId"], format!("request-{number}"));
        assert_eq!(error["code"], code, "{error}");
    }
}

#[tokio::test]
async fn what_was_asked_for_is_done_though_the_dashboard_goes() {
    let world = World::start(1).await;
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent(AGENT).await;
    let request = json!({"type": "command:request", "agentId": AGENT, "command": "make"});
    let mut leaving = world.dashboard("operator").await;
    let goodbye = json!({"type": "dashboard:disconnect", "dashboardId": "d-1"});
    let batch = json!({"type": "batch", "messages": [request, goodbye], "count": 2});
    leaving.send_json(&batch).await;
    let (frames, closed) = leaving.drain(DEADLINE).await;
    let queued = frames
        .iter()
        .find(|frame| frame["type"] == "command:queued");
    assert!(queued.is_some() && closed.code == Some(1000), "{closed:?}");
    agent.executes().await;
    let mut hasty = world.dashboard("operator").await;
    hasty
        .send_json(&json!({"type": "system:emergency-stop"}))
        .await;
    hasty.close().await;
    hear(&mut operator, "system:emergency-stop").await;
    hear(&mut agent.client, "system:emergency-stop").await;
}

/// Commands that run, and dashboards that come in meanwhile.
const RUNNING: usize = 8;
const ARRIVALS: usize = 10;

/// Dashboards that come in have the gateway ask for the beginnings of the logs that
/// are older than its watch once, and not for each of them.
#[tokio::test]
async fn the_beginnings_of_logs_are_asked_for_once() {
    let world = World::start(2).await;
    let mut operator = world.dashboard("operator").await;
    let places = json!({"concurrency": RUNNING + 1});
    let mut agent = world.agent_with(AGENT, places).await;
    for _ in 0..RUNNING {
        start(&mut operator, &mut agent).await;
    }
    let admin = world.platform.bus(User::Admin).await;
    let subject = format!("$JS.API.STREAM.MSG.GET.{TERM}");
    let mut questions = admin.client().subscribe(subject).await.unwrap();
    settle(admin.client()).await;
    let key = world.platform.api_key("viewer");
    let mut watching = Vec::new();
    for _ in 0..ARRIVALS {
        let other = world.platform.gateways[1].listener();
        let mut client = connect(other, &key).await;
        let list = join(&mut client, json!({})).await;
        assert_eq!(
            list["agents"][0]["running"].as_array().unwrap().len(),
            RUNNING
        );
        watching.push(client);
    }
    settle(admin.client()).await;
    let mut asked = 0;
    while let Some(Some(question)) = questions.next().now_or_never() {
        let question: Value = serde_json::from_slice(&question.payload).unwrap();
        asked += usize::from(question["next_by_subj"].is_string());
    }
    assert_eq!(asked, RUNNING);
    // Each of them sees what goes on.
    let id = start(&mut operator, &mut agent).await;
    for client in &mut watching {
        find(client, |message| message["commandId"] == id.as_str()).await;
    }
}

/// What is written in a lap, and how often.
const LAP_LINES: usize = 1_000;
const LAPS: usize = 6;
/// What the first lap fills once and for all: what is kept for those who return,
/// caches, and the allocator's own.
const WARM_LAPS: usize = 2;
/// What a service may grow beyond that, while four times as much is written.
const GROWTH_BYTES: usize = 24 * 1024 * 1024;

/// Dashboards that stall at full output, one of them live before and one behind in
/// each lap: memory stays where it is, one that reads gets everything, and one that
/// stalled is told so and goes on where it was.
#[tokio::test]
async fn stalled_dashboards_cost_a_bounded_amount_of_memory() {
    let world = world("2").await;
    let gateway: &Service = &world.platform.gateways[0];
    let mut operator = world.dashboard("operator").await;
    let mut agent = world.agent(AGENT).await;
    let id = start(&mut operator, &mut agent).await;
    let key = world.platform.api_key("viewer");
    let mut first = narrow(&world, &key).await;
    join(&mut first, json!({})).await;
    let mut behind = Vec::new();
    let mut live = Screen::default();
    let line = format!("{}\n", "x".repeat(LINE_BYTES - 1));
    let mut memory = Vec::new();
    for lap in 1..=LAPS {
        // It is shown what was before, of which it reads nothing.
        let mut late = narrow(&world, &key).await;
        join(&mut late, json!({})).await;
        behind.push(late);
        let writing = async {
            for _ in 0..LAP_LINES {
                agent.writes(&id, &line).await;
            }
        };
        let expected = lap * LAP_LINES * LINE_BYTES;
        tokio::join!(writing, live.watch_bytes(&mut operator, &id, expected));
        let (one, other) = (&gateway.process, &world.relay.process);
        memory.push([one.resident_bytes(), other.resident_bytes()]);
    }
    let warm = memory[WARM_LAPS - 1];
    let grown = memory.iter().skip(WARM_LAPS).any(|later| {
        let bytes = later.iter().zip(warm);
        bytes
            .into_iter()
            .any(|(later, warm)| *later > warm + GROWTH_BYTES)
    });
    assert!(!grown, "gateway and relay after each lap: {memory:?}");
    eprintln!("gateway and relay after each lap: {memory:?}");

    agent.completes(&id, 0).await;
    live.watch(&mut operator, &id).await;
    assert_eq!(live.bytes.len(), LAPS * LAP_LINES * LINE_BYTES);
    let (frames, closed) = first.drain(DEADLINE).await;
    assert_eq!(closed.code, Some(1013), "{closed:?}");
    let farewell: &Value = frames.last().unwrap();
    assert_eq!(farewell["code"], "CONNECTION_FAILED");
    assert!(farewell["retryAfter"].as_u64().unwrap() > 0, "{farewell}");
    let mut seen = Screen::default();
    for frame in &frames {
        seen.see(&id, frame);
    }
    let resume = json!({"resumeFrom": seen.last});
    let (mut back, list) = world.dashboard_with("viewer", resume).await;
    assert_eq!(list["recovered"], true);
    seen.watch(&mut back, &id).await;
    assert_eq!(seen.bytes, live.bytes);
    drop(behind);
}

//! What relays owe through faults: relays killed in every state of a command, a
//! relay that was halted, a bus that was killed, gateways and agents that are
//! gone. Nothing accepted is lost, nothing runs twice, no byte is missing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use signalbox_bus::connection::MIN_MAX_PAYLOAD_BYTES;
use signalbox_bus::document::Document;
use signalbox_bus::key;
use signalbox_bus::log::feed::{Fed, LogFeed};
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject::{self, LogKind};
use signalbox_protocol::fleet::{Shard, command_id};
use signalbox_protocol::wire::{
    CommandError, CommandPriority, CommandReply, CommandRequest, CommandState, RunCommand,
    TermRecord, command_request,
};
use signalbox_testkit::{DEADLINE, RelayBus, Service, eventually};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fleet_side::{Agent, Gateway, Log, User, ask, flow, run, until};

const NORMAL: CommandPriority = CommandPriority::Normal;
/// Bytes of an argument that a command may have, and little more.
const LARGEST_ARGUMENT: usize = 130_000;

async fn user(bus: &RelayBus) -> User {
    User {
        bus: bus.bus(BusUser::Gateway).await,
    }
}

async fn gateway(bus: &RelayBus) -> Gateway {
    Gateway::start(bus.bus(BusUser::Gateway).await).await
}

async fn runs(user: &User, id: &str) {
    until(&format!("{id} runs"), async || {
        user.read_log(id).await.is_some_and(|log| log.started == 1)
    })
    .await;
}

/// Kills the relay that holds the agent, and gives a new one.
async fn kill(bus: &RelayBus, relays: &mut Vec<Service>, agent: &str) {
    let line = format!("shard served shard={} ", Shard::of_agent(agent));
    let holder = eventually("a holder", DEADLINE, async || {
        relays.iter().position(|relay| {
            let lines = relay.process.stderr().lines();
            lines.iter().any(|one| one.contains(&line))
        })
    })
    .await;
    relays.remove(holder).process.kill9();
    relays.push(bus.relay(&[]).await);
}

/// A relay is killed while a command waits, was sent and not answered, runs, and
/// ends. Another goes on: each command ends once and well, and each is run once.
#[tokio::test]
async fn a_killed_relay_loses_and_repeats_nothing() {
    let bus = RelayBus::start().await;
    let mut relays = vec![bus.relay(&[]).await];
    let user = user(&bus).await;
    let gateway = gateway(&bus).await;
    let agent = Agent::new("agent-1");
    let _connection = gateway.connect(&agent).await;
    // Sent: the gateway has it and says nothing.
    *gateway.is_deaf.lock() = true;
    let sent = user.run(run("agent-1", "hold", NORMAL)).await.unwrap();
    // Waiting, under a key.
    let keyed = RunCommand {
        idempotency_key: "k".to_owned(),
        ..run("agent-1", "flow 400000", NORMAL)
    };
    let waiting = user.run(keyed.clone()).await.unwrap();
    kill(&bus, &mut relays, "agent-1").await;
    assert_eq!(
        user.run(keyed.clone()).await.unwrap().command_id,
        waiting.command_id
    );
    *gateway.is_deaf.lock() = false;
    runs(&user, &sent.command_id).await;
    // Running.
    kill(&bus, &mut relays, "agent-1").await;
    agent.release();
    user.log_of(&sent.command_id)
        .await
        .assert_whole(b"hold says hello\n");
    // In the middle of its output.
    until("output", async || {
        user.read_log(&waiting.command_id)
            .await
            .is_some_and(|log| !log.output.is_empty())
    })
    .await;
    kill(&bus, &mut relays, "agent-1").await;
    let written = flow(&waiting.command_id, 400_000);
    user.log_of(&waiting.command_id)
        .await
        .assert_whole(&written);
    // Over.
    kill(&bus, &mut relays, "agent-1").await;
    let again = user.run(keyed).await.unwrap();
    assert_eq!(again.command_id, waiting.command_id);
    assert_eq!(again.state(), CommandState::Completed);
    assert_eq!(agent.journal(), [sent.command_id, waiting.command_id]);
}

/// As many bytes as may wait are text that takes six times as much where it is
/// stored: what is accepted is stored all the same, and the rest is refused.
#[tokio::test]
async fn what_is_accepted_is_stored_whatever_it_is_made_of() {
    let bus = RelayBus::start().await;
    let mut relays = vec![bus.relay(&[]).await];
    let user = user(&bus).await;
    let gateway = gateway(&bus).await;
    let agent = Agent::new("agent-1");
    let _connection = gateway.connect(&agent).await;
    let held = user.run(run("agent-1", "hold", NORMAL)).await.unwrap();
    runs(&user, &held.command_id).await;
    let large = || RunCommand {
        args: vec!["\u{1}".repeat(LARGEST_ARGUMENT)],
        ..run("agent-1", "large", NORMAL)
    };
    let first = user.run(large()).await.unwrap();
    for _ in 0..7 {
        let refusal = user.run(large()).await.unwrap_err();
        assert_eq!(refusal.code(), CommandError::QueueFull);
    }
    kill(&bus, &mut relays, "agent-1").await;
    agent.release();
    let log = user.log_of(&first.command_id).await;
    log.assert_whole(b"large says hello\n");
    assert_eq!(agent.journal(), [held.command_id, first.command_id]);
}

/// The bus does not take what an agent's document would be with one more command:
/// the command is neither accepted nor in any log, and the shard goes on with
/// what is stored.
#[tokio::test]
async fn nothing_is_answered_that_is_not_stored() {
    let bus = RelayBus::start().await;
    let of_relay = bus.bus(BusUser::Relay).await;
    let (subject, stream) = (key::agent("agent-1"), key::AGENTS_STREAM);
    let full = json!({
        "agent_id": "agent-1",
        "concurrency": 1,
        // Never so long ago that it is forgotten.
        "offline_since_ms": u64::from(u32::MAX) << 10,
        "superseded": ["x".repeat(MIN_MAX_PAYLOAD_BYTES - 2 * 1024)],
    });
    let mut document = Document::new(of_relay, stream, subject, 0);
    document.write(full.to_string().into()).await.unwrap();
    let relay = bus.relay(&[]).await;
    let user = user(&bus).await;
    let shard = Shard::of_agent("agent-1");
    let command = RunCommand {
        args: vec!["y".repeat(4 * 1024)],
        queue_if_offline: true,
        ..run("agent-1", "quick", NORMAL)
    };
    let id = command_id(shard, &command.nonce).unwrap();
    let request = CommandRequest {
        by: "user".to_owned(),
        verb: Some(command_request::Verb::Run(command)),
    };
    let served = async |times: usize| {
        let line = format!("shard served shard={shard} ");
        until("the shard is served", async || {
            let lines = relay.process.stderr().lines();
            lines.iter().filter(|one| one.contains(&line)).count() >= times
        })
        .await;
    };
    served(1).await;
    let subject = subject::relay_commands(shard);
    tokio::select! {
        answer = ask::<CommandReply>(&user.bus, &subject, &request) => panic!("{answer:?}"),
        () = served(2) => {}
    }
    let log = user.read_log(&id).await.unwrap();
    assert_eq!(log.queued, 0);
    let agents = user.snapshot("agent-1").await.agents;
    assert_eq!(agents.len(), 1);
}

/// Two relays share the agents; both are killed in turn, again and again, while
/// commands are asked for and run on many agents.
#[tokio::test]
async fn commands_survive_relays_that_die_all_the_time() {
    let bus = RelayBus::start().await;
    let mut relays = vec![bus.relay(&[]).await, bus.relay(&[]).await];
    let gateway = gateway(&bus).await;
    let agents: Vec<Agent> = (0..6).map(|n| Agent::new(&format!("agent-{n}"))).collect();
    let mut connections = Vec::new();
    for agent in &agents {
        connections.push(gateway.connect(agent).await);
    }
    let mut asking = JoinSet::new();
    for agent in &agents {
        let (agent, user) = (agent.clone(), user(&bus).await);
        asking.spawn(async move {
            let mut ids = Vec::new();
            for number in 0..12 {
                let bytes = 1_000 + number * 5_000;
                let command = format!("flow {bytes}");
                let accepted = loop {
                    // Full or out of reach of the bus for a while.
                    if let Ok(accepted) = user.run(run(&agent.id, &command, NORMAL)).await {
                        break accepted;
                    }
                };
                ids.push((accepted.command_id, bytes));
            }
            ids
        });
    }
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        relays.remove(round % 2).process.kill9();
        relays.push(bus.relay(&[]).await);
    }
    let user = user(&bus).await;
    let mut accepted = BTreeSet::new();
    while let Some(ids) = asking.join_next().await {
        for (id, bytes) in ids.unwrap() {
            user.log_of(&id).await.assert_whole(&flow(&id, bytes));
            accepted.insert(id);
        }
    }
    let mut begun = Vec::new();
    for agent in &agents {
        begun.extend(agent.journal());
    }
    let distinct: BTreeSet<String> = begun.iter().cloned().collect();
    assert_eq!(begun.len(), distinct.len(), "a command was run twice");
    assert_eq!(distinct, accepted);
}

/// A relay is halted for longer than its lease and goes on: another has taken
/// over, and what the first still has in its hands does no harm.
#[tokio::test]
async fn a_relay_that_wakes_up_late_does_no_harm() {
    let bus = RelayBus::start().await;
    let first = bus.relay(&[]).await;
    let user = user(&bus).await;
    let gateway = gateway(&bus).await;
    let agent = Agent::new("agent-1");
    let _connection = gateway.connect(&agent).await;
    let held = user
        .run(run("agent-1", "hold", NORMAL))
        .await
        .unwrap()
        .command_id;
    runs(&user, &held).await;
    first.process.sigstop();
    let _second = bus.relay(&[]).await;
    let next = user
        .run(run("agent-1", "flow 200000", NORMAL))
        .await
        .unwrap()
        .command_id;
    first.process.sigcont();
    agent.release();
    user.log_of(&held).await.assert_whole(b"hold says hello\n");
    user.log_of(&next).await.assert_whole(&flow(&next, 200_000));
    assert_eq!(agent.journal(), [held, next]);
}

/// The bus is killed while output flows, and comes back.
#[tokio::test]
async fn a_killed_bus_loses_no_output() {
    let bus = RelayBus::start().await;
    let relay = bus.relay(&[]).await;
    let user = user(&bus).await;
    let gateway = gateway(&bus).await;
    let agent = Agent::new("agent-1");
    let _connection = gateway.connect(&agent).await;
    let viewer = bus.bus(BusUser::Admin).await;
    let mut viewer = LogFeed::all(viewer, LogKind::Term).await.unwrap();
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let mut logs: HashMap<String, Log> = HashMap::new();
        while logs.values().filter(|log| log.ended.is_some()).count() < 2 {
            for fed in viewer.next().await {
                let Fed::Record(record) = fed else {
                    panic!("{fed:?}")
                };
                let log = logs.entry(record.id).or_default();
                log.add(TermRecord::decode(record.payload).unwrap());
            }
        }
        logs
    });
    let id = user
        .run(run("agent-1", "flow 900000", NORMAL))
        .await
        .unwrap()
        .command_id;
    let queued = user
        .run(run("agent-1", "flow 1000", NORMAL))
        .await
        .unwrap()
        .command_id;
    until("output", async || {
        user.read_log(&id)
            .await
            .is_some_and(|log| log.output.len() > 10_000)
    })
    .await;
    bus.nats.restart().await;
    user.log_of(&id).await.assert_whole(&flow(&id, 900_000));
    user.log_of(&queued)
        .await
        .assert_whole(&flow(&queued, 1_000));
    let seen = timeout(DEADLINE, watching.join_next()).await;
    let seen = seen.expect("a viewer sees both ends").unwrap().unwrap();
    seen[&id].assert_whole(&flow(&id, 900_000));
    seen[&queued].assert_whole(&flow(&queued, 1_000));
    assert_eq!(agent.journal(), [id, queued]);
    assert!(relay.process.exit_status().is_none());
}

/// A gateway is gone with its agent's connection: the agent returns through
/// another one and goes on with what it has.
#[tokio::test]
async fn an_agent_that_returns_goes_on_where_it_was() {
    let bus = RelayBus::start().await;
    let _relay = bus.relay(&[]).await;
    let user = user(&bus).await;
    let lost = gateway(&bus).await;
    let agent = Agent::new("agent-1");
    let connection = lost.connect(&agent).await;
    let held = user
        .run(run("agent-1", "hold", NORMAL))
        .await
        .unwrap()
        .command_id;
    runs(&user, &held).await;
    drop((connection, lost));
    until("offline", async || {
        let agents = user.snapshot("agent-1").await.agents;
        agents.iter().any(|agent| agent.connected_at.is_empty())
    })
    .await;
    let other = gateway(&bus).await;
    let _connection = other.connect(&agent).await;
    let log = user.log_of(&held).await;
    log.assert_whole(b"hold says hello\n");
    assert_eq!((log.started, agent.journal().len()), (1, 1));
}

/// An agent that stays away longer than the grace has lost its commands; one that
/// has forgotten them too.
#[tokio::test]
async fn commands_of_lost_agents_fail_with_the_reason() {
    let bus = RelayBus::start().await;
    let _relay = bus.relay(&["--agent-grace", "2"]).await;
    let user = user(&bus).await;
    let lost = gateway(&bus).await;
    let (away, forgetful) = (Agent::new("agent-1"), Agent::new("agent-2"));
    let connections = (lost.connect(&away).await, lost.connect(&forgetful).await);
    let one = user
        .run(run("agent-1", "hold", NORMAL))
        .await
        .unwrap()
        .command_id;
    let other = user
        .run(run("agent-2", "hold", NORMAL))
        .await
        .unwrap()
        .command_id;
    runs(&user, &one).await;
    runs(&user, &other).await;
    drop((connections, lost));
    forgetful.crash();
    let back = gateway(&bus).await;
    let _connection = back.connect(&forgetful).await;
    let (end, reason) = user.log_of(&other).await.end();
    assert_eq!(
        (end, reason.as_str()),
        (CommandState::Failed, "outcome_unknown")
    );
    let log = user.log_of(&one).await;
    assert_eq!(log.end(), (CommandState::Failed, "agent_lost".to_owned()));
    assert!(log.ended.unwrap().incomplete);
    // Back too late, it is told to let go, and is free for the next.
    let _other = back.connect(&away).await;
    let next = user
        .run(run("agent-1", "quick", NORMAL))
        .await
        .unwrap()
        .command_id;
    user.log_of(&next).await.assert_whole(b"quick says hello\n");
}

/// An agent that knows no journal gets a command once: when its connection breaks
/// behind the delivery, nobody can tell what became of it, and it is not sent
/// again - not even by a relay that has just taken over.
#[tokio::test]
async fn an_agent_without_journal_never_gets_a_command_twice() {
    let bus = RelayBus::start().await;
    let mut relays = vec![bus.relay(&["--agent-grace", "2"]).await];
    let user = user(&bus).await;
    let lost = gateway(&bus).await;
    let mut agent = Agent::new("agent-1");
    agent.is_plain = true;
    let connection = lost.connect(&agent).await;
    let whole = user
        .run(run("agent-1", "flow 30000", NORMAL))
        .await
        .unwrap()
        .command_id;
    user.log_of(&whole)
        .await
        .assert_whole(&flow(&whole, 30_000));
    let held = user
        .run(run("agent-1", "hold", NORMAL))
        .await
        .unwrap()
        .command_id;
    runs(&user, &held).await;
    relays.remove(0).process.kill9();
    relays.push(bus.relay(&["--agent-grace", "2"]).await);
    let waiting = user
        .run(run("agent-1", "quick", NORMAL))
        .await
        .unwrap()
        .command_id;
    drop((connection, lost));
    agent.crash();
    let back = gateway(&bus).await;
    let _connection = back.connect(&agent).await;
    let (end, reason) = user.log_of(&held).await.end();
    assert_eq!(
        (end, reason.as_str()),
        (CommandState::Failed, "outcome_unknown")
    );
    user.log_of(&waiting)
        .await
        .assert_whole(b"quick says hello\n");
    assert_eq!(agent.journal(), [whole, held, waiting]);
}

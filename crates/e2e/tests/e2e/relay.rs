//! Queues, priorities, positions, interrupts, idempotency, output and the
//! emergency stop of a relay, with scripted gateways and agents (F3 to F7, F9).
//! One file, since each test is a short scene on the same stage.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use signalbox_bus::log::feed::{Fed, LogFeed};
use signalbox_bus::publish::{self, Outgoing};
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject::{self, LogKind};
use signalbox_protocol::fleet::{Shard, command_id};
use signalbox_protocol::wire::{
    AgentReply, AgentReport, AgentStatus, ClearTerminal, CommandError, CommandPriority,
    CommandState, EmergencyQuery, EmergencyResume, EmergencyStop, FleetUpdate, OutputChunk,
    RunCommand, StopConfirmation, TermRecord, TerminalInput, TerminalOutput, agent_reply,
    agent_report, command_reply, command_request, emergency_request, fleet_update,
};
use signalbox_testkit::{DEADLINE, RelayBus, Service, settle};
use tokio::time::timeout;

use crate::fleet_side::{Agent, Gateway, Log, User, ask, flow, run, until};

use CommandPriority::{High, Low, Normal};

/// A relay, a gateway and a user.
struct Stage {
    _relay: Service,
    gateway: Gateway,
    user: User,
    bus: RelayBus,
}

async fn stage(arguments: &[&str]) -> Stage {
    let bus = RelayBus::start().await;
    let relay = bus.relay(arguments).await;
    Stage {
        _relay: relay,
        gateway: Gateway::start(bus.bus(BusUser::Gateway).await).await,
        user: User {
            bus: bus.bus(BusUser::Gateway).await,
        },
        bus,
    }
}

impl Stage {
    async fn accept(&self, agent: &Agent, command: &str, priority: CommandPriority) -> String {
        let accepted = self.user.run(run(&agent.id, command, priority)).await;
        accepted.unwrap().command_id
    }

    /// The commands that wait for the agent, in order.
    async fn waiting(&self, agent: &Agent) -> Vec<String> {
        let queues = self.user.snapshot(&agent.id).await.queues;
        let queue = queues.into_iter().find(|queue| queue.agent_id == agent.id);
        let commands = queue.unwrap_or_default().commands;
        for (place, command) in (1..).zip(&commands) {
            assert_eq!(command.position, place);
        }
        commands.into_iter().map(|one| one.command_id).collect()
    }
}

/// F4: high before normal before low, first in first out within one, one at a
/// time; F6: what is removed moves the others up.
#[tokio::test]
async fn commands_wait_by_priority_and_move_up_when_one_is_removed() {
    let stage = stage(&[]).await;
    let agent = Agent::new("agent-1");
    let _connection = stage.gateway.connect(&agent).await;
    let first = stage.accept(&agent, "hold", Normal).await;
    let low = stage.accept(&agent, "hold", Low).await;
    let normal = stage.accept(&agent, "hold", Normal).await;
    let one_high = stage.accept(&agent, "hold", High).await;
    let other_high = stage.user.run(run("agent-1", "hold", High)).await.unwrap();
    assert_eq!((other_high.position, other_high.repeated), (2, false));
    assert!(other_high.estimated_wait_ms > 0);
    let other_high = other_high.command_id;
    let expected = [&one_high, &other_high, &normal, &low].map(Clone::clone);
    assert_eq!(stage.waiting(&agent).await, expected);
    until("the first to run", async || {
        agent.journal() == [first.clone()]
    })
    .await;
    stage.user.interrupt(&other_high).await.unwrap();
    assert_eq!(
        stage.waiting(&agent).await,
        [&one_high, &normal, &low].map(Clone::clone)
    );
    let removed = stage.user.log_of(&other_high).await;
    assert_eq!(
        (removed.end().0, removed.started),
        (CommandState::Interrupted, 0)
    );
    for id in [&first, &one_high, &normal, &low] {
        until("its turn", async || agent.journal().last() == Some(id)).await;
        until("it is held", async || {
            stage
                .user
                .read_log(id)
                .await
                .is_some_and(|log| log.started == 1)
        })
        .await;
        agent.release();
        stage
            .user
            .log_of(id)
            .await
            .assert_whole(b"hold says hello\n");
    }
    assert_eq!(agent.journal().len(), 4);
}

/// F4: with high priority always waiting, a low one starts once it has waited for
/// the bound.
#[tokio::test]
async fn a_low_command_is_never_starved() {
    let stage = stage(&["--low-priority-bound", "1500"]).await;
    let agent = Agent::new("agent-1");
    let _connection = stage.gateway.connect(&agent).await;
    stage.accept(&agent, "hold", High).await;
    let low = stage.accept(&agent, "quick", Low).await;
    let mut high = Vec::new();
    while !agent.journal().contains(&low) {
        while stage.waiting(&agent).await.len() < 4 {
            high.push(stage.accept(&agent, "quick", High).await);
        }
        agent.release();
    }
    let journal = agent.journal();
    let at = journal.iter().position(|id| *id == low).unwrap();
    // High ones went first until then, and some waited when its turn came.
    assert!(at > 4, "{at}");
    assert!(high.iter().any(|id| !journal[..at].contains(id)));
    stage
        .user
        .log_of(&low)
        .await
        .assert_whole(b"quick says hello\n");
}

/// F4: the reasons not to accept a command.
#[tokio::test]
async fn commands_are_refused_for_what_is_wrong() {
    let stage = stage(&["--command-queue", "2"]).await;
    let agent = Agent::new("agent-1");
    let code = async |run: RunCommand| stage.user.run(run).await.unwrap_err().code();
    assert_eq!(
        code(run("agent-1", "x", Normal)).await,
        CommandError::AgentNotFound
    );
    let connection = stage.gateway.connect(&agent).await;
    assert_eq!(
        code(run("agent-1", " ", Normal)).await,
        CommandError::Invalid
    );
    let strange = RunCommand {
        nonce: "no".to_owned(),
        ..run("agent-1", "x", Normal)
    };
    assert_eq!(code(strange).await, CommandError::Invalid);
    let late = RunCommand {
        expires_at_ms: 1,
        ..run("agent-1", "x", Normal)
    };
    assert_eq!(code(late).await, CommandError::Unavailable);
    for _ in 0..3 {
        stage.accept(&agent, "hold", Normal).await;
    }
    assert_eq!(
        code(run("agent-1", "x", Normal)).await,
        CommandError::QueueFull
    );
    stage.gateway.disconnect(&agent, connection).await;
    assert_eq!(
        code(run("agent-1", "x", Normal)).await,
        CommandError::AgentOffline
    );
    let unknown = command_id(Shard::of_agent("agent-1"), &"0".repeat(32)).unwrap();
    let refused = stage.user.interrupt(&unknown).await.unwrap_err();
    assert_eq!(refused.code(), CommandError::CommandNotFound);
    // Known and away: a queue of its own accord.
    let other = Agent::new("agent-2");
    let connection = stage.gateway.connect(&other).await;
    stage.gateway.disconnect(&other, connection).await;
    let patient = RunCommand {
        queue_if_offline: true,
        ..run("agent-2", "quick", Normal)
    };
    let id = stage.user.run(patient).await.unwrap().command_id;
    let _connection = stage.gateway.connect(&other).await;
    stage
        .user
        .log_of(&id)
        .await
        .assert_whole(b"quick says hello\n");
}

/// F4: the same key is the same command, while it waits, runs, and when it is
/// over; of another user it is another.
#[tokio::test]
async fn the_same_idempotency_key_is_the_same_command() {
    let stage = stage(&[]).await;
    let agent = Agent::new("agent-1");
    let _connection = stage.gateway.connect(&agent).await;
    let keyed = || RunCommand {
        idempotency_key: "once".to_owned(),
        ..run("agent-1", "hold", Normal)
    };
    let first = stage.user.run(keyed()).await.unwrap();
    let again = stage.user.run(keyed()).await.unwrap();
    assert_eq!(first.command_id, again.command_id);
    assert_eq!((first.repeated, again.repeated), (false, true));
    until("it runs", async || {
        stage
            .user
            .read_log(&first.command_id)
            .await
            .is_some_and(|log| log.started == 1)
    })
    .await;
    agent.release();
    stage.user.log_of(&first.command_id).await;
    let after = stage.user.run(keyed()).await.unwrap();
    assert_eq!(first.command_id, after.command_id);
    assert_eq!(after.state(), CommandState::Completed);
    assert_eq!(agent.journal().len(), 1);
    // The same nonce as well: the gateway asks again when it got no answer.
    let nonce = run("agent-1", "quick", Normal);
    let one = stage.user.run(nonce.clone()).await.unwrap();
    assert_eq!(
        stage.user.run(nonce).await.unwrap().command_id,
        one.command_id
    );
}

/// F7: all output, in order; a viewer who follows the live logs has the same as
/// the log, and one who joins late too.
#[tokio::test]
async fn viewers_get_every_byte_in_order() {
    let stage = stage(&[]).await;
    let mut agent = Agent::new("agent-1");
    agent.concurrency = 3;
    let _connection = stage.gateway.connect(&agent).await;
    let viewer = stage.bus.bus(BusUser::Admin).await;
    let mut all = LogFeed::all(viewer.clone(), LogKind::Term).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(stage.accept(&agent, "flow 300000", Normal).await);
    }
    let mut logs: std::collections::HashMap<String, Log> = Default::default();
    let seen = async {
        while logs.values().filter(|log| log.ended.is_some()).count() < 3 {
            for fed in all.next().await {
                let Fed::Record(record) = fed else {
                    panic!("{fed:?}")
                };
                let log = logs.entry(record.id).or_default();
                log.add(TermRecord::decode(record.payload).unwrap());
            }
        }
    };
    timeout(DEADLINE, seen)
        .await
        .expect("all logs are seen to their ends");
    for id in &ids {
        let written = flow(id, 300_000);
        logs[id].assert_whole(&written);
        stage.user.log_of(id).await.assert_whole(&written);
        let mut late = LogFeed::one(viewer.clone(), LogKind::Term, id);
        let mut log = Log::default();
        while log.ended.is_none() {
            for fed in timeout(DEADLINE, late.next()).await.unwrap() {
                let Fed::Record(record) = fed else {
                    panic!("{fed:?}")
                };
                log.add(TermRecord::decode(record.payload).unwrap());
            }
        }
        log.assert_whole(&written);
    }
}

/// A connection of an agent by hand, for what a proper agent does not do.
struct Hand<'a> {
    stage: &'a Stage,
    agent_id: String,
    connection: String,
}

impl Hand<'_> {
    async fn report(&self, report: agent_report::Report) -> agent_reply::Outcome {
        let report = AgentReport {
            agent_id: self.agent_id.clone(),
            gateway_id: self.stage.gateway.id.clone(),
            connection_id: self.connection.clone(),
            report: Some(report),
        };
        let subject = subject::relay_agents(Shard::of_agent(&self.agent_id));
        let reply: AgentReply = ask(&self.stage.user.bus, &subject, &report).await;
        reply.outcome.unwrap()
    }

    async fn output(&self, id: &str, offset: u64, data: &[u8], after_loss: bool) -> u64 {
        let chunk = OutputChunk {
            offset,
            data: Bytes::copy_from_slice(data),
            after_loss,
            ..OutputChunk::default()
        };
        let output = TerminalOutput {
            command_id: id.to_owned(),
            chunks: vec![chunk],
        };
        match self.report(agent_report::Report::Output(output)).await {
            agent_reply::Outcome::Output(taken) => taken.offsets[0].offset,
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// F7: offsets are checked; what is missing is never passed over in silence; a
/// log takes so many bytes and says where it was cut.
#[tokio::test]
async fn gaps_are_explicit_and_output_is_bounded() {
    let stage = stage(&["--output-mib", "1"]).await;
    let agent = Agent::new("agent-1");
    let connection = stage.gateway.connect(&agent).await;
    let id = stage.accept(&agent, "hold", Normal).await;
    until("it runs", async || {
        stage
            .user
            .read_log(&id)
            .await
            .is_some_and(|log| log.started == 1)
    })
    .await;
    let hand = Hand {
        stage: &stage,
        agent_id: agent.id.clone(),
        connection: connection.id.clone(),
    };
    assert_eq!(hand.output(&id, 0, b"abc", false).await, 3);
    // Again, and overlapping.
    assert_eq!(hand.output(&id, 0, b"abc", false).await, 3);
    assert_eq!(hand.output(&id, 1, b"bcd", false).await, 4);
    // Behind a gap that nobody answers for.
    assert_eq!(hand.output(&id, 9, b"x", false).await, 4);
    assert_eq!(hand.output(&id, 9, b"j", true).await, 10);
    let many = vec![b'm'; 1_000_000];
    assert_eq!(hand.output(&id, 10, &many, false).await, 1_000_010);
    assert_eq!(hand.output(&id, 1_000_010, &many, false).await, 2_000_010);
    assert_eq!(hand.output(&id, 2_000_010, b"end", false).await, 2_000_013);
    let complete = signalbox_protocol::wire::CommandComplete {
        command_id: id.clone(),
        exit_code: Some(1),
        ..Default::default()
    };
    hand.report(agent_report::Report::Complete(complete)).await;
    let log = stage.user.log_of(&id).await;
    assert_eq!(log.end().0, CommandState::Failed);
    // 5 bytes before the gap and 1 behind it count against the bound.
    let cut = 1_048_576 - 5 + 10;
    assert_eq!(log.gaps, [(4, 9), (cut, 0)]);
    assert_eq!(log.output.len(), 1_048_576);
    let sum = log.ended.unwrap().sums.remove(0);
    assert_eq!((sum.bytes, sum.recorded), (2_000_013, 1_048_576));
    // It is over: the rest is nobody's.
    let late = TerminalOutput {
        command_id: id,
        chunks: vec![],
    };
    let outcome = hand.report(agent_report::Report::Output(late)).await;
    assert!(
        matches!(outcome, agent_reply::Outcome::Refusal(_)),
        "{outcome:?}"
    );
}

/// F2, F3: dashboards hear of agents and of changes, by numbers that show what
/// they missed; a second connection takes the first one's place.
#[tokio::test]
async fn dashboards_follow_the_fleet() {
    let stage = stage(&[]).await;
    let agent = Agent::new("agent-1");
    let shard = Shard::of_agent(&agent.id);
    let subject = subject::fleet(shard);
    let mut updates = stage.user.bus.client().subscribe(subject).await.unwrap();
    settle(stage.user.bus.client()).await;
    let first = stage.gateway.connect(&agent).await;
    let mut last = 0;
    let mut next = async || loop {
        let message = timeout(DEADLINE, updates.next()).await.unwrap().unwrap();
        let update = FleetUpdate::decode(message.payload).unwrap();
        match update.change.unwrap() {
            fleet_update::Change::Tip(_) => assert_eq!(update.number, last),
            change => {
                last += 1;
                assert_eq!(update.number, last);
                return change;
            }
        }
    };
    // First as nothing is known of it, then as it connects.
    let mut status = AgentStatus::Offline;
    while status == AgentStatus::Offline {
        let fleet_update::Change::Agent(state) = next().await else {
            continue;
        };
        status = state.status();
        assert_eq!(state.agent_id, agent.id);
    }
    assert_eq!(status, AgentStatus::Online);
    let hand = Hand {
        stage: &stage,
        agent_id: agent.id.clone(),
        connection: first.id.clone(),
    };
    for usage in 0..50 {
        let condition = signalbox_protocol::wire::AgentCondition {
            status: AgentStatus::Online.into(),
            metrics: format!("{{\"cpuUsage\":{usage}}}"),
        };
        hand.report(agent_report::Report::Condition(condition))
            .await;
    }
    let mut told = 0;
    loop {
        let fleet_update::Change::Agent(state) = next().await else {
            continue;
        };
        told += 1;
        if state.metrics.contains(":49}") {
            break;
        }
    }
    assert!(told < 25, "metrics were told {told} times");
    let clear = command_request::Verb::Clear(ClearTerminal {
        agent_id: agent.id.clone(),
    });
    stage.user.request(shard, clear).await;
    while !matches!(next().await, fleet_update::Change::Cleared(_)) {}
    let other = stage.gateway.connect(&agent).await;
    assert_ne!(first.id, other.id);
    let condition = signalbox_protocol::wire::AgentCondition::default();
    let outcome = hand
        .report(agent_report::Report::Condition(condition))
        .await;
    let agent_reply::Outcome::Stale(stale) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(!stale.unknown);
    stage.gateway.disconnect(&agent, other).await;
    loop {
        if let fleet_update::Change::Agent(state) = next().await
            && state.status() == AgentStatus::Offline
        {
            break;
        }
    }
    events_say(&stage, &["connected", "status_changed", "disconnected"]).await;
}

/// Waits until EVENTS has events of these types about agents.
async fn events_say(stage: &Stage, names: &[&str]) {
    let admin = stage.bus.bus(BusUser::Admin).await;
    for name in names {
        let subject = format!("events.agent.{name}");
        until(&subject, async || {
            let stream = admin.jetstream().get_stream("EVENTS").await.unwrap();
            stream
                .get_last_raw_message_by_subject(&subject)
                .await
                .is_ok()
        })
        .await;
    }
}

/// F9: everything ends, nothing new begins, also after a restart, until it is
/// lifted; each agent is confirmed or said to be out of reach.
#[tokio::test]
async fn an_emergency_stop_outlives_the_relay() {
    let mut stage = stage(&["--confirm-within", "1"]).await;
    let (agent, gone) = (Agent::new("agent-1"), Agent::new("agent-2"));
    let _connection = stage.gateway.connect(&agent).await;
    let connection = stage.gateway.connect(&gone).await;
    stage.gateway.disconnect(&gone, connection).await;
    let running = stage.accept(&agent, "hold", Normal).await;
    let waiting = stage.accept(&agent, "hold", Normal).await;
    until("it runs", async || {
        stage
            .user
            .read_log(&running)
            .await
            .is_some_and(|log| log.started == 1)
    })
    .await;
    let stop = emergency_request::Verb::Stop(EmergencyStop {
        reason: "drill".to_owned(),
    });
    let state = stage.user.emergency(stop.clone()).await;
    assert!(state.active);
    let refused = stage
        .user
        .run(run("agent-1", "x", Normal))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), CommandError::EmergencyStop);
    for id in [&running, &waiting] {
        let (end, reason) = stage.user.log_of(id).await.end();
        assert_eq!(
            (end, reason.as_str()),
            (CommandState::Interrupted, "emergency_stop")
        );
    }
    // Again, it is the same stop.
    assert_eq!(stage.user.emergency(stop).await.stop_id, state.stop_id);
    let confirmations = async |stage: &Stage| {
        let mut stops = Vec::new();
        for id in ["agent-1", "agent-2"] {
            let agents = stage.user.snapshot(id).await.agents;
            let agent = agents.into_iter().find(|agent| agent.agent_id == id);
            stops.push(agent.unwrap().stop());
        }
        stops
    };
    let expected = [StopConfirmation::Confirmed, StopConfirmation::Unreachable];
    until("confirmations", async || {
        confirmations(&stage).await == expected
    })
    .await;
    assert_eq!(agent.stops(), std::slice::from_ref(&state.stop_id));
    stage._relay.process.kill9();
    stage._relay = stage.bus.relay(&["--confirm-within", "1"]).await;
    let refused = stage
        .user
        .run(run("agent-1", "x", Normal))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), CommandError::EmergencyStop);
    until("confirmations", async || {
        confirmations(&stage).await == expected
    })
    .await;
    let query = emergency_request::Verb::Query(EmergencyQuery {});
    let known = stage.user.emergency(query).await;
    assert_eq!(
        (known.reason.as_str(), &known.stop_id),
        ("drill", &state.stop_id)
    );
    let resume = emergency_request::Verb::Resume(EmergencyResume {});
    assert!(!stage.user.emergency(resume).await.active);
    let id = stage.accept(&agent, "quick", Normal).await;
    stage
        .user
        .log_of(&id)
        .await
        .assert_whole(b"quick says hello\n");
}

/// What is typed reaches the command that runs, in order; a command that does not
/// run takes none.
#[tokio::test]
async fn input_reaches_the_command_that_runs() {
    let stage = stage(&[]).await;
    let agent = Agent::new("agent-1");
    let _connection = stage.gateway.connect(&agent).await;
    let id = stage.accept(&agent, "hold", Normal).await;
    let waiting = stage.accept(&agent, "hold", Normal).await;
    until("it runs", async || {
        stage
            .user
            .read_log(&id)
            .await
            .is_some_and(|log| log.started == 1)
    })
    .await;
    let shard = Shard::of_agent("agent-1");
    let typed = async |id: &str, text: &str| {
        let input = command_request::Verb::Input(TerminalInput {
            command_id: id.to_owned(),
            data: Bytes::copy_from_slice(text.as_bytes()),
        });
        stage.user.request(shard, input).await
    };
    for text in ["one ", "two ", "three"] {
        let outcome = typed(&id, text).await;
        assert!(
            matches!(outcome, command_reply::Outcome::Done(_)),
            "{outcome:?}"
        );
    }
    assert_eq!(agent.typed(), b"one two three");
    let outcome = typed(&waiting, "x").await;
    let command_reply::Outcome::Refusal(refusal) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(refusal.code(), CommandError::CommandNotFound);
    let clear = command_request::Verb::Clear(ClearTerminal {
        agent_id: agent.id.clone(),
    });
    stage.user.request(shard, clear).await;
    agent.release();
    assert_eq!(stage.user.log_of(&id).await.cleared, 1);
}

/// The relay's user of the bus may do its work and no more, and nobody else does
/// it.
#[tokio::test]
async fn the_bus_refuses_what_is_not_the_relays() {
    let bus = RelayBus::start().await;
    for (user, subject) in [
        (BusUser::Relay, "topics.threat_alerts.-.-"),
        (BusUser::Relay, "events.threat.threat_alert"),
        (BusUser::Relay, "$KV.leases.router.threat"),
        (BusUser::Gateway, "log.term.=x"),
        (BusUser::Gateway, "$KV.fleet.stop"),
        (BusUser::Gateway, "svc.agents.x"),
        (BusUser::Producer, "svc.relay.0.command"),
        (BusUser::Router, "$KV.agents.0.x"),
    ] {
        let message = Outgoing {
            subject: subject.to_owned(),
            message_id: "x".to_owned(),
            headers: HeaderMap::new(),
            payload: Bytes::new(),
        };
        let refused = publish::publish(&bus.bus(user).await, &message, DEADLINE).await;
        assert!(
            matches!(refused, Err(publish::PublishError::Forbidden(_))),
            "{user} {subject}: {refused:?}"
        );
    }
}

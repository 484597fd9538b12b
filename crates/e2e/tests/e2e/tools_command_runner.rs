//! Tool `run_command` by itself, on the bus as the orchestrator has it: a real
//! relay, scripted agents, and calls as a turn makes them. What is told of each end;
//! that a call is one command, however often and by whomever it is taken up; that a
//! command which nobody waits for is ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::assignment::Stop;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject;
use signalbox_orchestrator::tools::run_command::{self, Settings};
use signalbox_orchestrator::tools::{Call, DEFAULT_RESULT_BYTES, Note, Outcome, Runner};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    CommandReply, CommandRequest, CommandState, EmergencyResume, EmergencyStop, RunCommand,
    command_request::Verb, emergency_request,
};
use signalbox_testkit::{DEADLINE, RelayBus, Service};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::fleet_side::{Agent, Connection, Gateway, User, ask, flow, until};

const WEB: &str = "web-1";

/// A relay, an agent, and the tool.
struct Stage {
    relay: Service,
    gateway: Gateway,
    agent: Agent,
    connection: Connection,
    user: User,
    tool: Arc<dyn Runner>,
    bus: RelayBus,
}

async fn stage(arguments: &[&str]) -> Stage {
    let bus = RelayBus::start().await;
    let relay = bus.relay(arguments).await;
    let gateway = Gateway::start(bus.bus(BusUser::Gateway).await).await;
    let agent = Agent::new(WEB);
    let connection = gateway.connect(&agent).await;
    let tool = tool(&bus, DEADLINE).await;
    let user = User {
        bus: bus.bus(BusUser::Gateway).await,
    };
    Stage {
        relay,
        gateway,
        agent,
        connection,
        user,
        tool,
        bus,
    }
}

/// The tool of an orchestrator, which may address agents that begin with `web-`.
async fn tool(bus: &RelayBus, patience: Duration) -> Arc<dyn Runner> {
    let settings = Settings {
        agents: vec!["web-*".to_owned()],
        patience,
        ..Settings::default()
    };
    run_command::runner(bus.bus(BusUser::Orchestrator).await, settings)
}

/// A call of user `ada`, with what it notes.
fn call(number: u32, arguments: Value) -> (Call, mpsc::Receiver<Note>) {
    let (note, notes) = mpsc::channel(4);
    let call = Call {
        user_id: "ada".to_owned(),
        session_id: "chat-1".to_owned(),
        answer: 1,
        number,
        name: run_command::NAME.to_owned(),
        arguments,
        channels: Vec::new(),
        permissions: vec!["chat_agents".to_owned(), "run_commands".to_owned()],
        deadline: Instant::now() + DEADLINE,
        cancel: Stop::default(),
        note,
        trace: None,
    };
    (call, notes)
}

fn command(command: &str) -> Value {
    json!({"agent_id": WEB, "command": command})
}

impl Stage {
    /// Begins a call; gives its command too, once that is accepted.
    async fn begin(&self, number: u32, arguments: Value) -> (JoinHandle<Outcome>, String, Stop) {
        let (call, mut notes) = call(number, arguments);
        let cancel = call.cancel.clone();
        let running = tokio::spawn(self.tool.run(call));
        let Note::Terminal {
            agent_id,
            command_id,
        } = timeout(DEADLINE, notes.recv()).await.unwrap().unwrap();
        assert_eq!(agent_id, WEB);
        (running, command_id, cancel)
    }

    /// Waits until the agent has begun with a command, and it is in the log.
    async fn runs(&self, id: &str) {
        until("the command to run", async || {
            let log = self.user.read_log(id).await;
            log.is_some_and(|log| log.started == 1)
        })
        .await;
    }

    async fn outcome(&self, number: u32, arguments: Value) -> Outcome {
        let (call, _notes) = call(number, arguments);
        timeout(DEADLINE, self.tool.run(call)).await.unwrap()
    }
}

async fn end(running: JoinHandle<Outcome>) -> Outcome {
    timeout(DEADLINE, running).await.unwrap().unwrap()
}

fn value(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

fn error(outcome: Outcome) -> String {
    match outcome {
        Outcome::Error(words) => words,
        other => panic!("{other:?}"),
    }
}

/// A long output is whole in the log; the call has its end, and how much there was.
#[tokio::test]
async fn a_command_gives_the_end_of_its_output() {
    let stage = stage(&[]).await;
    let (running, id, _) = stage.begin(1, command("flow 200000")).await;
    let told = value(end(running).await);
    let written = flow(&id, 200_000);
    stage.user.log_of(&id).await.assert_whole(&written);
    assert_eq!(told["command_id"], id.as_str());
    assert_eq!(
        (&told["status"], &told["exit_code"]),
        (&json!("completed"), &json!(0))
    );
    let stdout = &told["stdout"];
    assert_eq!(
        (&stdout["bytes"], &stdout["truncated"]),
        (&json!(200_000), &json!(true))
    );
    let tail = stdout["tail"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&written).ends_with(tail) && tail.len() > 1_000);
    assert!(told.to_string().len() <= DEFAULT_RESULT_BYTES);
    assert_eq!(stage.agent.journal(), [id]);
}

/// A call that its orchestrator left is taken up by another, which follows the same
/// command; after its end it gives the same result again.
#[tokio::test]
async fn a_call_is_one_command_whoever_takes_it_up() {
    let stage = stage(&[]).await;
    let (running, id, _) = stage.begin(1, command("hold")).await;
    stage.runs(&id).await;
    running.abort();
    running.await.unwrap_err();
    let successor = tool(&stage.bus, DEADLINE).await;
    let (taken, mut notes) = call(1, command("hold"));
    let taken = tokio::spawn(successor.adopt(taken).unwrap());
    let note = timeout(DEADLINE, notes.recv()).await.unwrap().unwrap();
    assert_eq!(
        note,
        Note::Terminal {
            agent_id: WEB.to_owned(),
            command_id: id.clone(),
        }
    );
    stage.agent.release();
    let told = value(end(taken).await);
    assert_eq!(told["stdout"]["tail"], "hold says hello\n");
    let (late, _notes) = call(1, command("hold"));
    let again = successor.adopt(late).unwrap();
    assert_eq!(value(timeout(DEADLINE, again).await.unwrap()), told);
    assert_eq!(stage.agent.journal(), std::slice::from_ref(&id));
    // Another call is another command.
    let (other, other_id, _) = stage.begin(2, command("quick")).await;
    end(other).await;
    assert_eq!(stage.agent.journal(), [id, other_id]);
}

/// The relay is killed while the command runs, and another takes over.
#[tokio::test]
async fn a_killed_relay_loses_no_result() {
    let Stage {
        relay,
        bus,
        agent,
        tool,
        user,
        gateway: _gateway,
        connection: _connection,
    } = stage(&[]).await;
    let (its_call, mut notes) = call(1, command("hold"));
    let running = tokio::spawn(tool.run(its_call));
    let Note::Terminal { command_id, .. } = timeout(DEADLINE, notes.recv()).await.unwrap().unwrap();
    until("it to run", async || agent.journal().len() == 1).await;
    relay.process.kill9();
    let _next = bus.relay(&[]).await;
    until("it is held", async || {
        let log = user.read_log(&command_id).await;
        log.is_some_and(|log| log.started == 1)
    })
    .await;
    agent.release();
    let told = value(end(running).await);
    assert_eq!(
        (&told["exit_code"], &told["stdout"]["tail"]),
        (&json!(0), &json!("hold says hello\n"))
    );
    assert_eq!(agent.journal(), [command_id]);
}

#[tokio::test]
async fn a_cancelled_call_ends_its_command() {
    let stage = stage(&[]).await;
    let (running, id, cancel) = stage.begin(1, command("hold")).await;
    stage.runs(&id).await;
    cancel.trigger();
    match end(running).await {
        Outcome::Stopped(words) => assert!(words.contains("told to end"), "{words}"),
        other => panic!("{other:?}"),
    }
    let log = stage.user.log_of(&id).await;
    assert_eq!(log.end().0, CommandState::Interrupted);
    assert_eq!(log.ended.unwrap().by, "ada");
}

#[tokio::test]
async fn a_command_ends_with_its_time_and_that_is_told() {
    let stage = stage(&[]).await;
    let arguments = json!({"agent_id": WEB, "command": "hold", "timeout_seconds": 3});
    let (running, id, _) = stage.begin(1, arguments).await;
    let told = value(end(running).await);
    assert_eq!(
        (&told["status"], &told["exit_code"]),
        (&json!("timed_out"), &json!(130))
    );
    assert!(told["interrupted_after_seconds"].as_f64().unwrap() >= 3.0);
    assert_eq!(
        stage.user.log_of(&id).await.end().0,
        CommandState::Interrupted
    );
    // An agent that never ends it, too.
    *stage.gateway.is_deaf.lock() = true;
    let arguments = json!({"agent_id": WEB, "command": "hold", "timeout_seconds": 1});
    let told = value(stage.outcome(2, arguments).await);
    assert_eq!(told["status"], "timed_out");
    assert!(
        told["reason"].as_str().unwrap().contains("has not ended"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_refused_never_runs() {
    let stage = stage(&[]).await;
    let other = json!({"agent_id": "db-1", "command": "quick"});
    let refusal = stage.tool.refusal(&other).unwrap();
    assert!(refusal.contains("[tools.run_command]"), "{refusal}");
    assert_eq!(error(stage.outcome(1, other).await), refusal);
    assert_eq!(stage.tool.refusal(&command("quick")), None);
    let (mut viewer, _notes) = call(2, command("quick"));
    viewer.permissions = vec!["chat_agents".to_owned()];
    let words = error(stage.tool.run(viewer).await);
    assert!(words.contains("run_commands"), "{words}");
    let unknown = json!({"agent_id": "web-9", "command": "quick"});
    let words = error(stage.outcome(3, unknown).await);
    assert!(words.contains("\"web-9\" is not known"), "{words}");
    stage
        .gateway
        .disconnect(&stage.agent, stage.connection)
        .await;
    let (late, _notes) = call(4, command("quick"));
    let words = error(stage.tool.run(late).await);
    assert!(words.contains("is not connected"), "{words}");
    assert_eq!(stage.agent.journal(), [""; 0]);
}

#[tokio::test]
async fn an_emergency_stop_is_told() {
    let stage = stage(&[]).await;
    let (running, id, _) = stage.begin(1, command("hold")).await;
    stage.runs(&id).await;
    let stop = EmergencyStop {
        reason: "drill".to_owned(),
    };
    stage
        .user
        .emergency(emergency_request::Verb::Stop(stop))
        .await;
    let words = error(end(running).await);
    assert!(words.contains("an emergency stop has ended"), "{words}");
    let words = error(stage.outcome(2, command("quick")).await);
    assert!(
        words.starts_with("the command was not run: an emergency stop"),
        "{words}"
    );
    let resume = emergency_request::Verb::Resume(EmergencyResume {});
    stage.user.emergency(resume).await;
    value(stage.outcome(3, command("quick")).await);
}

#[tokio::test]
async fn what_a_lost_agent_did_is_unknown() {
    let stage = stage(&["--agent-grace", "1"]).await;
    let (running, id, _) = stage.begin(1, command("hold")).await;
    stage.runs(&id).await;
    drop(stage.connection);
    drop(stage.gateway);
    match end(running).await {
        Outcome::Unknown(words) => assert!(words.contains("agent_lost"), "{words}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_crashed_agent_did_is_unknown() {
    let stage = stage(&[]).await;
    let (running, id, _) = stage.begin(1, command("hold")).await;
    stage.runs(&id).await;
    stage.agent.crash();
    let _connection = stage.gateway.connect(&stage.agent).await;
    match end(running).await {
        Outcome::Unknown(words) => assert!(words.contains("outcome_unknown"), "{words}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.agent.journal(), [id]);
}

/// Users choose the keys of their own commands freely: one that has a call's key is
/// not taken for the call's command.
#[tokio::test]
async fn another_command_with_the_key_of_a_call_is_not_its_result() {
    let stage = stage(&[]).await;
    let planted = CommandRequest {
        by: "ada".to_owned(),
        verb: Some(Verb::Run(RunCommand {
            agent_id: WEB.to_owned(),
            command: "flow 10".to_owned(),
            idempotency_key: "tool/chat-1/1/1".to_owned(),
            ..RunCommand::default()
        })),
    };
    let subject = subject::relay_commands(Shard::of_agent(WEB));
    let _: CommandReply = ask(&stage.user.bus, &subject, &planted).await;
    let words = error(stage.outcome(1, command("quick")).await);
    assert!(words.contains("another command has the key"), "{words}");
    assert_eq!(stage.agent.journal().len(), 1);
}

/// Where no relay answers, nobody can know; where one comes back that has never
/// heard of the command, nothing was run.
#[tokio::test]
async fn a_command_that_no_relay_answers_for_is_told_as_that() {
    let stage = stage(&[]).await;
    let impatient = tool(&stage.bus, Duration::from_millis(300)).await;
    stage.relay.process.kill9();
    let (lone, _notes) = call(1, command("quick"));
    match timeout(DEADLINE, impatient.run(lone)).await.unwrap() {
        Outcome::Unknown(words) => assert!(words.contains("no relay answers"), "{words}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.agent.journal(), [""; 0]);
}

/// A successor that has no time left for a command follows one that was accepted,
/// and begins none: it may have been long ago.
#[tokio::test]
async fn a_successor_without_time_begins_nothing() {
    let stage = stage(&[]).await;
    let impatient = tool(&stage.bus, Duration::from_secs(2)).await;
    let adopt = |number: u32| {
        let (mut late, notes) = call(number, command("quick"));
        late.deadline = Instant::now() + Duration::from_secs(5);
        (impatient.adopt(late).unwrap(), notes)
    };
    let (never_begun, _notes) = adopt(1);
    match timeout(DEADLINE, never_begun).await.unwrap() {
        Outcome::Unknown(words) => assert!(words.contains("not known any more"), "{words}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.agent.journal(), [""; 0]);
    let told = value(stage.outcome(2, command("quick")).await);
    let (known, _notes) = adopt(2);
    assert_eq!(value(timeout(DEADLINE, known).await.unwrap()), told);
    assert_eq!(stage.agent.journal().len(), 1);
}

//! Calls that people decide on, through faults: whatever is killed and whenever, a
//! call runs at most once and as it was approved, and people see each step once
//! and in order.

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};
use signalbox_bus::key;
use signalbox_bus::log::LogWriter;
use signalbox_bus::server::User;
use signalbox_bus::subject::LogKind;
use signalbox_protocol::chat;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{ChatRecord, ChatToolDecided, ToolVerdict, chat_record::Record};
use signalbox_testkit::{Gate, Reply};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::approval_world::{ADA, Observer, World, asks_for, concludes, hears};
use crate::chat_client::Chatter;
use crate::faults::{Dice, SEED_VARIABLE};

/// The moments of kills unless others are asked for.
const SEED: u64 = 12;
/// Kills at random moments.
const ROUNDS: u64 = 8;
/// The longest that a kill comes behind an approval, in microseconds.
const LATEST: u64 = 60_000;

fn host() -> Value {
    json!({"host": "10.4.7.19"})
}

/// The one call that may have been run.
fn once() -> Vec<(String, Value)> {
    vec![("isolate_host".to_owned(), host())]
}

/// A world in which a call waits for people, who see that.
struct Held {
    world: World,
    people: Observer,
    ada: Chatter,
    session: String,
    action: Value,
    id: String,
}

impl Held {
    async fn start(tool: &str) -> Self {
        let world = World::start(2).await;
        world.model.otherwise(concludes(Reply::new().text("Done.")));
        world.model.reply(asks_for(&[(tool, host())]));
        let mut people = world.observer(1).await;
        let (mut ada, session) = world.ask().await;
        let action = people.pending().await;
        hears(&mut ada, "agent_tool_approval").await;
        Self {
            id: action["action_id"].as_str().unwrap().to_owned(),
            world,
            people,
            ada,
            session,
            action,
        }
    }

    async fn approve(&mut self) {
        self.people.decides(&self.action, "approve").await;
    }

    /// The answer goes on to its end, and the call with it; gives its result.
    async fn goes_on(&mut self) -> Value {
        loop {
            let frame = self.ada.next().await;
            if frame["type"] == "agent_tool_result" {
                self.ada.hear_out(&self.session, 1).await;
                return frame;
            }
        }
    }

    /// People see just this of the action from here on.
    async fn is_seen(&mut self, words: &[&str]) {
        for word in words {
            self.people.sees(&self.id, word).await;
        }
        self.people.sees_nothing().await;
    }

    /// The call has run once, as approved, and all went well.
    async fn ran_once(&mut self) {
        let result = self.goes_on().await;
        assert_eq!(result["outcome"], "value", "{result}");
        assert_eq!(self.world.hand.done(), once());
        self.is_seen(&["approve", "EXECUTING", "COMPLETED"]).await;
    }
}

#[tokio::test]
async fn what_was_approved_while_nobody_served_is_run_by_the_successor() {
    let mut held = Held::start("isolate_host").await;
    held.world.kill();
    held.approve().await;
    held.world.serve().await;
    held.ran_once().await;
}

#[tokio::test]
async fn what_has_expired_while_nobody_served_is_not_run() {
    let mut held = Held::start("hurry").await;
    held.world.kill();
    let end = Timestamp::parse(held.action["expires_at"].as_str().unwrap()).unwrap();
    while Timestamp::from(OffsetDateTime::now_utc()) < end {
        sleep(Duration::from_millis(20)).await;
    }
    // Nobody has settled it yet.
    let error = held.people.decide(&held.action, "approve").await;
    assert_eq!(error["code"], "EXPIRED", "{error}");
    held.world.serve().await;
    let result = held.goes_on().await;
    assert_eq!(result["outcome"], "refused", "{result}");
    held.is_seen(&["reject", "EXPIRED"]).await;
    assert_eq!(held.world.hand.done(), []);
}

/// The former one has stored that the call is approved, and nothing more.
#[tokio::test]
async fn killed_between_approval_and_execution_it_is_run_once() {
    let mut held = Held::start("isolate_host").await;
    held.world.kill();
    held.approve().await;
    let admin = held.world.platform.bus(User::Admin).await;
    let log_id = chat::log_id(ADA, &held.session);
    let opened = LogWriter::open(admin, LogKind::Chat, &log_id, u64::MAX).await;
    let (mut former, last) = opened.unwrap();
    let last = ChatRecord::decode(last.unwrap().payload).unwrap();
    let decided = ChatRecord {
        record: Some(Record::ToolDecided(ChatToolDecided {
            tool_call: 1,
            tool_name: "isolate_host".to_owned(),
            action_id: held.id.clone(),
            verdict: ToolVerdict::Approve.into(),
            decided_by: "operator@local".to_owned(),
            reason: "checked".to_owned(),
        })),
        ..last
    };
    former.append(decided.encode_to_vec().into()).await.unwrap();
    held.world.serve().await;
    held.ran_once().await;
}

#[tokio::test]
async fn killed_while_it_runs_it_is_not_run_again() {
    let mut held = Held::start("isolate_host").await;
    held.world.hand.shut();
    held.approve().await;
    held.world.hand.has_done(1).await;
    held.world.kill();
    held.world.serve().await;
    let result = held.goes_on().await;
    assert_eq!(result["outcome"], "unknown", "{result}");
    held.world.hand.open();
    held.is_seen(&["approve", "EXECUTING", "FAILED"]).await;
    assert_eq!(held.world.hand.done(), once());
}

/// It has run, and the model is about to be told.
#[tokio::test]
async fn killed_behind_its_end_it_is_not_run_again_and_its_end_is_told_once() {
    let mut held = Held::start("isolate_host").await;
    let gate = Gate::new();
    let reply = Reply::new().wait(&gate);
    held.world.model.reply(reply);
    held.approve().await;
    held.world.model.received(2).await;
    held.world.kill();
    held.world.serve().await;
    held.ran_once().await;
}

/// At any moment behind an approval.
#[tokio::test]
async fn killed_at_any_moment_a_call_runs_at_most_once() {
    let mut world = World::start(2).await;
    world.model.otherwise(concludes(Reply::new().text("Done.")));
    let mut people = world.observer(1).await;
    let seed = std::env::var(SEED_VARIABLE);
    let seed = seed.map_or(SEED, |text| text.parse().expect("a seed is a number"));
    let mut dice = Dice(seed);
    for round in 1..=ROUNDS {
        let arguments = json!({"host": format!("10.0.0.{round}")});
        world
            .model
            .reply(asks_for(&[("isolate_host", arguments.clone())]));
        let (mut ada, session) = world.ask().await;
        let action = people.pending().await;
        let id = action["action_id"].as_str().unwrap();
        people.decides(&action, "approve").await;
        sleep(Duration::from_micros(dice.roll(LATEST))).await;
        world.kill();
        world.serve().await;
        let mut outcome = Value::Null;
        while ada.heard.of(&session, 1).end.is_none() {
            let frame = ada.next().await;
            if frame["type"] == "agent_tool_result" {
                assert_eq!(outcome, Value::Null, "one result: {frame}");
                outcome = frame["outcome"].clone();
            }
        }
        let runs = world.hand.done();
        let runs = runs.iter().filter(|(_, given)| *given == arguments).count();
        let end = match outcome.as_str() {
            Some("value") => {
                assert_eq!(runs, 1, "round {round} of seed {seed}");
                "COMPLETED"
            }
            Some("unknown") => {
                assert!(runs <= 1, "round {round} of seed {seed}: {runs}");
                "FAILED"
            }
            other => panic!("round {round} of seed {seed}: {other:?}"),
        };
        for word in ["approve", "EXECUTING", end] {
            people.sees(id, word).await;
        }
        people.sees_nothing().await;
    }
    assert!(world.hand.done().len() <= ROUNDS as usize);
}

/// Halted for longer than its lease; what it does afterwards is too late.
#[tokio::test]
async fn one_that_was_halted_runs_nothing_that_its_successor_has_run() {
    let mut held = Held::start("isolate_host").await;
    held.world.orchestrator.as_ref().unwrap().process.sigstop();
    let former = held.world.serve().await.unwrap();
    held.approve().await;
    held.ran_once().await;
    former.process.sigcont();
    // It finds out, at the latest when it wants to write.
    held.world
        .model
        .reply(asks_for(&[("isolate_host", host())]));
    let (mut ada, session) = held.world.ask().await;
    let action = held.people.pending().await;
    held.people.decides(&action, "reject").await;
    ada.hear_out(&session, 1).await;
    let id = action["action_id"].as_str().unwrap();
    held.people.sees(id, "reject").await;
    held.people.sees(id, "REJECTED").await;
    held.people.sees_nothing().await;
    assert_eq!(held.world.hand.done(), once());
}

#[tokio::test]
async fn a_bus_that_is_away_while_somebody_decides_costs_nothing_but_time() {
    let mut held = Held::start("isolate_host").await;
    held.world.platform.nats.kill9();
    let error = held.people.decide(&held.action, "approve").await;
    assert_eq!(error["code"], "UNAVAILABLE", "{error}");
    assert_eq!(held.world.hand.done(), []);
    held.world.platform.nats.restart().await;
    held.people.decides_at_last(&held.action, "approve").await;
    held.ran_once().await;
}

/// The decider's gateway is killed between the record and its event.
#[tokio::test]
async fn a_decision_whose_gateway_was_killed_is_heard_of_before_it_is_acted_on() {
    let mut held = Held::start("isolate_host").await;
    let record = json!({
        "action_id": held.id, "action_type": "isolation", "decision": "approve",
        "decided_by": "operator@local", "published": false,
        "arguments_hash": held.action["arguments_hash"],
        "at": Timestamp::from(OffsetDateTime::now_utc()).to_string(),
    });
    let bus = held.world.platform.bus(User::Gateway).await;
    let bucket = bus.bucket(key::DECISIONS).await.unwrap();
    let record = record.to_string().into();
    bucket
        .create(key::decision(&held.id), record)
        .await
        .unwrap();
    held.ran_once().await;
}

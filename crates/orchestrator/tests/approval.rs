//! Calls of tools that wait for people, against a real server and with no more
//! rights than an orchestrator and a gateway have: what is told, in which order
//! and how often, who wins, and what is too late.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "approval/absence.rs"]
mod absence;

use std::time::Duration;

use async_nats::jetstream;
use futures_util::future::join_all;
use serde_json::{Value, json};
use signalbox_bus::decision::{DecisionError, Decisions, Outcome};
use signalbox_bus::header::MessageHeaders;
use signalbox_bus::publish::publish;
use signalbox_bus::server::User;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::stream::{self, EVENTS, StreamSettings};
use signalbox_bus::{Bus, BusOptions, key, subject};
use signalbox_orchestrator::approval::{Action, Approvals, Decided, Patience, Status};
use signalbox_orchestrator::tools;
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::envelope::{self, Submission};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::TraceParent;
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// More time than a test takes, and some.
const LONG: Duration = Duration::from_secs(3_600);
/// A wait for something that must not happen.
const WHILE: Duration = Duration::from_millis(300);

struct Fixture {
    server: NatsServer,
    admin: Bus,
    approvals: Approvals,
    /// What a gateway has.
    people: Decisions,
    watch: JoinHandle<()>,
}

impl Fixture {
    async fn start() -> Self {
        let server = NatsServer::start().await;
        let admin = connect(&server, User::Admin).await;
        let settings = StreamSettings::default();
        stream::init(&admin, &settings).await.unwrap();
        let (approvals, watch) = approvals(&server).await;
        let gateway = connect(&server, User::Gateway).await;
        Self {
            people: Decisions::open(gateway).await.unwrap(),
            server,
            admin,
            approvals,
            watch,
        }
    }

    /// Holds an action and has it routed, so that it can be decided on.
    async fn hold(&self, action: &Action) {
        self.approvals.hold(action).await.unwrap();
        self.route().await;
    }

    /// Publishes an event as any producer may.
    async fn publish(&self, subject: &str, data: &Value) {
        let context = jetstream::new(self.server.connect(User::Admin).await);
        let stored = context.publish(subject.to_owned(), data.to_string().into());
        stored.await.unwrap().await.unwrap();
    }

    /// Takes what waits on EVENTS to TOPICS, as a router does; gives what it was.
    async fn route(&self) -> Vec<(String, Value)> {
        let client = self.server.connect(User::Admin).await;
        let mut events = jetstream::new(client).get_stream(EVENTS).await.unwrap();
        let state = events.info().await.unwrap().state.clone();
        let mut routed = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = events.get_raw_message(sequence).await.unwrap();
            let (domain, name) = subject::parse_event(&message.subject).unwrap();
            let submission = Submission {
                kind: catalogue::find(domain, name).unwrap(),
                headers: &MessageHeaders(Some(&message.headers)),
                payload: &message.payload,
                fallback_id: &sequence.to_string(),
                stored_at: now(),
            };
            let event = envelope::decode(&submission).unwrap();
            routed.push((event.id.clone(), Value::Object(event.data.clone())));
            let origin = Origin {
                epoch: Epoch::from_unix_micros(1),
                sequence,
                trace: TraceParent::new(1, 2, false).unwrap().into(),
            };
            let stored = stored_event::encode(event, &origin).unwrap();
            publish(&self.admin, &stored, DEADLINE).await.unwrap();
            events.delete_message(sequence).await.unwrap();
        }
        routed
    }

    /// The ids of the events that wait.
    async fn told(&self) -> Vec<String> {
        self.route().await.into_iter().map(|(id, _)| id).collect()
    }

    /// Somebody on a gateway decides.
    async fn decide(&self, action: &Action, by: &str, verdict: Verdict) -> Outcome {
        let decision = decision(action, by, verdict);
        self.people.decide(decision).await.unwrap()
    }

    /// Waits for a decision in the background.
    fn wait(&self, action: &Action) -> JoinHandle<Decided> {
        let (approvals, action) = (self.approvals.clone(), action.clone());
        tokio::spawn(async move { approvals.decided(&action).await })
    }

    /// Writes a record as somebody leaves it who is killed behind that.
    async fn leave(&self, action: &Action, record: Value) {
        let bucket = self.admin.bucket(key::DECISIONS).await.unwrap();
        let mut whole = json!({
            "action_id": action.action_id, "decision": "approve", "decided_by": "ada",
            "action_type": action.action_type, "arguments_hash": action.arguments_hash,
            "published": false,
        });
        for (name, value) in record.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let key = key::decision(&action.action_id);
        bucket.create(key, whole.to_string().into()).await.unwrap();
    }
}

async fn connect(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

/// What an orchestrator has, with its watch.
async fn approvals(server: &NatsServer) -> (Approvals, JoinHandle<()>) {
    let bus = connect(server, User::Orchestrator).await;
    let approvals = Approvals::open(bus).await.unwrap();
    let watching = approvals.clone();
    let watch = tokio::spawn(async move { watching.watch().await });
    (approvals, watch)
}

fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.unix_millis()).unwrap()
}

fn in_past(ago: Duration) -> Timestamp {
    (OffsetDateTime::now_utc() - ago).into()
}

/// The call of this number, which can be decided on for this long.
fn action(tool_call: u32, lasts: Duration) -> Action {
    let arguments = json!({"host": "10.4.7.19", "ports": [22, 443]});
    let arguments_hash = tools::arguments_hash("isolate", &arguments);
    Action {
        action_id: tools::action_id("chat-0", 1, tool_call, &arguments_hash),
        action_type: "isolate_host".to_owned(),
        tool_name: "isolate".to_owned(),
        arguments,
        arguments_hash,
        requested_by: "ada".to_owned(),
        session_id: "chat-0".to_owned(),
        answer: 1,
        tool_call,
        expires_at_ms: millis((OffsetDateTime::now_utc() + lasts).into()),
        trace: None,
    }
}

fn decision(action: &Action, by: &str, verdict: Verdict) -> Decision {
    Decision {
        action_id: action.action_id.clone(),
        verdict,
        reason: Some("seen it".to_owned()),
        decided_by: by.to_owned(),
        arguments_hash: None,
    }
}

fn approved(by: &str) -> Decided {
    Decided::Approved {
        by: by.to_owned(),
        reason: Some("seen it".to_owned()),
    }
}

fn id(action: &Action, status: &str) -> String {
    format!("{}/{status}", action.action_id)
}

fn decision_id(action: &Action) -> String {
    format!("decision-{}", action.action_id)
}

async fn done(waiting: JoinHandle<Decided>) -> Decided {
    timeout(DEADLINE, waiting).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_held_call_is_an_action_with_all_that_deciders_need() {
    let fixture = Fixture::start().await;
    let action = action(1, LONG);
    fixture.approvals.hold(&action).await.unwrap();
    let mut events = fixture.route().await;
    let (event_id, data) = events.pop().unwrap();
    assert_eq!(event_id, id(&action, "PENDING"));
    let expires_at = Timestamp::from_unix_millis(action.expires_at_ms as i64).unwrap();
    let expected = json!({
        "action_id": action.action_id, "action_type": "isolate_host", "status": "PENDING",
        "tool_name": "isolate", "arguments": {"host": "10.4.7.19", "ports": [22, 443]},
        "arguments_hash": action.arguments_hash, "requested_by": "ada",
        "session_id": "chat-0", "answer": 1, "tool_call": 1,
        "expires_at": expires_at.to_string(),
    });
    assert_eq!(data, expected);
    assert!(events.is_empty());
}

#[tokio::test]
async fn whoever_waits_hears_of_the_decision_behind_its_event() {
    let fixture = Fixture::start().await;
    let action = action(1, LONG);
    fixture.hold(&action).await;
    let mut waiting = fixture.wait(&action);
    assert!(timeout(WHILE, &mut waiting).await.is_err());
    let made = fixture.decide(&action, "grace", Verdict::Approve).await;
    assert_eq!(made, Outcome::Made);
    assert_eq!(done(waiting).await, approved("grace"));
    fixture.approvals.tell(&action, Status::Executing).await;
    fixture.approvals.tell(&action, Status::Completed).await;
    let expected = [
        decision_id(&action),
        id(&action, "EXECUTING"),
        id(&action, "COMPLETED"),
    ];
    assert_eq!(fixture.told().await, expected);
    // A successor is told the same, and nobody hears it again.
    assert_eq!(fixture.approvals.decided(&action).await, approved("grace"));
    assert!(fixture.told().await.is_empty());
}

#[tokio::test]
async fn one_watch_serves_all_who_wait() {
    let fixture = Fixture::start().await;
    let actions: Vec<_> = (1..=20).map(|number| action(number, LONG)).collect();
    for action in &actions {
        fixture.approvals.hold(action).await.unwrap();
    }
    fixture.route().await;
    let waiting: Vec<_> = actions.iter().map(|action| fixture.wait(action)).collect();
    let client = fixture.server.connect(User::Admin).await;
    let bucket = jetstream::new(client);
    let mut bucket = bucket.get_stream(key::DECISIONS_STREAM).await.unwrap();
    eventually("the watch", DEADLINE, async || {
        let consumers = bucket.info().await.unwrap().state.consumer_count;
        assert!(consumers <= 1, "{consumers}");
        (consumers == 1).then_some(())
    })
    .await;
    for action in &actions {
        fixture.decide(action, "grace", Verdict::Reject).await;
    }
    for waiting in waiting {
        let rejected = Decided::Rejected {
            by: "grace".to_owned(),
            reason: Some("seen it".to_owned()),
        };
        assert_eq!(done(waiting).await, rejected);
    }
    assert_eq!(bucket.info().await.unwrap().state.consumer_count, 1);
}

#[tokio::test]
async fn a_successor_tells_nothing_twice_however_late_it_comes() {
    let fixture = Fixture::start().await;
    let action = action(1, LONG);
    for status in [Status::Pending, Status::Executing] {
        fixture.approvals.tell(&action, status).await;
        assert_eq!(fixture.told().await, [id(&action, status.as_str())]);
    }
    // EVENTS remembers ids for a while only; a new one has forgotten them all.
    let client = fixture.server.connect(User::Admin).await;
    jetstream::new(client).delete_stream(EVENTS).await.unwrap();
    let settings = StreamSettings::default();
    stream::init(&fixture.admin, &settings).await.unwrap();
    fixture.approvals.hold(&action).await.unwrap();
    fixture.approvals.tell(&action, Status::Executing).await;
    assert!(fixture.told().await.is_empty());
    fixture.approvals.tell(&action, Status::Failed).await;
    assert_eq!(fixture.told().await, [id(&action, "FAILED")]);
    // An action has one end.
    fixture.approvals.tell(&action, Status::Completed).await;
    assert!(fixture.told().await.is_empty());
}

#[tokio::test]
async fn an_action_that_nobody_decides_on_expires_once_and_for_all() {
    let fixture = Fixture::start().await;
    let action = action(1, Duration::from_millis(600));
    fixture.hold(&action).await;
    // Two at once, as around a take-over.
    let (successor, _watch) = approvals(&fixture.server).await;
    let waiting = fixture.wait(&action);
    assert_eq!(successor.decided(&action).await, Decided::Expired);
    assert_eq!(done(waiting).await, Decided::Expired);
    let events = fixture.route().await;
    let expected = json!({
        "action_id": action.action_id, "action_type": "isolate_host", "decision": "reject",
        "decided_by": "signalbox", "reason": "nobody decided in time",
    });
    assert_eq!(events, [(decision_id(&action), expected)]);
    let end = Timestamp::from_unix_millis(action.expires_at_ms as i64).unwrap();
    for verdict in [Verdict::Approve, Verdict::Reject] {
        let late = fixture.decide(&action, "grace", verdict).await;
        assert_eq!(late, Outcome::Expired(end));
    }
    assert!(fixture.told().await.is_empty());
}

#[tokio::test]
async fn nobody_decides_on_an_action_that_has_expired_while_nobody_served() {
    let fixture = Fixture::start().await;
    let action = Action {
        expires_at_ms: millis(in_past(Duration::from_secs(1))),
        ..action(1, LONG)
    };
    fixture.hold(&action).await;
    let late = fixture.decide(&action, "grace", Verdict::Approve).await;
    assert!(matches!(late, Outcome::Expired(_)));
    assert_eq!(fixture.approvals.decided(&action).await, Decided::Expired);
    assert_eq!(fixture.told().await, [decision_id(&action)]);
}

#[tokio::test]
async fn an_approval_while_nobody_served_holds_for_the_successor() {
    let fixture = Fixture::start().await;
    let action = action(1, Duration::from_millis(900));
    fixture.hold(&action).await;
    fixture.watch.abort();
    fixture.decide(&action, "grace", Verdict::Approve).await;
    // Also when that comes after the time in which it could be decided on.
    eventually("the expiry", DEADLINE, async || {
        (millis(now()) > action.expires_at_ms).then_some(())
    })
    .await;
    let (successor, _watch) = approvals(&fixture.server).await;
    assert_eq!(successor.decided(&action).await, approved("grace"));
}

#[tokio::test]
async fn a_decision_that_was_recorded_too_late_stands_for_nothing() {
    let fixture = Fixture::start().await;
    let end = in_past(Duration::from_secs(60));
    let late = |number| Action {
        expires_at_ms: millis(end),
        ..action(number, LONG)
    };
    // By the clock of whoever decided, and by that of the bus alone: someone who
    // was halted between looking and writing, or whose clock is behind.
    let cases = [
        (late(1), in_past(Duration::from_secs(1))),
        (late(2), in_past(Duration::from_secs(120))),
    ];
    for (action, at) in &cases {
        fixture.hold(action).await;
        let record = json!({"at": at.to_string(), "expires_at": end.to_string()});
        fixture.leave(action, record).await;
        assert_eq!(fixture.approvals.decided(action).await, Decided::Expired);
        let events = fixture.route().await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].1["decision"], "reject", "{events:?}");
        assert_eq!(events[0].1["decided_by"], "signalbox");
        let own = fixture.decide(action, "ada", Verdict::Approve).await;
        assert_eq!(own, Outcome::Expired(end));
    }
    // Where the record does not know of the end, the action does.
    let action = late(3);
    fixture.hold(&action).await;
    let record = json!({"at": in_past(Duration::from_secs(1)).to_string()});
    fixture.leave(&action, record).await;
    assert_eq!(fixture.approvals.decided(&action).await, Decided::Expired);
}

#[tokio::test]
async fn what_a_decider_leaves_unpublished_is_published_before_it_counts() {
    let fixture = Fixture::start().await;
    let action = action(1, LONG);
    fixture.hold(&action).await;
    let waiting = fixture.wait(&action);
    let record = json!({"at": now().to_string(), "reason": "seen it"});
    fixture.leave(&action, record).await;
    assert_eq!(done(waiting).await, approved("ada"));
    assert_eq!(fixture.told().await, [decision_id(&action)]);
    fixture.people.complete().await.unwrap();
    assert!(fixture.told().await.is_empty());
}

#[tokio::test]
async fn of_people_an_expiry_and_a_cancellation_one_wins_and_all_agree() {
    let fixture = Fixture::start().await;
    for round in 1..=12 {
        let action = action(round, Duration::from_millis(40));
        fixture.hold(&action).await;
        let waiting = fixture.wait(&action);
        let people = join_all(["ada", "grace", "joan"].map(|name| {
            let decision = decision(&action, name, Verdict::Approve);
            fixture.people.decide(decision)
        }));
        let settled = fixture.approvals.settle(&action, "the chat was cancelled");
        let (people, settled) = tokio::join!(people, settled);
        let winners = people
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Outcome::Made)));
        let winners = winners.count();
        assert_eq!(done(waiting).await, settled);
        match &settled {
            Decided::Approved { .. } => assert_eq!(winners, 1, "{people:?}"),
            Decided::Rejected { by, reason } => {
                assert_eq!(winners, 0, "{people:?}");
                assert_eq!(by, "signalbox");
                assert_eq!(reason.as_deref(), Some("the chat was cancelled"));
            }
            Decided::Expired => assert_eq!(winners, 0, "{people:?}"),
        }
        let told = fixture.told().await;
        assert_eq!(told, [decision_id(&action)]);
    }
}

#[tokio::test]
async fn a_cancelled_action_cannot_be_decided_on_any_more() {
    let fixture = Fixture::start().await;
    let action = action(1, LONG);
    fixture.hold(&action).await;
    let settled = fixture.approvals.settle(&action, "the chat was cancelled");
    assert!(matches!(settled.await, Decided::Rejected { .. }));
    fixture.approvals.tell(&action, Status::Cancelled).await;
    let outcome = fixture.decide(&action, "grace", Verdict::Reject).await;
    let Outcome::Already(first) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(first.decided_by, "signalbox");
    assert_eq!(first.reason.as_deref(), Some("the chat was cancelled"));
    let expected = [decision_id(&action), id(&action, "CANCELLED")];
    assert_eq!(fixture.told().await, expected);
}

#[tokio::test]
async fn other_arguments_than_the_actions_are_never_approved() {
    let fixture = Fixture::start().await;
    let held = action(1, LONG);
    fixture.hold(&held).await;
    let on_others = Decision {
        arguments_hash: Some(tools::arguments_hash("isolate", &json!({"host": "*"}))),
        ..decision(&held, "grace", Verdict::Approve)
    };
    let refused = fixture.people.decide(on_others.clone()).await;
    assert!(matches!(refused, Err(DecisionError::OtherArguments)));
    let on_these = Decision {
        arguments_hash: Some(held.arguments_hash.clone()),
        ..decision(&held, "grace", Verdict::Approve)
    };
    let made = fixture.people.decide(on_these).await.unwrap();
    assert_eq!(made, Outcome::Made);
    assert_eq!(fixture.approvals.decided(&held).await, approved("grace"));
    // Nor is it said that they were, once somebody has decided.
    let refused = fixture.people.decide(on_others).await;
    assert!(matches!(refused, Err(DecisionError::OtherArguments)));

    // Somebody tells of the action with other arguments, and it is decided on what
    // they tell.
    let forged = action(2, LONG);
    let shown = Action {
        arguments_hash: tools::arguments_hash("isolate", &json!({"host": "*"})),
        ..forged.clone()
    };
    fixture.hold(&shown).await;
    fixture.decide(&forged, "grace", Verdict::Approve).await;
    let Decided::Rejected { by, .. } = fixture.approvals.decided(&forged).await else {
        panic!("approved with other arguments")
    };
    assert_eq!(by, "signalbox");
}

/// Somebody who may publish events tells of an action what it is not, and another one
/// decides by that.
#[tokio::test]
async fn what_was_told_of_an_action_as_another_is_never_approved() {
    let fixture = Fixture::start().await;
    let forgeries = [
        // Without a hash, so that the decision has none either.
        json!({"tool_name": "isolate", "arguments": {"host": "lab-1"}}),
        json!({"status": "PENDING"}),
        // With the right one.
        json!({"arguments_hash": "", "arguments": {"host": "lab-1"}}),
        json!({"arguments_hash": "", "arguments": {}}),
        json!({"arguments_hash": "", "tool_name": "isolate_lab"}),
        json!({"arguments_hash": "", "action_type": "scan"}),
    ];
    for (number, forgery) in (1..).zip(&forgeries) {
        let held = action(number, LONG);
        fixture.hold(&held).await;
        let mut data = json!({
            "action_id": held.action_id, "action_type": held.action_type, "status": "PENDING",
        });
        for (name, value) in forgery.as_object().unwrap() {
            data[name] = value.clone();
        }
        if forgery["arguments_hash"] == "" {
            data["arguments_hash"] = held.arguments_hash.clone().into();
        }
        fixture.publish("events.threat.action_update", &data).await;
        fixture.route().await;
        let made = fixture.decide(&held, "grace", Verdict::Approve).await;
        assert_eq!(made, Outcome::Made, "{forgery}");
        let Decided::Rejected { by, .. } = fixture.approvals.decided(&held).await else {
            panic!("approved by {forgery}")
        };
        assert_eq!(by, "signalbox", "{forgery}");
        let settled = fixture.approvals.settle(&held, "too late").await;
        assert!(matches!(settled, Decided::Rejected { .. }), "{forgery}");
    }
    // What tells the same, or of nothing but how it goes on, is no forgery.
    let held = action(20, LONG);
    fixture.hold(&held).await;
    let data = json!({
        "action_id": held.action_id, "action_type": held.action_type, "status": "PENDING",
        "progress": 0, "arguments_hash": held.arguments_hash,
    });
    fixture.publish("events.threat.action_update", &data).await;
    fixture.route().await;
    fixture.decide(&held, "grace", Verdict::Approve).await;
    assert_eq!(fixture.approvals.decided(&held).await, approved("grace"));
}

#[tokio::test]
async fn arguments_that_no_event_can_carry_are_not_held() {
    let fixture = Fixture::start().await;
    let deep = (0..64).fold(json!(1), |inner, _| json!({ "a": inner }));
    let action = Action {
        arguments: deep,
        ..action(1, LONG)
    };
    assert!(fixture.approvals.hold(&action).await.is_err());
    assert!(fixture.told().await.is_empty());
}

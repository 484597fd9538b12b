//! Decisions on response actions: once each, whoever decides and whatever
//! fails between the record and its event.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::jetstream;
use futures_util::future::join_all;
use signalbox_bus::decision::{DecisionError, Decisions, Outcome};
use signalbox_bus::publish::publish;
use signalbox_bus::server::User;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::stream::{self, EVENTS, StreamSettings};
use signalbox_bus::{Bus, BusOptions, key};
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::TraceParent;
use signalbox_testkit::{DEADLINE, NatsServer};

struct Fixture {
    server: NatsServer,
    admin: Bus,
    decisions: Decisions,
}

impl Fixture {
    async fn start() -> Self {
        let server = NatsServer::start().await;
        let admin = connect(&server, User::Admin).await;
        stream::init(&admin, &StreamSettings::default())
            .await
            .unwrap();
        // With no more rights than a gateway has.
        let decisions = Decisions::open(connect(&server, User::Gateway).await)
            .await
            .unwrap();
        Self {
            server,
            admin,
            decisions,
        }
    }

    /// Stores an event of an action, as a router does.
    async fn store(&self, name: &str, data: serde_json::Value) {
        let event = Event {
            kind: catalogue::find(Domain::Threat, name).unwrap(),
            id: format!("{name}-1"),
            source: "test".to_owned(),
            time: Timestamp::parse("2024-12-19T21:30:00Z").unwrap(),
            priority: Priority::High,
            data: data.as_object().unwrap().clone(),
        };
        let origin = Origin {
            epoch: Epoch::from_unix_micros(1),
            sequence: 1,
            trace: TraceParent::new(1, 2, false).unwrap().into(),
        };
        let message = stored_event::encode(event, &origin).unwrap();
        publish(&self.admin, &message, DEADLINE).await.unwrap();
    }

    async fn store_action(&self, action_id: &str) {
        let data = serde_json::json!({
            "action_id": action_id, "action_type": "isolate_instance", "status": "PENDING",
        });
        self.store("action_update", data).await;
    }

    /// The events that are on their way to the routers.
    async fn published(&self) -> Vec<serde_json::Value> {
        let client = self.server.connect(User::Admin).await;
        let mut stream = jetstream::new(client).get_stream(EVENTS).await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        let mut events = Vec::new();
        for sequence in 1..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(message.subject.as_str(), "events.threat.action_decided");
            events.push(serde_json::from_slice(&message.payload).unwrap());
        }
        events
    }
}

async fn connect(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

fn decision(action_id: &str, user: &str, verdict: Verdict) -> Decision {
    Decision {
        action_id: action_id.to_owned(),
        verdict,
        reason: Some("seen it".to_owned()),
        decided_by: user.to_owned(),
        arguments_hash: None,
    }
}

#[tokio::test]
async fn an_action_that_nobody_told_of_is_unknown() {
    let fixture = Fixture::start().await;
    let attempt = fixture
        .decisions
        .decide(decision("a-1", "ada", Verdict::Approve))
        .await;
    assert!(matches!(attempt, Err(DecisionError::UnknownAction)));
    assert_eq!(fixture.published().await.len(), 0);
}

#[tokio::test]
async fn of_many_deciders_one_is_first_and_all_learn_who() {
    let fixture = Fixture::start().await;
    fixture.store_action("a1.*é").await;
    let users: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
    let attempts = users.iter().map(|user| {
        let decision = decision("a1.*é", user, Verdict::Reject);
        fixture.decisions.decide(decision)
    });
    let outcomes = join_all(attempts).await;
    let first: Vec<&String> = outcomes
        .iter()
        .zip(&users)
        .filter(|(outcome, _)| matches!(outcome, Ok(Outcome::Made)))
        .map(|(_, user)| user)
        .collect();
    assert_eq!(first.len(), 1, "{outcomes:?}");
    for outcome in &outcomes {
        match outcome {
            Ok(Outcome::Made) => {}
            Ok(Outcome::Already(decision)) => assert_eq!(&decision.decided_by, first[0]),
            Err(error) => panic!("{error}"),
        }
    }
    let events = fixture.published().await;
    let expected = serde_json::json!({
        "action_id": "a1.*é", "decision": "reject", "decided_by": first[0],
        "action_type": "isolate_instance", "reason": "seen it",
    });
    assert_eq!(events, [expected]);
}

#[tokio::test]
async fn to_repeat_ones_own_decision_changes_nothing() {
    let fixture = Fixture::start().await;
    fixture.store_action("a").await;
    for _ in 0..3 {
        let made = fixture
            .decisions
            .decide(decision("a", "ada", Verdict::Approve))
            .await;
        assert_eq!(made.unwrap(), Outcome::Made);
    }
    let other = decision("a", "ada", Verdict::Reject);
    let other = fixture.decisions.decide(other).await.unwrap();
    assert!(matches!(other, Outcome::Already(first) if first.verdict == Verdict::Approve));
    assert_eq!(fixture.published().await.len(), 1);
}

/// What a gateway leaves that is killed behind the record.
async fn leave_unpublished(fixture: &Fixture, action_id: &str) {
    let record = serde_json::json!({
        "action_id": action_id, "decision": "approve", "decided_by": "ada",
        "at": "2024-12-19T21:30:00Z", "published": false,
    });
    let bucket = fixture.admin.bucket(key::DECISIONS).await.unwrap();
    bucket
        .create(key::decision(action_id), record.to_string().into())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_decision_that_was_left_unpublished_is_published_once() {
    let fixture = Fixture::start().await;
    for action in ["asked-for", "left-alone", "told"] {
        leave_unpublished(&fixture, action).await;
    }
    // The last one got through; only the note of it is missing.
    let told = serde_json::json!({"action_id": "told", "decision": "approve", "decided_by": "ada"});
    fixture.store("action_decided", told).await;

    let asked = decision("asked-for", "grace", Verdict::Reject);
    let asked = fixture.decisions.decide(asked).await.unwrap();
    assert!(matches!(asked, Outcome::Already(first) if first.decided_by == "ada"));
    fixture.decisions.complete().await.unwrap();
    fixture.decisions.complete().await.unwrap();

    let mut actions: Vec<String> = fixture
        .published()
        .await
        .iter()
        .map(|event| event["action_id"].as_str().unwrap().to_owned())
        .collect();
    actions.sort();
    assert_eq!(actions, ["asked-for", "left-alone"]);
}

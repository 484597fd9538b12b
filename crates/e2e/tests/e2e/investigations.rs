//! Working together on an investigation (T4, T13): who is there is told once per
//! user, notes are kept and told to everyone, and those who come later know what
//! the others know.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_bus::{investigation, key};
use signalbox_protocol::investigation::NoteRecord;
use signalbox_testkit::{
    DEADLINE, NodeClient, Platform, Service, WsClient, eventually, orchestrator,
};
use tokio::time::sleep;

use crate::investigation_side::{Analyst, Story, note, progress, subscribe, token_of};

/// How long a user may be gone in these tests, and for how long nothing is told
/// where nothing is to be.
const GRACE: Duration = Duration::from_millis(700);
const A_WHILE: Duration = Duration::from_millis(2_000);
const INV: &str = "inv-12345-67890";

async fn world(gateways: usize, arguments: &[&str]) -> (Platform, Service) {
    let platform = Platform::start_with(gateways, arguments).await;
    let grace = GRACE.as_millis().to_string();
    let orchestrator = orchestrator(&platform.nats, &["--presence-grace", &grace]).await;
    (platform, orchestrator)
}

/// A client on the `ws` library, and what it knows.
struct Tab {
    client: NodeClient,
    story: Story,
}

impl Tab {
    async fn open(platform: &Platform, gateway: usize, user: &str) -> Self {
        let client = NodeClient::start(
            "threat-investigation.mjs",
            &json!({
                "url": platform.gateways[gateway].threat_url(),
                "token": token_of(platform, "analyst", user),
                "investigation_id": INV,
                "client_info": {"name": "Forged", "user_id": "root"},
            }),
        );
        client.expect_frame("auth_success").await;
        let confirmed = client.expect_frame("subscription_confirmed").await;
        let state = client.expect_frame("investigation_state").await;
        assert_eq!(state["seq"], confirmed["seq"]);
        let story = Story::of(&state);
        Self { client, story }
    }

    fn send(&self, frame: &Value) {
        self.client.process().write_line(&frame.to_string());
    }

    async fn hear_until(&mut self, holds: impl Fn(&Story) -> bool) {
        while !holds(&self.story) {
            let value = self.client.next(DEADLINE).await;
            self.story.hear(&value["frame"]);
        }
    }
}

#[tokio::test]
async fn those_who_work_together_know_the_same() {
    let (platform, _orchestrator) = world(2, &[]).await;
    let mut ada = Tab::open(&platform, 0, "ada").await;
    ada.hear_until(|story| story.view.users.len() == 1).await;
    let mut ben = Tab::open(&platform, 1, "ben").await;
    ada.hear_until(|story| story.view.users.len() == 2).await;
    // As the token says, whatever the client says.
    let shown = json!({"id": "ben", "name": "ben by name", "role": "analyst"});
    assert_eq!(ada.story.view.users["ben"], shown);
    progress(&platform, INV, 10).await;
    let mut first = note(INV, "found <b>this</b> \u{1b}[2J");
    first["attachments"] = json!(["network-analysis.json"]);
    ada.send(&first);
    ben.send(&note(INV, "second"));
    progress(&platform, INV, 20).await;
    let all = |story: &Story| story.view.notes.len() == 2 && story.view.progress["progress"] == 20;
    ada.hear_until(all).await;
    ben.hear_until(all).await;
    assert_eq!(ada.story.view, ben.story.view);
    let behind_join = |story: &Story| {
        let joined = story.told.iter().position(|one| one == "USER_JOINED ben");
        story.told[joined.unwrap() + 1..].to_vec()
    };
    assert_eq!(behind_join(&ada.story), behind_join(&ben.story));
    let mut noted = ada.story.view.notes.iter();
    let noted = noted.find(|note| note["author"] == "ada").unwrap();
    assert_eq!(noted["content"], "found <b>this</b> \u{1b}[2J");
    assert_eq!(noted["attachments"], json!(["network-analysis.json"]));

    let mut cy = Tab::open(&platform, 1, "cy").await;
    assert_eq!(cy.story.view.notes, ada.story.view.notes);
    assert_eq!(cy.story.view.progress, ada.story.view.progress);
    let three = |story: &Story| story.view.users.len() == 3;
    for tab in [&mut ada, &mut ben, &mut cy] {
        tab.hear_until(three).await;
    }
    cy.send(&note(INV, "third"));
    for tab in [&mut ada, &mut ben, &mut cy] {
        tab.hear_until(|story| story.view.notes.len() == 3).await;
    }
    assert_eq!(cy.story.view, ada.story.view);
    assert_eq!(cy.story.view, ben.story.view);
    ben.client.process().sigterm();
    for tab in [&mut ada, &mut cy] {
        tab.hear_until(|story| story.view.users.len() == 2).await;
        assert_eq!(tab.story.told.last().unwrap(), "USER_LEFT ben");
    }
}

/// States that are asked for while much happens add up to the same, each from its
/// own position.
#[tokio::test]
async fn every_state_fits_what_follows() {
    let (platform, _orchestrator) = world(2, &[]).await;
    let token = token_of(&platform, "analyst", "ada");
    let mut ada = Analyst::join(&platform.gateways[0], &token, INV).await;
    let mut others = Vec::new();
    for number in 0..12_u64 {
        ada.socket
            .send_json(&note(INV, &format!("n{number}")))
            .await;
        progress(&platform, INV, number + 1).await;
        let gateway = &platform.gateways[usize::from(number % 2 == 1)];
        let token = token_of(&platform, "viewer", &format!("user-{number}"));
        others.push(Analyst::join(gateway, &token, INV).await);
    }
    let last = |story: &Story| {
        let view = &story.view;
        view.users.len() == 13 && view.notes.len() == 12 && view.progress["progress"] == 12
    };
    ada.hear_until(last).await;
    for other in &mut others {
        other.hear_until(last).await;
        assert_eq!(other.story.view, ada.story.view);
    }
}

#[tokio::test]
async fn two_tabs_of_a_user_come_once_and_go_once() {
    let (platform, _orchestrator) = world(2, &[]).await;
    let (ada, ben) = (
        token_of(&platform, "analyst", "ada"),
        token_of(&platform, "viewer", "ben"),
    );
    let mut watcher = Analyst::join(&platform.gateways[0], &ada, INV).await;
    watcher.hear_told("USER_JOINED ada").await;
    let mut first = Analyst::join(&platform.gateways[0], &ben, INV).await;
    watcher.hear_told("USER_JOINED ben").await;
    first.hear_told("USER_JOINED ben").await;
    // A second subscription of the connection counts no more than the first.
    subscribe(&mut first.socket, INV).await;
    let second = Analyst::join(&platform.gateways[1], &ben, INV).await;
    assert!(second.story.view.users.contains_key("ben"));
    watcher.hears_nothing(A_WHILE).await;
    first.socket.close().await;
    watcher.hears_nothing(A_WHILE).await;
    second.socket.close().await;
    watcher.hear_told("USER_LEFT ben").await;
    watcher.hears_nothing(A_WHILE).await;
    assert_eq!(
        watcher.story.told,
        ["USER_JOINED ada", "USER_JOINED ben", "USER_LEFT ben"]
    );
}

#[tokio::test]
async fn a_reload_is_not_told_and_leaving_is() {
    let platform = Platform::start(1).await;
    let _orchestrator = orchestrator(&platform.nats, &["--presence-grace", "3000"]).await;
    let (ada, ben) = (
        token_of(&platform, "analyst", "ada"),
        token_of(&platform, "viewer", "ben"),
    );
    let gateway = &platform.gateways[0];
    let mut watcher = Analyst::join(gateway, &ada, INV).await;
    watcher.hear_told("USER_JOINED ada").await;
    let first = Analyst::join(gateway, &ben, INV).await;
    watcher.hear_told("USER_JOINED ben").await;
    first.socket.close().await;
    // A page takes a moment to load.
    sleep(Duration::from_secs(1)).await;
    let mut again = Analyst::join(gateway, &ben, INV).await;
    watcher.hears_nothing(Duration::from_secs(4)).await;
    // To end the subscription is to leave, with the connection still there.
    let asked = json!({"type": "unsubscribe", "subscription_id": "sub-1"});
    again.socket.send_json(&asked).await;
    again.socket.expect("unsubscription_confirmed").await;
    watcher.hear_told("USER_LEFT ben").await;
}

/// A connection that gives no sign of life is closed, and its user leaves.
#[tokio::test]
async fn a_dead_tab_leaves() {
    let (platform, _orchestrator) = world(1, &["--silence", "2"]).await;
    let gateway = &platform.gateways[0];
    let ada = token_of(&platform, "analyst", "ada");
    let mut watcher = Analyst::join(gateway, &ada, INV).await;
    let ben = token_of(&platform, "viewer", "ben");
    // Nobody reads from it, so that it answers no ping.
    let _dead = Analyst::join(gateway, &ben, INV).await;
    watcher.hear_told("USER_LEFT ben").await;
}

#[tokio::test]
async fn a_note_is_refused_in_words() {
    let (platform, _orchestrator) = world(1, &[]).await;
    let gateway = &platform.gateways[0];
    let ada = token_of(&platform, "analyst", "ada");
    let mut ada = Analyst::join(gateway, &ada, INV).await;
    for (field, wrong) in [
        ("content", json!("")),
        ("content", json!(" \t\n")),
        ("content", json!("x".repeat(8_193))),
        ("content", json!(null)),
        ("content", json!({"a": 1})),
        ("note_id", json!("x".repeat(65))),
        ("attachments", json!(vec!["a"; 17])),
        ("attachments", json!([7])),
    ] {
        let mut request = note(INV, "c");
        request[field] = wrong;
        let error = ada.note(&request).await;
        assert_eq!(error["code"], "INVALID_MESSAGE", "{error}");
        assert_eq!(error["field"], field, "{error}");
    }
    // Not in the investigation: never, of another one, or no more.
    let error = ada.note(&note("inv-other", "c")).await;
    assert_eq!(error["code"], "FORBIDDEN", "{error}");
    assert_eq!(error["field"], "investigation_id", "{error}");
    let recorded = ada.note(&note(INV, "fine")).await;
    assert_eq!(recorded["note_id"], recorded["id"], "{recorded}");
    let asked = json!({"type": "unsubscribe", "subscription_id": "sub-1"});
    ada.socket.send_json(&asked).await;
    while ada.next().await["type"] != "unsubscription_confirmed" {}
    let error = ada.note(&note(INV, "c")).await;
    assert_eq!(error["code"], "FORBIDDEN", "{error}");
    // Without the permission, nobody gets in.
    let mut claims = platform.claims("producer");
    claims.sub = "p".to_owned().try_into().unwrap();
    let token = platform.signing_key().sign(&claims).unwrap();
    let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
    socket.authenticate(token.expose()).await;
    for frame in [
        json!({"type": "subscribe", "channel": "investigation_progress", "investigation_id": INV}),
        note(INV, "c"),
    ] {
        socket.send_json(&frame).await;
        let error = socket.expect("error").await;
        assert_eq!(error["code"], "FORBIDDEN", "{error}");
    }
}

/// A client whose connection was cut before the answer sends its note again.
#[tokio::test]
async fn a_note_sent_again_is_the_same_note() {
    let (platform, _orchestrator) = world(2, &[]).await;
    let ada = token_of(&platform, "analyst", "ada");
    let ben = token_of(&platform, "analyst", "ben");
    let mut watcher = Analyst::join(&platform.gateways[1], &ben, INV).await;
    let mut first = Analyst::join(&platform.gateways[0], &ada, INV).await;
    let mut request = note(INV, "once");
    request["note_id"] = json!("n 1");
    first.socket.send_json(&request).await;
    watcher
        .hear_until(|story| !story.view.notes.is_empty())
        .await;
    drop(first);
    let mut second = Analyst::join(&platform.gateways[1], &ada, INV).await;
    assert_eq!(second.story.view.notes.len(), 1);
    request["content"] = json!("what came first under the id stands");
    for _ in 0..2 {
        let recorded = second.note(&request).await;
        assert_eq!(
            recorded["type"], "investigation_note_recorded",
            "{recorded}"
        );
        assert_eq!(recorded["note_id"], "n 1");
        assert_eq!(recorded["id"], watcher.story.view.notes[0]["id"]);
    }
    // The id is the author's own.
    let recorded = watcher.note(&request).await;
    assert_eq!(recorded["note_id"], "n 1");
    assert_ne!(recorded["id"], watcher.story.view.notes[0]["id"]);
    watcher
        .hear_until(|story| story.view.notes.len() == 2)
        .await;
    assert_eq!(watcher.story.view.notes[0]["content"], "once");
    // And no more than these two are kept, or are still to be.
    let bus = platform.bus(BusUser::Admin).await;
    let records = eventually("complete records", DEADLINE, async || {
        let filter = key::investigation_records(Some(key::InvestigationPart::FreshNote), INV);
        let fresh = investigation::read_part::<NoteRecord>(&bus, &filter).await;
        let is_complete = fresh.is_ok_and(|fresh| fresh.is_empty());
        let records = investigation::read(&bus, INV).await.ok()?;
        is_complete.then_some(records)
    })
    .await;
    let kept = records.notes.iter().map(|one| &*one.record.note.content);
    let second = "what came first under the id stands";
    assert_eq!(kept.collect::<Vec<_>>(), ["once", second]);
}

/// What was missed follows where it is asked for, and no state then.
#[tokio::test]
async fn whoever_resumes_needs_no_state() {
    let (platform, _orchestrator) = world(2, &[]).await;
    let ada = token_of(&platform, "analyst", "ada");
    let mut first = Analyst::join(&platform.gateways[0], &ada, INV).await;
    let position = first.note(&note(INV, "one")).await;
    assert_eq!(position["type"], "investigation_note_recorded");
    first.hear_until(|story| story.view.notes.len() == 1).await;
    let mut socket = WsClient::connect(&platform.gateways[1].threat_url(), &[]).await;
    socket.authenticate(&ada).await;
    let asked = json!({
        "channel": "investigation_progress", "investigation_id": INV,
        "since": format!("{}-1", epoch(&mut first).await),
    });
    let confirmed = socket.subscribe(asked).await;
    assert_eq!(confirmed["recovered"], true);
    socket.expect("investigation_note_added").await;
}

/// The life of the stream, as positions name it.
async fn epoch(analyst: &mut Analyst) -> String {
    let asked = json!({"channel": "threat_alerts"});
    let confirmed = analyst.socket.subscribe(asked).await;
    let seq = confirmed["seq"].as_str().unwrap();
    seq.rsplit_once('-').unwrap().0.to_owned()
}

/// Without the bus nobody can tell, and the state says so.
#[tokio::test]
async fn a_state_that_nobody_can_tell_says_so() {
    let (platform, _orchestrator) = world(1, &[]).await;
    let ada = token_of(&platform, "analyst", "ada");
    let mut socket = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    socket.authenticate(&ada).await;
    platform.nats.sigstop();
    let asked = json!({"channel": "investigation_progress", "investigation_id": INV});
    socket.subscribe(asked).await;
    let state = socket.expect("investigation_state").await;
    assert_eq!(state["unavailable"], true, "{state}");
    assert_eq!((&state["users"], &state["notes"]), (&json!([]), &json!([])));
    platform.nats.sigcont();
    let mut story = Story::default();
    while story.told.is_empty() {
        story.hear(&socket.next_json(DEADLINE).await);
    }
    assert_eq!(story.told, ["USER_JOINED ada"]);
}

/// What nobody has touched for long is forgotten.
#[tokio::test]
async fn an_old_investigation_is_forgotten() {
    let platform = Platform::start(1).await;
    let arguments = ["--presence-grace", "100", "--investigation-age", "3"];
    let orchestrator = orchestrator(&platform.nats, &arguments).await;
    let ada = token_of(&platform, "analyst", "ada");
    let gateway = &platform.gateways[0];
    let mut first = Analyst::join(gateway, &ada, INV).await;
    first.note(&note(INV, "one")).await;
    first.hear_until(|story| story.view.notes.len() == 1).await;
    first.socket.close().await;
    orchestrator
        .process
        .wait_for_line("forgotten", DEADLINE)
        .await;
    let bus = platform.bus(BusUser::Admin).await;
    assert_eq!(
        investigation::read(&bus, INV).await.unwrap(),
        Default::default()
    );
}

//! Working together on an investigation through faults: gateways, orchestrators
//! and the bus are killed or halted while people come and go and note things.
//! `investigation_side` fails on whatever is told twice; what must be told is
//! waited for here.

use std::time::Duration;

use serde_json::json;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::{investigation, key};
use signalbox_protocol::investigation::{Member, MemberRecord, Note, NoteRecord, Standing};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient, eventually, orchestrator};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use crate::investigation_side::{Analyst, note, subscribe, token_of};

const INV: &str = "inv-12345-67890";
/// By when everyone knows that the users of a killed gateway are gone.
const PROMISED: Duration = Duration::from_secs(12);

/// The grace of tests that need no long one.
const SHORT: [&str; 2] = ["--presence-grace", "700"];

fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

/// With the default settings: those who do not return are told to have left, those
/// who return elsewhere are not.
#[tokio::test]
async fn the_users_of_a_killed_gateway_leave_unless_they_return() {
    let mut platform = Platform::start(2).await;
    let _orchestrator = orchestrator(&platform.nats, &[]).await;
    let [ada, ben, cy] = ["ada", "ben", "cy"].map(|user| token_of(&platform, "analyst", user));
    let mut watcher = Analyst::join(&platform.gateways[1], &ada, INV).await;
    let _lost = Analyst::join(&platform.gateways[0], &ben, INV).await;
    watcher.hear_told("USER_JOINED ben").await;
    let _returning = Analyst::join(&platform.gateways[0], &cy, INV).await;
    watcher.hear_told("USER_JOINED cy").await;
    let told = watcher.story.told.len();
    platform.gateways.remove(0).process.kill9();
    let mut returned = Analyst::join(&platform.gateways[0], &cy, INV).await;
    assert!(returned.story.view.users.contains_key("ben"));
    let left = timeout(PROMISED, watcher.hear_told("USER_LEFT ben")).await;
    left.expect("told in time");
    returned.hear_told("USER_LEFT ben").await;
    // And then silence.
    watcher.hears_nothing(Duration::from_secs(6)).await;
    assert_eq!(watcher.story.told[told..], ["USER_LEFT ben"]);
    assert_eq!(watcher.story.view, returned.story.view);
}

/// Orchestrators are killed, one after the other, while people come and go and
/// note things: everyone is told of each once, in one order.
#[tokio::test]
async fn whatever_happens_is_told_once_while_orchestrators_are_killed() {
    let platform = Platform::start(2).await;
    let mut orchestrators = Vec::new();
    for _ in 0..2 {
        orchestrators.push(orchestrator(&platform.nats, &SHORT).await);
    }
    let [ada, ben] = ["ada", "ben"].map(|user| token_of(&platform, "analyst", user));
    let mut watcher = Analyst::join(&platform.gateways[0], &ada, INV).await;
    watcher.hear_told("USER_JOINED ada").await;
    let mut writer = Analyst::join(&platform.gateways[1], &ben, INV).await;
    let mut guests = Vec::new();
    for round in 0..4 {
        let mut socket = WsClient::connect(&platform.gateways[1].threat_url(), &[]).await;
        socket
            .authenticate(&token_of(&platform, "viewer", &format!("guest-{round}")))
            .await;
        subscribe(&mut socket, INV).await;
        guests.push(socket);
        let mut request = note(INV, &format!("note {round}"));
        request["note_id"] = json!(format!("n{round}"));
        writer.socket.send_json(&request).await;
        orchestrators.remove(0).process.kill9();
        orchestrators.push(orchestrator(&platform.nats, &SHORT).await);
        // Whatever the first attempt has come to.
        let recorded = loop {
            let frame = writer.next().await;
            match frame["type"].as_str() {
                Some("investigation_note_recorded") => break frame,
                Some("error") => writer.socket.send_json(&request).await,
                _ => {}
            }
        };
        assert_eq!(recorded["note_id"], request["note_id"]);
    }
    for guest in guests.drain(..2) {
        guest.close().await;
    }
    orchestrators.remove(0).process.kill9();
    for analyst in [&mut watcher, &mut writer] {
        for words in [
            "USER_LEFT guest-0",
            "USER_LEFT guest-1",
            "USER_JOINED guest-3",
        ] {
            analyst.hear_told(words).await;
        }
        analyst
            .hear_until(|story| story.view.notes.len() == 4)
            .await;
        analyst.hears_nothing(Duration::from_secs(2)).await;
    }
    assert_eq!(watcher.story.view, writer.story.view);
    // Everything is complete, and nothing is left over.
    let bus = platform.bus(BusUser::Admin).await;
    let records = eventually("complete records", DEADLINE, async || {
        let records = investigation::read(&bus, INV).await.ok()?;
        let open = records
            .members
            .iter()
            .any(|one| one.record.standing.is_open());
        (!open && records.fresh.is_empty()).then_some(records)
    })
    .await;
    assert_eq!((records.members.len(), records.notes.len()), (4, 4));
    let numbers: Vec<u32> = records.notes.iter().map(|one| one.record.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

/// What a former holder has recorded is told by the next one, whatever it had
/// still to do: nothing, one half or the other.
#[tokio::test]
async fn what_was_recorded_is_told_by_the_next_holder() {
    let platform = Platform::start(1).await;
    let ada = token_of(&platform, "analyst", "ada");
    let bus = platform.bus(BusUser::Admin).await;
    let member = |user: &str, standing| MemberRecord {
        investigation_id: INV.to_owned(),
        user: Member {
            id: user.to_owned(),
            name: user.to_owned(),
            role: "viewer".to_owned(),
        },
        standing,
        event_id: format!("presence-{user}"),
        at: now(),
    };
    let fresh = NoteRecord {
        investigation_id: INV.to_owned(),
        number: 1,
        note: Note {
            id: "note-1".to_owned(),
            author: "ada".to_owned(),
            content: "recorded".to_owned(),
            timestamp: now(),
            attachments: Vec::new(),
        },
    };
    let mut kept = fresh.clone();
    (kept.number, kept.note.id) = (2, "note-2".to_owned());
    for (standing, user) in [(Standing::Joining, "ben"), (Standing::Leaving, "cy")] {
        let subject = key::investigation_record(key::InvestigationPart::Member, INV, user);
        let record = member(user, standing);
        investigation::write(&bus, subject, &record, 0)
            .await
            .unwrap();
    }
    for (part, record) in [
        (key::InvestigationPart::FreshNote, &fresh),
        // Completed but for the last step.
        (key::InvestigationPart::FreshNote, &kept),
        (key::InvestigationPart::Note, &kept),
    ] {
        let subject = key::investigation_record(part, INV, &record.note.id);
        investigation::write(&bus, subject, record, 0)
            .await
            .unwrap();
    }
    // Before the events are stored, nobody has come and nobody has gone.
    let mut watcher = Analyst::join(&platform.gateways[0], &ada, INV).await;
    let there: Vec<&String> = watcher.story.view.users.keys().collect();
    assert_eq!(there, ["cy"]);
    assert_eq!(watcher.story.view.notes.len(), 1);
    let _orchestrator = orchestrator(&platform.nats, &SHORT).await;
    for words in [
        "USER_JOINED ben",
        "USER_LEFT cy",
        "note recorded",
        "USER_JOINED ada",
    ] {
        watcher.hear_told(words).await;
    }
    // Nobody declares that ben is there.
    watcher.hear_told("USER_LEFT ben").await;
    eventually("nothing left over", DEADLINE, async || {
        let filter = key::investigation_records(Some(key::InvestigationPart::FreshNote), INV);
        let left = investigation::read_part::<NoteRecord>(&bus, &filter).await;
        left.is_ok_and(|left| left.is_empty()).then_some(())
    })
    .await;
}

/// An orchestrator is halted for longer than its lease and goes on: what another
/// has announced meanwhile is not announced again.
#[tokio::test]
async fn an_orchestrator_that_wakes_up_late_says_nothing() {
    let platform = Platform::start(1).await;
    let first = orchestrator(&platform.nats, &SHORT).await;
    let [ada, ben] = ["ada", "ben"].map(|user| token_of(&platform, "analyst", user));
    let gateway = &platform.gateways[0];
    let mut watcher = Analyst::join(gateway, &ada, INV).await;
    watcher.hear_told("USER_JOINED ada").await;
    first.process.sigstop();
    let other = Analyst::join(gateway, &ben, INV).await;
    let second = orchestrator(&platform.nats, &SHORT).await;
    watcher.hear_told("USER_JOINED ben").await;
    other.socket.close().await;
    watcher.hear_told("USER_LEFT ben").await;
    first.process.sigcont();
    let recorded = watcher.note(&note(INV, "one")).await;
    assert_eq!(
        recorded["type"], "investigation_note_recorded",
        "{recorded}"
    );
    watcher.hear_told("note one").await;
    watcher.hears_nothing(Duration::from_secs(3)).await;
    assert!(first.process.exit_status().is_none() && second.process.exit_status().is_none());
}

async fn restart(platform: &Platform, away: Duration) {
    platform.nats.kill9();
    sleep(away).await;
    platform.nats.restart().await;
}

/// The bus is killed and comes back: who is there stays there, in silence, and
/// what happens afterwards is told.
#[tokio::test]
async fn nobody_leaves_because_the_bus_was_killed() {
    let platform = Platform::start_with(2, &["--presence-ttl", "2"]).await;
    let _orchestrator: Service = orchestrator(&platform.nats, &SHORT).await;
    let [ada, ben] = ["ada", "ben"].map(|user| token_of(&platform, "analyst", user));
    let mut watcher = Analyst::join(&platform.gateways[0], &ada, INV).await;
    let mut other = Analyst::join(&platform.gateways[1], &ben, INV).await;
    watcher.hear_told("USER_JOINED ben").await;
    other.hear_told("USER_JOINED ben").await;
    // Longer than the gateways' signs of life last.
    restart(&platform, Duration::from_secs(3)).await;
    watcher.hears_nothing(Duration::from_secs(10)).await;
    // Nor because one gateway comes back later than the rest.
    platform.gateways[1].process.sigstop();
    restart(&platform, Duration::from_secs(3)).await;
    watcher.hears_nothing(Duration::from_secs(1)).await;
    platform.gateways[1].process.sigcont();
    watcher.hears_nothing(Duration::from_secs(10)).await;
    // Who went while it was away is told to have gone.
    platform.nats.kill9();
    drop(other);
    sleep(Duration::from_secs(1)).await;
    platform.nats.restart().await;
    watcher.hear_told("USER_LEFT ben").await;
    let recorded = watcher.note(&note(INV, "still here")).await;
    assert_eq!(
        recorded["type"], "investigation_note_recorded",
        "{recorded}"
    );
    let mut late = Analyst::join(&platform.gateways[1], &ben, INV).await;
    late.hear_until(|story| story.view.notes.len() == 1).await;
    assert_eq!(late.story.view.notes[0]["content"], "still here");
    watcher
        .hear_until(|story| story.view.users.len() == 2)
        .await;
}

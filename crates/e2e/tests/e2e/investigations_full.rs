//! Investigations that are full (T4, T13): of people, of notes, or as many as are
//! kept at all. Whoever is one too many is told so, and the others notice nothing.

use serde_json::json;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{investigation, key};
use signalbox_protocol::investigation::{
    MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_MEMBERS, MAX_NOTE_BYTES, MAX_NOTES, MAX_NOTES_BYTES,
    Member, MemberRecord, Note, NoteRecord, Standing,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_testkit::{Platform, WsClient, orchestrator};
use time::OffsetDateTime;

use crate::investigation_side::{Analyst, Story, note, token_of};

const INV: &str = "inv-12345-67890";

fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

#[tokio::test]
async fn an_investigation_has_a_thousand_notes() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(BusUser::Admin).await;
    for number in 1..MAX_NOTES {
        let id = format!("note-{number}");
        let record = NoteRecord {
            investigation_id: INV.to_owned(),
            number: u32::try_from(number).unwrap(),
            note: Note {
                id: id.clone(),
                author: "ada".to_owned(),
                content: "x".repeat(1_000),
                timestamp: now(),
                attachments: Vec::new(),
            },
        };
        let subject = key::investigation_record(key::InvestigationPart::Note, INV, &id);
        investigation::write(&bus, subject, &record, 0)
            .await
            .unwrap();
    }
    let _orchestrator = orchestrator(&platform.nats, &[]).await;
    let ada = token_of(&platform, "analyst", "ada");
    let gateway = &platform.gateways[0];
    let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
    socket.authenticate(&ada).await;
    let asked = json!({"channel": "investigation_progress", "investigation_id": INV});
    socket.subscribe(asked).await;
    // More than fits into one message: the newest are told, and how many are not.
    let state = socket.expect("investigation_state").await;
    let told = state["notes"].as_array().unwrap();
    let omitted = state["notes_omitted"].as_u64().unwrap();
    assert_eq!(told.len() as u64 + omitted, 999);
    assert_eq!(told.last().unwrap()["id"], "note-999");
    let story = Story::of(&state);
    let mut ada = Analyst { socket, story };
    let recorded = ada.note(&note(INV, "the last")).await;
    assert_eq!(
        recorded["type"], "investigation_note_recorded",
        "{recorded}"
    );
    let error = ada.note(&note(INV, "one too many")).await;
    assert_eq!(error["code"], "RATE_LIMIT", "{error}");
    assert!(error["message"].as_str().unwrap().contains("1000 notes"));
}

/// A note that is as long as notes may be, and takes six times that in JSON.
fn longest_note(number: u32) -> Note {
    Note {
        id: format!("note-{number}"),
        author: "ada".to_owned(),
        content: "\u{1}".repeat(MAX_NOTE_BYTES),
        timestamp: now(),
        attachments: vec!["\u{1}".repeat(MAX_ATTACHMENT_BYTES); MAX_ATTACHMENTS],
    }
}

#[tokio::test]
async fn the_notes_of_an_investigation_take_so_many_bytes() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(BusUser::Admin).await;
    let (mut bytes, mut number) = (0, 0);
    loop {
        let record = NoteRecord {
            investigation_id: INV.to_owned(),
            number: number + 1,
            note: longest_note(number + 1),
        };
        let weight = serde_json::to_vec(&record).unwrap().len();
        if bytes + weight > MAX_NOTES_BYTES {
            break;
        }
        (bytes, number) = (bytes + weight, number + 1);
        let subject = key::investigation_record(key::InvestigationPart::Note, INV, &record.note.id);
        investigation::write(&bus, subject, &record, 0)
            .await
            .unwrap();
    }
    let _orchestrator = orchestrator(&platform.nats, &[]).await;
    let ada = token_of(&platform, "analyst", "ada");
    let mut ada = Analyst::join(&platform.gateways[0], &ada, INV).await;
    let longest = longest_note(number + 1);
    let mut one_more = note(INV, &longest.content);
    one_more["attachments"] = json!(longest.attachments);
    let error = ada.note(&one_more).await;
    assert_eq!(error["code"], "RATE_LIMIT", "{error}");
    assert!(error["message"].as_str().unwrap().contains("2097152 bytes"));
    // A smaller one finds room.
    let recorded = ada.note(&note(INV, "short")).await;
    assert_eq!(recorded["type"], "investigation_note_recorded");
}

#[tokio::test]
async fn people_come_and_go_where_there_is_no_room_for_notes() {
    let platform = Platform::start(1).await;
    let _orchestrator = orchestrator(&platform.nats, &["--presence-grace", "200"]).await;
    let bus = platform.bus(BusUser::Admin).await;
    let small = StreamSettings {
        investigations_bytes: 1024 * 1024,
        ..StreamSettings::default()
    };
    stream::init(&bus, &small).await.unwrap();
    let gateway = &platform.gateways[0];
    let ada = token_of(&platform, "analyst", "ada");
    let mut ada = Analyst::join(gateway, &ada, INV).await;
    let longest = longest_note(1);
    let mut long = note(INV, &longest.content);
    long["attachments"] = json!(longest.attachments);
    let mut kept = 0;
    let error = loop {
        let answer = ada.note(&long).await;
        if answer["type"] == "error" {
            break answer;
        }
        kept += 1;
        ada.hear_until(|story| story.view.notes.len() == kept).await;
    };
    assert_eq!(error["code"], "RATE_LIMIT", "{error}");
    assert!(error["message"].as_str().unwrap().contains("no room"));
    assert!(kept > 0);
    let ben = token_of(&platform, "analyst", "ben");
    let ben = Analyst::join(gateway, &ben, INV).await;
    ada.hear_told("USER_JOINED ben").await;
    drop(ben);
    ada.hear_told("USER_LEFT ben").await;
}

#[tokio::test]
async fn a_full_investigation_turns_people_away() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(BusUser::Admin).await;
    for number in 0..MAX_MEMBERS {
        let id = format!("user-{number}");
        let record = MemberRecord {
            investigation_id: INV.to_owned(),
            user: Member {
                id: id.clone(),
                name: id.clone(),
                role: "viewer".to_owned(),
            },
            standing: Standing::Joined,
            event_id: id.clone(),
            at: now(),
        };
        let subject = key::investigation_record(key::InvestigationPart::Member, INV, &id);
        investigation::write(&bus, subject, &record, 0)
            .await
            .unwrap();
    }
    let gateway = &platform.gateways[0];
    let known = token_of(&platform, "viewer", "user-7");
    let known = Analyst::join(gateway, &known, INV).await;
    assert_eq!(known.story.view.users.len(), MAX_MEMBERS);
    let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
    socket
        .authenticate(&token_of(&platform, "viewer", "ada"))
        .await;
    let asked = json!({"channel": "investigation_progress", "investigation_id": INV});
    let confirmed = socket.subscribe(asked).await;
    let error = socket.expect("error").await;
    assert_eq!(error["code"], "RATE_LIMIT", "{error}");
    let ended = socket.expect("unsubscription_confirmed").await;
    assert_eq!(ended["subscription_id"], confirmed["subscription_id"]);
}

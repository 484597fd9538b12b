//! What is made of declarations and signs of life, in any order.

use async_nats::HeaderMap;
use signalbox_protocol::timestamp::Timestamp;

use super::*;

fn said(sequence: u64, user: &str, gateway: &str) -> Delivery {
    let declaration = Declaration {
        investigation_id: "inv-1".to_owned(),
        user: Member {
            id: user.to_owned(),
            name: gateway.to_owned(),
            role: "analyst".to_owned(),
        },
        gateway: gateway.to_owned(),
        since: Timestamp::from_unix_millis(i64::try_from(sequence).unwrap()).unwrap(),
    };
    Delivery {
        sequence,
        subject: key::declaration("inv-1", user, gateway).into(),
        headers: None,
        payload: serde_json::to_vec(&declaration).unwrap().into(),
    }
}

fn taken_back(sequence: u64, user: &str, gateway: &str) -> Delivery {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "PURGE");
    Delivery {
        headers: Some(headers),
        payload: Default::default(),
        ..said(sequence, user, gateway)
    }
}

fn living(gateways: &[&str]) -> Leaseholders {
    let keys = gateways.iter().map(|one| key::gateway_life(one));
    keys.map(|key| (key, "x".to_owned())).collect()
}

fn names(attendance: &Attendance) -> Vec<String> {
    let present = attendance.present("inv-1");
    let names = present
        .iter()
        .map(|(id, user)| format!("{id} {}", user.name));
    names.collect()
}

#[test]
fn only_what_a_living_gateway_declares_counts() {
    let attendance = Attendance::new();
    attendance.take_in(&[
        said(1, "ada", "g1"),
        said(2, "ada", "g2"),
        said(3, "ben", "g2"),
    ]);
    assert!(names(&attendance).is_empty());
    attendance.note_living(&living(&["g1", "g2"]));
    // Whoever declared it first says what the user is called.
    assert_eq!(names(&attendance), ["ada g1", "ben g2"]);
    attendance.note_living(&living(&["g2"]));
    assert_eq!(names(&attendance), ["ada g2", "ben g2"]);
    attendance.take_in(&[taken_back(4, "ada", "g2")]);
    assert_eq!(names(&attendance), ["ben g2"]);
    attendance.note_living(&living(&["g1", "g2"]));
    assert_eq!(names(&attendance), ["ada g1", "ben g2"]);
}

#[test]
fn what_changed_is_told_apart() {
    let attendance = Attendance::new();
    let shard = protocol::shard("inv-1");
    let (listed, first) = attendance.investigations(shard, 0);
    assert!(listed.is_empty());
    attendance.take_in(&[said(1, "ada", "g1")]);
    let (listed, second) = attendance.investigations(shard, first);
    assert_eq!(listed, [("inv-1".into(), true)]);
    let (listed, _) = attendance.investigations(shard, second);
    assert_eq!(listed, [("inv-1".into(), false)]);
    attendance.note_living(&living(&["g1"]));
    let (listed, third) = attendance.investigations(shard, second);
    assert_eq!(listed, [("inv-1".into(), true)]);
    // A sign of life of another gateway touches nothing here.
    attendance.note_living(&living(&["g1", "g9"]));
    let (listed, _) = attendance.investigations(shard, third);
    assert_eq!(listed, [("inv-1".into(), false)]);
    attendance.take_in(&[taken_back(2, "ada", "g1")]);
    assert!(attendance.investigations(shard, third).0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn declarations_of_gateways_that_stay_away_are_removed() {
    let attendance = Attendance::new();
    let shard = protocol::shard("inv-1");
    let age = Duration::from_secs(60);
    let up = |up| Link { up, generation: 1 };
    attendance.note_link(up(true));
    attendance.note_living(&living(&["g1", "g2"]));
    attendance.take_in(&[said(1, "ada", "g1"), said(2, "ben", "g2")]);
    attendance.note_living(&living(&["g2"]));
    tokio::time::advance(age - Duration::from_secs(1)).await;
    assert!(attendance.buried(shard, age).is_empty());
    tokio::time::advance(Duration::from_secs(1)).await;
    let subject = key::declaration("inv-1", "ada", "g1");
    assert_eq!(attendance.buried(shard, age), [(subject, 1)]);
    // Not while nobody can tell.
    attendance.note_link(up(false));
    assert!(attendance.buried(shard, age).is_empty());
    attendance.note_link(up(true));
    assert!(attendance.buried(shard, age).is_empty());
    attendance.note_living(&living(&["g1", "g2"]));
    tokio::time::advance(age).await;
    assert!(attendance.buried(shard, age).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_certain_to_be_gone_while_declarations_are_not_followed() {
    let attendance = Attendance::new();
    let link = |generation| Link {
        up: true,
        generation,
    };
    attendance.note_link(link(1));
    assert!(attendance.certain_since().is_some());
    // The server that has the declarations is gone, another has the link.
    attendance.note_absence();
    assert_eq!(attendance.certain_since(), None);
    attendance.note_link(link(2));
    assert_eq!(attendance.certain_since(), None);
    tokio::time::advance(Duration::from_secs(5)).await;
    attendance.note_absence();
    assert_eq!(attendance.note_return(), Duration::from_secs(5));
    assert_eq!(attendance.certain_since(), Some(Instant::now()));
}

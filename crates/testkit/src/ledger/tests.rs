//! Every kind of fault, found; and what is no fault, passed.

use serde_json::json;

use super::*;

const BOUND: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn place(number: u64) -> Position {
    Position {
        epoch: "e".into(),
        number,
    }
}

/// Events 1 to 4, acknowledged in this order every 10 ms: even ones HIGH, odd
/// ones LOW. Their place in the stream is their number.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(BOUND);
    for number in 1..=4 {
        publish(&mut ledger, number);
    }
    ledger
}

fn publish(ledger: &mut Ledger, number: u64) {
    let severity = if number.is_multiple_of(2) {
        "HIGH"
    } else {
        "LOW"
    };
    let event = Event {
        id: number.to_string(),
        channel: "alerts".into(),
        object: None,
        data: json!({"severity": severity}),
    };
    ledger.publishing(event, ms(number * 10));
    ledger.acknowledged(&number.to_string(), number, ms(number * 10 + 5));
}

/// A client that is there from the start and receives these events.
fn with_client(ledger: &mut Ledger, entitlement: Entitlement, received: &[u64]) {
    let client = ledger.client("c", entitlement);
    ledger.confirmed(client, place(0), ms(0));
    for &number in received {
        ledger.received(
            client,
            &number.to_string(),
            place(number),
            ms(number * 10 + 9),
        );
    }
}

/// The faults of a run in which one client receives these.
fn faults(entitlement: Entitlement, received: &[u64]) -> Vec<(FaultKind, String)> {
    let mut ledger = ledger();
    with_client(&mut ledger, entitlement, received);
    kinds(&ledger)
}

fn kinds(ledger: &Ledger) -> Vec<(FaultKind, String)> {
    let faults = ledger.verdict().faults.into_iter();
    faults.map(|fault| (fault.kind, fault.event)).collect()
}

fn all() -> Entitlement {
    Entitlement::to("alerts")
}

#[test]
fn everything_once_and_in_order_is_clean() {
    assert_eq!(faults(all(), &[1, 2, 3, 4]), []);
    let high = all().filtered("severity", &["high"]);
    assert_eq!(faults(high, &[2, 4]), []);
    assert_eq!(faults(all().forbidden(), &[]), []);
    assert_eq!(faults(Entitlement::to("other"), &[]), []);
}

#[test]
fn what_did_not_come_is_lost() {
    assert_eq!(faults(all(), &[1, 2, 4]), [(FaultKind::Lost, "3".into())]);
    let high = all().filtered("severity", &["high"]);
    assert_eq!(faults(high, &[4]), [(FaultKind::Lost, "2".into())]);
}

#[test]
fn what_came_twice_is_duplicated() {
    assert_eq!(
        faults(all(), &[1, 2, 2, 3, 4]),
        [(FaultKind::Duplicated, "2".into())]
    );
    // A repeat far behind is one fault, not a disorder as well.
    assert_eq!(
        faults(all(), &[1, 2, 3, 4, 1]),
        [(FaultKind::Duplicated, "1".into())]
    );
}

#[test]
fn what_was_overtaken_is_reordered() {
    assert_eq!(
        faults(all(), &[1, 3, 2, 4]),
        [(FaultKind::Reordered, "2".into())]
    );
}

/// The stream itself may hold a subject's events in the wrong order.
#[test]
fn the_order_of_acknowledgement_counts_within_a_subject() {
    let mut ledger = ledger();
    let client = ledger.client("c", all());
    ledger.confirmed(client, place(0), ms(0));
    for (place_of, number) in [(1, 2), (2, 1), (3, 3), (4, 4)] {
        ledger.received(client, &number.to_string(), place(place_of), ms(50));
    }
    assert_eq!(kinds(&ledger), [(FaultKind::Reordered, "1".into())]);
}

#[test]
fn another_life_of_the_stream_is_a_disorder() {
    let mut ledger = ledger();
    with_client(&mut ledger, all(), &[1, 2, 3]);
    let other = Position {
        epoch: "f".into(),
        number: 9,
    };
    ledger.received(ClientId(0), "4", other, ms(50));
    assert_eq!(kinds(&ledger), [(FaultKind::Reordered, "4".into())]);
}

#[test]
fn what_a_client_may_not_have_is_named() {
    let reasons = |entitlement: Entitlement, received: &[u64]| {
        let mut ledger = ledger();
        with_client(&mut ledger, entitlement, received);
        let faults = ledger.verdict().faults;
        assert!(
            faults
                .iter()
                .all(|fault| fault.kind == FaultKind::NotEntitled)
        );
        let reasons = faults.into_iter().map(|fault| fault.detail);
        reasons.collect::<Vec<_>>().join("; ")
    };
    let high = all().filtered("severity", &["HIGH"]);
    assert!(reasons(high, &[2, 3, 4]).contains("its filter does not match"));
    assert!(reasons(all().forbidden(), &[1]).contains("does not hold the permission"));
    assert!(reasons(all().of_object("o"), &[1]).contains("another object"));
    assert!(reasons(Entitlement::to("x"), &[1]).contains("another channel"));
    assert!(reasons(all(), &[1, 2, 3, 4, 99]).contains("nobody published"));
}

/// Owed is what lies behind the position that the confirmation names.
#[test]
fn a_position_divides_what_is_owed_from_what_is_not() {
    let late = |received: &[u64]| {
        let mut ledger = ledger();
        with_client(&mut ledger, all(), &[1, 2, 3, 4]);
        let client = ledger.client("late", all());
        ledger.confirmed(client, place(2), ms(25));
        for &number in received {
            ledger.received(client, &number.to_string(), place(number), ms(50));
        }
        kinds(&ledger)
    };
    assert_eq!(late(&[3, 4]), []);
    assert_eq!(late(&[4]), [(FaultKind::Lost, "3".into())]);
    assert_eq!(late(&[2, 3, 4]), [(FaultKind::NotEntitled, "2".into())]);
}

/// An event that was never acknowledged may arrive or not.
#[test]
fn an_open_publish_owes_nothing() {
    for received in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5]] {
        let mut ledger = ledger();
        let event = Event {
            id: "5".into(),
            channel: "alerts".into(),
            object: None,
            data: json!({}),
        };
        ledger.publishing(event, ms(50));
        with_client(&mut ledger, all(), received);
        let verdict = ledger.verdict();
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.acknowledged, verdict.open), (4, 1));
    }
}

#[test]
fn late_is_what_exceeds_the_bound_after_publish_and_disturbance() {
    let arrives = |at: u64, disturbed: Option<(u64, u64)>| {
        let mut ledger = Ledger::new(BOUND);
        publish(&mut ledger, 1);
        if let Some((from, until)) = disturbed {
            ledger.disturbed(ms(from));
            ledger.calm(ms(until));
        }
        let client = ledger.client("c", all());
        ledger.confirmed(client, place(0), ms(0));
        ledger.received(client, "1", place(1), ms(at));
        kinds(&ledger)
    };
    let late = [(FaultKind::Late, "1".to_owned())];
    assert_eq!(arrives(1_010, None), []);
    assert_eq!(arrives(1_011, None), late);
    assert_eq!(arrives(3_000, Some((500, 2_000))), []);
    assert_eq!(arrives(3_001, Some((500, 2_000))), late);
    // One that was over before, or began after, excuses nothing.
    assert_eq!(arrives(1_500, Some((0, 5))), late);
    assert_eq!(arrives(1_500, Some((1_600, 2_000))), late);
}

#[test]
fn a_client_that_is_told_of_a_loss_is_a_fault() {
    let mut ledger = ledger();
    with_client(&mut ledger, all(), &[1, 2, 3, 4]);
    ledger.told_lost(ClientId(0), ms(30));
    assert_eq!(kinds(&ledger), [(FaultKind::ToldLost, String::new())]);
}

#[test]
fn the_report_names_client_event_and_fault() {
    let mut ledger = ledger();
    with_client(
        &mut ledger,
        all().filtered("severity", &["LOW"]),
        &[3, 3, 4],
    );
    let report = ledger.verdict().to_string();
    let expected = "4 events acknowledged, 0 open, 3 received by 1 clients: 1 lost, 1 duplicated, \
                    0 reordered, 1 not entitled, 0 late, 0 told lost\n  \
                    lost: client c (alerts severity=LOW), event 1: acknowledged as 1 at 0.015 s; nobody has it\n  \
                    duplicated: client c (alerts severity=LOW), event 3: came as e-3 at 0.039 s, and before as e-3 at 0.039 s\n  \
                    not entitled: client c (alerts severity=LOW), event 4: came as e-4 at 0.049 s, although its filter does not match";
    assert_eq!(report, expected);
}

//! Limits on connections, with a clock that the tests move.

use std::net::Ipv4Addr;

use super::*;

const UNLIMITED: AdmissionLimits = AdmissionLimits {
    max_connections: usize::MAX,
    connect_rate: 0,
    max_unauthenticated: 0,
};
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

fn admission(limits: AdmissionLimits) -> Arc<Admission> {
    Arc::new(Admission::new(limits))
}

/// Admits as many as possible at one moment, up to `most`.
fn burst(
    admission: &Arc<Admission>,
    address: IpAddr,
    now: Instant,
    most: usize,
) -> (Vec<Ticket>, Option<Refused>) {
    let mut tickets = Vec::new();
    for _ in 0..most {
        match admission.admit(address, now) {
            Ok(ticket) => tickets.push(ticket),
            Err(refused) => return (tickets, Some(refused)),
        }
    }
    (tickets, None)
}

#[test]
fn a_full_house_admits_again_once_someone_left() {
    let admission = admission(AdmissionLimits {
        max_connections: 3,
        ..UNLIMITED
    });
    let now = Instant::now();
    let (mut tickets, refused) = burst(&admission, HERE, now, 9);
    assert_eq!((tickets.len(), refused), (3, Some(Refused::Full)));
    tickets[0].authenticated();
    assert_eq!(burst(&admission, THERE, now, 1).1, Some(Refused::Full));
    tickets.pop();
    assert_eq!(burst(&admission, THERE, now, 1).1, None);
}

#[test]
fn a_rate_is_spent_at_once_and_comes_back_with_time() {
    let admission = admission(AdmissionLimits {
        connect_rate: 10,
        ..UNLIMITED
    });
    let start = Instant::now();
    let (tickets, refused) = burst(&admission, HERE, start, 99);
    assert_eq!((tickets.len(), refused), (10, Some(Refused::TooFast)));
    // Leaving gives nothing back, and others have a rate of their own.
    drop(tickets);
    assert_eq!(burst(&admission, HERE, start, 1).1, Some(Refused::TooFast));
    assert_eq!(burst(&admission, THERE, start, 99).0.len(), 10);
    let later = start + Duration::from_millis(350);
    assert_eq!(burst(&admission, HERE, later, 99).0.len(), 3);
    let much_later = start + Duration::from_secs(3600);
    assert_eq!(burst(&admission, HERE, much_later, 99).0.len(), 10);
    // A clock that steps back is no source of allowance, nor a panic.
    assert_eq!(burst(&admission, HERE, start, 99).0.len(), 0);
}

#[test]
fn those_who_authenticate_make_room_for_others_of_their_address() {
    let admission = admission(AdmissionLimits {
        max_unauthenticated: 2,
        ..UNLIMITED
    });
    let now = Instant::now();
    let (mut tickets, refused) = burst(&admission, HERE, now, 9);
    assert_eq!(
        (tickets.len(), refused),
        (2, Some(Refused::TooManyUnauthenticated))
    );
    assert_eq!(burst(&admission, THERE, now, 9).0.len(), 2);
    tickets[0].authenticated();
    tickets[0].authenticated();
    let (more, _) = burst(&admission, HERE, now, 9);
    assert_eq!(more.len(), 1, "counted out once, however often it is said");
    // An authenticated one that leaves was counted out before.
    tickets.remove(0);
    assert_eq!(burst(&admission, HERE, now, 9).0.len(), 0);
    drop((tickets, more));
    assert_eq!(burst(&admission, HERE, now, 9).0.len(), 2);
}

#[test]
fn the_table_of_addresses_is_bounded_and_forgets_the_quiet() {
    let admission = admission(AdmissionLimits {
        connect_rate: 2,
        ..UNLIMITED
    });
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
    let sources = || admission.state.lock().sources.len();
    let start = Instant::now();
    let crowd = u32::try_from(MAX_SOURCES).unwrap();
    let staying: Vec<_> = (0..10)
        .map(|number| admission.admit(address(number), start).unwrap())
        .collect();
    for number in 10..2 * crowd {
        assert!(admission.admit(address(number), start).is_ok());
    }
    assert_eq!(sources(), MAX_SOURCES);
    // An address without an entry is not held to the rate.
    let (tickets, refused) = burst(&admission, address(2 * crowd), start, 9);
    assert_eq!((tickets.len(), refused), (9, None));

    let later = start + SWEEP_PAUSE;
    let (tickets, refused) = burst(&admission, address(2 * crowd), later, 9);
    assert_eq!((tickets.len(), refused), (2, Some(Refused::TooFast)));
    assert_eq!(sources(), staying.len() + 1);
}

#[test]
fn refusals_are_counted_by_reason_and_once() {
    let admission = admission(AdmissionLimits {
        max_connections: 5,
        connect_rate: 4,
        max_unauthenticated: 3,
    });
    let now = Instant::now();
    let mut tickets = Vec::new();
    for _ in 0..6 {
        tickets.extend(admission.admit(HERE, now));
    }
    for _ in 0..4 {
        tickets.extend(admission.admit(THERE, now));
    }
    assert_eq!(tickets.len(), 5);
    let expected = Refusals {
        full: 2,
        too_fast: 2,
        too_many_unauthenticated: 1,
    };
    assert_eq!(admission.take_refusals(), expected);
    assert_eq!(admission.take_refusals(), Refusals::default());
}

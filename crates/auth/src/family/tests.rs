//! What presented refresh tokens mean.

use super::*;

const GRACE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

fn start() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
}

fn begin() -> (Family, RefreshToken) {
    let source = Source::User(UserId::new("ada").unwrap());
    Family::begin(source, Narrowing::default(), start(), DAY)
}

/// The family and the next token, after `token` was consumed at `now`.
fn consume(
    family: &Family,
    token: &RefreshToken,
    by: Option<&str>,
    now: OffsetDateTime,
) -> (Family, RefreshToken) {
    match family.present(token, by, now, GRACE) {
        Presented::Current(next, token) => (*next, token),
        other => panic!("not current: {other:?}"),
    }
}

fn text(token: &RefreshToken) -> String {
    token.expose().expose().to_owned()
}

#[test]
fn tokens_are_consumed_one_after_the_other() {
    let (mut family, mut token) = begin();
    for step in 0..5 {
        let stored: Family =
            serde_json::from_str(&serde_json::to_string(&family).unwrap()).unwrap();
        let read = RefreshToken::parse(&text(&token)).unwrap();
        assert_eq!((read.family(), read.step), (&family.id, step));
        (family, token) = consume(&stored, &read, None, start());
    }
}

#[test]
fn a_lost_answer_is_repeated_and_forks_nothing() {
    let (family, first) = begin();
    // Two replicas at once come to the same.
    let (one, two) = (
        consume(&family, &first, None, start()),
        consume(&family, &first, None, start()),
    );
    assert_eq!(text(&one.1), text(&two.1));
    let within = start() + GRACE;
    match one.0.present(&first, None, within, GRACE) {
        Presented::Again(again) => assert_eq!(text(&again), text(&one.1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_consumed_token_is_known_for_what_it_is() {
    let (family, first) = begin();
    let (family, second) = consume(&family, &first, None, start());
    let later = start() + GRACE + Duration::from_millis(1);
    assert!(matches!(
        family.present(&first, None, later, GRACE),
        Presented::Reused
    ));
    // Two steps back there is no grace.
    let (family, _) = consume(&family, &second, None, start());
    assert!(matches!(
        family.present(&first, None, start(), GRACE),
        Presented::Reused
    ));
}

#[test]
fn the_connection_that_consumed_it_gets_the_successor_at_any_time() {
    let (family, first) = begin();
    let (family, second) = consume(&family, &first, Some("c1"), start());
    let later = start() + Duration::from_secs(3_600);
    let presented = |by| family.present(&first, by, later, GRACE);
    assert!(matches!(presented(Some("c1")), Presented::Again(t) if text(&t) == text(&second)));
    assert!(matches!(presented(Some("c2")), Presented::Reused));
    assert!(matches!(presented(None), Presented::Reused));
}

#[test]
fn made_up_tokens_end_no_family() {
    let (family, first) = begin();
    let (family, second) = consume(&family, &first, None, start());
    let later = start() + Duration::from_secs(60);
    for step in [0, 1, 2, u32::MAX] {
        let made_up = RefreshToken {
            family: family.id.clone(),
            step,
            secret: Bits::random(),
        };
        assert!(matches!(
            family.present(&made_up, None, later, GRACE),
            Presented::Foreign
        ));
    }
    let wrong_step = RefreshToken {
        step: 0,
        ..RefreshToken::parse(&text(&second)).unwrap()
    };
    assert!(matches!(
        family.present(&wrong_step, None, later, GRACE),
        Presented::Foreign
    ));
}

#[test]
fn ended_families_refresh_nothing() {
    let (family, first) = begin();
    let presented = |family: &Family, now| family.present(&first, None, now, GRACE);
    assert!(matches!(
        presented(&family, start() + DAY),
        Presented::Ended
    ));
    let mut revoked = family.clone();
    revoked.revoked = true;
    assert!(matches!(presented(&revoked, start()), Presented::Ended));
    let mut long = family;
    long.step = MAX_STEPS;
    let (reached, step) = (0..MAX_STEPS).fold((first.secret, 0), |(secret, step), _| {
        (long.next(&secret, step + 1), step + 1)
    });
    assert_eq!(step, MAX_STEPS);
    long.current = reached.hash();
    assert!(matches!(presented(&long, start()), Presented::Ended));
}

#[test]
fn nothing_that_is_stored_or_shown_is_a_token() {
    let (family, first) = begin();
    let (family, second) = consume(&family, &first, None, start());
    let stored = serde_json::to_string(&family).unwrap();
    for token in [&first, &second] {
        let secret = String::from(token.secret);
        assert!(!stored.contains(&secret));
        assert!(!format!("{family:?} {token:?}").contains(&secret));
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let (_, token) = begin();
    let good = text(&token);
    assert!(RefreshToken::parse(&good).is_some());
    for bad in [
        "",
        "sbr_",
        "sbr_a_0_b",
        &good[..good.len() - 1],
        &format!("{good}A"),
        &good.replace("_0_", "_-1_"),
        &good.replace("_0_", "_+1_"),
        &good.replace("_0_", "_99999999999_"),
        &good.replace("_0_", "__"),
        &good.replacen("sbr_", "sbk_", 1),
    ] {
        assert!(RefreshToken::parse(bad).is_none(), "{bad}");
    }
}

//! A bus that is away, or has no room for what is told of an action.

use super::*;

#[tokio::test]
async fn what_becomes_of_an_action_is_told_once_the_bus_is_back() {
    let fixture = Fixture::start().await;
    let short = Patience {
        tell: Duration::from_millis(50),
        attempt: WHILE,
        ..Patience::default()
    };
    let (approvals, action) = (fixture.approvals.clone().with(short), action(1, LONG));
    fixture.server.kill9();
    let of = action.clone();
    let mut telling = tokio::spawn(async move {
        approvals.tell(&of, Status::Executing).await;
        approvals.tell(&of, Status::Completed).await;
    });
    assert!(timeout(4 * WHILE, &mut telling).await.is_err());
    fixture.server.restart().await;
    timeout(DEADLINE, telling).await.unwrap().unwrap();
    let expected = [id(&action, "EXECUTING"), id(&action, "COMPLETED")];
    assert_eq!(fixture.told().await, expected);
}

#[tokio::test]
async fn an_action_that_the_bus_has_no_room_for_is_given_up() {
    let fixture = Fixture::start().await;
    let full = StreamSettings {
        events_bytes: 16,
        ..StreamSettings::default()
    };
    stream::init(&fixture.admin, &full).await.unwrap();
    let short = Patience {
        hold: Duration::from_millis(200),
        tell: Duration::from_millis(200),
        ..Patience::default()
    };
    let approvals = fixture.approvals.clone().with(short);
    let held = action(1, LONG);
    assert!(approvals.hold(&held).await.is_err());
    // What is recorded decides, whether or not anybody is told.
    let settled = timeout(
        DEADLINE,
        approvals.settle(&held, "it could not be put to people"),
    );
    let given_up = Decided::Rejected {
        by: "signalbox".to_owned(),
        reason: Some("it could not be put to people".to_owned()),
    };
    assert_eq!(settled.await.unwrap(), given_up);
    let expired = action(2, Duration::from_millis(50));
    let decided = timeout(DEADLINE, approvals.decided(&expired)).await;
    assert_eq!(decided.unwrap(), Decided::Expired);
    approvals.tell(&held, Status::Cancelled).await;
    assert!(fixture.told().await.is_empty());
    // An approval is not acted on before people can hear of it.
    let approved_one = action(3, LONG);
    let record = json!({"at": now().to_string(), "reason": "seen it"});
    fixture.leave(&approved_one, record).await;
    let (waits, of) = (approvals.clone(), approved_one.clone());
    let mut waiting = tokio::spawn(async move { waits.decided(&of).await });
    assert!(timeout(4 * WHILE, &mut waiting).await.is_err());
    let settings = StreamSettings::default();
    stream::init(&fixture.admin, &settings).await.unwrap();
    assert_eq!(done(waiting).await, approved("ada"));
}

#[tokio::test]
async fn what_the_bus_has_no_room_for_is_waited_with_once_however_much_it_is() {
    let fixture = Fixture::start().await;
    let full = StreamSettings {
        events_bytes: 16,
        ..StreamSettings::default()
    };
    stream::init(&fixture.admin, &full).await.unwrap();
    let patience = Patience {
        tell: DEADLINE / 10,
        ..Patience::default()
    };
    let mut teller = fixture.approvals.clone().with(patience).teller();
    let telling = async {
        for number in 1..=32 {
            let action = action(number, LONG);
            teller.tell(&action, Status::Cancelled).await;
        }
    };
    timeout(DEADLINE, telling).await.unwrap();
}

#[tokio::test]
async fn a_decision_and_an_expiry_wait_for_a_bus_that_is_away() {
    let fixture = Fixture::start().await;
    let (decided, expires) = (action(1, LONG), action(2, Duration::from_millis(500)));
    fixture.hold(&decided).await;
    fixture.hold(&expires).await;
    let waiting = [fixture.wait(&decided), fixture.wait(&expires)];
    fixture.server.kill9();
    eventually("the expiry", DEADLINE, async || {
        (millis(now()) > expires.expires_at_ms).then_some(())
    })
    .await;
    fixture.server.restart().await;
    let made = eventually("a decision", DEADLINE, async || {
        let decision = decision(&decided, "grace", Verdict::Approve);
        fixture.people.decide(decision).await.ok()
    });
    assert_eq!(made.await, Outcome::Made);
    let [one, other] = waiting;
    assert_eq!(done(one).await, approved("grace"));
    assert_eq!(done(other).await, Decided::Expired);
    let mut told = fixture.told().await;
    told.sort();
    let mut expected = vec![decision_id(&decided), decision_id(&expires)];
    expected.sort();
    assert_eq!(told, expected);
}

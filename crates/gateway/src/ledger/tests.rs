//! The ledger against a real server: what a client is told to have joined is
//! there, one connection has a session, and a store out of reach is no more
//! than that.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use proptest::prelude::*;
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusOptions};
use signalbox_identity::{
    AgentId, ApiKeyId, CredentialId, FamilyId, Limits, Origin, Permission, Permissions, Principal,
    Role, UserId,
};
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::wire::RecoverableSession;
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::*;

fn at(sequence: u64) -> Cursor {
    Cursor {
        epoch: Epoch::from_unix_micros(0xa),
        sequence,
    }
}

fn account() -> Account {
    Account {
        socket_id: "socket-1".to_owned(),
        dialect: Dialect::Workspace,
        principal: None,
        connected_at: at(7),
        rooms: BTreeMap::from([("user:ada".to_owned(), Joined::At(at(7)))]),
        narrowing: None,
        with_pipeline: false,
    }
}

async fn server(settings: StreamSettings) -> NatsServer {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    stream::init(&admin, &settings).await.unwrap();
    server
}

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

/// The ledger of a shard of a gateway of its own.
async fn ledger(server: &NatsServer, gateway: &str) -> Rc<Ledger> {
    let store = SessionStore::open(bus(server, User::Gateway).await)
        .await
        .unwrap();
    Ledger::new(store, gateway)
}

async fn found(ledger: &Ledger, pid: &Pid) -> Account {
    ledger.find(pid).await.unwrap().unwrap().account
}

/// A counter and what adds to it.
fn counter() -> (Rc<Cell<usize>>, impl Fn() + 'static) {
    let count = Rc::new(Cell::new(0));
    let adding = Rc::clone(&count);
    (count, move || adding.set(adding.get() + 1))
}

fn join(seat: &Seat, room: &str, sequence: u64) {
    seat.change(|account| {
        account
            .rooms
            .insert(room.to_owned(), Joined::At(at(sequence)))
    });
}

/// How often the bucket was written.
async fn writes(server: &NatsServer) -> u64 {
    let admin = bus(server, User::Admin).await;
    stream::state(&admin, "KV_sessions").await.unwrap().last
}

#[tokio::test]
async fn what_was_saved_is_found_on_another_gateway() {
    let server = server(StreamSettings::default()).await;
    let (one, other) = (ledger(&server, "one").await, ledger(&server, "other").await);
    let seat = one.enter(account(), || {}).await.unwrap();
    let pid = Pid::parse(seat.pid().expose()).unwrap();
    assert_eq!(found(&other, &pid).await, account());
    join(&seat, "project:7", 9);
    assert_eq!(found(&other, &pid).await, account());
    seat.save().await.unwrap();
    assert_eq!(found(&other, &pid).await, *seat.account());
    // The connection is lost, the session is not.
    let expected = seat.account().clone();
    drop(seat);
    assert!(one.seats.borrow().is_empty());
    assert_eq!(found(&other, &pid).await, expected);
    assert!(!format!("{pid:?}").contains(pid.expose()));
    let stranger = Pid::generate();
    assert!(other.find(&stranger).await.unwrap().is_none());
    for text in [
        "",
        "short",
        "has a space in it .......",
        "has.dots.in.it.and.is.so.long!!",
    ] {
        assert_eq!(Pid::parse(text), None, "{text}");
    }
}

#[tokio::test]
async fn changes_that_wait_together_share_writes() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let seat = ledger.enter(account(), || {}).await.unwrap();
    let before = writes(&server).await;
    let joins = (0..100).map(|index| {
        join(&seat, &format!("project:{index}"), index);
        seat.save()
    });
    let saved: Vec<_> = join_all(joins.collect::<Vec<_>>()).await;
    assert!(saved.iter().all(Result::is_ok));
    assert_eq!(found(&ledger, seat.pid()).await.rooms.len(), 101);
    assert_eq!(writes(&server).await - before, 1);
    // Nothing is left to write.
    seat.save().await.unwrap();
    assert_eq!(writes(&server).await - before, 1);
}

#[tokio::test]
async fn whoever_lost_a_session_is_told_by_its_next_write() {
    let server = server(StreamSettings::default()).await;
    let (one, other) = (ledger(&server, "one").await, ledger(&server, "other").await);
    let (losses, on_loss) = counter();
    let former = one.enter(account(), on_loss).await.unwrap();
    let pid = former.pid().clone();
    let mut kept = other.find(&pid).await.unwrap().unwrap();
    kept.account.rooms.clear();
    let seat = other.take_over(kept, || {}).await.unwrap();
    assert_eq!((losses.get(), former.is_lost()), (0, false));
    join(&former, "project:7", 9);
    assert_eq!(former.save().await, Err(SaveError::Lost));
    assert_eq!(former.save().await, Err(SaveError::Lost));
    assert_eq!((losses.get(), former.is_lost()), (1, true));
    // Not even its end changes anything.
    former.close().await;
    join(&seat, "project:8", 9);
    seat.save().await.unwrap();
    let account = found(&one, &pid).await;
    assert_eq!(account.rooms.keys().collect::<Vec<_>>(), ["project:8"]);
}

#[tokio::test]
async fn on_the_same_shard_it_is_told_at_once() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let (losses, on_loss) = counter();
    let former = ledger.enter(account(), on_loss).await.unwrap();
    let kept = ledger.find(former.pid()).await.unwrap().unwrap();
    let seat = ledger.take_over(kept, || {}).await.unwrap();
    assert_eq!(losses.get(), 1);
    drop(former);
    assert_eq!(ledger.seats.borrow().len(), 1);
    seat.save().await.unwrap();
}

#[tokio::test]
async fn of_two_who_come_back_one_is_too_late() {
    let server = server(StreamSettings::default()).await;
    let (one, other) = (ledger(&server, "one").await, ledger(&server, "other").await);
    let pid = one.enter(account(), || {}).await.unwrap().pid().clone();
    let first = one.find(&pid).await.unwrap().unwrap();
    let second = other.find(&pid).await.unwrap().unwrap();
    let seat = other.take_over(second, || {}).await.unwrap();
    let late = one.take_over(first, || {}).await.err();
    assert_eq!(late, Some(TakeOverError::TooLate));
    assert!(!seat.is_lost());
}

#[tokio::test]
async fn nobody_comes_back_to_a_session_that_was_closed() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let seat = ledger.enter(account(), || {}).await.unwrap();
    let pid = seat.pid().clone();
    let kept = ledger.find(&pid).await.unwrap().unwrap();
    seat.close().await;
    assert!(ledger.find(&pid).await.unwrap().is_none());
    let late = ledger.take_over(kept, || {}).await.err();
    assert_eq!(late, Some(TakeOverError::TooLate));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_taken_for_another_s() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let (losses, on_loss) = counter();
    let seat = ledger.enter(account(), on_loss).await.unwrap();
    let before = writes(&server).await;
    join(&seat, "project:7", 9);
    // Sent, and given up before the answer.
    assert_eq!(seat.save().now_or_never(), None);
    eventually("the write", DEADLINE, async || {
        (writes(&server).await > before).then_some(())
    })
    .await;
    join(&seat, "project:8", 9);
    seat.save().await.unwrap();
    assert_eq!(losses.get(), 0);
    assert_eq!(found(&ledger, seat.pid()).await, *seat.account());
}

#[tokio::test]
async fn an_entry_that_is_gone_is_written_anew() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let (losses, on_loss) = counter();
    let seat = ledger.enter(account(), on_loss).await.unwrap();
    let admin = bus(&server, User::Admin).await;
    let bucket = admin.jetstream().get_stream("KV_sessions").await.unwrap();
    bucket.purge().await.unwrap();
    assert!(ledger.find(seat.pid()).await.unwrap().is_none());
    join(&seat, "project:7", 9);
    seat.save().await.unwrap();
    assert_eq!(found(&ledger, seat.pid()).await, *seat.account());
    assert_eq!(losses.get(), 0);
}

#[tokio::test]
async fn sessions_last_while_they_are_kept() {
    let settings = StreamSettings {
        sessions_age: Duration::from_secs(2),
        ..StreamSettings::default()
    };
    let server = server(settings).await;
    let (kept, left) = (ledger(&server, "one").await, ledger(&server, "other").await);
    let seat = kept.enter(account(), || {}).await.unwrap();
    let forgotten = left.enter(account(), || {}).await.unwrap();
    let began = Instant::now();
    let watching = eventually("the end of a session", DEADLINE, async || {
        assert!(kept.find(seat.pid()).await.unwrap().is_some());
        let is_gone = left.find(forgotten.pid()).await.unwrap().is_none();
        (is_gone && began.elapsed() > 2 * settings.sessions_age).then_some(())
    });
    tokio::select! {
        () = kept.keep() => {}
        () = watching => {}
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_written_when_the_bus_is_back() {
    let server = server(StreamSettings {
        sessions_age: Duration::from_secs(60),
        ..StreamSettings::default()
    })
    .await;
    let ledger = ledger(&server, "one").await;
    let seat = ledger.enter(account(), || {}).await.unwrap();
    server.sigstop();
    join(&seat, "project:7", 9);
    let (saved, entered, looked_up) = tokio::join!(
        seat.save(),
        ledger.enter(account(), || {}),
        ledger.find(seat.pid()),
    );
    server.sigcont();
    assert_eq!(saved, Err(SaveError::Unsaved));
    assert_eq!(looked_up.err(), Some(OutOfReach));
    // What was sent may have been written, without a word.
    let entered = entered.unwrap();
    join(&entered, "project:8", 9);
    let written = eventually("the changes", DEADLINE, async || {
        for seat in [&seat, &entered] {
            let kept = ledger.find(seat.pid()).await.ok()??;
            let expected = seat.account().clone();
            (kept.account == expected).then_some(())?;
        }
        Some(())
    });
    tokio::select! {
        () = ledger.keep() => {}
        () = written => {}
    }
}

#[tokio::test]
async fn a_session_in_too_many_rooms_is_given_up_and_goes_on() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let (losses, on_loss) = counter();
    let seat = ledger.enter(account(), on_loss).await.unwrap();
    for index in 0..2_000 {
        join(
            &seat,
            &format!("project:a-project-with-a-long-name-{index}"),
            9,
        );
    }
    seat.save().await.unwrap();
    assert!(ledger.find(seat.pid()).await.unwrap().is_none());
    join(&seat, "project:one-more", 9);
    seat.save().await.unwrap();
    assert_eq!(losses.get(), 0);
}

#[tokio::test]
async fn a_server_that_is_killed_takes_no_session_with_it() {
    let server = server(StreamSettings::default()).await;
    let ledger = ledger(&server, "one").await;
    let seat = ledger.enter(account(), || {}).await.unwrap();
    for round in 0..3 {
        join(&seat, &format!("project:{round}"), 9);
        let saved = eventually("an acknowledgement", DEADLINE, async || {
            seat.save().await.ok()
        });
        saved.await;
        server.kill9();
        server.restart().await;
        let kept = timeout(
            DEADLINE,
            eventually("an answer", DEADLINE, async || {
                ledger.find(seat.pid()).await.ok()
            }),
        );
        let kept = kept.await.unwrap().unwrap();
        assert_eq!(kept.account, *seat.account());
    }
}

#[test]
fn where_a_room_begins_again_is_known_or_not() {
    let before = Cursor {
        epoch: Epoch::from_unix_micros(0x9),
        sequence: 50,
    };
    for (joined, offset, start) in [
        (Joined::At(at(10)), 7, Some(10)),
        (Joined::At(at(10)), 12, Some(12)),
        (Joined::At(before), 12, Some(12)),
        (Joined::Replaying, 12, None),
        (Joined::ReplayedUntil(at(10)), 10, None),
        (Joined::ReplayedUntil(at(10)), 11, Some(11)),
        // An event of a later life of the stream came after it.
        (Joined::ReplayedUntil(before), 12, Some(12)),
    ] {
        assert_eq!(joined.start(at(offset)), start, "{joined:?} {offset}");
    }
}

fn principal() -> impl Strategy<Value = Principal> {
    let role = prop::option::of(prop::sample::select(vec![
        Role::Admin,
        Role::Analyst,
        Role::Viewer,
        Role::Agent,
    ]));
    let time = || prop::option::of(0..4_000_000_000_i64);
    let who = ("[a-z0-9|@.]{1,20}", "[A-Za-z ]{1,10}", role, any::<bool>());
    let what = prop::collection::vec("[a-z]{1,8}", 0..4);
    (
        who,
        what,
        (1..1_000_u32, 1..1_000_u32),
        (time(), time()),
        (any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((subject, name, role, is_whole), projects, limits, times, has)| {
                let whole = role.map_or(Permissions::NONE, Role::permissions);
                let narrow = whole.intersection(Permissions::of(&[Permission::ReadThreats]));
                let time =
                    |at: Option<i64>| at.map(|at| OffsetDateTime::from_unix_timestamp(at).unwrap());
                Principal {
                    subject: UserId::new(subject).unwrap(),
                    name,
                    role,
                    permissions: if is_whole { whole } else { narrow },
                    projects,
                    agent_id: has.0.then(|| AgentId::new("agent-1").unwrap()),
                    limits: Limits {
                        messages_per_minute: limits.0,
                        agent_chats_per_hour: limits.1,
                    },
                    expires_at: time(times.0),
                    credential: CredentialId::new("credential-1").unwrap(),
                    origin: Origin {
                        key: has.1.then(|| ApiKeyId::parse("abcdefghijk2").unwrap()),
                        family: has.0.then(|| FamilyId::new("family-1").unwrap()),
                        issued_at: time(times.1),
                    },
                }
            },
        )
}

fn joined() -> impl Strategy<Value = Joined> {
    prop_oneof![
        any::<u64>().prop_map(|sequence| Joined::At(at(sequence))),
        Just(Joined::Replaying),
        any::<u64>().prop_map(|sequence| Joined::ReplayedUntil(at(sequence))),
    ]
}

fn narrowing() -> impl Strategy<Value = Narrowing> {
    let words = || prop::collection::vec("[A-Z]{1,8}", 0..3);
    let least = prop::option::of("HIGH|LOW");
    (words(), words(), least).prop_map(|(categories, event_types, min_priority)| Narrowing {
        categories,
        event_types,
        min_priority,
    })
}

proptest! {
    #[test]
    fn an_account_comes_back_as_it_was(
        principal in prop::option::of(principal()),
        rooms in prop::collection::btree_map("\\PC{1,20}", joined(), 0..6),
        narrowing in prop::option::of(narrowing()),
        with_pipeline in any::<bool>(),
    ) {
        let before = Account {
            principal: principal.map(Rc::new),
            rooms,
            narrowing,
            with_pipeline,
            ..account()
        };
        let session = RecoverableSession::from(&before);
        prop_assert_eq!(Account::try_from(session), Ok(before));
    }
}

//! The store of Socket.IO sessions against a real server, as the user that
//! gateways are: one owner at a time, nothing lost at a kill, nothing kept for
//! ever, and what happens when it is full or out of reach.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use signalbox_bus::server::User;
use signalbox_bus::session_store::{
    MAX_ENTRY_BYTES, PATIENCE, Revision, SessionKey, SessionStore, StoreError,
};
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusError, BusOptions};
use signalbox_protocol::wire::{JoinedRoom, RecoverableSession};
use signalbox_testkit::{DEADLINE, NatsServer, eventually};

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

async fn store(server: &NatsServer) -> SessionStore {
    let bus = bus(server, User::Gateway).await;
    SessionStore::open(bus).await.unwrap()
}

fn session(holder: &str) -> RecoverableSession {
    RecoverableSession {
        holder: holder.to_owned(),
        rooms: vec![JoinedRoom {
            name: "project:7".to_owned(),
            joined_at: "a-1".to_owned(),
            ..JoinedRoom::default()
        }],
        ..RecoverableSession::default()
    }
}

/// Writes until the store answers, as a gateway does.
async fn put(
    store: &SessionStore,
    key: &SessionKey,
    session: &RecoverableSession,
    expected: Revision,
) -> Revision {
    eventually("an acknowledgement", DEADLINE, async || {
        match store.put(key, session, expected).await {
            Ok(revision) => Some(revision),
            Err(StoreError::Unavailable(_)) => None,
            // An earlier attempt was taken and its answer lost.
            Err(StoreError::Outdated) => {
                let stored = store.find(key).await.ok()??;
                assert_eq!(stored.session, *session);
                Some(stored.revision)
            }
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

#[tokio::test]
async fn a_session_has_one_owner_at_a_time() {
    let server = server(StreamSettings::default()).await;
    let (one, other) = (store(&server).await, store(&server).await);
    let key = SessionKey::of("secret");
    assert_eq!(one.find(&key).await.unwrap(), None);
    let first = one.put(&key, &session("a"), Revision::NONE).await.unwrap();
    let second = one.put(&key, &session("a"), first).await.unwrap();
    // Somebody who takes it for new.
    let taken = other.put(&key, &session("b"), Revision::NONE).await;
    assert!(matches!(taken, Err(StoreError::Outdated)), "{taken:?}");
    let found = other.find(&key).await.unwrap().unwrap();
    assert_eq!((found.session, found.revision), (session("a"), second));
    let third = other.put(&key, &session("b"), second).await.unwrap();
    let late = one.put(&key, &session("a"), second).await;
    assert!(matches!(late, Err(StoreError::Outdated)), "{late:?}");
    let found = one.find(&key).await.unwrap().unwrap();
    assert_eq!((found.session, found.revision), (session("b"), third));
}

#[tokio::test]
async fn of_many_who_take_a_session_over_one_succeeds() {
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let key = SessionKey::of("secret");
    let before = store
        .put(&key, &session("a"), Revision::NONE)
        .await
        .unwrap();
    let names: Vec<String> = (0..50).map(|index| format!("b{index}")).collect();
    let attempts = names.iter().map(|name| {
        let (store, key) = (store.clone(), key.clone());
        async move { store.put(&key, &session(name), before).await.map(|_| name) }
    });
    let winners: Vec<&String> = join_all(attempts).await.into_iter().flatten().collect();
    let [winner] = winners.as_slice() else {
        panic!("{winners:?}")
    };
    let found = store.find(&key).await.unwrap().unwrap();
    assert_eq!(found.session.holder, **winner);
}

#[tokio::test]
async fn sessions_survive_a_kill_of_the_server() {
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let keys: Vec<SessionKey> = (0..200)
        .map(|index| SessionKey::of(&index.to_string()))
        .collect();
    for (index, key) in keys.iter().enumerate() {
        if index == 100 {
            server.kill9();
            server.restart().await;
        }
        put(&store, key, &session(&index.to_string()), Revision::NONE).await;
    }
    server.kill9();
    server.restart().await;
    for (index, key) in keys.iter().enumerate() {
        let found = eventually("an answer", DEADLINE, async || store.find(key).await.ok()).await;
        assert_eq!(found.unwrap().session, session(&index.to_string()));
    }
}

#[tokio::test]
async fn a_session_lasts_while_it_is_refreshed() {
    let server = server(StreamSettings {
        sessions_age: Duration::from_secs(2),
        ..StreamSettings::default()
    })
    .await;
    let store = store(&server).await;
    assert_eq!(store.lifetime(), Duration::from_secs(2));
    let (kept, left) = (SessionKey::of("kept"), SessionKey::of("left"));
    let mut revision = store
        .put(&kept, &session("a"), Revision::NONE)
        .await
        .unwrap();
    let began = Instant::now();
    store
        .put(&left, &session("a"), Revision::NONE)
        .await
        .unwrap();
    eventually("the end of a session", DEADLINE, async || {
        revision = put(&store, &kept, &session("a"), revision).await;
        store.find(&left).await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(began.elapsed() >= store.lifetime());
    assert!(store.find(&kept).await.unwrap().is_some());
    // The place is free for whoever has the secret, as if nothing had been.
    store
        .put(&left, &session("b"), Revision::NONE)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_full_store_drops_those_that_stayed_away_the_longest() {
    let server = server(StreamSettings {
        sessions_bytes: 256 * 1024,
        ..StreamSettings::default()
    })
    .await;
    let store = store(&server).await;
    let refreshed = SessionKey::of("refreshed");
    let mut revision = Revision::NONE;
    let mut large = session("a");
    large.socket_id = "x".repeat(8 * 1024);
    for index in 0..100 {
        let key = SessionKey::of(&index.to_string());
        store.put(&key, &large, Revision::NONE).await.unwrap();
        if index % 10 == 0 {
            revision = store
                .put(&refreshed, &session("a"), revision)
                .await
                .unwrap();
        }
    }
    assert!(store.find(&refreshed).await.unwrap().is_some());
    let find = async |index: u32| store.find(&SessionKey::of(&index.to_string())).await;
    assert!(find(99).await.unwrap().is_some());
    assert!(find(0).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_too_large_is_not_stored() {
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let key = SessionKey::of("secret");
    let mut large = session("a");
    large.socket_id = "x".repeat(MAX_ENTRY_BYTES);
    let refused = store.put(&key, &large, Revision::NONE).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { bytes }) if bytes > MAX_ENTRY_BYTES));
    assert_eq!(store.find(&key).await.unwrap(), None);
}

#[tokio::test]
async fn ten_thousand_return_at_once() {
    const COUNT: usize = 10_000;
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let keys: Vec<SessionKey> = (0..COUNT)
        .map(|index| SessionKey::of(&index.to_string()))
        .collect();
    let began = Instant::now();
    let entered = keys.iter().map(|key| {
        let store = store.clone();
        async move { put(&store, key, &session("a"), Revision::NONE).await }
    });
    let entered = join_all(entered).await;
    let entering = began.elapsed();
    let returned = keys.iter().map(|key| {
        let store = store.clone();
        async move {
            let found = async || store.find(key).await.ok();
            let found = eventually("an answer", DEADLINE, found).await.unwrap();
            put(&store, key, &session("b"), found.revision).await;
            store.put(key, &session("a"), found.revision).await.is_err()
        }
    });
    let refused = join_all(returned).await;
    eprintln!(
        "{COUNT} entered in {entering:?}, taken over in {:?}",
        began.elapsed() - entering
    );
    assert_eq!((entered.len(), refused.len()), (COUNT, COUNT));
    assert!(refused.into_iter().all(|refused| refused));
}

#[tokio::test]
async fn a_store_out_of_reach_says_so_in_time() {
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let key = SessionKey::of("secret");
    server.sigstop();
    let began = Instant::now();
    let entry = session("a");
    let (written, found) = tokio::join!(store.put(&key, &entry, Revision::NONE), store.find(&key),);
    server.sigcont();
    assert!(
        matches!(written, Err(StoreError::Unavailable(_))),
        "{written:?}"
    );
    assert!(
        matches!(found, Err(StoreError::Unavailable(_))),
        "{found:?}"
    );
    assert!(began.elapsed() >= PATIENCE);
    put(&store, &key, &session("a"), Revision::NONE).await;
}

#[tokio::test]
async fn the_bucket_is_made_by_init_and_for_gateways() {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    let missing = SessionStore::open(bus(&server, User::Gateway).await).await;
    let missing = missing.err().unwrap().to_string();
    assert!(missing.contains("signalbox init"), "{missing}");
    for _ in 0..2 {
        stream::init(&admin, &StreamSettings::default())
            .await
            .unwrap();
    }
    let store = store(&server).await;
    assert_eq!(store.lifetime(), StreamSettings::default().sessions_age);
    let others = [User::Router, User::Producer, User::Observer, User::Auth];
    for user in others {
        let refused = SessionStore::open(bus(&server, user).await).await;
        let refused = refused.err().unwrap();
        assert!(
            matches!(refused, BusError::Forbidden { .. }),
            "{user}: {refused}"
        );
    }
}

#[tokio::test]
async fn nobody_learns_a_pid_from_the_bus() {
    let server = server(StreamSettings::default()).await;
    let store = store(&server).await;
    let pid = "a-pid-that-nobody-else-knows";
    let key = SessionKey::of(pid);
    store
        .put(&key, &session("a"), Revision::NONE)
        .await
        .unwrap();
    let admin = bus(&server, User::Admin).await;
    let stream = admin.jetstream().get_stream("KV_sessions").await.unwrap();
    let entry = stream.get_raw_message(1).await.unwrap();
    let shown = format!("{} {:?} {:?}", entry.subject, entry.headers, entry.payload);
    assert!(!shown.contains(pid) && !format!("{key:?}").contains(pid));
}

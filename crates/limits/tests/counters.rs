//! One suite for both counters, and what happens when Redis goes away.

use std::fmt::Debug;
use std::time::Duration;

use signalbox_limits::{Counter, Key, Limits, Local, Quota, Shared, SharedError};
use signalbox_testkit::{DEADLINE, RedisServer, eventually};

const QUOTA: Quota = Quota::per_minute(3);
const BRIEF: Quota = Quota {
    limit: 3,
    window: Duration::from_millis(50),
};

/// A socket that nobody listens on.
const NOWHERE: &str = "redis+unix:///nonexistent/redis.sock";

/// Why no test expects an error.
const COUNTS: &str = "the counter counts";

/// What holds for every counter.
async fn counts<C: Counter<Error: Debug>>(counter: &C) {
    let ada = Key::messages("threat", "ada");
    for (used, exceeded) in [(1, false), (2, false), (3, false), (4, true), (5, true)] {
        let usage = counter.count(&ada, QUOTA, 1).await.expect(COUNTS);
        assert_eq!((usage.used, usage.is_exceeded()), (used, exceeded));
        assert_eq!(usage.limit, 3);
        assert!(usage.resets_in <= QUOTA.window && !usage.resets_in.is_zero());
    }
    // Everyone and everything has a count of its own.
    for other in [
        Key::messages("threat", "grace"),
        Key::messages("mesh", "ada"),
        Key::chats("ada"),
    ] {
        assert_eq!(counter.count(&other, QUOTA, 1).await.expect(COUNTS).used, 1);
    }
    // Several at once are several.
    let usage = counter
        .count(&Key::chats("ada"), QUOTA, 7)
        .await
        .expect(COUNTS);
    assert_eq!((usage.used, usage.is_exceeded()), (8, true));
    // A limit of none serves none.
    let none = Quota::per_hour(0);
    let usage = counter
        .count(&Key::chats("nobody"), none, 1)
        .await
        .expect(COUNTS);
    assert!(usage.is_exceeded());
}

/// The end of a window does not move with attempts within it.
async fn windows_end<C: Counter<Error: Debug>>(counter: &C) {
    let key = Key::messages("threat", "window");
    counter.count(&key, BRIEF, 10).await.expect(COUNTS);
    eventually("the window to end", DEADLINE, async || {
        (counter.count(&key, BRIEF, 1).await.expect(COUNTS).used == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_counts() {
    counts(&Local::default()).await;
    windows_end(&Local::default()).await;
}

#[tokio::test]
async fn redis_counts() {
    let redis = RedisServer::start().await;
    let counter = Shared::new(&redis.url()).unwrap();
    counts(&counter).await;
    windows_end(&counter).await;
}

#[tokio::test]
async fn processes_with_one_redis_share_their_counts() {
    let redis = RedisServer::start().await;
    let gateways = [
        Limits::shared(Shared::new(&redis.url()).unwrap()),
        Limits::shared(Shared::new(&redis.url()).unwrap()),
    ];
    let key = Key::messages("threat", "ada");
    let mut refused = 0;
    for attempt in 0..10 {
        let usage = gateways[attempt % 2].count(&key, QUOTA, 1).await;
        assert_eq!(usage.used, u64::try_from(attempt).unwrap() + 1);
        refused += usize::from(usage.is_exceeded());
    }
    assert_eq!(refused, 7);
}

#[tokio::test]
async fn without_redis_each_process_counts_until_it_returns() {
    let redis = RedisServer::start().await;
    let limits = Limits::shared(Shared::new(&redis.url()).unwrap());
    let key = Key::messages("threat", "ada");
    assert_eq!(limits.count(&key, QUOTA, 3).await.used, 3);

    redis.kill9();
    // Not counted by the dead, so it is the first of this process.
    assert_eq!(limits.count(&key, QUOTA, 1).await.used, 1);
    assert_eq!(limits.count(&key, QUOTA, 3).await.used, 4);

    redis.restart().await;
    let control = Shared::new(&redis.url()).unwrap();
    let mut attempt = 0;
    eventually("redis to count again", DEADLINE, async || {
        attempt += 1;
        let fresh = Key::chats(&format!("fresh-{attempt}"));
        limits.count(&fresh, QUOTA, 1).await;
        (control.count(&fresh, QUOTA, 1).await.unwrap().used == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_says_nothing_is_given_up_on() {
    let redis = RedisServer::start().await;
    let counter = Shared::new(&redis.url()).unwrap();
    let key = Key::chats("ada");
    counter.count(&key, QUOTA, 1).await.unwrap();
    redis.sigstop();
    let answer = tokio::time::timeout(DEADLINE, counter.count(&key, QUOTA, 1)).await;
    assert!(matches!(answer, Ok(Err(_))), "{answer:?}");
    redis.sigcont();
    eventually("redis to count again", DEADLINE, async || {
        counter.count(&key, QUOTA, 1).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_an_error() {
    let counter = Shared::new(NOWHERE).unwrap();
    let error = counter.count(&Key::chats("ada"), QUOTA, 1).await;
    assert!(matches!(
        error,
        Err(SharedError::Redis(_) | SharedError::Late(_))
    ));
    let limits = Limits::shared(Shared::new(NOWHERE).unwrap());
    assert_eq!(limits.count(&Key::chats("ada"), QUOTA, 1).await.used, 1);
    assert_eq!(limits.count(&Key::chats("ada"), QUOTA, 1).await.used, 2);
}

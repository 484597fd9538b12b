//! Several auth services: one that is killed in the middle of refreshes logs
//! nobody out and forks no line of tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signalbox_bus::server::User;
use signalbox_bus::{Bus, rpc, subject};
use signalbox_protocol::wire::{self, issue_token_reply::Outcome};
use signalbox_testkit::{DEADLINE, Platform};
use tokio::time::Instant;

/// Clients that refresh all the time.
const CLIENTS: usize = 8;
/// How long an answer is waited for; a killed replica gives none.
const PATIENCE: Duration = Duration::from_millis(300);

async fn ask<Q: prost::Message>(
    bus: &Bus,
    subject: &'static str,
    request: &Q,
) -> Option<wire::IssuedToken> {
    let reply = rpc::call(bus, subject, request, None, PATIENCE).await;
    let reply: wire::IssueTokenReply = reply.ok()?;
    match reply.outcome? {
        Outcome::Token(token) => Some(token),
        Outcome::Refusal(refusal) => {
            assert_eq!(refusal.code, "UNAVAILABLE", "{}", refusal.message);
            None
        }
    }
}

/// Asks until there is an answer, as a client does that got none.
async fn insist<Q: prost::Message>(
    bus: &Bus,
    subject: &'static str,
    request: &Q,
    lost: &AtomicUsize,
) -> wire::IssuedToken {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(issued) = ask(bus, subject, request).await {
            return issued;
        }
        lost.fetch_add(1, Ordering::Relaxed);
    }
    panic!("no answer");
}

#[tokio::test]
async fn a_killed_replica_logs_nobody_out_and_forks_nothing() {
    let platform = Platform::start(0).await;
    let bus = platform.bus(User::Gateway).await;
    let (stop, lost) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let rotations = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let request = wire::IssueTokenRequest {
            api_key: platform.api_key("analyst"),
            ..wire::IssueTokenRequest::default()
        };
        let mut issued = insist(&bus, subject::ISSUE_TOKEN, &request, &lost).await;
        let bus = bus.clone();
        let (stop, lost) = (Arc::clone(&stop), Arc::clone(&lost));
        let rotations = Arc::clone(&rotations);
        clients.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let request = wire::RefreshTokenRequest {
                    refresh_token: issued.refresh_token.clone(),
                    context: None,
                };
                let next = insist(&bus, subject::REFRESH_TOKEN, &request, &lost).await;
                // The same again: whoever answers, there is one successor.
                let again = insist(&bus, subject::REFRESH_TOKEN, &request, &lost).await;
                assert_eq!(next.refresh_token, again.refresh_token, "the line forked");
                issued = next;
                rotations.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..4 {
        let replica = platform.start_auth().await;
        let before = rotations.load(Ordering::Relaxed);
        // In the middle of the work, and not at a pause of it.
        signalbox_testkit::eventually("refreshes", DEADLINE, async || {
            (rotations.load(Ordering::Relaxed) > before + CLIENTS * 4).then_some(())
        })
        .await;
        replica.process.kill9();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(
        lost.load(Ordering::Relaxed) > 0,
        "no request was under way at any kill"
    );
}

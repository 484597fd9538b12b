//! From a listener to HTTP: accepts connections, refuses those that are too
//! many with the cheapest answer that is still one, and serves requests on
//! the others until they upgrade or leave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::json;
use signalbox_transport::serve_http;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Service as _;
use tracing::{debug, warn};

use crate::admission::{Admission, Refused, Ticket};
use crate::counts::RefusalCounts;
use crate::routes::{self, Doors};
use crate::shard::Shared;

/// The pause after `accept` failed, as it does without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Failures of `accept` in a row between two warnings: one a second.
const FAILURES_PER_WARNING: u32 = 20;
/// Refusals that are being answered at once, over all listeners and shards;
/// beyond it refused connections are reset without a word.
pub(crate) const REFUSALS_CAPACITY: usize = 256;
/// How long a refusal may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The most that is read of a refused connection, in bytes.
const MAX_REFUSED_BYTES: usize = 32 * 1024;
/// What is read of a refused connection at a time, in bytes.
const DISCARD_BYTES: usize = 512;
/// What ends the head of a request.
const HEAD_END: &[u8; 4] = b"\r\n\r\n";
/// How often refusals are logged.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts connections until shutdown and ends with the last one that is HTTP
/// still. Dropping it ends those at once.
pub(crate) async fn run(listener: TcpListener, doors: Doors, shared: Shared) {
    let router = routes::router(doors);
    let mut serving = JoinSet::new();
    let mut refusing = JoinSet::new();
    let mut failures = 0_u32;
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.wait() => break,
            accepted = listener.accept() => accepted,
            Some(_) = serving.join_next() => continue,
            Some(_) = refusing.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if failures.is_multiple_of(FAILURES_PER_WARNING) {
                    warn!(%error, failures = failures + 1, "not accepting");
                }
                failures = failures.saturating_add(1);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        match shared.admission.admit(peer.ip(), Instant::now()) {
            Ok(ticket) => {
                let task = serve(stream, peer, ticket, router.clone(), shared.clone());
                serving.spawn_local(task);
            }
            Err(refused) => match Arc::clone(&shared.refusals).try_acquire_owned() {
                Ok(permit) => {
                    refusing.spawn_local(async move {
                        timeout(REFUSAL_TIMEOUT, refuse(stream, refused)).await.ok();
                        drop(permit);
                    });
                }
                // A zero linger resets it; else the system would keep its half
                // for a minute. Failing means that it is gone already.
                Err(_) => {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
                }
            },
        }
    }
    drop(listener);
    while serving.join_next().await.is_some() {}
}

/// Serves requests until the connection upgrades, leaves or has had its time.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    ticket: Ticket,
    router: Router,
    shared: Shared,
) {
    let visitor = routes::Visitor {
        peer,
        ticket: Arc::new(ticket),
    };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(visitor.clone());
        router.clone().call(request)
    });
    let lifetime = shared.options.http_lifetime;
    let shutdown = shared.shutdown.clone();
    let stop = async move {
        timeout(lifetime, shutdown.wait()).await.ok();
    };
    let serving = serve_http(stream, service, &shared.options.http, stop);
    // One whose peer takes no answers would never come to see the stop.
    match timeout(lifetime.saturating_mul(2), serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "http connection ended"),
        Err(_) => debug!(%peer, "http connection outlived its time"),
    }
}

/// Answers the first request, whatever it is, and hangs up.
async fn refuse(mut stream: TcpStream, refused: Refused) {
    let mut left = MAX_REFUSED_BYTES;
    // An answer ahead of the request is an error to many a client.
    if discard(&mut stream, &mut left, Some(HEAD_END)).await {
        let answer = answer(refused);
        if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
            // Closing with something unread would reset the connection, and
            // the answer with it.
            discard(&mut stream, &mut left, None).await;
        }
    }
}

/// Reads until `end` or, without, the end of the stream; true when that came
/// before `left` bytes were read.
async fn discard(stream: &mut TcpStream, left: &mut usize, end: Option<&[u8; 4]>) -> bool {
    let mut buffer = [0; DISCARD_BYTES];
    let mut last = [0; 4];
    while *left > 0 {
        match stream.read(&mut buffer).await {
            Ok(0) => return end.is_none(),
            Ok(read) => {
                *left = left.saturating_sub(read);
                for byte in &buffer[..read] {
                    last = [last[1], last[2], last[3], *byte];
                    if end == Some(&last) {
                        return true;
                    }
                }
            }
            Err(_) => return false,
        }
    }
    false
}

/// The whole HTTP answer to a refused connection.
fn answer(refused: Refused) -> String {
    let status = match refused.code().http_status() {
        429 => "429 Too Many Requests",
        _ => "503 Service Unavailable",
    };
    let body = json!({"error": {"code": refused.code(), "message": refused.to_string()}});
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nRetry-After: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        refused.retry_after().as_secs(),
        body.len(),
    )
}

/// Counts refusals and logs them, at most once per interval however many there are, for as
/// long as it is polled.
pub(crate) async fn report_refusals(admission: &Admission, counts: &RefusalCounts) {
    loop {
        sleep(REPORT_INTERVAL).await;
        let refusals = admission.take_refusals();
        counts.full.add(refusals.full);
        counts.too_fast.add(refusals.too_fast);
        counts
            .unauthenticated
            .add(refusals.too_many_unauthenticated);
        if refusals != Default::default() {
            warn!(
                full = refusals.full,
                too_fast = refusals.too_fast,
                too_many_unauthenticated = refusals.too_many_unauthenticated,
                "connections refused"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_and_say_when_to_return() {
        for (refused, status, code) in [
            (Refused::Full, "503 ", "CONNECTION_FAILED"),
            (Refused::TooFast, "429 ", "RATE_LIMIT"),
            (Refused::TooManyUnauthenticated, "429 ", "RATE_LIMIT"),
        ] {
            let answer = answer(refused);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
            assert!(head.contains("\r\nRetry-After: "), "{head}");
            let length = format!("\r\nContent-Length: {}\r\n", body.len());
            assert!(head.contains(&length), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["code"], code);
        }
    }
}

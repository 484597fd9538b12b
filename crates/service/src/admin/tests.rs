//! Probes over real connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime;

use super::*;
use crate::captured::Captured;
use crate::metrics;
use crate::shutdown::Shutdown;
use crate::telemetry::LogArgs;

/// How long a probe may take before a test fails.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Any free port of the loopback.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The status and body of a `GET`, with a client that needs no runtime.
fn probe(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&addr, PROBE_TIMEOUT).unwrap();
    stream.set_read_timeout(Some(PROBE_TIMEOUT)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn health() -> Health {
    Health::new(Shutdown::new())
}

fn start(health: Health) -> AdminServer {
    AdminServer::start(ANY, health, AdminFallback::Fail).unwrap()
}

#[test]
fn live_answers_while_nothing_is_ready() {
    let admin = start(health());
    assert_eq!(probe(admin.addr(), "/live").0, 200);
    assert_eq!(probe(admin.addr(), "/ready").0, 503);
    assert_eq!(probe(admin.addr(), "/metrics").0, 404);
}

#[test]
fn ready_lists_each_condition_with_its_reason() {
    let health = health();
    let (bus, keys) = (health.condition("bus"), health.condition("keys"));
    let admin = start(health);
    keys.set_ready();
    bus.set_not_ready("no connection for 5 s");
    let (status, body) = probe(admin.addr(), "/ready");
    assert_eq!(status, 503);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({"ready": false, "conditions": [
            {"name": "bus", "ready": false, "reason": "no connection for 5 s"},
            {"name": "keys", "ready": true},
        ]})
    );
    bus.set_ready();
    let (status, body) = probe(admin.addr(), "/ready");
    assert_eq!((status, body.contains("\"ready\":true")), (200, true));
}

#[test]
fn it_answers_while_the_main_runtime_is_blocked() {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    // Started inside the runtime, as services do.
    let admin = runtime.block_on(async {
        AdminServer::builder(health())
            .merge(metrics::routes(metrics::Registry::new()))
            .start(ANY)
            .unwrap()
    });
    let (blocked, is_blocked) = mpsc::sync_channel(0);
    let (release, released) = mpsc::sync_channel::<()>(0);
    runtime.spawn(async move {
        blocked.send(()).unwrap();
        released.recv().ok();
    });
    is_blocked.recv_timeout(PROBE_TIMEOUT).unwrap();
    assert_eq!(probe(admin.addr(), "/live").0, 200);
    assert_eq!(probe(admin.addr(), "/ready").0, 503);
    assert_eq!(probe(admin.addr(), "/metrics").0, 200);
    drop(release);
}

#[test]
fn a_taken_port_fails_or_falls_back_as_asked() {
    let first = start(health());
    let again = AdminServer::start(first.addr(), health(), AdminFallback::Fail);
    assert!(matches!(again, Err(AdminError::Bind { addr, .. }) if addr == first.addr()));

    let (logs, _capturing) = Captured::start(&LogArgs::default());
    let second = AdminServer::start(first.addr(), health(), AdminFallback::FreePort).unwrap();
    let text = logs.text();
    assert_eq!(
        (text.lines().count(), text.contains("WARN")),
        (1, true),
        "{text}"
    );
    assert!(
        text.contains(&format!("actual={}", second.addr())),
        "{text}"
    );
    assert_ne!(second.addr(), first.addr());
    assert_eq!(second.addr().ip(), first.addr().ip());
    assert_eq!(probe(second.addr(), "/live").0, 200);
}

#[test]
fn an_address_of_another_machine_is_an_error() {
    // An address of the documentation range, which no machine has.
    let foreign = "192.0.2.1:9".parse().unwrap();
    let outcome = AdminServer::start(foreign, health(), AdminFallback::FreePort);
    assert!(matches!(outcome, Err(AdminError::Bind { .. })));
}

#[test]
fn stopping_frees_the_port_and_ends_open_connections() {
    let admin = start(health());
    let addr = admin.addr();
    let mut idle = TcpStream::connect(addr).unwrap();
    idle.set_read_timeout(Some(PROBE_TIMEOUT)).unwrap();
    assert_eq!(probe(addr, "/live").0, 200);
    admin.stop();
    let read = idle.read(&mut [0; 1]);
    assert!(
        matches!(&read, Ok(0)) || read.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset)
    );
    assert!(AdminServer::start(addr, health(), AdminFallback::Fail).is_ok());
}

#[test]
fn more_routes_can_be_served() {
    let metrics = Router::new().route("/metrics", get(async || "up 1\n"));
    let admin = AdminServer::builder(health())
        .merge(metrics)
        .start(ANY)
        .unwrap();
    assert_eq!(probe(admin.addr(), "/metrics"), (200, "up 1\n".to_owned()));
    assert_eq!(probe(admin.addr(), "/live").0, 200);
}

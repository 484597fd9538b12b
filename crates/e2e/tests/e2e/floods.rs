//! Promise 3 against numbers: connections that never say who they are, that
//! dawdle, or that are simply too many, are refused or gone in time, and those
//! who behave notice nothing. G12: the rate of connecting.
//!
//! `SIGNALBOX_TEST_SCALE=10` runs the flood of strangers with 10,000
//! connections instead of 1,000; that needs 12,000 open files.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient, eventually, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::events::{alert, send};
use crate::raw::{Answer, Raw, connect, local, try_connect};

/// Strangers at scale 1.
const STRANGERS: usize = 1_000;
/// The addresses that the strangers come from.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=9;
/// The most connections that a test has besides its crowd.
const OWN: usize = 5;
/// Refusals that a gateway answers at once.
const REFUSALS: usize = 256;
/// Between two bytes of a client that dawdles.
const TRICKLE: Duration = Duration::from_millis(50);

fn scale() -> usize {
    let scale = std::env::var("SIGNALBOX_TEST_SCALE").ok();
    scale.map_or(1, |scale| scale.parse().expect("a number"))
}

/// Waits until the gateway holds no more descriptors than `before`.
async fn released(gateway: &Service, before: usize) {
    eventually("the descriptors to be released", DEADLINE, async || {
        (gateway.process.open_files() <= before).then_some(())
    })
    .await;
}

/// An upgrade that must be refused.
async fn refused(source: IpAddr, target: SocketAddr) -> Answer {
    let stream = connect(source, target, None).await;
    match Raw::try_upgrade(stream, "").await {
        Ok(_) => panic!("{source} was admitted"),
        Err(answer) => answer,
    }
}

/// A client that authenticates, subscribes and gets an event, all right now.
async fn assert_served(platform: &Platform, id: &str) {
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    send(&bus, "threat_alert", id, &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], id);
    client.close().await;
}

/// Promise 3, G6: many connections that never authenticate, from eight
/// addresses.
#[tokio::test]
async fn strangers_leave_in_time_and_hinder_nobody() {
    let count = STRANGERS * scale();
    // Long enough for all to be in at once, shorter than what is waited for.
    let limit = (3 + 2 * scale()).to_string();
    let arguments = [
        "--authentication-timeout",
        &limit,
        "--connect-rate",
        "0",
        "--max-unauthenticated-per-address",
        "2000",
        // No pings: the strangers look at what they are sent only at the end.
        "--silence",
        "3600",
    ];
    let platform = Platform::start_with(1, &arguments).await;
    let gateway = &platform.gateways[0];
    let listener = gateway.listener();
    assert_served(&platform, "before").await;
    let before = gateway.process.open_files();

    let mut arriving = JoinSet::new();
    for address in ADDRESSES {
        arriving.spawn(async move {
            let mut strangers = Vec::new();
            for _ in 0..count / ADDRESSES.count() {
                strangers.push(Raw::stranger(local(address), listener).await);
            }
            strangers
        });
    }
    let strangers = arriving.join_all().await.into_iter().flatten();
    // Connections of the test itself may not have gone when `before` was taken.
    let inside = gateway.process.open_files() + OWN - before;
    assert!(inside >= count, "{inside} of {count} are in");
    assert_served(&platform, "meanwhile").await;
    for mut stranger in strangers {
        let told = stranger.json().await;
        assert_eq!(told["code"], "AUTH_FAILED", "{told}");
        assert_eq!(stranger.close_code().await, 1008);
    }
    released(gateway, before).await;
    assert_served(&platform, "afterwards").await;
}

/// Strangers whose Close is not answered are reset after the grace, although
/// they keep their end open.
#[tokio::test]
async fn strangers_that_do_not_hang_up_are_gone_after_the_grace() {
    let arguments = ["--authentication-timeout", "0.5", "--close-grace", "0.5"];
    let platform = Platform::start_with(1, &arguments).await;
    let gateway = &platform.gateways[0];
    assert_served(&platform, "before").await;
    let before = gateway.process.open_files();
    let mut strangers = Vec::new();
    for _ in 0..50 {
        strangers.push(Raw::stranger(local(2), gateway.listener()).await);
    }
    released(gateway, before).await;
    drop(strangers);
}

/// What a client does that never completes a request, or never takes answers.
#[derive(Clone, Copy, Debug)]
enum Dawdle {
    Silent,
    HalfRequestLine,
    TrickledHead,
    TrickledBody,
    IdleAfterRequest,
    RequestAfterRequest,
    AnswersNotTaken,
}

impl Dawdle {
    /// Behaves so until the gateway hangs up.
    async fn run(self, mut stream: TcpStream) {
        let opening: &[u8] = match self {
            Self::Silent => b"",
            Self::HalfRequestLine => b"GET /v1/w",
            Self::TrickledHead => b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nX-Long: ",
            Self::TrickledBody => {
                b"POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{"
            }
            Self::IdleAfterRequest | Self::RequestAfterRequest | Self::AnswersNotTaken => {
                b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
            }
        };
        stream.write_all(opening).await.unwrap();
        let repeated: &[u8] = match self {
            Self::Silent | Self::HalfRequestLine | Self::IdleAfterRequest => b"",
            Self::TrickledHead | Self::TrickledBody => b"x",
            Self::RequestAfterRequest | Self::AnswersNotTaken => opening,
        };
        let (mut reading, mut writing) = stream.into_split();
        let writer = async {
            while !repeated.is_empty() {
                if !matches!(self, Self::AnswersNotTaken) {
                    sleep(TRICKLE).await;
                }
                if writing.write_all(repeated).await.is_err() {
                    return;
                }
            }
            std::future::pending().await
        };
        let reader = async {
            if matches!(self, Self::AnswersNotTaken) {
                return std::future::pending().await;
            }
            let mut sink = [0; 1024];
            while matches!(reading.read(&mut sink).await, Ok(1..)) {}
        };
        tokio::select! {
            () = writer => {}
            () = reader => {}
        }
    }
}

#[tokio::test]
async fn connections_that_dawdle_are_gone() {
    let arguments = ["--handshake-timeout", "0.5", "--http-lifetime", "1"];
    let platform = Platform::start_with(1, &arguments).await;
    let gateway = &platform.gateways[0];
    assert_served(&platform, "before").await;
    let before = gateway.process.open_files();
    let mut clients = JoinSet::new();
    for kind in [
        Dawdle::Silent,
        Dawdle::HalfRequestLine,
        Dawdle::TrickledHead,
        Dawdle::TrickledBody,
        Dawdle::IdleAfterRequest,
        Dawdle::RequestAfterRequest,
        Dawdle::AnswersNotTaken,
    ] {
        for _ in 0..10 {
            let stream = connect(local(2), gateway.listener(), Some(4_096)).await;
            clients.spawn(async move {
                let end = timeout(DEADLINE, kind.run(stream)).await;
                assert!(end.is_ok(), "{kind:?} is still connected");
            });
        }
    }
    assert_served(&platform, "meanwhile").await;
    clients.join_all().await;
    released(gateway, before).await;
}

/// G12: beyond the rate an address gets 429, and when to come back; others
/// are not affected, nor are those who are in.
#[tokio::test]
async fn the_connect_rate_is_that_of_one_address() {
    const RATE: usize = 5;
    let platform = Platform::start_with(1, &["--connect-rate", &RATE.to_string()]).await;
    let gateway = &platform.gateways[0];
    let began = Instant::now();
    let mut admitted = Vec::new();
    let mut refusals = 0;
    for _ in 0..60 {
        let stream = connect(local(2), gateway.listener(), None).await;
        match Raw::try_upgrade(stream, "").await {
            Ok(raw) => admitted.push(raw),
            Err(answer) => {
                assert_eq!(answer.status, 429, "{answer:?}");
                assert!(answer.head.contains("\r\nRetry-After: 1\r\n"), "{answer:?}");
                assert_eq!(answer.code(), "RATE_LIMIT");
                refusals += 1;
            }
        }
    }
    // What was granted at once, and since then.
    let most = RATE + 1 + RATE * usize::try_from(began.elapsed().as_secs()).unwrap() + RATE;
    assert!(
        (RATE..=most).contains(&admitted.len()),
        "{} of at most {most} admitted",
        admitted.len()
    );
    drop(Raw::stranger(local(3), gateway.listener()).await);
    let mut first = admitted.swap_remove(0);
    first.send(crate::raw::TEXT, br#"{"type":"ping"}"#).await;
    assert_eq!(first.json().await["type"], "pong");

    // All are accounted for, and the log is not another thing to flood.
    let lines = async || {
        let log = gateway.process.stderr().lines();
        let refused = log
            .iter()
            .filter(|line| line.contains("connections refused"));
        refused.cloned().collect::<Vec<_>>()
    };
    let logged = eventually("the refusals in the log", DEADLINE, async || {
        let lines = lines().await;
        let counts = lines.iter().map(|line| {
            let (_, rest) = line.split_once("too_fast=").unwrap();
            rest.split(' ').next().unwrap().parse::<usize>().unwrap()
        });
        (counts.sum::<usize>() == refusals).then_some(lines.len())
    })
    .await;
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(logged <= seconds + 1, "{logged} lines in {seconds} s");
}

/// Refused connections that never ask for their answer do not pile up.
#[tokio::test]
async fn refusals_are_bounded_themselves() {
    let platform = Platform::start_with(1, &["--connect-rate", "1"]).await;
    let gateway = &platform.gateways[0];
    let before = gateway.process.open_files();
    let mut silent = Vec::new();
    let mut most = 0;
    for _ in 0..3 * REFUSALS {
        // Those beyond the bound are reset, which some notice at once.
        silent.extend(try_connect(local(2), gateway.listener(), None).await);
        most = most.max(gateway.process.open_files());
    }
    assert!(
        most <= before + REFUSALS + OWN,
        "{most} files, {before} before"
    );
    assert_served(&platform, "meanwhile").await;
    // The few that were admitted have their handshake timeout.
    released(gateway, before + OWN).await;
}

#[tokio::test]
async fn a_full_gateway_says_so_and_serves_those_who_are_in() {
    const MOST: usize = 10;
    let platform = Platform::start_with(1, &["--max-connections", &MOST.to_string()]).await;
    let gateway = &platform.gateways[0];
    let token = platform.unlimited_token("viewer");
    // The connection that brought the token may not have been counted out yet.
    let mut inside = Vec::new();
    while inside.len() < MOST {
        let stream = connect(local(1), gateway.listener(), None).await;
        let header = format!("Authorization: Bearer {token}\r\n");
        inside.extend(Raw::try_upgrade(stream, &header).await);
    }
    let answer = refused(local(1), gateway.listener()).await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("\r\nRetry-After: 5\r\n"), "{answer:?}");
    assert_eq!(answer.code(), "CONNECTION_FAILED");
    assert_eq!(refused(local(2), gateway.listener()).await.status, 503);
    for raw in &mut inside {
        assert_eq!(raw.json().await["type"], "auth_success");
        raw.send(crate::raw::TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(raw.json().await["type"], "pong");
    }
    assert_eq!(get(gateway.admin, "/ready").await.0, 200);
    inside.pop();
    eventually("room for one more", DEADLINE, async || {
        let stream = connect(local(2), gateway.listener(), None).await;
        Raw::try_upgrade(stream, "").await.ok()
    })
    .await;
}

#[tokio::test]
async fn strangers_of_one_address_are_bounded_until_they_authenticate() {
    const MOST: usize = 5;
    let arguments = ["--max-unauthenticated-per-address", &MOST.to_string()];
    let platform = Platform::start_with(1, &arguments).await;
    let gateway = &platform.gateways[0];
    let mut strangers = Vec::new();
    for _ in 0..MOST {
        strangers.push(Raw::stranger(local(2), gateway.listener()).await);
    }
    let answer = refused(local(2), gateway.listener()).await;
    assert_eq!((answer.status, answer.code()), (429, json!("RATE_LIMIT")));
    assert_served(&platform, "elsewhere").await;

    let mut known = strangers.pop().unwrap();
    let hello = json!({"type": "authenticate", "token": platform.api_key("viewer")});
    known
        .send(crate::raw::TEXT, hello.to_string().as_bytes())
        .await;
    assert_eq!(known.json().await["type"], "auth_success");
    strangers.push(Raw::stranger(local(2), gateway.listener()).await);
    refused(local(2), gateway.listener()).await;
    // Nor does a plain HTTP connection go around the bound.
    strangers.pop();
    let idle = eventually("a place", DEADLINE, async || {
        let mut idle = connect(local(2), gateway.listener(), None).await;
        idle.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut status = [0; 12];
        idle.read_exact(&mut status).await.unwrap();
        status.ends_with(b"404").then_some(idle)
    })
    .await;
    refused(local(2), gateway.listener()).await;
    drop(idle);
}

/// Without free descriptors the gateway waits instead of spinning, serves
/// those who are in, and goes on when there are some again.
#[tokio::test]
async fn running_out_of_descriptors_is_survived() {
    let platform = Platform::start(1).await;
    let gateway = &platform.gateways[0];
    let token = platform.unlimited_token("viewer");
    let mut inside = Raw::open(gateway.listener(), &token).await;
    let limit = |files: usize| {
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", gateway.process.pid()))
            .arg(format!("--nofile={files}:"))
            .status();
        let status = status.expect("prlimit can be run, install util-linux");
        assert!(status.success());
    };
    limit(gateway.process.open_files() + 5);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(connect(local(2), gateway.listener(), None).await);
    }
    gateway
        .process
        .wait_for_line("not accepting", DEADLINE)
        .await;
    for _ in 0..20 {
        inside.send(crate::raw::TEXT, br#"{"type":"ping"}"#).await;
        assert_eq!(inside.json().await["type"], "pong");
    }
    let warnings = || {
        let log = gateway.process.stderr().lines();
        log.iter()
            .filter(|line| line.contains("not accepting"))
            .count()
    };
    let (began, before) = (Instant::now(), warnings());
    eventually("another warning", DEADLINE, async || {
        (warnings() > before).then_some(())
    })
    .await;
    assert!(
        began.elapsed() > Duration::from_millis(500) || warnings() <= before + 2,
        "warnings come one by one"
    );
    drop(waiting);
    limit(10_000);
    assert_served(&platform, "afterwards").await;
}

//! `signalbox bench` counts exactly: all that arrives of an honest gateway,
//! and every event that a dishonest one loses, doubles, swaps, forges or
//! sends to the wrong client. Figures of time are nobody's business here.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Process, eventually, signalbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fleet_world::World;

/// What events of a run carry.
const MARK: &[u8] = b"\"bench\":\"";
/// What the answer to an upgrade begins with.
const UPGRADED: &[u8] = b"HTTP/1.1 101";
/// What output of terminals carries.
const OUTPUT: &[u8] = b"\"type\":\"terminal:output\"";
/// The event of each connection with which a liar interferes.
const CHOSEN: usize = 10;

/// Runs `signalbox bench` with `--json`; gives exit code, report and errors.
async fn bench(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = signalbox();
    command.arg("bench").args(arguments).arg("--json");
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE * 4).await;
    let stderr = process.stderr().lines().join("\n");
    let stdout = process.stdout().lines().join("\n");
    let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}\n{stderr}"));
    (status.code(), report, stderr)
}

#[tokio::test]
async fn everything_of_an_honest_gateway_is_counted() {
    let (code, report, stderr) = bench(&[
        "fanout",
        "--connections",
        "20",
        "--rate",
        "50",
        "--seconds",
        "2",
    ])
    .await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(report["exact"], true);
    let run = &report["runs"][0];
    let deliveries = &run["deliveries"];
    assert_eq!(run["published"]["events"], 100);
    assert_eq!(deliveries["due"], 2_000);
    assert_eq!(deliveries["received"], 2_000);
    for never in ["lost", "doubled", "reordered", "misrouted", "unknown"] {
        assert_eq!(deliveries[never], 0, "{never}");
    }
    assert_eq!(run["latency"]["count"], 2_000);
    assert_eq!(run["acknowledgement"]["count"], 100);
    assert_eq!(run["opening"]["count"], 20);
    assert_eq!(run["floor"]["sends"], 2_000);
    assert!(run["generator"]["saturated"].is_boolean());
    for part in ["gateway", "router", "nats", "auth"] {
        assert!(run["used"][part]["total_s"].is_number(), "{part}");
    }
    assert_eq!(
        report["summary"]["deliveries.received"]["median"].as_f64(),
        Some(2_000.0)
    );
}

#[tokio::test]
async fn returns_to_a_gateway_that_was_killed_are_complete() {
    let (code, report, stderr) = bench(&["resume", "--connections", "20", "--missed", "50"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let run = &report["runs"][0];
    // 50 before, 50 missed, 50 after.
    assert_eq!(run["deliveries"]["received"], 20 * 150);
    assert_eq!(run["caught_up"]["count"], 20);
    assert!(run["used"]["bus"]["out_messages"].is_number());
}

#[tokio::test]
async fn every_byte_of_every_terminal_is_counted() {
    let (code, report, stderr) = bench(&[
        "terminal",
        "--sessions",
        "12",
        "--dashboards",
        "3",
        "--keys",
        "60",
        "--lines",
        "3000",
        "--batch",
        "100",
        "--line-bytes",
        "32",
        "--seconds",
        "2",
        "--no-search",
    ])
    .await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        (&report["dialect"], &report["exact"]),
        (&json!("fleet"), &json!(true))
    );
    let run = &report["runs"][0];
    let (echo, lines) = (&run["parts"]["echo"], &run["parts"]["lines"]);
    let count = |part: &Value| part["terminal"]["lines"].as_u64().unwrap();
    // As many as the clock allows; each is echoed, and timed once.
    assert!(count(echo) > 0 && count(lines) > 0, "{run}");
    assert_eq!(echo["latency"]["count"], count(echo));
    assert_eq!(
        lines["latency"]["count"].as_u64().unwrap() * 100,
        count(lines)
    );
    let output = &run["output"];
    let bytes = (count(echo) + count(lines)) * 32 * 3;
    assert_eq!(
        (&output["due"], &output["received"]),
        (&json!(bytes), &json!(bytes))
    );
    for never in ["lost", "doubled", "reordered", "unknown"] {
        assert_eq!(output[never], 0, "{never}");
    }
    for part in ["gateway", "relay", "nats"] {
        assert!(lines["used"][part]["total_s"].is_number(), "{part}");
    }
    assert!(lines["terminal"]["relay_memory"]["resident"].as_u64() > Some(0));
    assert!(run["trouble"].is_null(), "{run}");
}

#[tokio::test]
async fn runs_at_the_same_time_do_not_disturb_each_other() {
    let idle = ["idle", "--connections", "5", "--seconds", "1"];
    let runs = [bench(&idle), bench(&idle), bench(&idle)];
    for (code, report, stderr) in join_all(runs).await {
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(report["runs"][0]["connections"], 5);
    }
}

#[tokio::test]
async fn each_lie_of_a_dishonest_gateway_is_counted() {
    let (code, report, stderr) = against_liar(&["fanout"], 4, lie_to_each).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("not every event arrived"), "{stderr}");
    assert_eq!(report["exact"], false);
    let deliveries = &report["runs"][0]["deliveries"];
    let count = |name: &str| deliveries[name].as_u64().unwrap();
    assert_eq!(count("due"), 400);
    assert_eq!(count("received"), 399);
    assert_eq!(count("lost"), 1);
    assert_eq!(count("doubled"), 1);
    assert_eq!(count("reordered"), 1);
    assert_eq!(count("unknown"), 1);
    assert_eq!(count("misrouted"), 0);
}

#[tokio::test]
async fn an_event_for_another_client_is_counted() {
    let (code, report, stderr) = against_liar(&["topics"], 4, misroute_one).await;
    assert_eq!(code, Some(1), "{stderr}");
    let deliveries = &report["runs"][0]["deliveries"];
    assert_eq!(deliveries["misrouted"], 1);
    assert_eq!(deliveries["due"], 100);
    assert_eq!(deliveries["received"], 100);
    assert_eq!(deliveries["lost"], 0);
}

#[tokio::test]
async fn each_lie_about_a_terminal_is_counted() {
    let world = World::start(1).await;
    let liar = Liar::start(
        world.platform.gateways[0].listener(),
        OUTPUT,
        lie_about_output,
    )
    .await;
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("key");
    std::fs::write(&key_file, world.platform.api_key("agent")).unwrap();
    let (code, report, stderr) = bench(&[
        "terminal",
        "--url",
        &format!("ws://{}", liar.address),
        "--token",
        &world.platform.token("admin").await,
        "--agent-key-file",
        key_file.to_str().unwrap(),
        "--sessions",
        "1",
        "--keys",
        "1",
        "--lines",
        "300",
        "--batch",
        "10",
        "--line-bytes",
        "32",
        "--seconds",
        "2",
        "--no-search",
    ])
    .await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("not every event arrived"), "{stderr}");
    assert_eq!(report["exact"], false);
    let output = &report["runs"][0]["output"];
    let count = |name: &str| output[name].as_u64().unwrap();
    // A message has ten lines; one was dropped, one was forged.
    assert_eq!(count("lost"), 640);
    assert_eq!(count("unknown"), 320);
    assert_eq!(count("doubled"), 320);
    assert_eq!(count("reordered"), 320);
    assert_eq!(count("due"), count("received") + count("lost"));
}

/// Messages of output, behind those of the echo, are lost, doubled, swapped
/// and forged, one each.
fn lie_about_output(liar: &Liar, _: usize, event: usize, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    match event {
        10 => Vec::new(),
        15 => vec![frame.clone(), frame],
        20 => {
            *liar.kept.lock() = Some(frame);
            Vec::new()
        }
        21 => [frame].into_iter().chain(liar.kept.lock().take()).collect(),
        25 => {
            let at = find(&frame, b"\\n").unwrap() - 1;
            frame[at] = b'?';
            vec![frame]
        }
        _ => vec![frame],
    }
}

#[tokio::test]
async fn processes_of_a_run_end_with_it_when_it_is_killed() {
    let mut command = signalbox();
    command.args(["bench", "idle", "--connections", "5", "--seconds", "600"]);
    let process = Process::spawn(command);
    let pid = process.pid();
    // nats-server, auth, router, gateway; `init` has come and gone.
    let children = eventually("processes of the run", DEADLINE, async || {
        let children = children_of(pid);
        let names: HashSet<String> = children.iter().filter_map(|pid| name_of(*pid)).collect();
        ["nats-server", "auth", "router", "gateway"]
            .iter()
            .all(|name| names.contains(*name))
            .then_some(children)
    })
    .await;
    process.kill9();
    eventually("the end of its processes", DEADLINE, async || {
        children
            .iter()
            .all(|pid| name_of(*pid).is_none())
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_run_that_is_interrupted_ends_at_once_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = signalbox();
    command
        .args(["bench", "fanout", "--connections", "5", "--seconds", "600"])
        .env("TMPDIR", directory.path());
    let process = Process::spawn(command);
    let pid = process.pid();
    // Its publisher is a client of the bus, so the load is under way.
    eventually("the publisher", DEADLINE, async || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        threads
            .flatten()
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
            .any(|name| name.trim() == "publisher")
            .then_some(())
    })
    .await;
    process.sigterm();
    let status = process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(1));
    let stderr = process.stderr().lines().join("\n");
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn more_connections_than_descriptors_are_refused_in_words() {
    let mut command = signalbox();
    command.args(["bench", "idle", "--connections", "100000000"]);
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE * 2).await;
    assert_eq!(status.code(), Some(1));
    let stderr = process.stderr().lines().join("\n");
    assert!(stderr.contains("descriptors"), "{stderr}");
}

/// Runs a workload through a proxy that lies; 100 events in two seconds.
async fn against_liar(workload: &[&str], clients: usize, lie: Lie) -> (Option<i32>, Value, String) {
    let platform = Platform::start(1).await;
    let liar = Liar::start(platform.gateways[0].listener(), MARK, lie).await;
    let token = platform.token("admin").await;
    let url = format!("ws://{}", liar.address);
    let nats_url = platform.nats.url(User::Producer);
    let pid = platform.gateways[0].process.pid().to_string();
    let clients = clients.to_string();
    let target = ["--url", &url, "--nats-url", &nats_url, "--token", &token];
    let load = ["--pid", &pid, "--connections", &clients, "--no-floor"];
    let rate = ["--rate", "50", "--seconds", "2"];
    bench(&[workload, &target, &load, &rate].concat()).await
}

/// Each connection is told one lie.
fn lie_to_each(liar: &Liar, connection: usize, event: usize, frame: Vec<u8>) -> Vec<Vec<u8>> {
    match connection {
        // One is lost.
        0 if event == CHOSEN => Vec::new(),
        // One comes twice.
        1 if event == CHOSEN => vec![frame.clone(), frame],
        // One comes with the name of another run.
        2 if event == CHOSEN => vec![forged(&frame), frame],
        // Two come in the wrong order.
        3 if event == CHOSEN => {
            *liar.kept.lock() = Some(frame);
            Vec::new()
        }
        3 if event == CHOSEN + 1 => [frame].into_iter().chain(liar.kept.lock().take()).collect(),
        _ => vec![frame],
    }
}

/// The first event of the first connection goes to another, too.
fn misroute_one(liar: &Liar, connection: usize, _: usize, frame: Vec<u8>) -> Vec<Vec<u8>> {
    let mut kept = liar.kept.lock();
    if connection == 0 {
        if !liar.misrouted.swap(true, Ordering::SeqCst) {
            *kept = Some(frame.clone());
        }
        return vec![frame];
    }
    kept.take().into_iter().chain([frame]).collect()
}

/// The same frame with another run in its mark.
fn forged(frame: &[u8]) -> Vec<u8> {
    let at = find(frame, MARK).unwrap() + MARK.len();
    let mut forged = frame.to_vec();
    forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
    forged
}

/// Makes what is sent of a frame, given the connection's number and that of the
/// event on it.
type Lie = fn(&Liar, usize, usize, Vec<u8>) -> Vec<Vec<u8>>;

/// A proxy in front of a gateway that interferes with frames of events.
struct Liar {
    address: SocketAddr,
    /// What frames carry with which it interferes.
    mark: &'static [u8],
    connections: AtomicUsize,
    kept: Mutex<Option<Vec<u8>>>,
    misrouted: AtomicBool,
}

impl Liar {
    /// Starts one. Its task ends with the test's runtime.
    async fn start(gateway: SocketAddr, mark: &'static [u8], lie: Lie) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            mark,
            connections: AtomicUsize::new(0),
            kept: Mutex::default(),
            misrouted: false.into(),
        });
        let its = Arc::clone(&liar);
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(Arc::clone(&its), client, gateway, lie));
            }
        });
        liar
    }
}

/// Passes what a client says as it is, and frames of the gateway as `lie`
/// wants them.
async fn pass(liar: Arc<Liar>, client: TcpStream, gateway: SocketAddr, lie: Lie) {
    let connection = liar.connections.fetch_add(1, Ordering::SeqCst);
    let server = TcpStream::connect(gateway).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.ok() };
    let down = async {
        let mut bytes = Vec::new();
        let mut upgraded = false;
        let mut events = 0;
        while from_server.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
            let mut out = Vec::new();
            // Other requests than for the upgrade are none of its business.
            let is_head = bytes.len() >= UPGRADED.len();
            if !upgraded && is_head && !bytes.starts_with(UPGRADED) {
                out.append(&mut bytes);
            }
            if !upgraded && let Some(end) = find(&bytes, b"\r\n\r\n") {
                out.extend(bytes.drain(..end + 4));
                upgraded = true;
            }
            while upgraded && let Some(length) = frame_length(&bytes) {
                let frame: Vec<u8> = bytes.drain(..length).collect();
                if find(&frame, liar.mark).is_none() {
                    out.extend(frame);
                    continue;
                }
                let event = events;
                events += 1;
                out.extend(lie(&liar, connection, event, frame).concat());
            }
            if to_client.write_all(&out).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

/// The length of the server's frame at the start of `bytes`, once it is whole.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = match bytes.get(1)? & 0x7F {
        126 => 4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        127 => panic!("no frame here is that long"),
        length => 2 + usize::from(length),
    };
    (bytes.len() >= length).then_some(length)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Processes whose parent this is.
fn children_of(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter();
    let threads = threads.flatten().flatten().map(|thread| thread.path());
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.join("children")).ok())
        .flat_map(|children| {
            let pids = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// What a process runs under; `None` once it has ended.
fn name_of(pid: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let name = line.split('\0').next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

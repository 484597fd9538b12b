//! The floor: what the same frames cost when nothing is done but to write
//! them to as many sockets. A process of its own writes, and the same reader
//! as ever reads, so that a server's figures can be quoted as a ratio.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use signalbox_service::ExitError;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::child::Child;
use super::procfs::CpuSample;
use super::progress::{add, read};
use super::socket::{Buffer, Socket};
use super::wire;
use crate::output;

/// How long the reader may take to connect, and to read what was written last.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(2);

/// How the floor process writes.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FloorArgs {
    /// Sockets
    #[arg(long)]
    pub(super) connections: usize,
    /// Sockets written in each round, in turn
    #[arg(long)]
    pub(super) per_round: usize,
    /// Rounds a second
    #[arg(long)]
    pub(super) rate: f64,
    /// Rounds
    #[arg(long)]
    pub(super) rounds: u64,
    /// Bytes of each message
    #[arg(long)]
    pub(super) bytes: usize,
}

/// What the floor took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Floor {
    /// Frames written, one system call each.
    pub(super) sends: u64,
    /// Bytes of each message.
    pub(super) bytes: u64,
    /// CPU time for each, in microseconds.
    pub(super) us_per_send: f64,
    /// Of it, in the program.
    pub(super) user_us_per_send: f64,
}

/// The floor process: accepts, waits for a word, writes, and waits again.
pub(crate) fn run(args: &FloorArgs) -> Result<(), ExitError> {
    write_frames(args).map_err(ExitError::runtime)
}

fn write_frames(args: &FloorArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(listener.local_addr()?)?;
    let mut sockets = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    say("accepted")?;
    let mut orders = BufReader::new(std::io::stdin()).lines();
    orders.next().context("no order came")??;
    let frame = wire::server_text(&vec![b'x'; args.bytes]);
    let start = Instant::now();
    let mut next = 0;
    for round in 0..args.rounds {
        let due = start + Duration::from_secs_f64(round as f64 / args.rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for _ in 0..args.per_round {
            sockets[next].write_all(&frame)?;
            next = (next + 1) % sockets.len();
        }
    }
    say("written")?;
    // The sockets stay until whoever measures has done so.
    orders.next();
    Ok(())
}

fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match output::line(text) {
        Ok(true) => Ok(()),
        _ => bail!("nobody listens"),
    }
}

/// Runs the floor process and a reader, and measures the former.
pub(super) async fn measure(args: FloorArgs) -> anyhow::Result<Floor> {
    let dir = tempfile::Builder::new()
        .prefix("signalbox-floor-")
        .tempdir()?;
    let mut child = spawn(&args, dir.path())?;
    let (mut orders, answers) = child.pipes().context("the floor has no pipes")?;
    // Reading a pipe blocks, so it is done where that harms nobody.
    let (said, mut hearing) = tokio::sync::mpsc::channel(8);
    let listener = thread::spawn(move || {
        for line in BufReader::new(answers).lines().map_while(Result::ok) {
            if said.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let address = hearing.recv().await.context("the floor did not start")?;
    let address: SocketAddr = address.parse().context("the floor's address")?;
    let received = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = oneshot::channel();
    let reader = thread::spawn({
        let received = Arc::clone(&received);
        move || read_frames(address, args.connections, &received, stopped)
    });
    let accepted = hearing.recv();
    tokio::time::timeout(PATIENCE, accepted)
        .await
        .context("the floor was not connected")?;
    let before = CpuSample::of(child.pid())?;
    writeln!(orders, "go")?;
    hearing.recv().await.context("the floor ended")?;
    let sends = args.rounds * args.per_round as u64;
    let deadline = Instant::now() + PATIENCE;
    while read(&received) < sends {
        if Instant::now() > deadline {
            bail!(
                "the floor's reader got {} of {sends} frames",
                read(&received)
            );
        }
        sleep(POLL).await;
    }
    let used = CpuSample::of(child.pid())?.since(&before);
    drop(stop);
    drop(orders);
    child.kill();
    reader.join().ok();
    listener.join().ok();
    Ok(Floor {
        sends,
        bytes: args.bytes as u64,
        us_per_send: used.total_s * 1e6 / sends as f64,
        user_us_per_send: used.user_s * 1e6 / sends as f64,
    })
}

fn spawn(args: &FloorArgs, dir: &Path) -> anyhow::Result<Child> {
    let FloorArgs {
        connections,
        per_round,
        rate,
        rounds,
        bytes,
    } = args;
    let arguments = [
        ("--connections", connections.to_string()),
        ("--per-round", per_round.to_string()),
        ("--rate", rate.to_string()),
        ("--rounds", rounds.to_string()),
        ("--bytes", bytes.to_string()),
    ];
    let mut words: Vec<OsString> = vec!["bench".into(), "floor".into()];
    words.extend(
        arguments
            .into_iter()
            .flat_map(|(key, value)| [key.into(), value.into()]),
    );
    Child::spawn("floor", None, &words, &[], dir)
}

/// Reads frames from all sockets until told to stop.
fn read_frames(
    address: SocketAddr,
    connections: usize,
    received: &Arc<AtomicU64>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let buffer = Rc::new(Buffer::default());
    LocalSet::new().block_on(&runtime, async {
        for index in 0..connections {
            let Ok(mut socket) = Socket::plain(address, index).await else {
                return;
            };
            let (buffer, received) = (Rc::clone(&buffer), Arc::clone(received));
            spawn_local(async move {
                while socket.read(&buffer, |_, _| add(&received, 1)).await.is_ok() {}
            });
        }
        stopped.await.ok();
    });
}

//! Cost of a delivered message: sends events to N connections and prints this process's CPU time
//! per message beside that of bare `write` calls. `cargo run --release -p signalbox-transport
//! --example fanout -- 1000`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, error::Error, fs, io::Read, net, thread, time::Duration};

use bytes::Bytes;
use signalbox_transport::{Frame, Outbound, Sent, WebSocket, WebSocketOptions};
use tokio::{net::TcpStream, task::yield_now, time::interval};

const PAYLOAD_BYTES: usize = 256;
const MESSAGES: usize = 400_000;
/// What `/proc` counts CPU time in.
const TICK: Duration = Duration::from_millis(10);

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(count), Some(address)) => read_all(count.parse()?, address.parse()?),
        (count, _) => measure(count.map_or(Ok(1000), |count| count.parse())?).await,
    }
}

/// The child: reads and throws away, on one thread.
fn read_all(count: usize, address: net::SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let stream = net::TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        for stream in &mut streams {
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        thread::sleep(Duration::from_millis(5));
    }
}

async fn measure(count: usize) -> Result<(), Box<dyn Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut child = tokio::process::Command::new(env::current_exe()?)
        .args([count.to_string(), address])
        .kill_on_drop(true)
        .spawn()?;
    let mut bare = Vec::new();
    let mut sockets = Vec::new();
    for at in 0..count {
        let (stream, _) = listener.accept().await?;
        if at % 2 == 0 {
            stream.set_nodelay(true)?;
            bare.push(stream);
        } else {
            sockets.push(WebSocket::new(
                stream,
                Bytes::new(),
                &WebSocketOptions::default(),
            )?);
        }
    }
    let outbounds: Vec<Outbound> = sockets.iter().map(WebSocket::outbound).collect();
    yield_now().await;

    for batch in [1, 8, 32] {
        let frames: Vec<Frame> = (0..batch)
            .map(|n| Frame::text(&format!("{n:0>PAYLOAD_BYTES$}")))
            .collect();
        let indices: Vec<usize> = (0..batch).collect();
        let joined: Vec<u8> = frames.iter().flat_map(Frame::as_bytes).copied().collect();
        let rounds = MESSAGES / batch / outbounds.len();

        let floor = spend(rounds, || bare_round(&bare, &joined)).await?;
        let ours = spend(rounds, || {
            let batch = indices.iter().map(|&index| &frames[index]);
            outbounds
                .iter()
                .filter(|outbound| outbound.send(batch.clone()) != Sent::Written)
                .count()
        })
        .await?;
        let messages = (rounds * batch * outbounds.len()) as f64;
        for (name, (user, system, queued)) in [("bare write", floor), ("outbound", ours)] {
            let (user, system) = (
                user.as_secs_f64() * 1e6 / messages,
                system.as_secs_f64() * 1e6 / messages,
            );
            println!(
                "batch of {batch:>2}, {name:<10}: {user:.3} us user, {system:.3} us system, {queued} queued"
            );
        }
    }
    child.kill().await?;
    Ok(())
}

fn bare_round(streams: &[TcpStream], bytes: &[u8]) -> usize {
    streams
        .iter()
        .filter(|stream| !matches!(stream.try_write(bytes), Ok(written) if written == bytes.len()))
        .count()
}

/// User and system time of the rounds, and how often a send did not go through at once.
async fn spend(
    rounds: usize,
    mut round: impl FnMut() -> usize,
) -> Result<(Duration, Duration, usize), Box<dyn Error>> {
    let before = cpu_time()?;
    let mut queued = 0;
    // Paced, so that the reader keeps up.
    let mut ticks = interval(Duration::from_millis(5));
    for _ in 0..rounds {
        ticks.tick().await;
        queued += round();
    }
    let after = cpu_time()?;
    Ok((after.0 - before.0, after.1 - before.1, queued))
}

fn cpu_time() -> Result<(Duration, Duration), Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    Ok((
        TICK * fields[11].parse::<u32>()?,
        TICK * fields[12].parse::<u32>()?,
    ))
}

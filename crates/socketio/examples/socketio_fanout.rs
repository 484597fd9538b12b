//! Cost of a delivered event over WebSocket: emits to N sockets in a namespace and prints this
//! process's CPU time per message, beside that of raw WebSocket connections that are sent a frame
//! of the same size. `cargo run --release -p signalbox-socketio --example socketio_fanout -- 1000`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

#[path = "support/server.rs"]
mod support;

use std::{cell::RefCell, env, error::Error, fs, io::Read, net, rc::Rc, thread, time::Duration};

use bytes::Bytes;
use signalbox_socketio::Packet;
use signalbox_transport::{Frame, Outbound, Sent, WebSocket, WebSocketOptions};
use support::{CONNECT, Rooms, accept_one, engine, read_text};
use tokio::{
    net::TcpStream,
    task::{spawn_local, yield_now},
    time::interval,
};

const PAYLOAD_BYTES: usize = 256;
const MESSAGES: usize = 400_000;
/// What `/proc` counts CPU time in.
const TICK: Duration = Duration::from_millis(10);

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(count), Some(address)) => read_all(count.parse()?, address.parse()?).await,
        (count, _) => measure(count.map_or(Ok(1000), |count| count.parse())?).await,
    }
}

/// The child: every second connection is raw, the others join the namespace. Then reads and throws
/// away, on one thread.
async fn read_all(count: usize, address: net::SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut streams = Vec::new();
    for at in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        if at % 2 == 1 {
            support::handshake(&mut stream).await?;
            support::send(&mut stream, CONNECT).await?;
            while !read_text(&mut stream).await?.starts_with("40") {}
        }
        let stream = stream.into_std()?;
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
    let members = Rc::<RefCell<Vec<_>>>::default();
    let engine = engine(Rooms(Rc::clone(&members)));
    let driver = Rc::clone(&engine);
    spawn_local(async move { driver.run().await });
    let mut raw = Vec::new();
    for at in 0..count {
        let (stream, _) = listener.accept().await?;
        if at % 2 == 0 {
            raw.push(WebSocket::new(
                stream,
                Bytes::new(),
                &WebSocketOptions::default(),
            )?);
        } else {
            spawn_local(accept_one(stream, Rc::clone(&engine)));
        }
    }
    while members.borrow().len() < count / 2 {
        yield_now().await;
    }
    let outbounds: Vec<Outbound> = raw.iter().map(WebSocket::outbound).collect();
    let sockets = members.borrow().clone();

    for batch in [1, 8, 32] {
        let text = "x".repeat(PAYLOAD_BYTES);
        let packets: Vec<Packet> = (0..batch)
            .map(|_| {
                Packet::event("/ws", "event")
                    .value(&text.as_str().into())
                    .build()
            })
            .collect();
        let frames: Vec<Frame> = packets
            .iter()
            .filter_map(|packet| packet.single_frame().cloned())
            .collect();
        let rounds = MESSAGES / batch / sockets.len();

        let floor = spend(rounds, || {
            let sent = outbounds
                .iter()
                .map(|outbound| outbound.send(frames.iter()));
            sent.filter(|sent| *sent != Sent::Written).count()
        })
        .await?;
        let batched = spend(rounds, || {
            let sent = sockets
                .iter()
                .map(|socket| socket.outbound().send(frames.iter()));
            sent.filter(|sent| *sent != Sent::Written).count()
        })
        .await?;
        let mut runs = vec![("raw", floor), ("socket.io", batched)];
        if batch == 1 {
            let emitted = spend(rounds, || {
                let sent = sockets.iter().map(|socket| socket.emit(&packets[0]));
                sent.filter(|sent| *sent != Sent::Written).count()
            })
            .await?;
            runs.push(("emit", emitted));
        }
        let messages = (rounds * batch * sockets.len()) as f64;
        for (name, (user, system, queued)) in runs {
            let (user, system) = (
                user.as_secs_f64() * 1e6 / messages,
                system.as_secs_f64() * 1e6 / messages,
            );
            println!(
                "batch of {batch:>2}, {name:<9}: {user:.3} us user, {system:.3} us system, {queued} queued"
            );
        }
    }
    child.kill().await?;
    Ok(())
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

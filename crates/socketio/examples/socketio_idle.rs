//! Memory of an idle Socket.IO connection over WebSocket, each in one namespace: accepts N of them
//! from a child process and prints how much resident memory each added. To be compared with the
//! example of the same name in `signalbox-transport`. `cargo run --release -p signalbox-socketio
//! --example socketio_idle -- 2000`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

#[path = "support/server.rs"]
mod support;

use std::{cell::RefCell, env, error::Error, fs, future, net::SocketAddr, rc::Rc};

use signalbox_socketio::Engine;
use support::{CONNECT, Rooms, accept_one, engine, read_text};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    task::{spawn_local, yield_now},
};

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(count), Some(address)) => hold(count.parse()?, address.parse()?).await,
        (count, _) => measure(count.map_or(Ok(2000), |count| count.parse())?).await,
    }
}

/// The child: opens the sessions, joins the namespace on each, and holds them until its end.
async fn hold(count: usize, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        support::handshake(&mut stream).await?;
        support::send(&mut stream, CONNECT).await?;
        while !read_text(&mut stream).await?.starts_with("40") {}
        streams.push(stream);
    }
    future::pending().await
}

async fn measure(count: usize) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let _client = Command::new(env::current_exe()?)
        .args([count.to_string(), address])
        .kill_on_drop(true)
        .spawn()?;
    let members = Rc::<RefCell<Vec<_>>>::default();
    let engine = engine(Rooms(Rc::clone(&members)));
    let driver: Rc<Engine<_>> = Rc::clone(&engine);
    spawn_local(async move { driver.run().await });
    let mut before = 0;
    for at in 0..count {
        spawn_local(accept_one(listener.accept().await?.0, Rc::clone(&engine)));
        // One at a time, so that what a handshake needs meanwhile is counted once; the first also
        // pays for what all share.
        while members.borrow().len() == at {
            yield_now().await;
        }
        if at == 0 {
            before = resident_bytes()?;
        }
    }
    let grown = resident_bytes()?.saturating_sub(before);
    println!(
        "{count} idle connections: {} bytes of resident memory each",
        grown / (count - 1)
    );
    Ok(())
}

fn resident_bytes() -> Result<usize, Box<dyn Error>> {
    const PAGE_BYTES: usize = 4096;
    let pages = fs::read_to_string("/proc/self/statm")?
        .split(' ')
        .nth(1)
        .ok_or("statm has fields")?
        .parse::<usize>()?;
    Ok(pages * PAGE_BYTES)
}

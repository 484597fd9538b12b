//! Memory of an idle connection: accepts N upgraded connections from a child process and prints how
//! much resident memory each added. `cargo run --release -p signalbox-transport --example idle --
//! 2000`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    cell::Cell, convert::Infallible, env, error::Error, fs, future, net::SocketAddr, rc::Rc,
};

use hyper::service::service_fn;
use signalbox_transport::{HttpLimits, Incoming, WebSocket, WebSocketOptions, serve_http, upgrade};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    task::{spawn_local, yield_now},
};

const HANDSHAKE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A masked text frame that says `hi`, so that every connection has received once.
const GREETING: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(count), Some(address)) => hold(count.parse()?, address.parse()?).await,
        (count, _) => measure(count.map_or(Ok(2000), |count| count.parse())?).await,
    }
}

/// The child: opens the connections, says hello on each, and holds them until its end.
async fn hold(count: usize, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(HANDSHAKE).await?;
        let mut response = [0; 1024];
        let mut len = 0;
        while !response[..len].ends_with(b"\r\n\r\n") {
            len += stream.read(&mut response[len..]).await?;
        }
        stream.write_all(GREETING).await?;
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
    let idle = Rc::new(Cell::new(0));
    let mut before = 0;
    for at in 0..count {
        let (stream, _) = listener.accept().await?;
        spawn_local(serve(stream, Rc::clone(&idle)));
        // One at a time, so that what a handshake needs meanwhile is counted once; the first also
        // pays for what all share.
        while idle.get() == at {
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

/// One connection from its handshake on; `idle` counts those that have received their greeting and
/// nothing more.
async fn serve(stream: TcpStream, idle: Rc<Cell<usize>>) {
    let service = service_fn(move |mut request| {
        let idle = Rc::clone(&idle);
        let (response, pending) = upgrade::accept(&mut request).expect("a handshake");
        spawn_local(async move {
            let (stream, read_ahead) = pending.complete().await.expect("an upgrade");
            let mut socket =
                WebSocket::new(stream, read_ahead, &WebSocketOptions::default()).expect("a socket");
            while !matches!(socket.next().await, Incoming::Closed(_)) {
                idle.set(idle.get() + 1);
            }
        });
        future::ready(Ok::<_, Infallible>(response))
    });
    serve_http(stream, service, &HttpLimits::default(), future::pending())
        .await
        .ok();
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

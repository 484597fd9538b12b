//! The proxy: what it passes on, and every way in which it does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use signalbox_testkit::{DEADLINE, Direction, Flow, Proxy, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long nothing must come to count as nothing.
const SILENCE: Duration = Duration::from_millis(100);

/// A proxy with one connection through it: proxy, client's end, server's end.
async fn connected() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (server, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    (proxy, client, server)
}

async fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    let mut got = vec![0; bytes.len()];
    timeout(DEADLINE, to.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, bytes);
}

async fn says_nothing(stream: &mut TcpStream) {
    let read = timeout(SILENCE, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

async fn is_reset(stream: &mut TcpStream) {
    let read = timeout(DEADLINE, stream.read_u8()).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_and_their_end_pass_both_ways() {
    let (proxy, mut client, mut server) = connected().await;
    let large = vec![7; 300_000];
    let (mut reader, mut writer) = client.split();
    let sending = async {
        writer.write_all(&large).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(b"bye").await.unwrap();
        drop(server);
        got
    };
    let ((), got) = tokio::join!(sending, receiving);
    assert_eq!(got, large);
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");
    eventually("the connection's end", DEADLINE, async || {
        (proxy.connections() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cut_resets_both_sides_and_new_connections_work() {
    let (proxy, mut client, mut server) = connected().await;
    passes(&mut client, &mut server, b"x").await;
    proxy.cut();
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.retarget(listener.local_addr().unwrap());
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    passes(&mut client, &mut server, b"y").await;
}

#[tokio::test]
async fn a_silenced_connection_tells_nobody() {
    let (proxy, mut client, mut server) = connected().await;
    passes(&mut client, &mut server, b"x").await;
    proxy.silence();
    client.write_all(b"lost").await.unwrap();
    says_nothing(&mut server).await;
    says_nothing(&mut client).await;
    proxy.cut();
    is_reset(&mut client).await;
}

#[tokio::test]
async fn refused_connections_are_reset_until_admitted() {
    let (proxy, mut client, mut server) = connected().await;
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
    is_reset(&mut refused).await;
    passes(&mut client, &mut server, b"open ones go on").await;
    proxy.admit();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.retarget(listener.local_addr().unwrap());
    let _admitted = TcpStream::connect(proxy.addr()).await.unwrap();
    eventually("a second connection", DEADLINE, async || {
        (proxy.connections() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_direction_is_stalled_and_the_other_goes_on() {
    let (proxy, mut client, mut server) = connected().await;
    let stalled = Flow {
        stalled: true,
        ..Flow::default()
    };
    proxy.shape(Direction::Forth, stalled);
    passes(&mut server, &mut client, b"x").await;
    client.write_all(b"y").await.unwrap();
    says_nothing(&mut server).await;
    proxy.shape(Direction::Forth, Flow::default());
    assert_eq!(server.read_u8().await.unwrap(), b'y');
}

#[tokio::test]
async fn bytes_are_delayed_and_throttled() {
    let (proxy, mut client, mut server) = connected().await;
    let delay = Duration::from_millis(100);
    proxy.shape(
        Direction::Back,
        Flow {
            delay,
            ..Flow::default()
        },
    );
    let began = Instant::now();
    passes(&mut server, &mut client, b"late").await;
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    proxy.shape(
        Direction::Back,
        Flow {
            rate: Some(10_000),
            ..Flow::default()
        },
    );
    let began = Instant::now();
    passes(&mut server, &mut client, &[1; 5_000]).await;
    // The last portion needs not wait for its own time to pass.
    assert!(
        began.elapsed() >= Duration::from_millis(390),
        "{:?}",
        began.elapsed()
    );
}

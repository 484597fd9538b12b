//! The server for tests: killed and started again it has its port and its
//! data, and halted it says nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

#[tokio::test]
async fn restarted_server_has_port_and_data_of_the_killed_one() {
    let server = NatsServer::start().await;
    let (port, pid) = (server.port(), server.pid());
    let client = server.connect(User::Admin).await;
    let config = stream::Config {
        name: "KEPT".to_owned(),
        ..stream::Config::default()
    };
    jetstream::new(client.clone())
        .create_stream(config)
        .await
        .unwrap();

    server.kill9();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    server.restart().await;
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    // The client that was connected before comes back by itself.
    let jetstream = jetstream::new(client);
    eventually("the stream", DEADLINE, async || {
        jetstream.get_stream("KEPT").await.ok()
    })
    .await;
}

#[tokio::test]
async fn halted_server_accepts_connections_and_says_nothing() {
    let server = NatsServer::start().await;
    server.sigstop();
    let mut connection = TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let mut greeting = [0; 4];
    timeout(
        Duration::from_millis(200),
        connection.read_exact(&mut greeting),
    )
    .await
    .unwrap_err();
    server.sigcont();
    timeout(DEADLINE, connection.read_exact(&mut greeting))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&greeting, b"INFO");
}

#[tokio::test]
async fn servers_run_side_by_side_and_are_removed() {
    let (first, second) = (NatsServer::start().await, NatsServer::start().await);
    assert_ne!(first.port(), second.port());
    assert_eq!(first.url_for("router"), first.url(User::Router));
    let (port, dir) = (first.port(), first.dir().to_owned());
    drop(first);
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    assert!(!dir.exists());
    TcpStream::connect(("127.0.0.1", second.port()))
        .await
        .unwrap();
}

//! From an accepted socket over HTTP to a WebSocket connection, with tokio-tungstenite as the
//! client, and the limits on the way.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    convert::Infallible,
    future,
    io::ErrorKind,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Client, TEXT, frame, soon};
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::{body, service::service_fn};
use signalbox_transport::{
    Frame, HttpLimits, Incoming, PendingUpgrade, Shards, WebSocket, WebSocketOptions, serve_http,
    upgrade,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc, watch},
    task::spawn_local,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// Echoes every text on this connection until it ends.
async fn echo(upgrade: PendingUpgrade) {
    let (stream, read_ahead) = upgrade.complete().await.unwrap();
    let mut socket = WebSocket::new(stream, read_ahead, &WebSocketOptions::default()).unwrap();
    let outbound = socket.outbound();
    while let Incoming::Text(text) = socket.next().await {
        let _ = outbound.send_frame(&Frame::text(&text));
    }
}

/// Accepts upgrades and hands them to `session`; everything else gets the rejection.
fn answer(
    mut request: Request<body::Incoming>,
    session: impl FnOnce(PendingUpgrade),
) -> Response<BoxBody<Bytes, Infallible>> {
    match upgrade::accept_subprotocol(&mut request, &["echo"]) {
        Ok((response, pending)) => {
            session(pending);
            response.map(|body: Empty<Bytes>| body.boxed())
        }
        Err(rejection) => rejection.response().map(|body| body.boxed()),
    }
}

/// Serves one connection and returns the client's end of it.
async fn serve(limits: HttpLimits, shutdown: impl Future<Output = ()> + 'static) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    spawn_local(async move {
        let service = service_fn(|request| {
            future::ready(Ok::<_, Infallible>(answer(request, |pending| {
                drop(spawn_local(echo(pending)))
            })))
        });
        serve_http(stream, service, &limits, shutdown).await.ok();
    });
    client
}

async fn plain() -> TcpStream {
    serve(HttpLimits::default(), future::pending()).await
}

/// The head of the response to what was sent.
async fn head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon(client.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test(flavor = "local")]
async fn client_of_the_ecosystem_is_served() {
    let mut request = "ws://a/ws".into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "other, echo".parse().unwrap());
    let (mut client, response) = soon(client_async(request, plain().await)).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "echo");
    for text in ["hello", &"x".repeat(70_000)] {
        soon(client.send(Message::text(text))).await.unwrap();
        assert_eq!(
            soon(client.next()).await.unwrap().unwrap(),
            Message::text(text)
        );
    }
    soon(client.send(Message::Ping(Bytes::from_static(b"p"))))
        .await
        .unwrap();
    assert_eq!(
        soon(client.next()).await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"p"))
    );
    soon(client.close(None)).await.unwrap();
    assert!(matches!(
        soon(client.next()).await,
        Some(Ok(Message::Close(None)))
    ));
    assert!(matches!(
        soon(client.next()).await,
        None | Some(Err(tungstenite::Error::ConnectionClosed))
    ));
}

#[tokio::test(flavor = "local")]
async fn deflate_offer_is_ignored_and_early_frames_are_not_lost() {
    let mut client = plain().await;
    let mut bytes = HANDSHAKE.as_bytes().to_vec();
    bytes.extend(frame(TEXT, b"early"));
    client.write_all(&bytes).await.unwrap();
    let head = head(&mut client).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(!head.contains("extensions"), "{head}");
    assert_eq!(Client(client).text().await, "early");
}

#[tokio::test(flavor = "local")]
async fn rejected_requests_get_a_status_and_a_sentence() {
    for (change, status, header) in [
        (("GET", "POST"), "405", "allow: get"),
        (("HTTP/1.1", "HTTP/1.0"), "400", "content-length"),
        (("Upgrade: websocket\r\n", ""), "426", "upgrade: websocket"),
        (
            ("Version: 13", "Version: 7"),
            "426",
            "sec-websocket-version: 13",
        ),
        (("Key: dGhl", "Key: "), "400", "content-length"),
    ] {
        let mut client = plain().await;
        client
            .write_all(HANDSHAKE.replace(change.0, change.1).as_bytes())
            .await
            .unwrap();
        let head = head(&mut client).await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{head}");
        assert!(head.contains(header), "{head}");
        assert!(
            !head.contains("content-length: 0"),
            "there is a sentence: {head}"
        );
    }
}

#[tokio::test(flavor = "local")]
async fn trickled_headers_and_idle_connections_are_ended() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let limits = HttpLimits {
        header_read_timeout: TIMEOUT,
        ..HttpLimits::default()
    };
    for opening in ["", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let start = Instant::now();
        let mut client = serve(limits, future::pending()).await;
        client.write_all(opening.as_bytes()).await.unwrap();
        let mut ticks = tokio::time::interval(TIMEOUT / 10);
        soon(async {
            let mut answer = [0; 512];
            loop {
                tokio::select! {
                    read = client.read(&mut answer) => if !matches!(read, Ok(1..)) { break },
                    _ = ticks.tick(), if !opening.is_empty() => {
                        if client.write_all(b"x").await.is_err() { break }
                    }
                }
            }
        })
        .await;
        assert!(start.elapsed() >= TIMEOUT);
    }
}

#[tokio::test(flavor = "local")]
async fn overlong_head_is_refused() {
    let mut client = plain().await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    client.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("http/1.1 431 "));
}

#[tokio::test(flavor = "local")]
async fn shutdown_ends_an_idle_connection() {
    let patient = HttpLimits {
        header_read_timeout: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let (stop, mut stopped) = watch::channel(false);
    let mut client = serve(patient, async move {
        stopped.wait_for(|stop| *stop).await.ok();
    })
    .await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut client).await.starts_with("http/1.1 426 "));
    stop.send(true).unwrap();
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn upgrade_completed_on_another_runtime_outlives_the_one_that_served_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let (hand_over, mut upgrades) = mpsc::channel::<PendingUpgrade>(1);
    let stream = Arc::new(Mutex::new(Some(stream)));
    let http = Shards::start(NonZeroUsize::MIN, "http", move |_| {
        let (stream, hand_over) = (Arc::clone(&stream), hand_over.clone());
        async move {
            let stream = TcpStream::from_std(stream.lock().await.take().unwrap()).unwrap();
            let service = service_fn(|request| {
                let response = answer(request, |pending| hand_over.try_send(pending).unwrap());
                future::ready(Ok::<_, Infallible>(response))
            });
            serve_http(stream, service, &HttpLimits::default(), future::pending())
                .await
                .unwrap();
        }
    })
    .unwrap();
    let session = spawn_local(async move {
        let (stream, read_ahead) = upgrades.recv().await.unwrap().complete().await.unwrap();
        soon(http.join()).await.unwrap();
        let mut socket = WebSocket::new(stream, read_ahead, &WebSocketOptions::default()).unwrap();
        let Incoming::Text(text) = socket.next().await else {
            panic!("text")
        };
        assert_eq!(text, "over");
    });
    let (mut client, _) = soon(client_async("ws://a/ws", client)).await.unwrap();
    soon(client.send(Message::text("over"))).await.unwrap();
    soon(session).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn upgrade_of_a_client_that_left_is_an_error() {
    let mut request = Request::get("/").body(()).unwrap();
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (_, pending) = upgrade::accept(&mut request).unwrap();
    assert_eq!(
        soon(pending.complete()).await.unwrap_err().kind(),
        ErrorKind::Other
    );
}

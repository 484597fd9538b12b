//! A plain WebSocket client that knows no dialect: it sends what the test
//! says and shows every frame that comes.

use std::{fmt, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{HeaderName, HeaderValue},
    },
};

use crate::DEADLINE;

/// An open WebSocket connection.
#[derive(Debug)]
pub struct WsClient {
    stream: WebSocketStream<TcpStream>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The code of the peer's close frame; `None` when there was no frame, or
    /// no code in it.
    pub code: Option<u16>,
    /// The reason in the peer's close frame.
    pub reason: String,
}

/// The answer of a server that refused the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The body, as far as it came together with the head.
    pub body: String,
}

impl WsClient {
    /// Connects to a `ws://` URL with additional request headers.
    ///
    /// # Panics
    /// When the upgrade does not succeed within [`DEADLINE`].
    pub async fn connect(url: &str, headers: &[(&str, &str)]) -> Self {
        match Self::try_connect(url, headers).await {
            Ok(client) => client,
            Err(refused) => panic!("{url} refused the upgrade: {refused}"),
        }
    }

    /// As [`connect`](Self::connect), for a server that may refuse.
    ///
    /// # Errors
    /// When the server answers with anything but an upgrade.
    ///
    /// # Panics
    /// When there is no such server, or no answer within [`DEADLINE`].
    pub async fn try_connect(url: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        let request = request(url, headers);
        let host = request.uri().host().expect("the URL has a host").to_owned();
        let port = request.uri().port_u16().unwrap_or(80);
        let stream = timeout(DEADLINE, TcpStream::connect((host, port)))
            .await
            .unwrap_or_else(|_| panic!("{url} does not answer"))
            .unwrap_or_else(|err| panic!("{url} cannot be reached: {err}"));
        stream.set_nodelay(true).expect("the socket is open");
        Self::upgrade(stream, request).await
    }

    /// Upgrades a connection that the test has made, with socket options of its
    /// own for instance.
    ///
    /// # Errors
    /// When the server answers with anything but an upgrade.
    ///
    /// # Panics
    /// When there is no answer within [`DEADLINE`].
    pub async fn connect_over(
        stream: TcpStream,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        Self::upgrade(stream, request(url, headers)).await
    }

    async fn upgrade(stream: TcpStream, request: Request) -> Result<Self, Refused> {
        let url = request.uri().to_string();
        let answer = timeout(DEADLINE, client_async(request, stream)).await;
        match answer.unwrap_or_else(|_| panic!("{url} does not answer the upgrade")) {
            Ok((stream, _)) => Ok(Self { stream }),
            Err(Error::Http(response)) => Err(Refused {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default())
                    .into_owned(),
            }),
            Err(err) => panic!("{url} does not speak WebSocket: {err}"),
        }
    }

    /// Sends a JSON value as one text frame.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn send_json(&mut self, value: &Value) {
        self.send(Message::text(value.to_string())).await;
    }

    /// Sends any frame, such as text that is no JSON, binary or a ping.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn send(&mut self, message: Message) {
        if let Err(err) = self.stream.send(message).await {
            panic!("cannot send: {err}");
        }
    }

    /// The next frame of any kind; `None` when the connection has ended. Pings
    /// are answered all the same.
    ///
    /// # Panics
    /// When nothing comes within `deadline`.
    pub async fn next_message(&mut self, deadline: Duration) -> Option<Message> {
        let next = timeout(deadline, self.stream.next()).await;
        let next = next.unwrap_or_else(|_| panic!("no frame within {deadline:?}"));
        next.and_then(Result::ok)
    }

    /// The next frame but pings and pongs, which must be JSON text.
    ///
    /// # Panics
    /// When anything else comes, the connection ends, or nothing comes within
    /// `deadline`.
    pub async fn next_json(&mut self, deadline: Duration) -> Value {
        match self.next_json_or_close(deadline).await {
            Ok(value) => value,
            Err(closed) => panic!("the connection was closed: {closed:?}"),
        }
    }

    /// The next frame, which must be of this `type`. Nothing is skipped.
    ///
    /// # Panics
    /// When another frame comes, or nothing within [`DEADLINE`].
    pub async fn expect(&mut self, kind: &str) -> Value {
        let value = self.next_json(DEADLINE).await;
        assert_eq!(value["type"], kind, "{value}");
        value
    }

    /// The end of the connection, which must be the next thing that happens.
    ///
    /// # Panics
    /// When a frame comes, or nothing within `deadline`.
    pub async fn expect_close(&mut self, deadline: Duration) -> Closed {
        match self.next_json_or_close(deadline).await {
            Ok(value) => panic!("a frame instead of a close: {value}"),
            Err(closed) => closed,
        }
    }

    /// All frames up to the end of the connection, and that.
    ///
    /// # Panics
    /// When neither comes within `deadline` of the previous frame.
    pub async fn drain(&mut self, deadline: Duration) -> (Vec<Value>, Closed) {
        let mut frames = Vec::new();
        loop {
            match self.next_json_or_close(deadline).await {
                Ok(value) => frames.push(value),
                Err(closed) => return (frames, closed),
            }
        }
    }

    /// Leaves with a close frame without a code, and waits for the answer.
    ///
    /// # Panics
    /// When the server does not answer within [`DEADLINE`].
    pub async fn close(mut self) {
        self.stream.close(None).await.ok();
        self.drain(DEADLINE).await;
    }

    async fn next_json_or_close(&mut self, deadline: Duration) -> Result<Value, Closed> {
        loop {
            match self.next_message(deadline).await {
                Some(Message::Text(text)) => {
                    return Ok(serde_json::from_str(&text)
                        .unwrap_or_else(|err| panic!("{err} in {text:?}")));
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(Some(frame))) => {
                    // Read on once, which sends the answer to the close.
                    timeout(deadline, self.stream.next()).await.ok();
                    return Err(Closed {
                        code: Some(frame.code.into()),
                        reason: frame.reason.to_string(),
                    });
                }
                Some(Message::Close(None)) | None => {
                    return Err(Closed {
                        code: None,
                        reason: String::new(),
                    });
                }
                Some(message) => panic!("neither text nor control frame: {message:?}"),
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

fn request(url: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = url
        .into_client_request()
        .unwrap_or_else(|err| panic!("{url}: {err}"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("the test gives a header name");
        let value: HeaderValue = value.parse().expect("the test gives a header value");
        request.headers_mut().insert(name, value);
    }
    request
}

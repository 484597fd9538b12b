//! One WebSocket connection to a gateway: messages in and out, and signs of
//! life of both ends.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use signalbox_service::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::message::Message;
use super::target::Place;

/// How long a connection may take to be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a message may take to be written.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the gateway is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A gateway that gave no sign of life for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest message that is read, in bytes: a record of output, each byte of
/// which may take six in JSON, and the same again in base64.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Whatever carries the bytes.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Another attempt may succeed.
    Passing(String),
    /// The same would happen again.
    Final(String),
    /// Something else is there; another place may be the right one.
    Elsewhere(String),
}

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A message.
    Message(Message),
    /// The end of the connection.
    Ended(Failure),
}

/// See the module.
pub(crate) struct Connection {
    socket: WebSocketStream<Box<dyn Wire>>,
    /// Messages that came together with one that was handed on.
    ready: VecDeque<Message>,
    pings: Interval,
    heard: Instant,
}

impl Connection {
    /// Connects, and shows the credential.
    pub(crate) async fn open(place: &Place, credential: &str) -> Result<Self, Failure> {
        timeout(CONNECT_PATIENCE, Self::upgrade(place, credential))
            .await
            .unwrap_or_else(|_| {
                let message = format!("{} does not answer", place.url());
                Err(Failure::Passing(message))
            })
    }

    async fn upgrade(place: &Place, credential: &str) -> Result<Self, Failure> {
        let passing = |error: &dyn std::fmt::Display| {
            Failure::Passing(format!("no gateway at {}: {error}", place.url()))
        };
        let stream = TcpStream::connect((place.name(), place.port))
            .await
            .map_err(|error| passing(&error))?;
        // Keys are sent one by one.
        stream.set_nodelay(true).map_err(|error| passing(&error))?;
        let wire: Box<dyn Wire> = if place.tls {
            let name = ServerName::try_from(place.name().to_owned())
                .map_err(|error| Failure::Final(format!("{}: {error}", place.url())))?;
            let connector = tls::connector(tls::system_roots());
            let stream = connector.connect(name, stream).await;
            Box::new(stream.map_err(|error| passing(&error))?)
        } else {
            Box::new(stream)
        };
        let mut request = place
            .url()
            .into_client_request()
            .map_err(|error| Failure::Final(format!("{}: {error}", place.url())))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {credential}"))
            .map_err(|_| Failure::Final("the credential is no token and no key".to_owned()))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let upgraded = client_async_with_config(request, wire, Some(config)).await;
        let (socket, _) = upgraded.map_err(|error| match error {
            Error::Http(response) => refused(place, response.status().as_u16()),
            error => passing(&error),
        })?;
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            socket,
            ready: VecDeque::new(),
            pings,
            heard: Instant::now(),
        })
    }

    /// What comes next.
    ///
    /// Cancel safe: what has come stays.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Heard::Message(message);
            }
            let frame = tokio::select! {
                frame = self.socket.next() => frame,
                _ = self.pings.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Heard::Ended(Failure::Passing("the gateway is silent".to_owned()));
                    }
                    if let Err(failure) = self.write(Frame::Ping(Vec::new().into())).await {
                        return Heard::Ended(failure);
                    }
                    continue;
                }
            };
            self.heard = Instant::now();
            match frame {
                Some(Ok(Frame::Text(text))) => match Message::read(&text) {
                    Ok(messages) => self.ready.extend(messages),
                    Err(error) => {
                        let message = format!("the gateway said what is no JSON: {error}");
                        return Heard::Ended(Failure::Final(message));
                    }
                },
                Some(Ok(Frame::Close(closed))) => {
                    let (code, reason) = closed.map_or((1005, String::new()), |closed| {
                        (u16::from(closed.code), closed.reason.to_string())
                    });
                    return Heard::Ended(closed_by(code, &reason));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Heard::Ended(Failure::Passing(format!("connection lost: {error}")));
                }
                None => return Heard::Ended(Failure::Passing("connection lost".to_owned())),
            }
        }
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &Value) -> Result<(), Failure> {
        self.write(Frame::text(message.to_string())).await
    }

    async fn write(&mut self, frame: Frame) -> Result<(), Failure> {
        match timeout(WRITE_PATIENCE, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::Passing(format!("connection lost: {error}"))),
            Err(_) => Err(Failure::Passing("the gateway takes nothing".to_owned())),
        }
    }
}

/// An answer other than the upgrade.
fn refused(place: &Place, status: u16) -> Failure {
    let message = format!(
        "{} refused the connection with status {status}",
        place.url()
    );
    match status {
        404 | 426 => Failure::Elsewhere(format!("no dialect {} at {}", place.dialect, place.url())),
        408 | 429 | 500.. => Failure::Passing(message),
        _ => Failure::Final(message),
    }
}

/// A close by the gateway.
fn closed_by(code: u16, reason: &str) -> Failure {
    let reason = super::escapes::plain(reason);
    let message = if reason.is_empty() {
        format!("the gateway closed the connection ({code})")
    } else {
        format!("the gateway closed the connection: {reason} ({code})")
    };
    match code {
        1002 | 1003 | 1007..=1009 => Failure::Final(message),
        _ => Failure::Passing(message),
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::Dialect;

    use super::*;

    #[test]
    fn closes_say_whether_to_return() {
        let is_final = |code| matches!(closed_by(code, "x"), Failure::Final(_));
        for code in [1002, 1003, 1007, 1008, 1009] {
            assert!(is_final(code), "{code}");
        }
        for code in [1000, 1001, 1005, 1006, 1011, 1013] {
            assert!(!is_final(code), "{code}");
        }
    }

    #[test]
    fn statuses_say_where_to_go() {
        let place = Place::parse("ws://h", Dialect::Fleet).unwrap();
        assert!(matches!(refused(&place, 404), Failure::Elsewhere(_)));
        assert!(matches!(refused(&place, 503), Failure::Passing(_)));
        assert!(matches!(refused(&place, 403), Failure::Final(_)));
    }
}

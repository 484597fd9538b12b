//! One WebSocket connection to a gateway: messages in and out as text. It knows
//! what messages look like and not what they are for.
//!
//! A task of its own writes, so that a gateway that does not read holds up
//! neither reading nor the commands. It has two lanes: reports, and output behind
//! them.

mod told;

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::debug;

pub(crate) use self::told::{Refusal, Stored, Told};
use crate::dial::{Dialer, Io};
use crate::tokens::Token;

/// How long the upgrade may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest message that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// What is read at a time, in bytes.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Reports that may wait to be written. When full, the connection is given up:
/// the gateway has not read for as long as it takes to say all that.
const REPORT_CAPACITY: usize = 1_024;
/// Messages of output that may wait to be written; when full, output stays in
/// the spool.
const OUTPUT_CAPACITY: usize = 2;

type Socket = WebSocketStream<Box<dyn Io>>;

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closure {
    /// The code of the gateway's close frame, if it sent one.
    pub(crate) code: Option<u16>,
    /// Why, for people.
    pub(crate) reason: String,
}

/// What comes next on a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// A message.
    Told(Told),
    /// Something that shows no more than that the gateway is there.
    Sign,
    /// The end.
    Closed(Closure),
}

/// The reading half, and the task that writes.
pub(crate) struct Link {
    reader: SplitStream<Socket>,
    _writer: JoinSet<()>,
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct Mouth {
    reports: mpsc::Sender<String>,
    output: mpsc::Sender<String>,
}

/// Room for a message of output.
pub(crate) type Room<'a> = mpsc::Permit<'a, String>;

impl Link {
    /// Connects and upgrades; whether the token is good shows later.
    ///
    /// # Errors
    /// Says what went wrong.
    pub(crate) async fn open(dialer: &Dialer, token: &Token) -> Result<(Self, Mouth), String> {
        let stream = dialer.connect().await?;
        let mut request = dialer
            .address()
            .socket_url()
            .into_client_request()
            .map_err(|error| error.to_string())?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| "the token is no header".to_owned())?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let upgrade = client_async_with_config(request, stream, Some(config));
        let (socket, _) = timeout(PATIENCE, upgrade)
            .await
            .map_err(|_| format!("no upgrade within {PATIENCE:?}"))?
            .map_err(|error| refusal(&error))?;
        let (sink, reader) = socket.split();
        let (reports, report) = mpsc::channel(REPORT_CAPACITY);
        let (output, piece) = mpsc::channel(OUTPUT_CAPACITY);
        let mut writer = JoinSet::new();
        writer.spawn(write(sink, report, piece));
        let link = Self {
            reader,
            _writer: writer,
        };
        Ok((link, Mouth { reports, output }))
    }

    /// What comes next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.reader.next().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(told) => Incoming::Told(told),
                Err(error) => {
                    debug!(%error, "message not understood");
                    Incoming::Sign
                }
            },
            Some(Ok(Message::Close(frame))) => {
                Incoming::Closed(frame.map_or_else(Closure::default, |frame| Closure {
                    code: Some(frame.code.into()),
                    reason: frame.reason.to_string(),
                }))
            }
            Some(Ok(_)) => Incoming::Sign,
            Some(Err(error)) => Incoming::Closed(Closure {
                code: None,
                reason: error.to_string(),
            }),
            None => Incoming::Closed(Closure::default()),
        }
    }
}

impl Mouth {
    /// Says something ahead of output. False where the gateway has stopped to
    /// read.
    pub(crate) fn say(&self, message: String) -> bool {
        self.reports.try_send(message).is_ok()
    }

    /// Waits until a message of output can be written soon. `None` at the end of
    /// the connection. Cancel safe.
    pub(crate) async fn room(&self) -> Option<Room<'_>> {
        self.output.reserve().await.ok()
    }
}

/// Writes until both lanes are closed, or the connection breaks, which the
/// reading half shows.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut reports: mpsc::Receiver<String>,
    mut output: mpsc::Receiver<String>,
) {
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = reports.recv() => message,
            Some(message) = output.recv() => message,
            else => break,
        };
        if sink.send(Message::text(message)).await.is_err() {
            return;
        }
    }
    sink.close().await.ok();
}

/// Why an upgrade failed, without anything that was sent.
fn refusal(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => {
            format!("the upgrade is refused: {}", response.status())
        }
        other => other.to_string(),
    }
}

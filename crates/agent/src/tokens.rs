//! Access tokens: fetched from the gateway for the agent's API key, as any
//! client would, and never shown to anybody.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use signalbox_identity::ApiKey;
use tokio::time::{Instant, timeout};

use crate::dial::Dialer;

/// How long the gateway may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The part of its life after which a token is to be replaced.
const RIPE: f64 = 0.7;
/// The part before which it is not, whoever asks.
const MELLOW: f64 = 0.25;

/// Where the API key is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In a file of its own, which is read each time, so that another key can be
    /// put in its place.
    File(PathBuf),
    /// Here.
    Known(ApiKey),
}

/// An access token.
#[derive(Clone)]
pub(crate) struct Token {
    text: String,
    lifetime: Duration,
    expires_at: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// The token itself, for the gateway alone.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// When to have another in its place.
    pub(crate) fn ripe_at(&self) -> Instant {
        self.expires_at - self.lifetime.mul_f64(1.0 - RIPE)
    }

    /// When to have another in its place if the gateway asks for that.
    pub(crate) fn mellow_at(&self) -> Instant {
        self.expires_at - self.lifetime.mul_f64(1.0 - MELLOW)
    }

    /// Whether it is good for a connection that begins now.
    pub(crate) fn is_fresh(&self) -> bool {
        Instant::now() < self.ripe_at()
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The key is not good for it; asking again is no use.
    Refused(String),
    /// Not now.
    Unavailable(String),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Unavailable(why) => f.write_str(why),
        }
    }
}

/// Fetches tokens for one agent.
#[derive(Clone)]
pub(crate) struct Tokens {
    dialer: Dialer,
    key: KeySource,
    agent_id: String,
    /// How long they are to live; `None` leaves that to the service.
    ttl: Option<Duration>,
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    expires_in: u64,
}

impl Tokens {
    pub(crate) const fn new(
        dialer: Dialer,
        key: KeySource,
        agent_id: String,
        ttl: Option<Duration>,
    ) -> Self {
        Self {
            dialer,
            key,
            agent_id,
            ttl,
        }
    }

    /// Exchanges the key for a token.
    ///
    /// # Errors
    /// Says why there is none, and whether to ask again.
    pub(crate) async fn fetch(&self) -> Result<Token, Denied> {
        let mut body = json!({"api_key": self.key()?, "agent_id": self.agent_id});
        if let Some(ttl) = self.ttl {
            body["ttl"] = json!(ttl.as_secs());
        }
        let asked = Instant::now();
        let (status, answer) = timeout(PATIENCE, self.exchange(body.to_string()))
            .await
            .map_err(|_| Denied::Unavailable(format!("no answer within {PATIENCE:?}")))?
            .map_err(Denied::Unavailable)?;
        if status == StatusCode::OK {
            let issued: Issued = serde_json::from_slice(&answer)
                .map_err(|_| Denied::Unavailable("the answer has no token".to_owned()))?;
            let lifetime = Duration::from_secs(issued.expires_in);
            return Ok(Token {
                text: issued.access_token,
                lifetime,
                expires_at: asked + lifetime,
            });
        }
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        let why = format!("{status}: {message}");
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Denied::Refused(why)
            }
            _ => Denied::Unavailable(why),
        })
    }

    fn key(&self) -> Result<String, Denied> {
        match &self.key {
            KeySource::Known(key) => Ok(key.expose().expose().to_owned()),
            KeySource::File(path) => {
                let told = |cause: &dyn fmt::Display| {
                    Denied::Refused(format!("{}: {cause}", path.display()))
                };
                let text = fs::read_to_string(path).map_err(|error| told(&error))?;
                let key = ApiKey::parse(text.trim()).map_err(|error| told(&error))?;
                Ok(key.expose().expose().to_owned())
            }
        }
    }

    async fn exchange(&self, body: String) -> Result<(StatusCode, Bytes), String> {
        let told = |error: hyper::Error| error.to_string();
        let stream = self.dialer.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(told)?;
        let address = self.dialer.address();
        let request = Request::post(address.token_path())
            .header(header::HOST, address.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(told)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The end of the connection may come with the end of the answer.
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

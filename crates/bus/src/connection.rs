//! One connection to NATS and what holds for it: the server's version, the
//! user's own inbox, and permission refusals as such.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{ConnectOptions, Event, ServerError};
use clap::Args;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::server::{MINIMUM_VERSION, Version};

/// The largest message that the bus must take, in bytes.
pub const MIN_MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;
/// How often the link is probed; at the third probe with two unanswered it is
/// cut. Nobody tells a client of a link that died silently but this.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long one attempt to connect may take.
const CONNECT_ATTEMPT: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// How long a request of the JetStream API may take.
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// Publishes that may await their acknowledgement at once; more wait.
const MAX_ACK_INFLIGHT: usize = 8_192;
/// Messages that one subscription may hold before the client drops new ones;
/// JetStream flow control keeps readers far below it.
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Permission refusals remembered for publishers that await an answer; beyond
/// it the oldest are forgotten and their publishers see a time-out.
const REFUSAL_CAPACITY: usize = 64;

/// How to reach the bus.
#[derive(Args, Clone, Debug)]
pub struct BusArgs {
    /// Address of the NATS server, with user and password where it wants them
    #[arg(
        long,
        env = "NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    pub nats_url: String,
    /// Seconds to wait for the bus at start
    #[arg(long, env = "SIGNALBOX_BUS_WAIT", default_value_t = 30)]
    pub bus_wait: u64,
}

impl From<BusArgs> for BusOptions {
    fn from(args: BusArgs) -> Self {
        Self {
            url: args.nats_url,
            wait: Duration::from_secs(args.bus_wait),
        }
    }
}

/// How to reach the bus, validated.
#[derive(Clone)]
pub struct BusOptions {
    /// `nats://[user:password@]host:port`, more than one separated by commas.
    pub url: String,
    /// How long the first connect may take in all.
    pub wait: Duration,
}

impl fmt::Debug for BusOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOptions")
            .field("url", &without_password(&self.url))
            .field("wait", &self.wait)
            .finish()
    }
}

/// An address fit for logs.
#[must_use]
pub fn without_password(url: &str) -> String {
    url.split(',')
        .map(|one| match url::Url::parse(one) {
            Ok(mut parsed) => {
                parsed.set_password(None).ok();
                parsed.to_string()
            }
            Err(_) => "(unreadable address)".to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// Why the bus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The address is no NATS address.
    #[error("NATS_URL: expected nats://[user:password@]host:port, got {0}")]
    Address(String),
    /// No server answered in time.
    #[error("no NATS server at {url} within {waited:?}: {cause}")]
    Unreachable {
        /// Where, without password.
        url: String,
        /// For how long.
        waited: Duration,
        /// The last refusal.
        cause: String,
    },
    /// The server is too old.
    #[error("nats-server {found} at {url} is too old: Signalbox needs {MINIMUM_VERSION} or newer")]
    Version {
        /// Where, without password.
        url: String,
        /// What it says it is.
        found: String,
    },
    /// The server takes only small messages.
    #[error(
        "nats-server at {url} has max_payload {found}: set it to {MIN_MAX_PAYLOAD_BYTES} or more"
    )]
    MaxPayload {
        /// Where, without password.
        url: String,
        /// Its limit in bytes.
        found: usize,
    },
    /// A request of the JetStream API failed.
    #[error("{action}: {cause}")]
    Api {
        /// What was tried.
        action: String,
        /// What the server or client said.
        cause: String,
    },
    /// The user lacks a right. The client library would report a time-out.
    #[error("the bus refuses this user `{subject}`")]
    Forbidden {
        /// What it tried to publish or subscribe to.
        subject: String,
    },
    /// A stream is missing or not as this version needs it.
    #[error("stream {stream}: {problem}; run `signalbox init`")]
    Stream {
        /// The stream's name.
        stream: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl BusError {
    pub(crate) fn api(action: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::Api {
            action: action.into(),
            cause: cause.to_string(),
        }
    }
}

/// Whether the link to the bus is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up now.
    pub up: bool,
    /// How often it came up; a change means that what was under way before
    /// may have been lost.
    pub generation: u64,
}

/// Tells when the bus has been away for `patience`, with `false`, and when it
/// is back, with `true`. Ends with the connection.
pub async fn follow_link(
    mut link: watch::Receiver<Link>,
    patience: Duration,
    mut tell: impl FnMut(bool),
) {
    loop {
        if link.wait_for(|link| !link.up).await.is_err() {
            return;
        }
        if timeout(patience, link.wait_for(|link| link.up))
            .await
            .is_ok()
        {
            continue;
        }
        tell(false);
        if link.wait_for(|link| link.up).await.is_err() {
            return;
        }
        tell(true);
    }
}

/// A connection to the bus. Clones share it.
#[derive(Clone)]
pub struct Bus(Arc<Connection>);

struct Connection {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    link: watch::Receiver<Link>,
    refusals: broadcast::Sender<Arc<str>>,
}

impl Bus {
    /// Connects as `name`, waiting for a server for as long as the options
    /// say, and refuses one that is too old or takes only small messages.
    ///
    /// # Errors
    /// [`BusError`] says in one sentence what is wrong.
    pub async fn connect(options: &BusOptions, name: &str) -> Result<Self, BusError> {
        let safe_url = without_password(&options.url);
        let addresses = addresses(&options.url)?;
        let deadline = Instant::now() + options.wait;
        let (link_sender, link) = watch::channel(Link {
            up: false,
            generation: 0,
        });
        let (refusals, _) = broadcast::channel(REFUSAL_CAPACITY);
        let link_sender = Arc::new(link_sender);
        let client = loop {
            let connect = connect_options(&addresses, name, &link_sender, &refusals)
                .connect(addresses.clone());
            let cause = match timeout_at(deadline, connect).await {
                Ok(Ok(client)) => break client,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() + MAX_RECONNECT_DELAY >= deadline {
                return Err(BusError::Unreachable {
                    url: safe_url,
                    waited: options.wait,
                    cause,
                });
            }
            debug!(url = %safe_url, %cause, "bus is not there yet");
            sleep(MAX_RECONNECT_DELAY).await;
        };
        // Told of a moment later: a publish before that would take the news for
        // a link that broke.
        let mut seen = link.clone();
        timeout(CONNECT_ATTEMPT, seen.wait_for(|link| link.up))
            .await
            .ok();
        let server = client.server_info();
        let found = server.version.parse::<Version>();
        if !found.is_ok_and(|found| found >= MINIMUM_VERSION) {
            return Err(BusError::Version {
                url: safe_url,
                found: server.version,
            });
        }
        if server.max_payload < MIN_MAX_PAYLOAD_BYTES {
            return Err(BusError::MaxPayload {
                url: safe_url,
                found: server.max_payload,
            });
        }
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(API_TIMEOUT)
            .ack_timeout(API_TIMEOUT)
            .max_ack_inflight(MAX_ACK_INFLIGHT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        info!(url = %safe_url, version = %server.version, "connected to the bus");
        Ok(Self(Arc::new(Connection {
            client,
            jetstream,
            link,
            refusals,
        })))
    }

    /// The NATS client, for core subjects.
    #[must_use]
    pub fn client(&self) -> &async_nats::Client {
        &self.0.client
    }

    /// The JetStream API.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.0.jetstream
    }

    /// The state of the link, to read or to watch.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.0.link.clone()
    }

    /// Waits for `operation`, unless the server refuses this user `subject`, or
    /// one that begins with it where it ends with a dot: the server says so
    /// beside the request, which would only time out.
    ///
    /// # Errors
    /// [`BusError::Forbidden`].
    pub async fn unless_refused<T>(
        &self,
        subject: &str,
        operation: impl Future<Output = T>,
    ) -> Result<T, BusError> {
        // Listens before the operation begins.
        let mut refusals = self.0.refusals.subscribe();
        tokio::select! {
            outcome = operation => Ok(outcome),
            () = refused(&mut refusals, subject) => {
                Err(BusError::Forbidden { subject: subject.to_owned() })
            }
        }
    }

    /// Opens a KV bucket.
    ///
    /// # Errors
    /// When the bucket does not exist or the bus does not answer.
    pub async fn bucket(&self, name: &str) -> Result<jetstream::kv::Store, BusError> {
        let subject = format!("$JS.API.STREAM.INFO.KV_{name}");
        self.unless_refused(&subject, self.0.jetstream.get_key_value(name))
            .await?
            .map_err(|error| BusError::api(format!("open bucket {name}"), error))
    }

    /// Sends what is queued and closes the connection.
    pub async fn drain(&self) {
        if let Err(error) = self.0.client.drain().await {
            debug!(%error, "drain");
        }
    }
}

/// Waits for the server to refuse a subject, as described at
/// [`Bus::unless_refused`].
async fn refused(refusals: &mut broadcast::Receiver<Arc<str>>, subject: &str) {
    let end = if subject.ends_with('.') { "" } else { "\"" };
    let quoted = format!("\"{subject}{end}");
    loop {
        match refusals.recv().await {
            Ok(text) if text.contains(&quoted) => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn addresses(url: &str) -> Result<Vec<async_nats::ServerAddr>, BusError> {
    url.split(',')
        .map(|one| {
            one.trim()
                .parse::<async_nats::ServerAddr>()
                .map_err(|_| BusError::Address(without_password(one)))
        })
        .collect()
}

fn connect_options(
    addresses: &[async_nats::ServerAddr],
    name: &str,
    link: &Arc<watch::Sender<Link>>,
    refusals: &broadcast::Sender<Arc<str>>,
) -> ConnectOptions {
    let (link, refusals) = (Arc::clone(link), refusals.clone());
    let mut options = ConnectOptions::new()
        .name(name)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_ATTEMPT)
        .request_timeout(Some(API_TIMEOUT))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(|attempt| {
            Duration::from_millis(10 << attempt.min(6)).min(MAX_RECONNECT_DELAY)
        })
        .event_callback(move |event| {
            note(&event, &link, &refusals);
            std::future::ready(())
        });
    // Users other than the administrator may read their own inbox only.
    let named = addresses
        .iter()
        .find_map(|address| Some((address.username()?, address.password())));
    if let Some((user, password)) = named {
        options = options
            .custom_inbox_prefix(crate::subject::inbox_prefix(user))
            // The client does not take them from the address by itself.
            .user_and_password(user.to_owned(), password.unwrap_or_default().to_owned());
    }
    options
}

fn note(event: &Event, link: &watch::Sender<Link>, refusals: &broadcast::Sender<Arc<str>>) {
    match event {
        Event::Connected => {
            link.send_modify(|link| {
                link.up = true;
                link.generation += 1;
            });
            debug!("bus link is up");
        }
        Event::Disconnected => {
            link.send_modify(|link| link.up = false);
            warn!("bus link is down");
        }
        Event::ServerError(ServerError::Other(text))
            if text.to_ascii_lowercase().contains("permissions violation") =>
        {
            warn!(refusal = %text, "the bus refused an operation");
            // Nobody waiting for a refusal is normal.
            refusals.send(Arc::from(text.as_str())).ok();
        }
        Event::Draining | Event::Closed => debug!(%event, "bus"),
        other => warn!(event = %other, "bus"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn short_absences_are_not_told() {
        let (sender, link) = watch::channel(Link {
            up: true,
            generation: 1,
        });
        let (told_sender, mut told) = tokio::sync::mpsc::channel(4);
        let patience = Duration::from_secs(5);
        let following = follow_link(link, patience, move |up| {
            told_sender.try_send(up).unwrap();
        });
        let following = tokio::spawn(following);
        let set = async |up| {
            sender.send_modify(|link| link.up = up);
            sleep(Duration::from_secs(1)).await;
        };
        set(false).await;
        set(true).await;
        assert!(told.try_recv().is_err());
        set(false).await;
        sleep(patience).await;
        assert_eq!(told.recv().await, Some(false));
        set(true).await;
        assert_eq!(told.recv().await, Some(true));
        drop(sender);
        following.await.unwrap();
    }

    #[test]
    fn passwords_never_reach_logs() {
        let options = BusOptions {
            url: "nats://u:hush@h:1,nats://h:2".into(),
            wait: CONNECT_ATTEMPT,
        };
        let debug = format!("{options:?}");
        assert!(
            debug.contains("nats://u@h:1") && !debug.contains("hush"),
            "{debug}"
        );
    }
}

//! A dashboard's conversation that outlives its connections: it returns by
//! itself to where it was, and says so.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::client::Message;
use crate::client::Target;
use crate::client::{Connection, Failure, Heard};

/// The pause before the first attempt to return.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Names the first message in its answer.
const HELLO: &str = "hello";
/// The label of this kind of dashboard.
const LABEL: &str = "signalbox-watch";

/// What happens on the link.
#[derive(Debug)]
pub(super) enum News {
    /// A message.
    Message(Message),
    /// It is connected: the message lists the agents.
    Here {
        /// `agent:list`.
        list: Message,
        /// Of a return: whether all that was missed follows.
        recovered: Option<bool>,
    },
    /// The connection is lost; it is going to return.
    Lost(String),
}

type Attempt = Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>;

/// See the module.
pub(super) struct Link {
    target: Target,
    patience: Duration,
    connection: Option<Connection>,
    /// Whether the gateway has let this dashboard in.
    is_in: bool,
    /// A connection in the making. Kept here, so that it goes on whatever else
    /// happens meanwhile.
    attempt: Option<Attempt>,
    pause: Duration,
    retry_at: Instant,
    /// Since when there is no connection.
    lost_at: Option<Instant>,
    /// The position to return to.
    position: Option<String>,
    /// What the gateway complained of last.
    complaint: Option<String>,
}

impl Link {
    /// Makes the first connection, which must succeed.
    ///
    /// # Errors
    /// Says why there is none.
    pub(super) async fn open(target: Target, patience: Duration) -> anyhow::Result<Self> {
        let connection = match target.connect().await {
            Ok(connection) => connection,
            Err(Failure::Passing(why) | Failure::Final(why) | Failure::Elsewhere(why)) => {
                anyhow::bail!(why)
            }
        };
        let mut link = Self {
            target,
            patience,
            connection: None,
            is_in: false,
            attempt: None,
            pause: FIRST_PAUSE,
            retry_at: Instant::now(),
            lost_at: None,
            position: None,
            complaint: None,
        };
        link.greet(connection).await;
        Ok(link)
    }

    /// What happens next.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// When it cannot or need not return.
    pub(super) async fn next(&mut self) -> anyhow::Result<News> {
        loop {
            let Some(connection) = &mut self.connection else {
                if let Some(news) = self.return_once().await? {
                    return Ok(news);
                }
                continue;
            };
            match connection.next().await {
                Heard::Ended(failure) => return self.lost(failure),
                Heard::Message(message) => {
                    if let Some(news) = self.hear(message)? {
                        return Ok(news);
                    }
                }
            }
        }
    }

    /// Sends a message, if there is a connection that takes it; whether it was
    /// received is for an answer to say.
    pub(super) async fn send(&mut self, message: &Value) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|_| self.is_in) else {
            return false;
        };
        // The end of the connection is heard when it is read.
        connection.send(message).await.is_ok()
    }

    /// Whether messages can be sent.
    pub(super) const fn is_in(&self) -> bool {
        self.is_in
    }

    /// Everything up to a message was told: it is not to come again.
    pub(super) fn note(&mut self, message: &Message) {
        if let Some(position) = message.position() {
            self.position = Some(position.to_owned());
        }
    }

    /// The position to return to.
    pub(super) fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// Goes back to a position: what came after it comes again.
    pub(super) fn rewind(&mut self, position: Option<String>) {
        self.position = position;
        self.drop_connection(Duration::ZERO);
    }

    /// Leaves in order.
    pub(super) async fn leave(&mut self) {
        let goodbye = json!({"type": "dashboard:disconnect", "dashboardId": LABEL});
        self.send(&goodbye).await;
    }

    fn hear(&mut self, message: Message) -> anyhow::Result<Option<News>> {
        match message.kind() {
            "agent:list" => {
                let recovered = message.flag("recovered");
                let is_return = self.lost_at.take().is_some();
                self.is_in = true;
                self.pause = FIRST_PAUSE;
                self.complaint = None;
                Ok(Some(News::Here {
                    list: message,
                    // Where nothing had come yet, nothing was missed.
                    recovered: is_return.then(|| recovered.unwrap_or(true)),
                }))
            }
            "connection:error" => {
                let said = message.text("error").unwrap_or_default();
                let said = crate::client::plain(said);
                if message.text("requestId") != Some(HELLO) {
                    self.complaint = Some(said);
                    return Ok(Some(News::Message(message)));
                }
                match message.text("code") {
                    Some("UNAVAILABLE" | "RATE_LIMIT" | "CONNECTION_FAILED") => {
                        self.lost(Failure::Passing(said)).map(Some)
                    }
                    _ => anyhow::bail!("the gateway refuses: {said}"),
                }
            }
            _ => Ok(Some(News::Message(message))),
        }
    }

    fn lost(&mut self, failure: Failure) -> anyhow::Result<News> {
        let why = match failure {
            Failure::Passing(why) | Failure::Elsewhere(why) => why,
            Failure::Final(why) => match self.complaint.take() {
                Some(complaint) => anyhow::bail!("{why}: {complaint}"),
                None => anyhow::bail!(why),
            },
        };
        self.drop_connection(self.pause);
        Ok(News::Lost(why))
    }

    fn drop_connection(&mut self, pause: Duration) {
        self.connection = None;
        self.is_in = false;
        self.lost_at.get_or_insert_with(Instant::now);
        self.retry_at = Instant::now() + pause;
    }

    /// One attempt to return; says when it was lost again before it was there.
    async fn return_once(&mut self) -> anyhow::Result<Option<News>> {
        sleep_until(self.retry_at).await;
        let target = &self.target;
        let attempt = self.attempt.get_or_insert_with(|| {
            let target = target.clone();
            Box::pin(async move { target.connect().await })
        });
        let outcome = attempt.await;
        self.attempt = None;
        match outcome {
            Ok(connection) => self.greet(connection).await,
            Err(Failure::Final(why)) => anyhow::bail!(why),
            Err(Failure::Passing(why) | Failure::Elsewhere(why)) => {
                let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
                if lost_at.elapsed() >= self.patience {
                    anyhow::bail!("not back within {} s: {why}", self.patience.as_secs());
                }
                // Many that lost the same gateway do not return all at once.
                let jitter = 0.5 + rand::random::<f64>();
                self.retry_at = Instant::now() + self.pause.mul_f64(jitter);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
        Ok(None)
    }

    async fn greet(&mut self, mut connection: Connection) {
        let mut hello = json!({
            "type": "dashboard:connect",
            "dashboardId": LABEL,
            "capabilities": ["batch"],
            "requestId": HELLO,
        });
        if let Some(position) = &self.position {
            hello["resumeFrom"] = json!(position);
        }
        // The end of the connection is heard when it is read.
        connection.send(&hello).await.ok();
        self.connection = Some(connection);
    }
}

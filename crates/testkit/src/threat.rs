//! A client of dialect `threat` that returns after every break and keeps a
//! record of what it was sent.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::{DEADLINE, WsClient};

/// The pause before a client tries the next gateway.
const RETURN_PAUSE: Duration = Duration::from_millis(50);

impl WsClient {
    /// Authenticates; gives the `auth_success`.
    ///
    /// # Panics
    /// When the credential is refused.
    pub async fn authenticate(&mut self, token: &str) -> Value {
        self.send_json(&json!({"type": "authenticate", "token": token}))
            .await;
        self.expect("auth_success").await
    }

    /// Subscribes with the fields of `subscription`; gives the confirmation.
    ///
    /// # Panics
    /// When the subscription is refused.
    pub async fn subscribe(&mut self, mut subscription: Value) -> Value {
        subscription["type"] = json!("subscribe");
        self.send_json(&subscription).await;
        self.expect("subscription_confirmed").await
    }
}

/// A subscriber of `threat_alerts` that goes on at another gateway when it
/// loses its own.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The gateways; the first is tried first.
    pub gateways: Vec<SocketAddr>,
    /// An API key or a token.
    pub token: String,
    /// The filters of its subscription; null for none.
    pub filters: Value,
}

/// What a follower was sent.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The ids of the events, as they came.
    pub ids: Vec<String>,
    /// How often it had to return.
    pub returns: usize,
    /// Confirmations that said something was lost.
    pub unrecovered: usize,
}

impl Follower {
    /// Follows until as many events have come as `expected` holds, once it
    /// holds a number. Sends on `subscribed` when first confirmed.
    ///
    /// # Panics
    /// When nothing comes for [`DEADLINE`], or the server misbehaves.
    pub async fn follow(
        self,
        mut expected: watch::Receiver<Option<usize>>,
        subscribed: tokio::sync::mpsc::Sender<()>,
    ) -> Record {
        let mut record = Record::default();
        let mut since: Option<Value> = None;
        let mut next = 0;
        loop {
            let addr = self.gateways[next % self.gateways.len()];
            next += 1;
            let Some(mut client) = self.open(addr).await else {
                sleep(RETURN_PAUSE).await;
                continue;
            };
            let returning = since.is_some();
            let mut subscription = json!({"channel": "threat_alerts"});
            if !self.filters.is_null() {
                subscription["filters"] = self.filters.clone();
            }
            if let Some(since) = &since {
                subscription["since"] = since.clone();
            }
            let confirmed = client.subscribe(subscription).await;
            record.returns += usize::from(returning);
            record.unrecovered += usize::from(confirmed["recovered"] == false);
            since = Some(confirmed["seq"].clone());
            if !returning {
                subscribed.send(()).await.ok();
            }
            if self
                .read(&mut client, &mut record, &mut since, &mut expected)
                .await
            {
                return record;
            }
        }
    }

    async fn open(&self, addr: SocketAddr) -> Option<WsClient> {
        let stream = TcpStream::connect(addr).await.ok()?;
        let url = format!("ws://{addr}/v1/ws");
        let mut client = WsClient::connect_over(stream, &url, &[]).await.ok()?;
        client.authenticate(&self.token).await;
        Some(client)
    }

    /// Reads until the connection breaks, or everything has come.
    async fn read(
        &self,
        client: &mut WsClient,
        record: &mut Record,
        since: &mut Option<Value>,
        expected: &mut watch::Receiver<Option<usize>>,
    ) -> bool {
        loop {
            if expected
                .borrow_and_update()
                .is_some_and(|count| record.ids.len() >= count)
            {
                return true;
            }
            let message = tokio::select! {
                message = client.next_message(DEADLINE) => message,
                changed = expected.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return true,
                },
            };
            match message {
                Some(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    if frame["type"] == "threat_alert" {
                        record
                            .ids
                            .push(frame["id"].as_str().expect("events have an id").to_owned());
                        *since = Some(frame["seq"].clone());
                    }
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(_) | None => return false,
            }
        }
    }
}

//! A dashboard for rounds of faults: it comes back after every break with its
//! last position, and notes whatever it misses, gets twice, out of order, or
//! other than the command wrote it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::faults::Dice;
use crate::fleet_script::{RETURN_PAUSE, STEP, STREAMS, digest, open, read, written};
use crate::fleet_world::decode;

/// How long a connection may be silent before the dashboard asks for life, and
/// then before it leaves.
const SILENCE: Duration = Duration::from_secs(2);

/// What a dashboard has seen of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How far each stream was seen, bytes in gaps included.
    pub(crate) reached: [usize; 2],
    /// Bytes in gaps.
    pub(crate) gaps: [usize; 2],
    /// Its states, in order.
    pub(crate) states: Vec<String>,
    /// Its end.
    pub(crate) complete: Option<Value>,
}

/// What a dashboard has seen, and noticed.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    /// By command.
    pub(crate) commands: BTreeMap<String, Seen>,
    /// What must not happen.
    pub(crate) faults: Vec<String>,
    /// How often it had to come back.
    pub(crate) returns: usize,
    /// The position of the last message.
    pub(crate) seq: Option<String>,
    /// Whether it is let in at the moment.
    pub(crate) is_in: bool,
    /// The position of the last message of the present connection.
    place: Option<Place>,
}

/// A position, so that they can be compared: within a record the last part has
/// no number.
pub(crate) type Place = (u64, u64);

/// The position that a message says.
pub(crate) fn place(seq: &str) -> Place {
    let (_, numbers) = seq.split_once('-').unwrap();
    let mut numbers = numbers.split('.').map(|number| number.parse().unwrap());
    let (_events, logs): (Option<u64>, _) = (numbers.next(), numbers.next());
    (logs.unwrap(), numbers.next().unwrap_or(u64::MAX))
}

/// The dashboard.
pub(crate) struct Viewer {
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) sights: Arc<Mutex<Sights>>,
    pub(crate) dice: Dice,
}

impl Viewer {
    /// Watches until it is told to stop.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let visit = self.visit();
            tokio::select! {
                _ = visit => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let sights = &mut *self.sights.lock();
            sights.returns += 1;
            sights.is_in = false;
            sights.place = None;
        }
    }

    /// One connection, to its end.
    async fn visit(&mut self) -> Option<()> {
        let gateway = self.dice.pick(&self.gateways);
        let Some(mut socket) = open(gateway, &self.token).await else {
            sleep(RETURN_PAUSE).await;
            return None;
        };
        let mut hello = json!({"type": "dashboard:connect", "dashboardId": self.name});
        let from = self.sights.lock().seq.clone();
        if let Some(seq) = &from {
            hello["resumeFrom"] = json!(seq);
        }
        let hello = Message::text(hello.to_string());
        timeout(STEP, socket.send(hello)).await.ok()?.ok()?;
        let mut asked = false;
        loop {
            let message = match timeout(SILENCE, socket.next()).await {
                Ok(message) => read(message)?,
                Err(_) if asked => return None,
                Err(_) => {
                    let ping = Message::text(r#"{"type":"heartbeat:ping"}"#);
                    timeout(STEP, socket.send(ping)).await.ok()?.ok()?;
                    asked = true;
                    continue;
                }
            };
            asked = false;
            if let Some(message) = message {
                self.sights.lock().see(&message, from.is_some());
            }
        }
    }
}

impl Sights {
    /// Takes in a message of a connection, which returned with a position or not.
    fn see(&mut self, message: &Value, returned: bool) {
        if let Some(seq) = message["seq"].as_str() {
            let place = Some(place(seq));
            // Who returns in between would miss what comes later.
            if place < self.place {
                self.faults
                    .push(format!("a position goes back: {}", brief(message)));
            }
            self.place = place;
        }
        if message["type"] == "agent:list" {
            self.is_in = true;
            if returned && message["recovered"] != true {
                self.faults.push(format!("not recovered: {message}"));
            }
            if self.seq.is_some() {
                return;
            }
        }
        if let Some(seq) = message["seq"].as_str() {
            self.seq = Some(seq.to_owned());
        }
        let Some(id) = message["commandId"].as_str() else {
            return;
        };
        let seen = self.commands.entry(id.to_owned()).or_default();
        if let Err(fault) = seen.see(id, message) {
            self.faults.push(format!("{fault}: {}", brief(message)));
        }
    }
}

/// A message without what it carries.
fn brief(message: &Value) -> Value {
    let mut brief = message.clone();
    if let Some(output) = brief.get_mut("output") {
        *output = json!("...");
    }
    brief
}

impl Seen {
    fn see(&mut self, id: &str, message: &Value) -> Result<(), String> {
        if self.complete.is_some() {
            return Err("something behind the end".to_owned());
        }
        let stream = STREAMS.iter().position(|name| message["stream"] == *name);
        let number = |field: &str| usize::try_from(message[field].as_u64().unwrap_or(0)).unwrap();
        match message["type"].as_str().unwrap() {
            "terminal:output" => {
                let stream = stream.ok_or("an unknown stream")?;
                let output = &message["output"];
                let content = output["content"].as_str().unwrap();
                let bytes = match output["raw"].as_str() {
                    Some(raw) => decode(raw),
                    None => content.as_bytes().to_vec(),
                };
                let (offset, reached) = (number("offset"), self.reached[stream]);
                if offset != reached {
                    return Err(format!("seen up to {reached}"));
                }
                self.reached[stream] += bytes.len();
                if bytes != written(id, stream, offset, offset + bytes.len()) {
                    return Err("other bytes than the command wrote".to_owned());
                }
            }
            "terminal:gap" => {
                let stream = stream.ok_or("an unknown stream")?;
                let (from, to) = (number("from"), number("to"));
                if from != self.reached[stream] || to <= from {
                    return Err(format!("a gap behind {}", self.reached[stream]));
                }
                self.gaps[stream] += to - from;
                self.reached[stream] = to;
            }
            "command:status" => {
                let state = message["status"].as_str().unwrap();
                // Those who wait hear of it when their place changes.
                let is_moved = state == "queued" && message.get("command").is_none();
                if !is_moved {
                    self.states.push(state.to_owned());
                }
            }
            "command:complete" => self.complete = Some(message.clone()),
            _ => {}
        }
        Ok(())
    }

    /// What is wrong with what was seen of a command that wrote so much.
    pub(crate) fn verdict(&self, id: &str, total: [usize; 2]) -> Result<(), String> {
        let complete = self.complete.as_ref().ok_or("its end did not come")?;
        if self.reached != total {
            return Err(format!("{:?} of {total:?} bytes", self.reached));
        }
        if self.states != ["queued", "running", "completed"] {
            return Err(format!("its states are {:?}", self.states));
        }
        if complete["status"] != "completed" || complete["usage"]["peakMemory"] != 3_456 {
            return Err(complete.to_string());
        }
        if self.gaps != [0; 2] {
            return Ok(());
        }
        if complete.get("incomplete").is_some() {
            return Err(complete.to_string());
        }
        for (stream, (name, bytes)) in STREAMS.iter().zip(total).enumerate() {
            let hash = digest(&written(id, stream, 0, bytes));
            let sums = complete["streams"].as_array().cloned().unwrap_or_default();
            let sum = sums.iter().find(|sum| sum["stream"] == *name);
            let expected = json!({
                "stream": name,
                "bytes": bytes,
                "recorded": bytes,
                "sha256": hash,
                "writtenSha256": hash,
            });
            if bytes > 0 && sum != Some(&expected) {
                return Err(complete.to_string());
            }
        }
        Ok(())
    }
}

//! An agent for rounds of faults, as an honest one is: it keeps a journal, keeps
//! what is not acknowledged, and comes back after every break, whatever broke.
//! What its commands write follows from their ids, so that anybody can check it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::faults::Dice;
use crate::fleet_world::encode;

/// The streams that commands write to.
pub(crate) const STREAMS: [&str; 2] = ["stdout", "stderr"];
/// The pause before a client tries the next gateway.
pub(crate) const RETURN_PAUSE: Duration = Duration::from_millis(50);
/// How long each step of coming back may take before the client turns away.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// How long a connection may be silent before the agent asks for life, and then
/// before it leaves.
const SILENCE: Duration = Duration::from_secs(1);
/// How often the agent looks what its commands have written.
const PACE: Duration = Duration::from_millis(10);
/// Length of a unit of output.
const UNIT: usize = 16;

pub(crate) type Socket = WebSocketStream<TcpStream>;
type Sink = SplitSink<Socket, Message>;
type Stream = SplitStream<Socket>;

/// A connection to a gateway, if there is one to be had.
pub(crate) async fn open(addr: SocketAddr, token: &str) -> Option<Socket> {
    let mut request = format!("ws://{addr}/ws").into_client_request().unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let connected = async {
        let stream = TcpStream::connect(addr).await.ok()?;
        stream.set_nodelay(true).ok()?;
        client_async(request, stream).await.ok()
    };
    let (socket, _) = timeout(STEP, connected).await.ok()??;
    Some(socket)
}

/// The JSON in a message; `None` when the connection is over.
pub(crate) fn read(message: Option<Result<Message, impl Sized>>) -> Option<Option<Value>> {
    match message? {
        Ok(Message::Text(text)) => Some(Some(serde_json::from_str(&text).unwrap())),
        Ok(Message::Close(_)) | Err(_) => None,
        Ok(_) => Some(None),
    }
}

/// What a command has written to a stream between two offsets. On the standard
/// output that is text of one byte a character, on the error output wide ones,
/// which any offset may cut.
pub(crate) fn written(command: &str, stream: usize, from: usize, to: usize) -> Vec<u8> {
    let hash = command.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let mut bytes = Vec::with_capacity(to - from + 2 * UNIT);
    for unit in from / UNIT..to.div_ceil(UNIT) {
        let text = if stream == 0 {
            format!("{:07x} {:07}\n", hash & 0xfff_ffff, unit % 10_000_000)
        } else {
            let number = (hash as usize).wrapping_add(unit) % 1_000_000;
            format!("é€😀{number:06}\n")
        };
        bytes.extend_from_slice(text.as_bytes());
    }
    let begin = from % UNIT;
    bytes.drain(..begin);
    bytes.truncate(to - from);
    bytes
}

/// How fast the agent's commands write, and in which pieces it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Bytes a second.
    pub(crate) rate: usize,
    /// The largest piece.
    pub(crate) piece: usize,
    /// The shortest time between two pieces of a stream.
    pub(crate) between: Duration,
}

/// A command at work, or over and not confirmed.
#[derive(Clone, Debug)]
struct Work {
    began: Instant,
    /// Bytes that it writes to each stream in all.
    total: [usize; 2],
    /// Up to where its output was sent on this connection.
    sent: [usize; 2],
    /// Up to where it is known to be stored.
    stored: [usize; 2],
    /// When a piece of each stream was sent last.
    sent_at: [Option<Instant>; 2],
    /// Whether all was sent and its end as well, on this connection.
    reported: bool,
    ended: bool,
}

/// What the agent knows, and what it noticed.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The commands that it started, in order.
    pub(crate) journal: Vec<String>,
    /// Those whose end is confirmed.
    pub(crate) confirmed: BTreeSet<String>,
    /// What must not happen.
    pub(crate) faults: Vec<String>,
    /// How often it had to come back.
    pub(crate) returns: usize,
    /// How often it was told to run what it ran already.
    pub(crate) repeats: usize,
    works: BTreeMap<String, Work>,
}

/// The agent.
pub(crate) struct Script {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) manner: Manner,
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) dice: Dice,
}

impl Script {
    /// Serves until it is told to stop.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let visit = self.visit();
            tokio::select! {
                () = visit => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.known.lock().returns += 1;
        }
    }

    /// One connection, to its end.
    async fn visit(&mut self) {
        let gateway = self.dice.pick(&self.gateways);
        let Some(socket) = open(gateway, &self.token).await else {
            return sleep(RETURN_PAUSE).await;
        };
        let (mut sink, mut stream) = socket.split();
        if self.converse(&mut sink, &mut stream).await.is_none() {
            sleep(RETURN_PAUSE).await;
        }
    }

    async fn converse(&mut self, sink: &mut Sink, stream: &mut Stream) -> Option<()> {
        let hello = self.hello();
        say(sink, hello).await?;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_in = false;
        let mut heard = Instant::now();
        let mut asked = false;
        loop {
            tokio::select! {
                message = stream.next() => {
                    (heard, asked) = (Instant::now(), false);
                    if let Some(message) = read(message)? {
                        is_in |= message["type"] == "agent:connected";
                        for answer in self.hear(&message) {
                            say(sink, answer).await?;
                        }
                    }
                }
                _ = pace.tick(), if is_in => {
                    for message in self.pieces() {
                        say(sink, message).await?;
                    }
                }
                () = sleep_until(heard + SILENCE) => {
                    if asked || !is_in {
                        return None;
                    }
                    say(sink, json!({"type": "heartbeat:ping"})).await?;
                    (heard, asked) = (Instant::now(), true);
                }
            }
        }
    }

    fn hello(&self) -> Value {
        let mut known = self.known.lock();
        for work in known.works.values_mut() {
            (work.sent, work.reported) = (work.stored, false);
        }
        let with = |ended: bool| -> Vec<&String> {
            let works = known.works.iter();
            works
                .filter(|(_, work)| work.ended == ended)
                .map(|(id, _)| id)
                .collect()
        };
        json!({
            "type": "agent:connect",
            "agentId": self.id,
            "agentType": "scripted",
            "version": "1.0.0",
            "capabilities": ["ack", "journal", "heartbeat"],
            "running": with(false),
            "ended": with(true),
        })
    }

    fn hear(&mut self, message: &Value) -> Vec<Value> {
        let known = &mut *self.known.lock();
        let command = message["commandId"].as_str().unwrap_or_default();
        let mut answers = Vec::new();
        match message["type"].as_str().unwrap() {
            "agent:connected" => {
                for offset in message["offsets"].as_array().into_iter().flatten() {
                    let id = offset["commandId"].as_str().unwrap();
                    known.stored(id, &offset["stream"], &offset["offset"], true);
                }
                for id in message["abandoned"].as_array().into_iter().flatten() {
                    let id = id.as_str().unwrap();
                    if known.works.get(id).is_some_and(|work| !work.ended) {
                        known.faults.push(format!("{id} was given up"));
                    }
                    known.works.remove(id);
                    known.confirmed.insert(id.to_owned());
                }
            }
            "command:execute" if known.journal.iter().any(|id| id == command) => {
                known.repeats += 1;
            }
            "command:execute" => {
                known.journal.push(command.to_owned());
                let text = message["command"].as_str().unwrap();
                let bytes: usize = text.strip_prefix("flow ").unwrap().parse().unwrap();
                let work = Work {
                    began: Instant::now(),
                    total: [bytes, bytes / 8],
                    sent: [0; 2],
                    stored: [0; 2],
                    sent_at: [None; 2],
                    reported: false,
                    ended: false,
                };
                known.works.insert(command.to_owned(), work);
                answers.push(json!({
                    "type": "command:status",
                    "agentId": self.id,
                    "commandId": command,
                    "status": "running",
                }));
            }
            "terminal:ack" => {
                known.stored(command, &message["stream"], &message["offset"], false);
            }
            "request:done" => {
                let id = message["requestId"].as_str().unwrap();
                known.works.remove(id);
                known.confirmed.insert(id.to_owned());
            }
            "heartbeat:ping" => answers.push(json!({"type": "heartbeat:pong"})),
            "heartbeat:pong" | "system:resume" => {}
            // The gateway stops, or this reads too slowly.
            "connection:error" if message["code"] == "CONNECTION_FAILED" => {}
            // Less is stored than was acknowledged, or a report was refused.
            _ => known.faults.push(message.to_string()),
        }
        answers
    }

    /// What is to be sent now.
    fn pieces(&mut self) -> VecDeque<Value> {
        let manner = self.manner;
        let mut messages = VecDeque::new();
        for (id, work) in &mut self.known.lock().works {
            for (stream, name) in STREAMS.iter().enumerate() {
                let written = work.began.elapsed().as_secs_f64() * manner.rate as f64;
                let written = (written as usize).min(work.total[stream]);
                let is_early = |at: Instant| at.elapsed() < manner.between;
                while work.sent[stream] < written && !work.sent_at[stream].is_some_and(is_early) {
                    let from = work.sent[stream];
                    let most = 1 + self.dice.roll(manner.piece as u64) as usize;
                    // With many pieces allowed their sizes vary; with few they are full.
                    let most = if manner.between.is_zero() {
                        most
                    } else {
                        manner.piece
                    };
                    let to = written.min(from + most);
                    let bytes = self::written(id, stream, from, to);
                    let mut output = json!({
                        "type": name,
                        "content": String::from_utf8_lossy(&bytes),
                    });
                    if stream > 0 {
                        output["raw"] = json!(encode(&bytes));
                    }
                    messages.push_back(json!({
                        "type": "terminal:output",
                        "agentId": self.id,
                        "commandId": id,
                        "output": output,
                        "offset": from,
                    }));
                    work.sent[stream] = to;
                    work.sent_at[stream] = Some(Instant::now());
                }
            }
            if work.stored == work.total && !work.reported {
                (work.reported, work.ended) = (true, true);
                messages.push_back(end_of(&self.id, id, work.total));
            }
        }
        messages
    }
}

impl Known {
    /// Takes note of how much is stored.
    fn stored(&mut self, id: &str, stream: &Value, offset: &Value, is_new: bool) {
        let stream = STREAMS.iter().position(|name| stream == name).unwrap();
        let offset = usize::try_from(offset.as_u64().unwrap()).unwrap();
        let Some(work) = self.works.get_mut(id) else {
            return;
        };
        if offset < work.stored[stream] {
            let before = work.stored[stream];
            self.faults.push(format!(
                "{id}: {offset} is stored, {before} was acknowledged"
            ));
        }
        work.stored[stream] = offset;
        if is_new || work.sent[stream] < offset {
            work.sent[stream] = offset;
        }
    }
}

fn end_of(agent: &str, id: &str, total: [usize; 2]) -> Value {
    let streams = STREAMS.iter().zip(total).enumerate();
    let streams = streams.filter(|(_, (_, bytes))| *bytes > 0);
    let streams: Vec<_> = streams
        .map(|(stream, (name, bytes))| {
            json!({
                "stream": name,
                "bytes": bytes,
                "sha256": digest(&written(id, stream, 0, bytes)),
            })
        })
        .collect();
    json!({
        "type": "command:complete",
        "agentId": agent,
        "commandId": id,
        "requestId": id,
        "exitCode": 0,
        "duration": 1_000,
        "streams": streams,
        "usage": {"cpuTime": 12, "peakMemory": 3_456},
    })
}

/// The SHA-256 of some bytes, as messages have it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn say(sink: &mut Sink, message: Value) -> Option<()> {
    let sent = sink.send(Message::text(message.to_string()));
    timeout(STEP, sent).await.ok()?.ok()
}

#[test]
fn output_is_the_same_however_it_is_cut() {
    for stream in 0..2 {
        let whole = written("cmd-1", stream, 0, 200);
        assert_eq!(whole.len(), 200);
        for (from, to) in [(0, 1), (15, 17), (16, 32), (7, 7), (31, 200)] {
            assert_eq!(written("cmd-1", stream, from, to), whole[from..to]);
        }
        assert_ne!(written("cmd-2", stream, 0, 200), whole);
    }
}

//! Clients that each hold one chat, all on one thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::{AGENT, Progress};
use crate::bench::mark;
use crate::bench::progress::add;
use crate::bench::socket::{Buffer, Socket};
use crate::bench::wire::{self, CLOSE, PING, PONG, TEXT};

/// Connections in the making at once.
const OPENING: usize = 64;

/// What the clients are to do.
pub(super) struct Plan {
    pub(super) gateway: SocketAddr,
    /// A credential for each client.
    pub(super) tokens: Vec<String>,
    /// Tokens of each answer.
    pub(super) expected: u32,
    /// The time between two of them, over which the clients' messages are
    /// spread.
    pub(super) interval: Duration,
}

/// The thread of clients.
pub(super) struct Clients {
    phase: watch::Sender<Phase>,
    thread: JoinHandle<BTreeMap<String, u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Opening,
    Speaking,
    Over,
}

impl Clients {
    pub(super) fn start(plan: Plan, progress: &Arc<Progress>) -> anyhow::Result<Self> {
        let (phase, phases) = watch::channel(Phase::Opening);
        let progress = Arc::clone(progress);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || {
                let all = LocalSet::new();
                all.block_on(&runtime, live(Rc::new(plan), progress, phases))
            })?;
        Ok(Self { phase, thread })
    }

    /// Has all clients say something.
    pub(super) fn speak(&self) {
        self.phase.send_replace(Phase::Speaking);
    }

    /// Ends the clients; gives what went wrong with them, how often.
    pub(super) fn end(self) -> BTreeMap<String, u64> {
        self.phase.send_replace(Phase::Over);
        self.thread.join().unwrap_or_default()
    }
}

async fn live(
    plan: Rc<Plan>,
    progress: Arc<Progress>,
    phases: watch::Receiver<Phase>,
) -> BTreeMap<String, u64> {
    let buffer = Rc::new(Buffer::default());
    let opening = Rc::new(tokio::sync::Semaphore::new(OPENING));
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..plan.tokens.len() {
        let (plan, buffer, opening) = (Rc::clone(&plan), Rc::clone(&buffer), Rc::clone(&opening));
        let progress = Arc::clone(&progress);
        let (mut spoken, mut over) = (phases.clone(), phases.clone());
        clients.spawn_local(async move {
            let chatting = async {
                let permit = opening.acquire().await.context("stopping")?;
                let mut client = Client::begin(index, &plan, &buffer, &progress).await?;
                drop(permit);
                client.converse(&mut spoken).await
            };
            tokio::select! {
                ended = chatting => ended.inspect_err(|_| add(&progress.failed, 1)),
                _ = over.wait_for(|phase| *phase == Phase::Over) => Ok(()),
            }
        });
    }
    let mut trouble = BTreeMap::new();
    while let Some(ended) = clients.join_next().await {
        if let Ok(Err(error)) = ended {
            *trouble.entry(format!("{error:#}")).or_default() += 1;
        }
    }
    trouble
}

/// One client with its chat.
struct Client<'a> {
    index: usize,
    plan: &'a Plan,
    progress: &'a Progress,
    buffer: &'a Buffer,
    socket: Socket,
    session: String,
    answer: Answer,
}

/// What has come of the answer.
#[derive(Default)]
struct Answer {
    text: String,
    /// Up to here the text's tokens were looked at.
    read: usize,
    next: u64,
    chunk: u64,
    asked: u64,
    is_whole: bool,
}

/// The frames that matter here.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame {
    AuthSuccess,
    ChatSessionStarted {
        session_id: String,
    },
    AgentResponseChunk {
        chunk_id: u64,
        content: String,
    },
    AgentResponseComplete {
        full_response: String,
    },
    #[serde(other)]
    Other,
}

impl<'a> Client<'a> {
    async fn begin(
        index: usize,
        plan: &'a Plan,
        buffer: &'a Buffer,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let socket = Socket::upgrade(plan.gateway, "/v1/ws", index, buffer).await?;
        let mut client = Self {
            index,
            plan,
            progress,
            buffer,
            socket,
            session: String::new(),
            answer: Answer::default(),
        };
        let token = &plan.tokens[index];
        client
            .say(&json!({"type": "authenticate", "token": token}))
            .await?;
        client
            .say(&json!({"type": "start_chat", "agent_type": AGENT}))
            .await?;
        while client.session.is_empty() {
            client.turn().await?;
        }
        add(&progress.begun, 1);
        Ok(client)
    }

    async fn converse(&mut self, phases: &mut watch::Receiver<Phase>) -> anyhow::Result<()> {
        phases.wait_for(|phase| *phase >= Phase::Speaking).await?;
        // Otherwise the tokens of all answers would come at the same moments.
        let share = self.index as f64 / self.plan.tokens.len() as f64;
        sleep(self.plan.interval.mul_f64(share)).await;
        self.answer.asked = mark::now();
        let session = self.session.clone();
        self.say(&json!({"type": "chat_message", "session_id": session, "message": "Count."}))
            .await?;
        while !self.answer.is_whole {
            self.turn().await?;
        }
        Ok(())
    }

    async fn say(&mut self, message: &serde_json::Value) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        wire::write_frame(&mut bytes, TEXT, message.to_string().as_bytes());
        self.socket.write(&bytes).await
    }

    /// Takes in what comes next.
    async fn turn(&mut self) -> anyhow::Result<()> {
        let mut pongs = Vec::new();
        let mut outcome = Ok(());
        let (session, answer) = (&mut self.session, &mut self.answer);
        let (progress, expected) = (self.progress, u64::from(self.plan.expected));
        self.socket
            .read(self.buffer, |opcode, payload| match opcode {
                TEXT => {
                    let heard = hear(payload, session, answer, progress, expected);
                    if outcome.is_ok() {
                        outcome = heard;
                    }
                }
                PING => wire::write_frame(&mut pongs, PONG, payload),
                CLOSE => outcome = Err(anyhow::anyhow!("closed by the server")),
                _ => {}
            })
            .await?;
        if !pongs.is_empty() {
            self.socket.write(&pongs).await?;
        }
        outcome
    }
}

fn hear(
    payload: &[u8],
    session: &mut String,
    answer: &mut Answer,
    progress: &Progress,
    expected: u64,
) -> anyhow::Result<()> {
    let now = mark::now();
    match serde_json::from_slice(payload)? {
        Frame::AuthSuccess => {}
        Frame::ChatSessionStarted { session_id } => *session = session_id,
        Frame::AgentResponseChunk { chunk_id, content } => {
            add(&progress.chunks, 1);
            add(&progress.bytes, payload.len() as u64);
            if chunk_id <= answer.chunk {
                add(&progress.doubled, 1);
                return Ok(());
            }
            answer.chunk += 1;
            if chunk_id != answer.chunk {
                bail!("chunk {chunk_id} instead of {}", answer.chunk);
            }
            answer.text.push_str(&content);
            answer.look(now, progress)?;
        }
        Frame::AgentResponseComplete { full_response } => {
            answer.is_whole = true;
            if full_response != answer.text {
                bail!("the chunks joined are not the answer");
            }
            if answer.next != expected {
                bail!("{} of {expected} tokens", answer.next);
            }
            add(&progress.whole, 1);
        }
        Frame::Other => bail!("{}", String::from_utf8_lossy(payload)),
    }
    Ok(())
}

impl Answer {
    /// Looks at the tokens that have come: ` NUMBER.STAMP;`.
    fn look(&mut self, now: u64, progress: &Progress) -> anyhow::Result<()> {
        while let Some(length) = self.text[self.read..].find(';') {
            let token = self.text[self.read..self.read + length].trim_start();
            self.read += length + 1;
            let parts = token.split_once('.');
            let parts = parts.and_then(|(number, stamp)| {
                Some((number.parse::<u64>().ok()?, stamp.parse::<u64>().ok()?))
            });
            let Some((number, stamp)) = parts else {
                bail!("a token that nobody wrote: {token}");
            };
            if number < self.next {
                add(&progress.doubled, 1);
                continue;
            }
            if number > self.next {
                add(&progress.reordered, 1);
            }
            if number == 0 {
                progress.first.record(now.saturating_sub(self.asked));
            }
            self.next = number + 1;
            add(&progress.tokens, 1);
            progress.latency.record(now.saturating_sub(stamp));
        }
        Ok(())
    }
}

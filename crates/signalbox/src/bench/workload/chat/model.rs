//! A language model's server that writes stamped tokens at a steady rate, in the
//! shape of OpenAI's chat completions. On a thread of its own, so that clients
//! do not delay it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::AGENT;
use crate::bench::mark;
use crate::bench::progress::{add, read};

/// The most that is read of a request.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// What the model hands over behind each answer, for an agent that wants it.
const ANALYSIS: &str = "\n\n```analysis\n{}\n```\n";

/// The server; dropping it ends it.
pub(super) struct Model {
    addr: SocketAddr,
    written: Arc<AtomicU64>,
    _end: oneshot::Sender<()>,
}

/// What each answer is.
#[derive(Clone)]
struct Script {
    tokens: u32,
    interval: Duration,
    written: Arc<AtomicU64>,
}

impl Model {
    /// Listens on a free port.
    pub(super) async fn start(tokens: u32, interval: Duration) -> anyhow::Result<Self> {
        let (end, ended) = oneshot::channel();
        let (bound, addr) = oneshot::channel();
        let written = Arc::new(AtomicU64::new(0));
        let script = Script {
            tokens,
            interval,
            written: Arc::clone(&written),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ended => {}
                        _ = serve(script, bound) => {}
                    }
                });
            })?;
        let addr = addr.await.context("the model does not listen")?;
        Ok(Self {
            addr,
            written,
            _end: end,
        })
    }

    /// The agents that it answers as.
    pub(super) fn agents(&self) -> String {
        let url = format!("http://{}/v1", self.addr);
        format!(
            "[providers.bench]\nkind = \"openai\"\nbase_url = \"{url}\"\nallow_http = true\n\n\
             [agents.{AGENT}]\nname = \"Bench\"\nprovider = \"bench\"\nmodel = \"script\"\n\
             instructions = \"Count.\"\ncapabilities = [\"counting\"]\nevents = 0\n\
             analysis_by = \"fence\"\nanalysis_schema = '{{\"type\": \"object\"}}'\n"
        )
    }

    /// Tokens that it has written.
    pub(super) fn written(&self) -> u64 {
        read(&self.written)
    }
}

async fn serve(script: Script, bound: oneshot::Sender<SocketAddr>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    bound.send(listener.local_addr()?).ok();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(answer(stream, script.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves the one request of a connection.
async fn answer(mut stream: TcpStream, script: Script) -> io::Result<()> {
    stream.set_nodelay(true)?;
    take_request(&mut stream).await?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut due = Instant::now();
    for number in 0..script.tokens {
        due += script.interval;
        sleep_until(due).await;
        // The stamp is taken last: all that is done for a token comes after.
        let token = format!(" {number}.{};", mark::now());
        stream.write_all(delta(&token).as_bytes()).await?;
        add(&script.written, 1);
    }
    let usage = json!({"prompt_tokens": 1, "completion_tokens": script.tokens});
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": usage});
    let end = format!(
        "{}data: {last}\n\ndata: {usage}\n\ndata: [DONE]\n\n",
        delta(ANALYSIS)
    );
    stream.write_all(end.as_bytes()).await?;
    stream.shutdown().await
}

fn delta(content: &str) -> String {
    let delta = json!({"choices": [{"index": 0, "delta": {"content": content}}]});
    format!("data: {delta}\n\n")
}

/// Reads a request with its body.
async fn take_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let head = memchr::memmem::find(&read, b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|length| length.trim().parse::<usize>().ok())
                .unwrap_or(0);
            if read.len() >= head + 4 + length {
                return Ok(());
            }
        }
        if read.len() > MAX_REQUEST_BYTES || stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

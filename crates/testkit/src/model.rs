//! A language model's server that says what the test wants, in the published
//! shapes of two APIs: Anthropic Messages at `/v1/messages`, OpenAI chat
//! completions at anything that ends in `/chat/completions`. A test scripts one
//! [`Reply`] per request, and delays are [`Gate`]s that the test opens: nothing
//! here sleeps.

mod reply;
mod shape;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::reply::Part;
pub use self::reply::{Finish, Gate, Reply};
use self::shape::{Api, Shape};
use crate::DEADLINE;

/// The server; dropping it ends all its connections.
#[derive(Debug)]
pub struct FakeModel {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its path.
    pub path: String,
    /// Its headers, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Value,
}

impl Received {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(listed, _)| listed == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    /// How many requests have come.
    received: watch::Sender<usize>,
    /// How many were given up before their reply's end.
    abandoned: watch::Sender<usize>,
}

#[derive(Debug)]
struct Script {
    next: VecDeque<Reply>,
    otherwise: Reply,
    requests: Vec<Received>,
}

impl FakeModel {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port can be bound");
        let addr = listener.local_addr().expect("the listener is bound");
        let shared = Arc::new(Shared {
            script: Mutex::new(Script {
                next: VecDeque::new(),
                otherwise: Reply::refusing(500, "api_error", "the test has no reply for this"),
                requests: Vec::new(),
            }),
            received: watch::Sender::new(0),
            abandoned: watch::Sender::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { addr, shared, task }
    }

    /// Its address.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of the Anthropic API.
    #[must_use]
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The base URL of the OpenAI API.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Replies so to the next request that has no reply yet.
    pub fn reply(&self, reply: Reply) {
        self.shared.script.lock().next.push_back(reply);
    }

    /// Replies so to every request for which nothing else is scripted. At
    /// first that is status 500.
    pub fn otherwise(&self, reply: Reply) {
        self.shared.script.lock().otherwise = reply;
    }

    /// The requests that have come.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.shared.script.lock().requests.clone()
    }

    /// Waits until this many requests have come, and returns the last of them.
    ///
    /// # Panics
    /// When that takes longer than [`DEADLINE`].
    pub async fn received(&self, count: usize) -> Received {
        reach(&self.shared.received, count, "requests").await;
        self.shared.script.lock().requests[count - 1].clone()
    }

    /// Waits until this many requests were given up before their reply's end.
    ///
    /// # Panics
    /// When that takes longer than [`DEADLINE`].
    pub async fn abandoned(&self, count: usize) {
        reach(&self.shared.abandoned, count, "requests that were given up").await;
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn reach(counter: &watch::Sender<usize>, count: usize, what: &str) {
    let mut counter = counter.subscribe();
    let reached = timeout(DEADLINE, counter.wait_for(|seen| *seen >= count)).await;
    reached
        .unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {count} {what}"))
        .expect("the model lives");
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(answer(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves the one request of a connection.
async fn answer(mut stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).ok();
    let Some(request) = read_request(&mut stream).await else {
        return;
    };
    let api = if request.path.ends_with("/chat/completions") {
        Api::OpenAi
    } else {
        Api::Anthropic
    };
    let known = api == Api::OpenAi || request.path.ends_with("/v1/messages");
    let reply = {
        let mut script = shared.script.lock();
        script.requests.push(request);
        let next = known.then(|| script.next.pop_front());
        match next {
            Some(next) => next.unwrap_or_else(|| script.otherwise.clone()),
            None => Reply::refusing(404, "not_found_error", "no such path"),
        }
    };
    shared.received.send_modify(|count| *count += 1);
    if play(&mut stream, reply, api).await.is_none() {
        shared.abandoned.send_modify(|count| *count += 1);
    }
}

/// Plays a reply; `None` when the client went away first.
async fn play(stream: &mut TcpStream, reply: Reply, api: Api) -> Option<()> {
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nconnection: close\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = &reply.body {
        let body = body.as_bytes();
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).await.ok()?;
        return stream.write_all(body).await.ok();
    }
    head.push_str("content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut head = Some(head);
    let mut shape = Shape::new(api, &reply);
    for part in &reply.parts {
        if let Part::Wait(gate) = part {
            let mut byte = [0];
            tokio::select! {
                () = gate.pass() => {}
                // The client sends nothing more, so that this is its end.
                _ = stream.read(&mut byte) => return None,
            }
            continue;
        }
        if let Some(head) = head.take() {
            stream.write_all(head.as_bytes()).await.ok()?;
        }
        if matches!(part, Part::Break) {
            return Some(());
        }
        for event in shape.events(part) {
            for piece in event.chunks(reply.split.unwrap_or(usize::MAX)) {
                let size = format!("{:x}\r\n", piece.len());
                let chunk = [size.as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&chunk).await.ok()?;
            }
        }
    }
    let end = format!("{}0\r\n\r\n", head.unwrap_or_default());
    stream.write_all(end.as_bytes()).await.ok()
}

async fn read_request(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        match stream.read(&mut buffer).await.ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        match stream.read(&mut buffer).await.ok()? {
            0 => return None,
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    Some(Received {
        path,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

//! A load balancer without sticky sessions: every request goes to the next
//! server in turn, also those of one connection, and so does every upgrade.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes of the longest head of a request or answer.
const HEAD_BYTES: usize = 64 * 1024;

/// A load balancer for HTTP/1.1 with bodies of announced length; dropping it
/// ends all its connections.
#[derive(Debug)]
pub struct RoundRobin {
    addr: SocketAddr,
    balance: Arc<Balance>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Balance {
    targets: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    upgrades: AtomicUsize,
}

impl RoundRobin {
    /// Listens on a free port for these servers.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port can be bound");
        let addr = listener.local_addr().expect("the listener is bound");
        let balance = Arc::new(Balance::default());
        *balance.targets.lock() = targets.into_iter().collect();
        let task = tokio::spawn(serve(listener, Arc::clone(&balance)));
        Self {
            addr,
            balance,
            task,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests were handed on, upgrades included.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.balance.next.load(Ordering::Relaxed)
    }

    /// How many upgrades succeeded.
    #[must_use]
    pub fn upgrades(&self) -> usize {
        self.balance.upgrades.load(Ordering::Relaxed)
    }

    /// Hands further requests to these servers.
    pub fn retarget(&self, targets: impl IntoIterator<Item = SocketAddr>) {
        *self.balance.targets.lock() = targets.into_iter().collect();
    }
}

impl Drop for RoundRobin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Balance {
    /// A connection to the server whose turn it is, or to the first behind it
    /// that takes one.
    async fn connect(&self) -> io::Result<TcpStream> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let targets = self.targets.lock().clone();
        let mut failure = io::ErrorKind::NotConnected.into();
        for step in 0..targets.len() {
            match TcpStream::connect(targets[(turn + step) % targets.len()]).await {
                Ok(stream) => {
                    stream.set_nodelay(true).ok();
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn serve(listener: TcpListener, balance: Arc<Balance>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                client.set_nodelay(true).ok();
                let balance = Arc::clone(&balance);
                connections.spawn(async move {
                    // A broken connection is for its two ends to notice.
                    attend(client, &balance).await.ok();
                });
            }
        }
    }
}

/// Hands on the requests of one connection, each to another server.
async fn attend(mut client: TcpStream, balance: &Balance) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(request) = take_message(&mut client, &mut read).await? {
        let Ok(mut server) = balance.connect().await else {
            return client
                .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                .await;
        };
        server.write_all(&request).await?;
        let mut answered = Vec::new();
        let answer = tokio::select! {
            answer = take_message(&mut server, &mut answered) => answer?,
            // Who hangs up has the server hear of it.
            gone = hung_up(&client), if read.is_empty() => return gone,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        client.write_all(&answer).await?;
        if answer.starts_with(b"HTTP/1.1 101") {
            balance.upgrades.fetch_add(1, Ordering::Relaxed);
            client.write_all(&answered).await?;
            server.write_all(&read).await?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
    }
    Ok(())
}

/// Becomes ready when the peer has closed its connection.
async fn hung_up(client: &TcpStream) -> io::Result<()> {
    let mut byte = [0];
    match client.peek(&mut byte).await? {
        0 => Ok(()),
        // The next request, ahead of the answer to this one.
        _ => std::future::pending().await,
    }
}

/// The next message with its body; `None` at the end of the connection. What
/// was read behind it stays in `read`.
async fn take_message(from: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let head = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if read.len() > HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if from.read_buf(read).await? == 0 {
            return Ok(None);
        }
    };
    let length = head + content_length(&read[..head]);
    while read.len() < length {
        if from.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = read.split_off(length);
    Ok(Some(std::mem::replace(read, rest)))
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every request with its own name and the request's body.
    async fn server(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = Vec::new();
                let request = take_message(&mut stream, &mut read).await.unwrap().unwrap();
                let body = request.split(|byte| *byte == b'\n').next_back().unwrap();
                let said = [name.as_bytes(), body].concat();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", said.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&said).await.unwrap();
            }
        });
        addr
    }

    #[tokio::test]
    async fn requests_of_one_connection_go_to_each_server_in_turn() {
        let proxy = RoundRobin::start([server("a").await, server("b").await]).await;
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut read = Vec::new();
        let mut ask = async |body: &str| {
            let length = body.len();
            let request = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
            client.write_all(request.as_bytes()).await.unwrap();
            let answer = take_message(&mut client, &mut read).await.unwrap().unwrap();
            let answer = String::from_utf8(answer).unwrap();
            answer.split("\r\n\r\n").last().unwrap().to_owned()
        };
        for said in ["a1", "b2", "a3", "b4"] {
            assert_eq!(ask(&said[1..]).await, said);
        }
        // Those that are not there are passed over.
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        proxy.retarget([nobody, server("c").await]);
        for _ in 0..3 {
            assert_eq!(ask("").await, "c");
        }
        assert_eq!((proxy.requests(), proxy.upgrades()), (7, 0));
    }
}

//! A TCP proxy that misbehaves on demand: it cuts, refuses, stalls, delays and
//! throttles connections, each direction by itself.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes taken from a socket at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of one direction that wait for their time; the sender waits beyond.
const QUEUE_BYTES: usize = 1024 * 1024;

/// A proxy in front of one address; dropping it ends all its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    orders: watch::Sender<Orders>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A direction through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected, to the target.
    Forth,
    /// From the target back.
    Back,
}

/// How bytes of one direction pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Nothing is taken and nothing is handed on.
    pub stalled: bool,
    /// How long each byte is held.
    pub delay: Duration,
    /// Bytes that pass in a second; `None` for all that come.
    pub rate: Option<u32>,
}

/// What holds for all connections at the moment.
#[derive(Clone, Debug)]
struct Orders {
    target: SocketAddr,
    refusing: bool,
    forth: Flow,
    back: Flow,
    /// Connections older than the number are ended.
    cut: u64,
    /// Connections older than the number fall silent for good.
    silenced: u64,
    /// How many cuts and silences there were.
    generation: u64,
}

impl Proxy {
    /// Listens on a free port and connects each that comes to `target`.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port can be bound");
        let addr = listener.local_addr().expect("the listener is bound");
        let (orders, follow) = watch::channel(Orders {
            target,
            refusing: false,
            forth: Flow::default(),
            back: Flow::default(),
            cut: 0,
            silenced: 0,
            generation: 0,
        });
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(listener, follow, Arc::clone(&open)));
        Self {
            addr,
            orders,
            open,
            task,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections pass through it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connects further connections to another address.
    pub fn retarget(&self, target: SocketAddr) {
        self.orders.send_modify(|orders| orders.target = target);
    }

    /// Resets all connections, on both sides.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| {
            orders.generation += 1;
            orders.cut = orders.generation;
        });
    }

    /// Lets all connections fall silent for good, as a cable that was pulled:
    /// nobody is told, and what is sent goes nowhere. New ones work.
    pub fn silence(&self) {
        self.orders.send_modify(|orders| {
            orders.generation += 1;
            orders.silenced = orders.generation;
        });
    }

    /// Resets every new connection at once, until [`admit`](Self::admit).
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| orders.refusing = true);
    }

    /// Ends refusing.
    pub fn admit(&self) {
        self.orders.send_modify(|orders| orders.refusing = false);
    }

    /// Sets how bytes of a direction pass, of open and of further connections.
    pub fn shape(&self, direction: Direction, flow: Flow) {
        self.orders.send_modify(|orders| match direction {
            Direction::Forth => orders.forth = flow,
            Direction::Back => orders.back = flow,
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Orders {
    fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::Forth => self.forth,
            Direction::Back => self.back,
        }
    }
}

/// Counts an open connection.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(listener: TcpListener, orders: watch::Receiver<Orders>, open: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if orders.borrow().refusing {
                    reset(client);
                    continue;
                }
                open.fetch_add(1, Ordering::Relaxed);
                let counted = Counted(Arc::clone(&open));
                connections.spawn(connect(client, orders.clone(), counted));
            }
        }
    }
}

/// One connection, to its end.
async fn connect(mut client: TcpStream, orders: watch::Receiver<Orders>, _counted: Counted) {
    let (target, born) = {
        let orders = orders.borrow();
        (orders.target, orders.generation)
    };
    let Ok(mut server) = TcpStream::connect(target).await else {
        return reset(client);
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut until_cut, mut until_silenced) = (orders.clone(), orders.clone());
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, Direction::Forth, orders.clone()),
                pump(from_server, to_client, Direction::Back, orders.clone()),
            )
        };
        let silent = async {
            until_silenced
                .wait_for(|orders| orders.silenced > born)
                .await
                .ok();
        };
        let cut = async {
            until_cut.wait_for(|orders| orders.cut > born).await.ok();
        };
        tokio::pin!(cut);
        tokio::select! {
            passed = both => passed.is_ok(),
            () = &mut cut => false,
            () = silent => {
                cut.await;
                false
            }
        }
    };
    if !ended {
        reset(client);
        reset(server);
    }
}

/// Passes the bytes of one direction on, and their end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut queued = 0;
    let mut free_at = Instant::now();
    let mut reading = true;
    loop {
        let flow = orders.borrow_and_update().flow(direction);
        if !reading && queue.is_empty() {
            return to.shutdown().await;
        }
        let next = queue.front().map(|(due, _)| (*due).max(free_at));
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return Ok(()) },
            () = until(next), if !flow.stalled => {
                if let Some((_, bytes)) = queue.pop_front() {
                    queued -= bytes.len();
                    if let Some(rate) = flow.rate {
                        let time = bytes.len() as f64 / f64::from(rate.max(1));
                        free_at = Instant::now() + Duration::from_secs_f64(time);
                    }
                    to.write_all(&bytes).await?;
                }
            }
            read = from.read(&mut buffer), if reading && !flow.stalled && queued < QUEUE_BYTES => {
                let bytes = &buffer[..read?];
                if bytes.is_empty() {
                    reading = false;
                    continue;
                }
                if queue.is_empty() && flow == Flow::default() {
                    to.write_all(bytes).await?;
                    continue;
                }
                let due = Instant::now() + flow.delay;
                // In portions of a tenth of a second, so that bytes trickle.
                let portion = flow.rate.map_or(CHUNK_BYTES, |rate| (rate as usize / 10).max(1));
                for part in bytes.chunks(portion) {
                    queued += part.len();
                    queue.push_back((due, part.to_vec()));
                }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Ends a connection with a reset instead of a farewell.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().ok();
}

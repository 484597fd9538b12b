//! One client: a session from connect to confirmation, then events, as often
//! as its way of life wants. Its account spans all its connections.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::{Instant, sleep, timeout};

use super::account::{Account, Arrival};
use super::crowd::{Life, Thread};
use super::dialect::{Heard, Subject};
use super::mark::{self, Mark};
use super::progress::add;
use super::socket::Socket;
use super::wire;

/// How long a connection may take to be confirmed.
const OPENING_DEADLINE: Duration = Duration::from_secs(30);
/// The pause before another attempt where nobody listens.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Attempts to return before a client gives up.
const RETURN_ATTEMPTS: u32 = 500;

/// A client and what it has received.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    pub(super) subject: Subject,
    pub(super) account: RefCell<Account>,
    /// The position to resume from.
    since: RefCell<String>,
    /// What a return must reach to be complete, and when it began.
    goal: Cell<Option<Goal>>,
}

/// How far a client has to get after a return.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// Events of its first target that there were at the confirmation.
    events: u64,
    /// When the return began; of several, the first that was not completed.
    began: Instant,
}

/// How a connection ended.
enum Ending {
    /// The server closed it, for this reason.
    Closed(String),
    /// The client dropped it.
    Dropped,
}

/// What has been said within one connection.
#[derive(Default)]
struct Talk {
    /// When the return began that this connection is part of.
    returning: Option<Instant>,
    confirmed: bool,
    refused: Option<String>,
    closed: Option<String>,
    /// Frames to be sent.
    outgoing: Vec<u8>,
}

/// An open connection.
struct Session {
    /// When it was begun; of a return, when that was begun.
    began: Instant,
    socket: Socket,
    talk: Talk,
}

impl Client {
    pub(super) fn new(index: usize, subject: Subject, account: Account) -> Self {
        Self {
            index,
            subject,
            account: RefCell::new(account),
            since: RefCell::default(),
            goal: Cell::default(),
        }
    }
}

/// A client's whole life.
pub(super) async fn live(thread: Rc<Thread>, client: Rc<Client>) {
    // The first time is spread over the whole crowd.
    let mut stays = match thread.life {
        Life::Jitter { every, .. } => Some(thread.stagger(every, client.index)),
        Life::Once | Life::Return => None,
    };
    let mut attempts = 0;
    let mut returning: Option<Instant> = None;
    loop {
        let mut session = match open(&thread, &client, returning).await {
            Ok(session) => session,
            Err(error) => {
                attempts += 1;
                if returning.is_some() && attempts < RETURN_ATTEMPTS {
                    thread.count("a return was tried again");
                    sleep(REFUSED_PAUSE).await;
                    continue;
                }
                thread.count(&format!("not opened: {error:#}"));
                add(&thread.progress.failed, 1);
                return;
            }
        };
        attempts = 0;
        let times = match returning {
            Some(_) => &thread.stats.returning,
            None => &thread.stats.opening,
        };
        times.record(nanos(session.began.elapsed()));
        add(&thread.progress.open, 1);
        let ending = stay(&thread, &client, &mut session, stays).await;
        drop(session);
        thread.progress.open.fetch_sub(1, Ordering::AcqRel);
        let ended_by_server = matches!(ending, Ending::Closed(_));
        if let Ending::Closed(reason) = ending {
            thread.count(&format!("ended by the server: {reason}"));
        }
        match thread.life {
            Life::Once => {
                if ended_by_server {
                    add(&thread.progress.failed, 1);
                }
                return;
            }
            Life::Return => {}
            Life::Jitter { every, away } => {
                sleep(away).await;
                stays = Some(every);
            }
        }
        thread.gate_is_open().await;
        returning = Some(Instant::now());
    }
}

/// Connects and goes through the session up to its confirmation.
async fn open(
    thread: &Thread,
    client: &Client,
    returning: Option<Instant>,
) -> anyhow::Result<Session> {
    // Those who return all come at once; that is what is measured.
    let _permit = match returning {
        Some(_) => None,
        None => Some(thread.opening.acquire().await.context("stopping")?),
    };
    let opening = async {
        let mut session = Session::begin(thread, client, returning).await?;
        while !session.talk.confirmed {
            session.turn(thread, client).await?;
            if let Some(reason) = session.talk.complaint() {
                bail!("{reason}");
            }
        }
        Ok(session)
    };
    timeout(OPENING_DEADLINE, opening)
        .await
        .map_err(|_| anyhow!("not confirmed within {OPENING_DEADLINE:?}"))?
}

/// Receives until the connection ends or is dropped, which it is after `stays`
/// while clients are to move.
async fn stay(
    thread: &Thread,
    client: &Client,
    session: &mut Session,
    stays: Option<Duration>,
) -> Ending {
    let mut gate = thread.gate.clone();
    let time_is_up = async {
        let Some(stays) = stays else {
            return pending().await;
        };
        loop {
            if gate.wait_for(|gate| gate.moving).await.is_err() {
                return pending().await;
            }
            sleep(stays).await;
            if gate.borrow().moving {
                return;
            }
        }
    };
    tokio::select! {
        reason = receive(thread, client, session) => Ending::Closed(reason),
        () = time_is_up => Ending::Dropped,
    }
}

/// Receives until the connection ends; gives the reason.
async fn receive(thread: &Thread, client: &Client, session: &mut Session) -> String {
    loop {
        if let Err(error) = session.turn(thread, client).await {
            return format!("{error:#}");
        }
        if let Some(reason) = session.talk.refused.take() {
            thread.count(&format!("complaint: {reason}"));
        }
        if let Some(reason) = session.talk.closed.take() {
            return reason;
        }
    }
}

impl Session {
    /// Connects, upgrades and says hello.
    async fn begin(
        thread: &Thread,
        client: &Client,
        returning: Option<Instant>,
    ) -> anyhow::Result<Self> {
        let began = returning.unwrap_or_else(Instant::now);
        let address = thread.gate.borrow().address;
        let since = client.since.borrow().clone();
        let ask = thread.ask(client.subject, &since);
        let path = (thread.dialect.path)(&ask);
        let socket = Socket::upgrade(address, &path, client.index, &thread.buffer).await?;
        let mut talk = Talk {
            returning,
            ..Talk::default()
        };
        if let Some(hello) = (thread.dialect.hello)(&ask) {
            talk.say(&hello);
        }
        let mut session = Self {
            began,
            socket,
            talk,
        };
        session.answer().await?;
        Ok(session)
    }

    /// Reads once, takes in every frame and answers what wants an answer.
    async fn turn(&mut self, thread: &Thread, client: &Client) -> anyhow::Result<()> {
        let Self { socket, talk, .. } = self;
        let hear = |opcode: u8, payload: &[u8]| talk.hear(thread, client, opcode, payload);
        socket.read(&thread.buffer, hear).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<()> {
        if self.talk.outgoing.is_empty() {
            return Ok(());
        }
        self.socket
            .write(&std::mem::take(&mut self.talk.outgoing))
            .await
    }
}

impl Talk {
    fn complaint(&mut self) -> Option<String> {
        self.refused.take().or_else(|| self.closed.take())
    }

    fn say(&mut self, text: &str) {
        wire::write_frame(&mut self.outgoing, wire::TEXT, text.as_bytes());
    }

    fn hear(&mut self, thread: &Thread, client: &Client, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::TEXT => match Mark::find(payload) {
                Some(mark) => client.receive(thread, &mark, payload),
                None => self.hear_text(thread, client, payload),
            },
            wire::PING => wire::write_frame(&mut self.outgoing, wire::PONG, payload),
            wire::CLOSE => {
                let code = match payload {
                    [high, low, ..] => u16::from_be_bytes([*high, *low]),
                    _ => 1005,
                };
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                self.closed = Some(format!("{code} {reason}").trim().to_owned());
            }
            _ => {}
        }
    }

    /// What is no event of a run.
    fn hear_text(&mut self, thread: &Thread, client: &Client, payload: &[u8]) {
        let Ok(text) = std::str::from_utf8(payload) else {
            self.refused = Some("a message that is not text".to_owned());
            return;
        };
        let heard = {
            let since = client.since.borrow();
            (thread.dialect.hear)(&thread.ask(client.subject, &since), text)
        };
        match heard {
            Heard::Say(text) => self.say(&text),
            Heard::Confirmed { seq, recovered } => {
                if self.confirmed {
                    return;
                }
                self.confirmed = true;
                if recovered == Some(false) {
                    thread.count("a return was not recovered");
                }
                if let Some(seq) = seq {
                    *client.since.borrow_mut() = seq;
                }
                if let Some(began) = self.returning {
                    client.aim(thread, began);
                }
            }
            Heard::Refused(reason) => self.refused = Some(reason),
            Heard::Other => {}
        }
    }
}

impl Client {
    fn receive(&self, thread: &Thread, mark: &Mark, frame: &[u8]) {
        let arrival = {
            let mut account = self.account.borrow_mut();
            account.note(mark, |target| thread.progress.published(target))
        };
        add(&thread.stats.events, 1);
        add(&thread.stats.event_bytes, frame.len() as u64);
        if matches!(arrival, Arrival::InOrder | Arrival::Reordered) {
            // What was missed while away is late by the absence, which the
            // time to catch up tells better.
            if self.goal.get().is_none() {
                thread
                    .stats
                    .latency
                    .record(mark::now().saturating_sub(mark.sent));
            }
            add(&thread.progress.delivered, 1);
        }
        if thread.life != Life::Once
            && let Some(cursor) = mark::cursor(frame)
        {
            let mut since = self.since.borrow_mut();
            since.clear();
            since.push_str(cursor);
        }
        self.look_for_goal(thread);
    }

    /// Sets what a return must reach: everything that had been published when
    /// it was confirmed.
    fn aim(&self, thread: &Thread, began: Instant) {
        let target = self.account.borrow().first_target();
        let began = self.goal.get().map_or(began, |goal| goal.began);
        let events = thread.progress.published(target);
        self.goal.set(Some(Goal { events, began }));
        self.look_for_goal(thread);
    }

    fn look_for_goal(&self, thread: &Thread) {
        if let Some(goal) = self.goal.get()
            && self.account.borrow().has_all(goal.events)
        {
            self.goal.set(None);
            thread.stats.caught_up.record(nanos(goal.began.elapsed()));
            add(&thread.progress.caught_up, 1);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

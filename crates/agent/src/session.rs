//! One connection's conversation: commands in, reports out.
//!
//! Everything is told from what [`Book`] says is stored, so a connection that
//! breaks costs nothing but the repetition. Output goes in the order in which it
//! was written, a bounded number of bytes ahead of what is stored; the end of a
//! command follows once all of its output is stored, and is told again until the
//! gateway confirms it.

mod book;
mod hearing;
mod say;
mod speaking;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

pub(crate) use self::book::Book;
use self::say::Introduction;
use crate::backoff::BackOff;

use crate::link::{Closure, Incoming, Link, Mouth};
use crate::pace::Pace;
use crate::presence::{Life, Options};
use crate::status::Gauge;
use crate::tokens::{Denied, Token, Tokens};

/// How long nothing may be stored of what was sent before it is sent again.
const RESEND: Duration = Duration::from_secs(10);
/// What the gateway is asked for a sign of life, until it says how often it
/// expects one.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The code of a close for a reason of ours.
const POLICY_VIOLATION: u16 = 1008;

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// All was said.
    Goodbye,
    /// Another connection is the agent's.
    Replaced,
    /// The gateway does not take the agent.
    Refused(String),
    /// The connection is gone.
    Lost {
        /// How.
        closure: Closure,
        /// What the gateway asked to wait.
        retry_after: Option<Duration>,
        /// Whether it had been the agent's.
        was_open: bool,
    },
}

/// See the module.
pub(crate) struct Session<'a> {
    options: &'a Options,
    book: &'a mut Book,
    gauge: &'a mut Gauge,
    tokens: &'a Tokens,
    token: &'a mut Token,
    life: watch::Receiver<Life>,
    news: Arc<Notify>,
    output: Pace,
    messages: Pace,
    /// Whether the connection is the agent's.
    is_open: bool,
    began: Instant,
    heartbeat: Duration,
    /// When the gateway was heard last, and when it was asked for a sign.
    heard: Instant,
    asked: Option<Instant>,
    /// When something was stored last, and how long that may take.
    stored: Instant,
    resend: Duration,
    /// What was told of the agent last, and when.
    told_busy: Option<bool>,
    status_at: Instant,
    /// The command whose turn it was last.
    turn: String,
    /// The emergency stop that is to be confirmed.
    stop: Option<String>,
    /// A fresh token on its way.
    fetching: JoinSet<Result<Token, Denied>>,
    refresh_at: Instant,
    refresh_back_off: BackOff,
    retry_after: Option<Duration>,
    /// Until when the gateway may close after a goodbye.
    goodbye: Option<Instant>,
    /// Whether the gateway has stopped to read.
    is_deaf: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        options: &'a Options,
        book: &'a mut Book,
        gauge: &'a mut Gauge,
        tokens: &'a Tokens,
        token: &'a mut Token,
        life: watch::Receiver<Life>,
    ) -> Self {
        let now = Instant::now();
        Self {
            news: book.news(),
            output: Pace::new(options.output_rates),
            messages: Pace::new(options.message_rates),
            is_open: false,
            began: now,
            heartbeat: HEARTBEAT,
            heard: now,
            asked: None,
            stored: now,
            resend: RESEND,
            told_busy: None,
            status_at: now,
            turn: String::new(),
            stop: None,
            fetching: JoinSet::new(),
            refresh_at: token.ripe_at(),
            refresh_back_off: BackOff::new(),
            retry_after: None,
            goodbye: None,
            is_deaf: false,
            options,
            book,
            gauge,
            tokens,
            token,
            life,
        }
    }

    /// Speaks until the connection ends.
    pub(crate) async fn run(mut self, mut link: Link, mouth: Mouth) -> Parting {
        self.introduce(&mouth);
        let news = Arc::clone(&self.news);
        loop {
            if self.is_deaf {
                return self.lost("the gateway does not read");
            }
            self.book.sweep();
            let now = Instant::now();
            let mut wake = self.speak(&mouth, now);
            let output_at = self.next_output(now);
            let is_due = output_at.is_some_and(|at| at <= now);
            if let (Some(at), false) = (output_at, is_due) {
                wake = wake.min(at);
            }
            if self.is_silent(now) {
                return self.lost("the gateway is silent");
            }
            if self.goodbye.is_some_and(|until| until <= now) {
                return Parting::Goodbye;
            }
            tokio::select! {
                incoming = link.next() => {
                    self.heard = Instant::now();
                    self.asked = None;
                    match incoming {
                        Incoming::Told(told) => {
                            if let Some(parting) = self.hear(told, &mouth) {
                                return parting;
                            }
                        }
                        Incoming::Sign => {}
                        Incoming::Closed(closure) => return self.closed(closure),
                    }
                }
                room = mouth.room(), if is_due => match room {
                    Some(room) => self.send_output(room),
                    None => return self.lost("the connection is broken"),
                },
                () = news.notified() => {}
                () = sleep_until(wake) => {}
                Some(fetched) = self.fetching.join_next() => {
                    let denied = Denied::Unavailable("the task broke off".to_owned());
                    self.refresh(fetched.unwrap_or(Err(denied)), &mouth);
                }
                changed = self.life.changed() => if changed.is_err() {
                    return self.lost("the agent ends");
                },
            }
        }
    }

    fn lost(&self, reason: &str) -> Parting {
        self.closed(Closure {
            code: None,
            reason: reason.to_owned(),
        })
    }

    fn closed(&self, closure: Closure) -> Parting {
        if self.goodbye.is_some() {
            return Parting::Goodbye;
        }
        if closure.code == Some(POLICY_VIOLATION) && closure.reason == "replaced" {
            return Parting::Replaced;
        }
        Parting::Lost {
            closure,
            retry_after: self.retry_after,
            was_open: self.is_open,
        }
    }

    fn say(&mut self, mouth: &Mouth, message: String) {
        self.is_deaf |= !mouth.say(message);
    }

    /// Says something that counts as a plain message.
    fn report(&mut self, mouth: &Mouth, message: String) {
        self.messages.take(Instant::now());
        self.say(mouth, message);
    }

    fn introduce(&mut self, mouth: &Mouth) {
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for (id, job) in self.book.jobs() {
            match job.ending() {
                None => running.push(id.clone()),
                Some(_) => ended.push(id.clone()),
            }
        }
        debug!(?running, ?ended, "introducing");
        let message = say::connect(&Introduction {
            agent_id: &self.options.agent_id,
            agent_type: &self.options.agent_type,
            concurrency: self.options.concurrency,
            running,
            ended,
        });
        self.report(mouth, message);
    }
}

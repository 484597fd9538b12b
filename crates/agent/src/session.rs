//! One connection's conversation: commands in, reports out.
//!
//! Everything is told from what [`Book`] says is stored, so a connection that
//! breaks costs nothing but the repetition. Output goes in the order in which it
//! was written, at most [`WINDOW_BYTES`] ahead of what is stored; the end of a
//! command follows once all of its output is stored, and is told again until the
//! gateway confirms it.

mod book;
mod say;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

pub(crate) use self::book::Book;
use self::say::Introduction;
use crate::backoff::BackOff;
use crate::executor::Request;
use crate::link::{Closure, Incoming, Link, Mouth, Refusal, Room, Told};
use crate::pace::Pace;
use crate::presence::{Life, Options};
use crate::status::Gauge;
use crate::tokens::{Denied, Token, Tokens};

/// Output of one message, in bytes.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Output that may be sent and not yet stored, in bytes. The gateway holds half
/// as much and then stops to read; more would only wait in sockets.
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// How long nothing may be stored of what was sent before it is sent again.
const RESEND: Duration = Duration::from_secs(10);
/// The longest that [`RESEND`] becomes.
const LONGEST_RESEND: Duration = Duration::from_secs(120);
/// What the gateway is asked for a sign of life, until it says how often it
/// expects one.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// The part of the limits that a change of status leaves for ends of commands.
const STATUS_RESERVE: f64 = 0.3;
/// The part of the limits that numbers about the machine leave for all else.
const METRICS_RESERVE: f64 = 0.6;
/// How long the gateway may take to close after a goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long the connection may take to become the agent's before it is made
/// anew.
const GREETING: Duration = Duration::from_secs(60);

/// Output is gathered by stream where it may be sent no oftener than this.
const SCARCE: Duration = Duration::from_millis(100);
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

    /// Takes in a message; gives how the conversation ends, if it does.
    fn hear(&mut self, told: Told, mouth: &Mouth) -> Option<Parting> {
        match told {
            Told::Connected {
                heartbeat_interval,
                offsets,
                abandoned,
            } => {
                self.is_open = true;
                self.heartbeat = Duration::from_millis(heartbeat_interval.max(1));
                self.stored = Instant::now();
                self.book.begin(&offsets, &abandoned);
                info!(gateway = %self.options.address, "serving");
            }
            Told::Execute {
                command_id,
                command,
                args,
            } => self.execute(command_id, command, args),
            Told::Interrupt { command_id } => self.book.interrupt(&command_id),
            Told::Ack(stored) => {
                if self.book.stored(&stored) {
                    self.stored = Instant::now();
                    self.resend = RESEND;
                }
            }
            Told::Input {
                command_id,
                content,
                raw,
            } => match raw.map(|raw| STANDARD.decode(raw)) {
                None => self.book.input(&command_id, content.as_bytes()),
                Some(Ok(bytes)) => self.book.input(&command_id, &bytes),
                Some(Err(_)) => warn!(command = command_id, "input is no base64"),
            },
            Told::Resize {
                command_id,
                columns,
                rows,
            } => self.book.resize(&command_id, columns, rows),
            Told::Ping => self.report(mouth, say::pong()),
            Told::Stop { reason, stop_id } => {
                warn!(reason, "emergency stop");
                self.book.interrupt_all();
                self.stop = stop_id;
            }
            // A token that is short-lived is announced at once.
            Told::RefreshNeeded => self.refresh_at = self.refresh_at.min(self.token.mellow_at()),
            Told::RefreshSuccess => debug!("the connection goes on with a fresh token"),
            Told::RefreshFailed { error } => {
                warn!(error, "the fresh token is not taken");
                self.refresh_at = Instant::now() + self.refresh_back_off.next(Duration::ZERO);
            }
            Told::Refused(refusal) => return self.refused(&refusal),
            Told::Invalid { error, request_id } => return self.invalid(error, request_id),
            Told::NoCommand { command_id, code } => {
                if let (Some(id), "COMMAND_NOT_FOUND") = (command_id, code.as_str()) {
                    debug!(command = id, "the relay has given it up");
                    self.book.abandon(&id);
                }
            }
            Told::Done { request_id } => {
                if let Some(id) = say::ended_by(&request_id) {
                    self.book.confirm(id);
                }
            }
            Told::Other => {}
        }
        None
    }

    fn execute(&mut self, id: String, command: String, args: Vec<String>) {
        if *self.life.borrow() != Life::Working && self.book.job(&id).is_none() {
            // Not begun, not refused: the relay sends it to whoever comes next.
            info!(command = id, "command not begun, the agent is stopping");
            return;
        }
        self.book.execute(Request { id, command, args });
    }

    /// The gateway refuses the connection, or a message that was one too many.
    fn refused(&mut self, refusal: &Refusal) -> Option<Parting> {
        let retry_after = refusal.retry_after.map(Duration::from_secs);
        if refusal.request_id.as_deref() == Some(say::CONNECT) && refusal.code != "RATE_LIMIT" {
            return Some(Parting::Refused(refusal.error.clone()));
        }
        if refusal.code != "RATE_LIMIT" {
            debug!(code = refusal.code, error = refusal.error, "refused");
            self.retry_after = retry_after;
            return None;
        }
        let now = Instant::now();
        let minute = refusal.limits.map(|limits| limits.per_minute.limit);
        let hour = refusal.limits.and_then(|limits| limits.per_hour);
        let hour = hour.map(|hour| hour.limit);
        let is_output = refusal.request_id.as_deref() == Some(say::OUTPUT);
        warn!(
            error = refusal.error,
            ?retry_after,
            is_output,
            "slower: the gateway refuses"
        );
        if is_output {
            self.output.refused(now, retry_after, minute, hour);
            self.book.rewind();
        } else {
            self.messages.refused(now, retry_after, minute, hour);
            if let Some(id) = refusal.request_id.as_deref().and_then(say::ended_by)
                && let Some(job) = self.book.job(id)
            {
                job.again();
            }
            self.told_busy = None;
        }
        None
    }

    fn invalid(&mut self, error: String, request_id: Option<String>) -> Option<Parting> {
        match request_id.as_deref() {
            Some(say::CONNECT) => return Some(Parting::Refused(error)),
            Some(say::OUTPUT) => {
                // It would be refused again and again: ours to mend.
                error!(error, "output is not understood");
                return Some(self.lost("output is not understood"));
            }
            Some(id) => {
                if let Some(job) = say::ended_by(id).and_then(|id| self.book.job(id)) {
                    warn!(error, "the end came too early");
                    job.again();
                }
            }
            None => warn!(error, "message not understood"),
        }
        None
    }

    /// Says all but output that is due; gives when there may be more to say.
    fn speak(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let mut wake = now + self.heartbeat;
        if let Some(until) = self.goodbye {
            return wake.min(until);
        }
        wake = wake.min(self.keep_alive(mouth, now));
        wake = wake.min(self.keep_token(now));
        if !self.is_open {
            return wake.min(self.began + GREETING);
        }
        wake = wake.min(self.tell_ends(mouth, now));
        wake = wake.min(self.tell_begun(mouth, now));
        wake = wake.min(self.tell_status(mouth, now));
        if self.book.running() == 0
            && let Some(stop_id) = self.stop.take()
        {
            self.report(mouth, say::stopped(&stop_id));
        }
        if self.book.in_flight() > 0 {
            let at = self.stored + self.resend;
            if at <= now {
                warn!("nothing was stored for a while, sending output again");
                self.book.rewind();
                self.stored = now;
                self.resend = (self.resend * 2).min(LONGEST_RESEND);
            } else {
                wake = wake.min(at);
            }
        } else {
            self.stored = now;
        }
        if *self.life.borrow() == Life::Stopped && self.book.unconfirmed() == 0 {
            self.say(mouth, say::disconnect(&self.options.agent_id));
            self.goodbye = Some(now + GOODBYE);
            wake = wake.min(now + GOODBYE);
        }
        wake
    }

    /// Asks for a sign of life where none came for a while.
    fn keep_alive(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let at = self.heard + self.heartbeat / 2;
        if self.asked.is_none() && at <= now {
            self.asked = Some(now);
            self.say(mouth, say::ping());
        }
        match self.asked {
            None => at,
            Some(asked) => asked + self.heartbeat,
        }
    }

    /// Whether the gateway has left a question for a sign of life unanswered.
    fn is_silent(&self, now: Instant) -> bool {
        let is_late = !self.is_open && now >= self.began + GREETING;
        is_late
            || self
                .asked
                .is_some_and(|asked| now >= asked + self.heartbeat)
    }

    /// Has a fresh token fetched in time.
    fn keep_token(&mut self, now: Instant) -> Instant {
        if self.refresh_at <= now && self.fetching.is_empty() {
            let tokens = self.tokens.clone();
            self.fetching.spawn(async move { tokens.fetch().await });
        }
        if self.fetching.is_empty() {
            self.refresh_at
        } else {
            now + self.heartbeat
        }
    }

    fn refresh(&mut self, fetched: Result<Token, Denied>, mouth: &Mouth) {
        match fetched {
            Ok(token) => {
                self.report(mouth, say::refresh(token.expose()));
                self.refresh_at = token.ripe_at();
                self.refresh_back_off.reset();
                *self.token = token;
            }
            Err(denied) => {
                let wait = self.refresh_back_off.next(Duration::ZERO);
                warn!(%denied, ?wait, "no fresh token");
                self.refresh_at = Instant::now() + wait;
            }
        }
    }

    /// Tells ends of which all output is stored.
    fn tell_ends(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let mut wake = now + self.heartbeat;
        for (id, job) in self.book.jobs_mut() {
            if let Err(error) = job.settle(MESSAGE_BYTES) {
                error!(command = id, %error, "the spool cannot be read");
            }
        }
        let due: Vec<(String, Instant)> = self
            .book
            .jobs()
            .filter_map(|(id, job)| Some((id.clone(), job.end_due(now)?)))
            .collect();
        for (id, at) in due {
            let at = at.max(self.messages.ready_at(now, 0.0));
            if at > now {
                wake = wake.min(at);
                continue;
            }
            let Some(job) = self.book.job(&id) else {
                continue;
            };
            let Some(ending) = job.ending() else { continue };
            job.told_end(now);
            if ending.left_behind > 0 {
                warn!(
                    command = id,
                    left = ending.left_behind,
                    "processes would not end"
                );
            }
            let message = say::complete(&id, &self.options.agent_id, &ending);
            self.report(mouth, message);
        }
        wake
    }

    /// Tells which commands run. Nothing waits for it: output says it as well.
    fn tell_begun(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let wake = now + self.heartbeat;
        let begun: Vec<String> = self
            .book
            .jobs()
            .filter(|(_, job)| job.is_told() && !job.announced && job.ending().is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in begun {
            let at = self.messages.ready_at(now, STATUS_RESERVE);
            if at > now {
                return wake.min(at);
            }
            if let Some(job) = self.book.job(&id) {
                job.announced = true;
            }
            let message = say::running(&id, &self.options.agent_id);
            self.report(mouth, message);
        }
        wake
    }

    /// Tells how the agent is: at once when that changes, and now and then.
    fn tell_status(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let running = self.book.running();
        let is_stopping = *self.life.borrow() != Life::Working;
        let is_busy = is_stopping || running >= self.options.concurrency as usize;
        let changed = self.told_busy != Some(is_busy);
        if !changed && self.status_at > now {
            return self.status_at;
        }
        let reserve = if changed {
            STATUS_RESERVE
        } else {
            METRICS_RESERVE
        };
        let at = self.messages.ready_at(now, reserve);
        if at > now {
            return at;
        }
        let metrics = self.gauge.metrics(running, self.options.concurrency);
        let message = say::status(&self.options.agent_id, is_busy, &metrics);
        self.report(mouth, message);
        self.told_busy = Some(is_busy);
        self.status_at = now + self.options.status_interval;
        self.status_at
    }

    /// When the next message of output is due.
    fn next_output(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_open || self.goodbye.is_some() || self.book.in_flight() >= WINDOW_BYTES {
            return None;
        }
        let (_, at) = self.next_writer(now)?;
        Some(at.max(self.output.ready_at(now, 0.0)))
    }

    /// The command whose output is due first, in turns where several are.
    fn next_writer(&mut self, now: Instant) -> Option<(String, Instant)> {
        let interval = self.output.interval(now);
        let due = |job: &book::Job| match job.last {
            // A full message waits for nothing, nor does the rest.
            _ if job.pending() >= MESSAGE_BYTES as u64 || job.ending().is_some() => now,
            None => now,
            Some(last) => (last + interval).max(now),
        };
        let waiting = self
            .book
            .jobs()
            .filter(|(_, job)| job.is_told() && job.pending() > 0);
        let turn = &self.turn;
        waiting
            .map(|(id, job)| (due(job), id <= turn, id))
            .min()
            .map(|(at, _, id)| (id.clone(), at))
    }

    fn send_output(&mut self, room: Room<'_>) {
        let now = Instant::now();
        let Some((id, _)) = self.next_writer(now) else {
            return;
        };
        self.turn.clone_from(&id);
        let is_scarce = self.output.interval(now) > SCARCE;
        let Some(job) = self.book.job(&id) else {
            return;
        };
        job.last = Some(now);
        let part = match job.next_part(MESSAGE_BYTES, is_scarce) {
            Ok(Some(part)) => part,
            Ok(None) => return,
            Err(error) => return error!(command = id, %error, "the spool cannot be read"),
        };
        let message = say::output(&id, &self.options.agent_id, &part, self.options.compress);
        self.output.take(now);
        room.send(message);
    }
}

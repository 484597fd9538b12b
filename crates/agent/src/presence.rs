//! Keeps the agent connected: tokens, connections, patience between them, and
//! an orderly end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use signalbox_service::Shutdown;

use crate::address::Address;
use crate::backoff::BackOff;
use crate::dial::Dialer;
use crate::error::Error;
use crate::executor::{Executor, Stop};
use crate::link::Link;
use crate::pace::Rates;
use crate::session::{Book, Parting, Session};
use crate::status::Gauge;
use crate::tokens::{Denied, KeySource, Token, Tokens};

/// The shortest wait before returning to a gateway that has no room, or that did
/// not want the token.
const PATIENCE: Duration = Duration::from_secs(1);
/// The wait before asking again with a key, or for a place, that was refused.
const LONG_PATIENCE: Duration = Duration::from_secs(10);
/// A connection that served for longer was a good one, after which the next
/// attempt comes soon.
const GOOD: Duration = Duration::from_secs(1);
/// The codes of closes after which a gateway wants to be left alone for a bit.
const BUSY: [u16; 2] = [1001, 1013];
/// The code of a close where the token may be at fault.
const POLICY_VIOLATION: u16 = 1008;

/// How the agent is connected.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway.
    pub address: Address,
    /// Who the agent is.
    pub agent_id: String,
    /// What kind of agent it is, for people.
    pub agent_type: String,
    /// Where the API key is.
    pub key: KeySource,
    /// Certificates of authorities to trust beside the system's.
    pub authorities: Option<PathBuf>,
    /// How long tokens are to live; `None` leaves that to the service.
    pub token_ttl: Option<Duration>,
    /// Commands that run at once.
    pub concurrency: u32,
    /// What the gateway allows of `terminal:output`.
    pub output_rates: Rates,
    /// What the gateway allows of messages without a limit of their own.
    pub message_rates: Rates,
    /// How often the agent tells how its machine is.
    pub status_interval: Duration,
    /// Whether long output is compressed.
    pub compress: bool,
    /// How long commands may go on once the agent is asked to stop.
    pub stop_grace: Duration,
    /// How long what is left may take to be handed over then.
    pub hand_over: Duration,
}

/// How far the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It takes commands.
    Working,
    /// It takes no more, and waits for those that run.
    Stopping,
    /// None runs any more; what is left is handed over.
    Stopped,
    /// The time for that is over.
    Gone,
}

/// Serves the gateway with what the executor does, until `shutdown` and the end
/// of what runs.
///
/// # Errors
/// When starting again is no use: another runner has the agent's place, the key
/// is refused at the start, or a file cannot be read.
pub async fn run(options: Options, executor: Executor, shutdown: Shutdown) -> Result<(), Error> {
    let dialer = Dialer::new(options.address.clone(), options.authorities.as_deref())
        .map_err(Error::Authorities)?;
    if !options.address.is_encrypted() && !options.address.is_local() {
        warn!(gateway = %options.address, "the key and all output go there unencrypted, use wss://");
    }
    let tokens = Tokens::new(
        dialer.clone(),
        options.key.clone(),
        options.agent_id.clone(),
        options.token_ttl,
    );
    let (change, life) = watch::channel(Life::Working);
    let mut ending = JoinSet::new();
    let (grace, hand_over) = (options.stop_grace, options.hand_over);
    let stopped = executor.clone();
    ending.spawn(async move {
        shutdown.wait().await;
        change.send_replace(Life::Stopping);
        let running = stopped.running();
        if running > 0 {
            info!(running, ?grace, "stopping, commands may go on for a while");
        }
        stopped.stop(Stop::Wait(grace)).await;
        change.send_replace(Life::Stopped);
        sleep(hand_over).await;
        change.send_replace(Life::Gone);
        // The receivers are told as long as somebody could change it.
        std::future::pending::<()>().await;
    });
    let presence = Presence {
        book: Book::new(executor),
        gauge: Gauge::new(),
        back_off: BackOff::new(),
        token: None,
        was_connected: false,
        dialer,
        tokens,
        life,
        options,
    };
    presence.keep().await
}

struct Presence {
    options: Options,
    dialer: Dialer,
    tokens: Tokens,
    life: watch::Receiver<Life>,
    book: Book,
    gauge: Gauge,
    back_off: BackOff,
    token: Option<Token>,
    was_connected: bool,
}

impl Presence {
    async fn keep(mut self) -> Result<(), Error> {
        let mut life = self.life.clone();
        let gone = async move {
            life.wait_for(|life| *life == Life::Gone).await.ok();
        };
        let outcome = tokio::select! {
            outcome = self.come_and_go() => outcome,
            () = gone => Ok(()),
        };
        let left = self.book.unconfirmed();
        if left > 0 {
            warn!(
                left,
                "commands were not handed over, the next runner on this directory does it"
            );
        }
        outcome
    }

    async fn come_and_go(&mut self) -> Result<(), Error> {
        while let Some(wait) = self.attempt().await? {
            if self.is_over() {
                return Ok(());
            }
            let mut life = self.life.clone();
            let is_stopped = *life.borrow() == Life::Stopped;
            tokio::select! {
                () = sleep(wait) => {}
                // What waits to be handed over gets another chance at once.
                _ = life.wait_for(|life| *life == Life::Stopped), if !is_stopped => {}
            }
            if self.is_over() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there is nothing left to stay for.
    fn is_over(&self) -> bool {
        *self.life.borrow() == Life::Stopped && self.book.unconfirmed() == 0
    }

    /// Connects and speaks once. Gives how long to wait before the next time, or
    /// nothing at the end.
    async fn attempt(&mut self) -> Result<Option<Duration>, Error> {
        let mut token = match self.token.take().filter(Token::is_fresh) {
            Some(token) => token,
            None => match self.tokens.fetch().await {
                Ok(token) => token,
                Err(denied) => return self.denied(denied).map(Some),
            },
        };
        let (link, mouth) = match Link::open(&self.dialer, &token).await {
            Ok(open) => open,
            Err(cause) => {
                self.token = Some(token);
                let wait = self.back_off.next(Duration::ZERO);
                warn!(gateway = %self.options.address, cause, ?wait, "not connected");
                return Ok(Some(wait));
            }
        };
        let began = Instant::now();
        let session = Session::new(
            &self.options,
            &mut self.book,
            &mut self.gauge,
            &self.tokens,
            &mut token,
            self.life.clone(),
        );
        let parting = session.run(link, mouth).await;
        self.was_connected = true;
        if matches!(parting, Parting::Lost { was_open: true, .. }) && began.elapsed() >= GOOD {
            self.back_off.reset();
        }
        self.part(parting, token)
    }

    /// What follows from how a conversation ended.
    fn part(&mut self, parting: Parting, token: Token) -> Result<Option<Duration>, Error> {
        match parting {
            Parting::Goodbye => {
                info!("disconnected");
                Ok(None)
            }
            Parting::Replaced => Err(Error::Replaced(self.options.agent_id.clone())),
            Parting::Refused(why) => {
                let wait = self.back_off.next(LONG_PATIENCE);
                warn!(why, ?wait, "the gateway does not take the agent");
                Ok(Some(wait))
            }
            Parting::Lost {
                closure,
                retry_after,
                was_open: _,
            } => {
                let mut least = retry_after.unwrap_or_default();
                if closure.code == Some(POLICY_VIOLATION) {
                    // Expired, revoked, or of a role that has changed: the next
                    // one may be good.
                    least = least.max(PATIENCE);
                } else {
                    self.token = Some(token);
                }
                if closure.code.is_some_and(|code| BUSY.contains(&code)) {
                    least = least.max(PATIENCE);
                }
                let wait = self.back_off.next(least);
                warn!(code = closure.code, reason = ?closure.reason, ?wait, "connection lost");
                Ok(Some(wait))
            }
        }
    }

    /// What follows from a token that is not issued.
    fn denied(&mut self, denied: Denied) -> Result<Duration, Error> {
        match denied {
            Denied::Refused(why) if !self.was_connected && self.token.is_none() => {
                Err(Error::KeyRefused(why))
            }
            Denied::Refused(why) => {
                let wait = self.back_off.next(LONG_PATIENCE);
                warn!(
                    why,
                    ?wait,
                    "the key is refused, another may be put in its place"
                );
                Ok(wait)
            }
            Denied::Unavailable(why) => {
                let wait = self.back_off.next(Duration::ZERO);
                warn!(gateway = %self.options.address, why, ?wait, "no token");
                Ok(wait)
            }
        }
    }
}

//! The ledger of Socket.IO sessions that clients may come back to, on any
//! gateway; see `signalbox_bus::session_store` for where it is kept.
//!
//! - A session is entered before its client is in, or in dialect `pipeline`
//!   with the answer to its credential. A first write that is not acknowledged
//!   in time is written again until it is: the client has its `pid` by then.
//! - What a client is told to have joined or left is in the ledger before:
//!   [`Seat::change`], then [`Seat::save`], then the acknowledgement.
//! - One connection at a time has a session. Whoever comes with the `pid` takes
//!   it over, and the former connection is told so: at once where it is on the
//!   same shard, else by its next write.
//! - A connection that is lost leaves its session to be come back to; one that
//!   ends for good closes it with [`Seat::close`].
//!
//! It knows no socket and no dialect's words; what it keeps is for others to
//! interpret.

mod account;
mod seat;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt as _, stream};
use signalbox_bus::session_store::{Revision, SessionKey, SessionStore, StoreError};
use tokio::time::sleep;
use tracing::{debug, warn};

pub(crate) use self::account::{Account, Joined, Narrowing};
use self::seat::Inner;
pub(crate) use self::seat::{SaveError, Seat};

/// The parts of an entry's lifetime after which it is written again.
const REFRESHES_PER_LIFETIME: u32 = 4;
/// How often entries that are due are looked for, in parts of the time after
/// which they are.
const LOOKS_PER_REFRESH: u32 = 16;
/// The shortest time between two such looks.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
/// The longest time between two such looks: what could not be written waits
/// no longer than that for the next attempt.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// Entries that are written again at once; the others follow.
const REFRESHES_AT_ONCE: usize = 64;
/// Random bytes of a `pid`.
const PID_BYTES: usize = 24;
/// Characters of a `pid`: its bytes in base64.
const PID_CHARS: usize = PID_BYTES / 3 * 4;

/// The secret by which a client comes back to its session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pid(Rc<str>);

impl Pid {
    /// A new one.
    pub(crate) fn generate() -> Self {
        Self(
            URL_SAFE_NO_PAD
                .encode(rand::random::<[u8; PID_BYTES]>())
                .into(),
        )
    }

    /// The `pid` that a client sent; `None` for what none can be.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == PID_CHARS && text.bytes().all(is_plain)).then(|| Self(text.into()))
    }

    /// For the client and nobody else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    fn key(&self) -> SessionKey {
        SessionKey::of(&self.0)
    }
}

impl fmt::Debug for Pid {
    /// Without the secret: as the key of its entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pid({:?})", self.key())
    }
}

/// Nobody can tell now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of sessions is out of reach")]
pub(crate) struct OutOfReach;

/// A session that was found by its `pid`.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What the ledger has of it. To be judged again: credentials are revoked
    /// and rooms closed while nobody is there.
    pub(crate) account: Account,
    pid: Pid,
    revision: Revision,
}

impl Kept {
    /// The secret by which it was found.
    pub(crate) const fn pid(&self) -> &Pid {
        &self.pid
    }
}

/// Says that a session was taken over, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakenOver {
    key: SessionKey,
    /// The connection that has it now.
    holder: String,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key.as_str(), self.holder)
    }
}

impl TakenOver {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (key, holder) = text.split_once(' ')?;
        Some(Self {
            key: SessionKey::from_key(key),
            holder: holder.to_owned(),
        })
    }
}

/// Why a session was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeOverError {
    /// Another connection was faster.
    #[error("another connection has taken the session over")]
    TooLate,
    /// Nobody can tell now.
    #[error(transparent)]
    OutOfReach(#[from] OutOfReach),
}

/// The ledger as one shard uses it.
pub(crate) struct Ledger {
    store: SessionStore,
    gateway: Rc<str>,
    /// The seats of this shard's connections.
    seats: RefCell<HashMap<SessionKey, Weak<Inner>>>,
}

impl Ledger {
    /// The ledger as a shard of the gateway of this name uses it.
    pub(crate) fn new(store: SessionStore, gateway: &str) -> Rc<Self> {
        Rc::new(Self {
            store,
            gateway: gateway.into(),
            seats: RefCell::default(),
        })
    }

    /// As [`enter_as`](Self::enter_as), under a new `pid`.
    #[cfg(test)]
    pub(crate) async fn enter(
        self: &Rc<Self>,
        account: Account,
        on_loss: impl Fn() + 'static,
    ) -> Option<Seat> {
        self.enter_as(Pid::generate(), account, on_loss).await
    }

    /// Enters a new session under a `pid` that nobody has. Where that is not
    /// acknowledged within five seconds, [`keep`](Self::keep) writes it again;
    /// `None` for a session that cannot be kept at all.
    /// `on_loss` is called when another connection takes the session over.
    pub(crate) async fn enter_as(
        self: &Rc<Self>,
        pid: Pid,
        account: Account,
        on_loss: impl Fn() + 'static,
    ) -> Option<Seat> {
        let inner = Inner::new(self, pid, account, Revision::NONE, Box::new(on_loss));
        match inner.write_first().await {
            Ok(()) => Some(self.seat(inner)),
            Err(error @ StoreError::Unavailable(_)) => {
                warn!(%error, "a session cannot be come back to yet");
                Some(self.seat(inner))
            }
            Err(error) => {
                warn!(%error, "a session cannot be come back to");
                None
            }
        }
    }

    /// Finds a session that is not over.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub(crate) async fn find(&self, pid: &Pid) -> Result<Option<Kept>, OutOfReach> {
        let key = pid.key();
        let stored = match self.store.find(&key).await {
            Ok(Some(stored)) if !stored.session.closed => stored,
            Ok(_) => return Ok(None),
            Err(error) => {
                warn!(session = ?key, %error, "session not looked up");
                return Err(OutOfReach);
            }
        };
        match Account::try_from(stored.session) {
            Ok(account) => Ok(Some(Kept {
                account,
                pid: pid.clone(),
                revision: stored.revision,
            })),
            Err(error) => {
                // Of a newer version, perhaps.
                warn!(session = ?key, %error, "session left alone");
                Ok(None)
            }
        }
    }

    /// Takes a session over, with the account as `kept` now has it.
    ///
    /// # Errors
    /// [`TakeOverError`]; the session is as it was before, or another's.
    pub(crate) async fn take_over(
        self: &Rc<Self>,
        kept: Kept,
        on_loss: impl Fn() + 'static,
    ) -> Result<Seat, TakeOverError> {
        let Kept {
            account,
            pid,
            revision,
        } = kept;
        let inner = Inner::new(self, pid, account, revision, Box::new(on_loss));
        match inner.write_first().await {
            Ok(()) => {}
            Err(StoreError::Outdated) => return Err(TakeOverError::TooLate),
            Err(error) => {
                warn!(%error, "session not taken over");
                return Err(OutOfReach.into());
            }
        }
        // Here it is told at once; elsewhere its next write tells it.
        let former = self.seats.borrow().get(inner.key()).and_then(Weak::upgrade);
        if let Some(former) = former {
            former.lose();
        }
        Ok(self.seat(inner))
    }

    /// Lists a seat that was written, or is to be.
    fn seat(self: &Rc<Self>, inner: Rc<Inner>) -> Seat {
        let listed = Rc::downgrade(&inner);
        self.seats.borrow_mut().insert(inner.key().clone(), listed);
        Seat::new(inner)
    }

    /// Looks at a session once more that is said to have been taken over, and
    /// tells its connection, if that is here, when that is so.
    pub(crate) async fn look_again(&self, announced: &TakenOver) {
        let seat = self
            .seats
            .borrow()
            .get(&announced.key)
            .and_then(Weak::upgrade);
        if let Some(seat) = seat
            && seat.holder() != announced.holder
            && let Err(error) = seat.refresh().await
        {
            debug!(%error, "looked again at a session");
        }
    }

    /// Keeps the entries of this shard's sessions from expiring, and writes
    /// again what could not be written; for as long as it is polled.
    pub(crate) async fn keep(&self) {
        let refresh = self.store.lifetime() / REFRESHES_PER_LIFETIME;
        let pause = (refresh / LOOKS_PER_REFRESH).clamp(SHORTEST_LOOK, LONGEST_LOOK);
        loop {
            sleep(pause).await;
            let due: Vec<Rc<Inner>> = self
                .seats
                .borrow()
                .values()
                .filter_map(Weak::upgrade)
                .filter(|seat| seat.is_due(refresh))
                .collect();
            if due.is_empty() {
                continue;
            }
            debug!(sessions = due.len(), "refreshing");
            stream::iter(due)
                .for_each_concurrent(REFRESHES_AT_ONCE, async |seat| {
                    if let Err(error) = seat.refresh().await {
                        debug!(%error, "session not refreshed");
                    }
                })
                .await;
        }
    }

    fn forget(&self, key: &SessionKey, seat: *const Inner) {
        let mut seats = self.seats.borrow_mut();
        // Another seat of this shard may have taken its place.
        if seats.get(key).is_some_and(|listed| listed.as_ptr() == seat) {
            seats.remove(key);
        }
    }
}

//! A connection's hold on its session in the ledger.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::session_store::{Revision, SessionKey, StoreError};
use signalbox_protocol::wire::RecoverableSession;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Account, Ledger, Pid, TakenOver};

/// How often a write is tried that finds another state than it expected.
const ATTEMPTS: usize = 3;

/// Why a change is not in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SaveError {
    /// Another connection has taken the session over: this one is to end.
    #[error("another connection has taken the session over")]
    Lost,
    /// It was not acknowledged within five seconds. It may be there; the next
    /// write, or [`Ledger::keep`] soon, puts there what the account says then.
    #[error("the store of sessions is out of reach")]
    Unsaved,
}

/// A connection's hold on its session. Dropping it leaves the session to be
/// come back to.
pub(crate) struct Seat(Rc<Inner>);

impl Seat {
    pub(super) fn new(inner: Rc<Inner>) -> Self {
        Self(inner)
    }

    /// The secret of the session, for its client.
    pub(crate) fn pid(&self) -> &Pid {
        self.0.pid()
    }

    /// What the ledger has of the session, or is about to have.
    #[cfg(test)]
    pub(crate) fn account(&self) -> std::cell::Ref<'_, Account> {
        self.0.account.borrow()
    }

    /// Whether another connection has taken the session over.
    #[cfg(test)]
    pub(crate) fn is_lost(&self) -> bool {
        self.0.is_lost.get()
    }

    /// Tells other connections that this one has the session now.
    pub(crate) fn announcement(&self) -> TakenOver {
        TakenOver {
            key: self.0.key.clone(),
            holder: self.0.holder.clone(),
        }
    }

    /// Changes the account. It is not in the ledger before [`Seat::save`].
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Account) -> R) -> R {
        let inner = &self.0;
        inner.changes.set(inner.changes.get() + 1);
        change(&mut inner.account.borrow_mut())
    }

    /// Waits until every change up to now is in the ledger. Several that wait
    /// at once share a write.
    ///
    /// # Errors
    /// [`SaveError`].
    pub(crate) async fn save(&self) -> Result<(), SaveError> {
        self.0.save().await
    }

    /// Closes the session: nobody comes back to it. Where that cannot be
    /// written it expires in its time, and what was revoked is found out when
    /// somebody comes back.
    pub(crate) async fn close(&self) {
        let inner = &self.0;
        inner.is_closed.set(true);
        inner.changes.set(inner.changes.get() + 1);
        if let Err(error) = inner.save().await {
            debug!(session = ?inner.key, %error, "session left to expire");
        }
    }
}

/// What the seat and the ledger share.
pub(super) struct Inner {
    ledger: Rc<Ledger>,
    pid: Pid,
    key: SessionKey,
    /// Tells this connection from others that have had the session.
    holder: String,
    account: RefCell<Account>,
    /// How often the account was changed.
    changes: Cell<u64>,
    /// What the entry is, as far as this seat knows; held while writing.
    revision: Mutex<Revision>,
    written_at: Cell<Instant>,
    /// Changes that are known to be in the ledger.
    known: Cell<u64>,
    is_lost: Cell<bool>,
    is_closed: Cell<bool>,
    on_loss: Box<dyn Fn()>,
}

impl Inner {
    pub(super) fn new(
        ledger: &Rc<Ledger>,
        pid: Pid,
        account: Account,
        revision: Revision,
        on_loss: Box<dyn Fn()>,
    ) -> Rc<Self> {
        Rc::new(Self {
            ledger: Rc::clone(ledger),
            key: pid.key(),
            pid,
            holder: Uuid::new_v4().simple().to_string(),
            account: RefCell::new(account),
            changes: Cell::new(1),
            revision: Mutex::new(revision),
            written_at: Cell::new(Instant::now()),
            known: Cell::new(0),
            is_lost: Cell::new(false),
            is_closed: Cell::new(false),
            on_loss,
        })
    }

    pub(super) const fn key(&self) -> &SessionKey {
        &self.key
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    pub(super) const fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Tells the connection, once, that another has the session.
    pub(super) fn lose(&self) {
        if !self.is_lost.replace(true) {
            info!(session = ?self.key, "session taken over");
            (self.on_loss)();
        }
    }

    /// Whether there is something to write, or was nothing for this long.
    pub(super) fn is_due(&self, refresh: Duration) -> bool {
        let is_stale = self.written_at.get().elapsed() >= refresh;
        !self.is_lost.get() && (is_stale || self.known.get() < self.changes.get())
    }

    /// Writes whether there are changes or not.
    pub(super) async fn refresh(&self) -> Result<(), SaveError> {
        let mut revision = self.revision.lock().await;
        self.write(&mut revision).await
    }

    /// Makes the entry this connection's, in place of exactly the one it was
    /// made with.
    pub(super) async fn write_first(&self) -> Result<(), StoreError> {
        let mut revision = self.revision.lock().await;
        self.put(&mut revision).await
    }

    async fn save(&self) -> Result<(), SaveError> {
        let wanted = self.changes.get();
        let mut revision = self.revision.lock().await;
        if self.is_lost.get() {
            return Err(SaveError::Lost);
        }
        if self.known.get() >= wanted {
            return Ok(());
        }
        self.write(&mut revision).await
    }

    async fn write(&self, revision: &mut Revision) -> Result<(), SaveError> {
        for _ in 0..ATTEMPTS {
            if self.is_lost.get() {
                return Err(SaveError::Lost);
            }
            match self.put(revision).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Outdated) => self.catch_up(revision).await?,
                Err(StoreError::TooLarge { bytes }) => {
                    // Whoever comes back is then told that nothing is kept.
                    warn!(session = ?self.key, bytes, "session too large to be come back to");
                    self.is_closed.set(true);
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    debug!(session = ?self.key, %error, "session not written");
                    return Err(SaveError::Unsaved);
                }
            }
        }
        Err(SaveError::Unsaved)
    }

    /// Finds out why the entry is not as expected.
    async fn catch_up(&self, revision: &mut Revision) -> Result<(), SaveError> {
        match self.ledger.store.find(&self.key).await {
            // A write of ours has succeeded without a word.
            Ok(Some(stored)) if stored.session.holder == self.holder => {
                *revision = stored.revision;
                Ok(())
            }
            Ok(Some(_)) => {
                self.lose();
                Err(SaveError::Lost)
            }
            // The bucket was full, or made anew.
            Ok(None) => {
                *revision = Revision::NONE;
                Ok(())
            }
            Err(error) => {
                debug!(session = ?self.key, %error, "session not looked up");
                Err(SaveError::Unsaved)
            }
        }
    }

    async fn put(&self, revision: &mut Revision) -> Result<(), StoreError> {
        let changes = self.changes.get();
        let session = self.session();
        let store = &self.ledger.store;
        *revision = store.put(&self.key, &session, *revision).await?;
        self.known.set(changes);
        self.written_at.set(Instant::now());
        Ok(())
    }

    fn session(&self) -> RecoverableSession {
        let mut session = if self.is_closed.get() {
            RecoverableSession {
                closed: true,
                ..RecoverableSession::default()
            }
        } else {
            RecoverableSession::from(&*self.account.borrow())
        };
        session.holder.clone_from(&self.holder);
        session.gateway = self.ledger.gateway.to_string();
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        session.updated_at_ms = i64::try_from(now).unwrap_or_default();
        session
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ledger.forget(&self.key, std::ptr::from_ref(self));
    }
}

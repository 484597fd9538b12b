//! Who may connect: a bound on all connections, and for each source address a
//! rate of connecting and a bound on connections that have not said who they
//! are. Counts only; it knows no socket and no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signalbox_limits::network;
use signalbox_protocol::ErrorCode;

/// Source addresses that are told apart. When as many are active, further
/// ones are counted among all connections only: whoever has so many addresses
/// is not held back by a limit on each.
const MAX_SOURCES: usize = 65_536;
/// The shortest time between two searches of a full table for addresses that
/// have become quiet.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at once.
    pub max_connections: usize,
    /// New connections per second from one address, of which as many may come
    /// at once; 0 = any number.
    pub connect_rate: u32,
    /// Connections from one address that have not authenticated; 0 = any
    /// number.
    pub max_unauthenticated: u32,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There are as many connections as there may be.
    #[error("too many connections, try again later")]
    Full,
    /// Its address connects too often.
    #[error("too many connections a second from this address, try again in a second")]
    TooFast,
    /// Its address has too many connections that have not authenticated.
    #[error("too many connections from this address have not authenticated, try again later")]
    TooManyUnauthenticated,
}

impl Refused {
    /// The code that the client sees.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Full => ErrorCode::ConnectionFailed,
            Self::TooFast | Self::TooManyUnauthenticated => ErrorCode::RateLimit,
        }
    }

    /// When the client may try again.
    pub(crate) const fn retry_after(self) -> Duration {
        match self {
            Self::TooFast => Duration::from_secs(1),
            Self::Full | Self::TooManyUnauthenticated => Duration::from_secs(5),
        }
    }
}

/// How many connections were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// For want of room.
    pub(crate) full: u64,
    /// For the rate of their address.
    pub(crate) too_fast: u64,
    /// For the others of their address that have not authenticated.
    pub(crate) too_many_unauthenticated: u64,
}

/// Decides on connections. Shared by all shards.
pub(crate) struct Admission {
    limits: AdmissionLimits,
    state: Mutex<State>,
}

struct State {
    open: usize,
    sources: HashMap<IpAddr, Source>,
    /// When the table was last searched for what it may forget.
    swept: Option<Instant>,
    refusals: Refusals,
}

/// What one address has done.
struct Source {
    /// Connections that it may make at once, as of `since`.
    allowance: f64,
    since: Instant,
    unauthenticated: u32,
}

/// An admitted connection; counts for as long as it exists.
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    /// The entry of its address; `None` when the table had no room.
    source: Option<IpAddr>,
    authenticated: AtomicBool,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                open: 0,
                sources: HashMap::new(),
                swept: None,
                refusals: Refusals::default(),
            }),
        }
    }

    /// Admits a connection from `address`, or says why not.
    ///
    /// # Errors
    /// [`Refused`], which has been counted.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Ticket, Refused> {
        let mut state = self.state.lock();
        match state.admit(&self.limits, network(address), now) {
            Ok(source) => Ok(Ticket {
                admission: Arc::clone(self),
                source,
                authenticated: AtomicBool::new(false),
            }),
            Err(refused) => {
                state.refusals.count(refused);
                Err(refused)
            }
        }
    }

    /// What was refused since the last call.
    pub(crate) fn take_refusals(&self) -> Refusals {
        std::mem::take(&mut self.state.lock().refusals)
    }
}

impl Ticket {
    /// Notes that the connection has said who it is; it stops counting among
    /// those that have not.
    pub(crate) fn authenticated(&self) {
        if !self.authenticated.swap(true, Ordering::Relaxed) {
            self.admission.state.lock().release(self.source);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock();
        state.open -= 1;
        if !*self.authenticated.get_mut() {
            state.release(self.source);
        }
    }
}

impl State {
    /// Counts a connection in; gives the entry that it belongs to.
    fn admit(
        &mut self,
        limits: &AdmissionLimits,
        address: IpAddr,
        now: Instant,
    ) -> Result<Option<IpAddr>, Refused> {
        if self.open >= limits.max_connections {
            return Err(Refused::Full);
        }
        if limits.connect_rate == 0 && limits.max_unauthenticated == 0 {
            self.open += 1;
            return Ok(None);
        }
        let rate = f64::from(limits.connect_rate);
        if !self.sources.contains_key(&address) && !self.has_room(rate, now) {
            self.open += 1;
            return Ok(None);
        }
        let source = self.sources.entry(address).or_insert(Source {
            allowance: rate,
            since: now,
            unauthenticated: 0,
        });
        if limits.connect_rate > 0 {
            source.refill(rate, now);
            if source.allowance < 1.0 {
                return Err(Refused::TooFast);
            }
            source.allowance -= 1.0;
        }
        if limits.max_unauthenticated > 0 && source.unauthenticated >= limits.max_unauthenticated {
            return Err(Refused::TooManyUnauthenticated);
        }
        source.unauthenticated += 1;
        self.open += 1;
        Ok(Some(address))
    }

    /// Whether another address fits into the table, if need be after
    /// forgetting those about which there is nothing to remember.
    fn has_room(&mut self, rate: f64, now: Instant) -> bool {
        if self.sources.len() < MAX_SOURCES {
            return true;
        }
        let due = self
            .swept
            .is_none_or(|last| now.saturating_duration_since(last) >= SWEEP_PAUSE);
        if due {
            self.swept = Some(now);
            self.sources.retain(|_, source| {
                source.refill(rate, now);
                source.unauthenticated > 0 || source.allowance < rate
            });
        }
        self.sources.len() < MAX_SOURCES
    }

    /// One connection less of this address that has not authenticated.
    fn release(&mut self, source: Option<IpAddr>) {
        // An entry with such connections is never forgotten.
        if let Some(source) = source.and_then(|address| self.sources.get_mut(&address)) {
            source.unauthenticated -= 1;
        }
    }
}

impl Source {
    fn refill(&mut self, rate: f64, now: Instant) {
        // Shards read the clock before they get the lock, so it may step back.
        let passed = now.saturating_duration_since(self.since);
        self.allowance = (self.allowance + passed.as_secs_f64() * rate).min(rate);
        self.since = self.since.max(now);
    }
}

impl Refusals {
    fn count(&mut self, refused: Refused) {
        match refused {
            Refused::Full => self.full += 1,
            Refused::TooFast => self.too_fast += 1,
            Refused::TooManyUnauthenticated => self.too_many_unauthenticated += 1,
        }
    }
}

#[cfg(test)]
mod tests;

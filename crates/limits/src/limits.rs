//! Which counter counts: Redis while it answers, this process otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{Counter, Key, Local, Quota, Shared, Usage};

/// How long Redis is left alone after it did not answer, so that clients do
/// not wait for it with each message.
const REST: Duration = Duration::from_secs(1);

/// Counts attempts, always.
pub struct Limits {
    local: Local,
    shared: Option<Remote>,
}

/// Redis, and how it is doing.
struct Remote {
    redis: Shared,
    /// Whether the last attempt to count failed.
    failing: AtomicBool,
    /// Until when it is left alone.
    rests_until: Mutex<Option<Instant>>,
}

impl Limits {
    /// Limits that hold for this process alone.
    #[must_use]
    pub fn local() -> Self {
        Self {
            local: Local::default(),
            shared: None,
        }
    }

    /// Limits that hold for all processes with the same Redis.
    #[must_use]
    pub fn shared(redis: Shared) -> Self {
        Self {
            local: Local::default(),
            shared: Some(Remote {
                redis,
                failing: AtomicBool::new(false),
                rests_until: Mutex::new(None),
            }),
        }
    }

    /// Whether limits are meant to hold across processes.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Counts `attempts` for `key`: in Redis or, while it does not answer, in
    /// this process.
    pub async fn count(&self, key: &Key, quota: Quota, attempts: u32) -> Usage {
        if let Some(remote) = &self.shared
            && let Some(usage) = remote.count(key, quota, attempts).await
        {
            return usage;
        }
        self.local.count_now(key, quota, attempts)
    }
}

impl Remote {
    async fn count(&self, key: &Key, quota: Quota, attempts: u32) -> Option<Usage> {
        if let Some(until) = *self.rests_until.lock()
            && Instant::now() < until
        {
            return None;
        }
        match self.redis.count(key, quota, attempts).await {
            Ok(usage) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("redis answers again, limits hold across processes");
                }
                Some(usage)
            }
            Err(error) => {
                *self.rests_until.lock() = Some(Instant::now() + REST);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(%error, "redis does not answer, limits hold per process until it does");
                }
                None
            }
        }
    }
}

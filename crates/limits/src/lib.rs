//! Rate limits: how often someone did something within a window of time, and
//! whether that is too often.
//!
//! Counting is all that happens here; what a limit means for a connection is
//! its owner's matter. There are two counters behind one trait: [`Local`]
//! counts in this process, [`Shared`] in Redis, for all processes together.
//! [`Limits`] is what services use: it counts in Redis if there is one, and
//! in this process for as long as Redis does not answer, so that a limit is
//! never simply gone.
//!
//! [`Failures`] counts what went wrong instead, and says how much later the next
//! answer is to be.
//!
//! A window begins with the first attempt and is fixed from then on; refused
//! attempts count, too.

mod config;
mod failures;
mod key;
mod limits;
mod local;
mod shared;

use std::future::Future;
use std::time::Duration;

pub use crate::config::{InvalidRedisUrl, LimitsArgs};
pub use crate::failures::{Failures, Pace, network};
pub use crate::key::Key;
pub use crate::limits::Limits;
pub use crate::local::Local;
pub use crate::shared::{Shared, SharedError};

/// How much of something there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Attempts that are served within one window.
    pub limit: u32,
    /// How long a window lasts; at least a millisecond.
    pub window: Duration,
}

impl Quota {
    /// So many a minute.
    #[must_use]
    pub const fn per_minute(limit: u32) -> Self {
        Self {
            limit,
            window: Duration::from_secs(60),
        }
    }

    /// So many an hour.
    #[must_use]
    pub const fn per_hour(limit: u32) -> Self {
        Self {
            limit,
            window: Duration::from_secs(60 * 60),
        }
    }
}

/// What was counted, the attempt in question included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Attempts in the current window, refused ones included.
    pub used: u64,
    /// How many are served.
    pub limit: u32,
    /// When the window ends and counting begins anew.
    pub resets_in: Duration,
}

impl Usage {
    /// Whether the attempt is one too many.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used > u64::from(self.limit)
    }
}

/// Counts attempts.
pub trait Counter {
    /// Why an attempt may not be counted.
    type Error;

    /// Counts `attempts` for `key`, all of them or, in case of an error, any
    /// number of them.
    ///
    /// # Errors
    /// When whatever keeps the counts is out of reach.
    fn count(
        &self,
        key: &Key,
        quota: Quota,
        attempts: u32,
    ) -> impl Future<Output = Result<Usage, Self::Error>>;
}

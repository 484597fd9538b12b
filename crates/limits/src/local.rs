//! Counts in this process.

use std::collections::HashMap;
use std::convert::Infallible;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Counter, Key, Quota, Usage};

/// Counters that are kept; when there are more, those whose window has ended
/// go, and if that is not enough, all. A limit then lasts shorter than it
/// should, which is better than memory without bound.
const COUNTERS_CAPACITY: usize = 65_536;

/// A counter in this process.
#[derive(Debug, Default)]
pub struct Local {
    windows: Mutex<HashMap<Key, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    used: u64,
    ends: Instant,
}

impl Local {
    /// As [`Counter::count`], which here takes no time.
    pub fn count_now(&self, key: &Key, quota: Quota, attempts: u32) -> Usage {
        let now = Instant::now();
        let mut windows = self.windows.lock();
        if let Some(window) = windows.get_mut(key)
            && window.ends > now
        {
            window.used = window.used.saturating_add(u64::from(attempts));
            return usage(*window, quota, now);
        }
        if windows.len() >= COUNTERS_CAPACITY {
            windows.retain(|_, window| window.ends > now);
        }
        if windows.len() >= COUNTERS_CAPACITY {
            windows.clear();
        }
        let window = Window {
            used: u64::from(attempts),
            ends: now + quota.window,
        };
        windows.insert(key.clone(), window);
        usage(window, quota, now)
    }
}

fn usage(window: Window, quota: Quota, now: Instant) -> Usage {
    Usage {
        used: window.used,
        limit: quota.limit,
        resets_in: window.ends - now,
    }
}

impl Counter for Local {
    type Error = Infallible;

    async fn count(&self, key: &Key, quota: Quota, attempts: u32) -> Result<Usage, Infallible> {
        Ok(self.count_now(key, quota, attempts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_by_what_is_current() {
        let local = Local::default();
        let quota = Quota::per_minute(5);
        for number in 0..COUNTERS_CAPACITY - 1 {
            local.count_now(&Key::chats(&number.to_string()), quota, 1);
        }
        tokio::time::advance(quota.window / 2).await;
        let late = Key::chats("late");
        local.count_now(&late, quota, 3);
        tokio::time::advance(quota.window / 2).await;
        local.count_now(&Key::chats("another"), quota, 1);
        assert_eq!(local.windows.lock().len(), 2);
        assert_eq!(local.count_now(&late, quota, 1).used, 4);

        for number in 0..2 * COUNTERS_CAPACITY {
            local.count_now(&Key::chats(&number.to_string()), quota, 1);
        }
        assert!(local.windows.lock().len() <= COUNTERS_CAPACITY);
    }
}

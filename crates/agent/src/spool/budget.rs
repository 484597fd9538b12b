//! How much all spools together may take on disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// What all spools share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    pub(super) used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| Some(used + bytes).filter(|&sum| sum <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    pub(super) fn has(&self, bytes: u64) -> bool {
        self.used.load(Ordering::Relaxed) + bytes <= self.limit
    }

    /// For what is there anyway.
    pub(super) fn take_anyway(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

//! Tokens become chunks: what came while a chunk was being stored is the next
//! one. The first goes at once; later ones keep an interval, so that a fast model
//! costs the bus no more than a reader can make out.

use std::time::Duration;

use tokio::time::Instant;

/// The most bytes of one chunk.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// The bytes that wait to be stored before the model is read no further: with one
/// piece more, all that a stream holds beside its answer.
pub(crate) const WAITING_BYTES: usize = 64 * 1024;

/// Text on its way into chunks.
#[derive(Debug)]
pub(crate) struct Coalescer {
    waiting: String,
    interval: Duration,
    /// When the last chunk was begun to be stored.
    last: Option<Instant>,
}

impl Coalescer {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            waiting: String::new(),
            interval,
            last: None,
        }
    }

    /// Takes what the model has written.
    pub(crate) fn push(&mut self, text: &str) {
        self.waiting.push_str(text);
    }

    /// Whether nothing more is to be read before something is stored.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the next chunk is to be stored; `None` = there is nothing.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let is_full = self.waiting.len() >= CHUNK_BYTES;
        Some(match self.last {
            Some(last) if !is_full => last + self.interval,
            _ => now,
        })
    }

    /// The next chunk, cut between characters; empty when there is nothing.
    pub(crate) fn take(&mut self) -> String {
        self.last = Some(Instant::now());
        if self.waiting.len() <= CHUNK_BYTES {
            return std::mem::take(&mut self.waiting);
        }
        let at = self.waiting.floor_char_boundary(CHUNK_BYTES);
        let rest = self.waiting.split_off(at);
        std::mem::replace(&mut self.waiting, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(5);

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_the_others_keep_the_interval() {
        let mut coalescer = Coalescer::new(INTERVAL);
        assert_eq!(coalescer.due(), None);
        coalescer.push("a");
        let start = Instant::now();
        assert_eq!(coalescer.due(), Some(start));
        assert_eq!(coalescer.take(), "a");
        coalescer.push("b");
        coalescer.push("c");
        assert_eq!(coalescer.due(), Some(start + INTERVAL));
        assert_eq!(coalescer.take(), "bc");
        coalescer.push(&"x".repeat(CHUNK_BYTES));
        assert_eq!(coalescer.due(), Some(start), "a full chunk does not wait");
    }

    proptest! {
        #[test]
        fn chunks_joined_are_what_came(pieces in proptest::collection::vec("\\PC{0,5000}", 0..20)) {
            let mut coalescer = Coalescer::new(INTERVAL);
            let mut out = String::new();
            for piece in &pieces {
                coalescer.push(piece);
                if coalescer.is_full() {
                    let chunk = coalescer.take();
                    prop_assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES);
                    out.push_str(&chunk);
                }
            }
            while !coalescer.is_empty() {
                out.push_str(&coalescer.take());
            }
            prop_assert_eq!(out, pieces.concat());
        }
    }
}

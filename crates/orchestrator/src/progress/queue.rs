//! A bounded queue that never makes anyone wait: when it is full, the oldest item
//! goes that is not the last of its kind.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Items that wait. When there are more, the oldest is given up. Ends are fewer
/// than this: an answer whose end waits has appended it, and there are some hundred
/// answers at once.
pub(super) const CAPACITY: usize = 1_024;

/// What waits in a queue.
pub(super) trait Item {
    /// Whether it is to be kept for as long as there is another one to give up.
    fn is_last(&self) -> bool;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<T>,
    is_closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                items: VecDeque::new(),
                is_closed: false,
            }),
            changed: Notify::new(),
        }
    }
}

impl<T: Item> Queue<T> {
    /// Adds an item; gives the one that had to go for it.
    pub(super) fn push(&self, item: T) -> Option<T> {
        let mut waiting = self.waiting.lock();
        let lost = if waiting.items.len() < CAPACITY {
            None
        } else {
            let at = waiting.items.iter().position(|item| !item.is_last());
            waiting.items.remove(at.unwrap_or(0))
        };
        waiting.items.push_back(item);
        drop(waiting);
        self.changed.notify_one();
        lost
    }

    /// Nothing more will be added.
    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// The next item; `None` when there will be none. For one reader.
    pub(super) async fn next(&self) -> Option<T> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(item) = waiting.items.pop_front() {
                    return Some(item);
                }
                if waiting.is_closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for (usize, bool) {
        fn is_last(&self) -> bool {
            self.1
        }
    }

    #[tokio::test]
    async fn the_oldest_goes_and_ends_stay() {
        let queue = Queue::default();
        queue.push((0, true));
        for number in 1..CAPACITY {
            assert_eq!(queue.push((number, false)), None);
        }
        assert_eq!(queue.push((CAPACITY, true)), Some((1, false)));
        assert_eq!(queue.push((CAPACITY + 1, false)), Some((2, false)));
        queue.close();
        let mut order = Vec::new();
        while let Some((number, _)) = queue.next().await {
            order.push(number);
        }
        assert_eq!(order.len(), CAPACITY);
        assert_eq!(order[..2], [0, 3]);
        assert_eq!(order[CAPACITY - 2..], [CAPACITY, CAPACITY + 1]);
    }

    #[tokio::test]
    async fn ends_are_bounded_as_well() {
        let queue = Queue::default();
        for number in 0..CAPACITY {
            queue.push((number, true));
        }
        assert_eq!(queue.push((CAPACITY, true)), Some((0, true)));
    }
}

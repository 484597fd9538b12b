//! Who holds which lease, as it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::{holder, subject};
use crate::connection::{Bus, Link};
use crate::key::LEASES_STREAM;
use crate::reader::{OrderedReader, Reading};
use crate::stream;

/// Changes taken at once.
const BATCH: usize = 256;
/// The pause after a failed start.
const PAUSE: Duration = Duration::from_millis(200);

/// The holders of leases, by key.
pub type Leaseholders = BTreeMap<String, String>;

/// A watch of all leases. What it says is late by a moment, and not complete
/// right after the start and after a lost link: it tells what to try.
pub struct LeaseWatch {
    bus: Bus,
    reader: Option<OrderedReader>,
    holders: Leaseholders,
    link: watch::Receiver<Link>,
}

impl LeaseWatch {
    /// A watch that knows nothing yet.
    #[must_use]
    pub fn new(bus: Bus) -> Self {
        let link = bus.link();
        Self {
            bus,
            reader: None,
            holders: Leaseholders::new(),
            link,
        }
    }

    /// Waits for changes; gives the holders as they are then. Cancel safe.
    pub async fn changed(&mut self) -> &Leaseholders {
        loop {
            let Some(reader) = &mut self.reader else {
                self.start().await;
                continue;
            };
            let reading = tokio::select! {
                reading = reader.next(BATCH) => reading,
                // What the bus said meanwhile may be forgotten by now.
                Ok(()) = self.link.changed() => {
                    self.reader = None;
                    continue;
                }
            };
            let batch = match reading {
                Reading::Batch(batch) => batch,
                Reading::Interrupted(_) => continue,
                Reading::Recreated(_) | Reading::Resumed => {
                    self.reader = None;
                    continue;
                }
            };
            let prefix = subject("");
            for change in batch {
                let Some(key) = change.subject.strip_prefix(prefix.as_str()) else {
                    continue;
                };
                match holder(change.headers.as_ref(), &change.payload) {
                    Some(holder) => self.holders.insert(key.to_owned(), holder),
                    None => self.holders.remove(key),
                };
            }
            return &self.holders;
        }
    }

    /// Starts from the first message: the bucket keeps one of each key.
    async fn start(&mut self) {
        self.link.borrow_and_update();
        match stream::state(&self.bus, LEASES_STREAM).await {
            Ok(state) => {
                self.holders.clear();
                self.reader = Some(OrderedReader::new(
                    self.bus.clone(),
                    LEASES_STREAM,
                    state.epoch,
                    0,
                ));
            }
            Err(error) => {
                debug!(%error, "leases not watched");
                sleep(PAUSE).await;
            }
        }
    }
}

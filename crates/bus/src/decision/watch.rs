//! Hearing of decisions as they are recorded: one reader for all who wait.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use crate::connection::Bus;
use crate::key::{DECISIONS, DECISIONS_STREAM};
use crate::reader::{OrderedReader, Reading};
use crate::stream;

/// Changes taken at once.
const BATCH: usize = 256;
/// The pause after a failed start.
const PAUSE: Duration = Duration::from_millis(200);

/// What a watch has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The records with these keys have changed.
    Changed(Vec<String>),
    /// Any record may have changed.
    Anything,
}

/// A watch of all records of decisions. It says where to look; what is there is
/// for the leader of the bucket to say.
pub struct DecisionWatch {
    bus: Bus,
    reader: Option<OrderedReader>,
}

impl DecisionWatch {
    /// A watch that knows nothing yet.
    #[must_use]
    pub const fn new(bus: Bus) -> Self {
        Self { bus, reader: None }
    }

    /// Waits for changes. The first word is [`Seen::Anything`], as is the first
    /// after the bus was out of reach: whoever waits looks then, and is told of
    /// everything later. Cancel safe.
    pub async fn next(&mut self) -> Seen {
        loop {
            let Some(reader) = &mut self.reader else {
                if self.start().await {
                    return Seen::Anything;
                }
                continue;
            };
            match reader.next(BATCH).await {
                Reading::Batch(batch) => {
                    let prefix = format!("$KV.{DECISIONS}.");
                    let keys = batch.iter();
                    let keys = keys.filter_map(|change| change.subject.strip_prefix(&prefix));
                    return Seen::Changed(keys.map(str::to_owned).collect());
                }
                // It goes on behind what it has told, and yet: looking costs
                // little, and an approval that nobody sees costs a lot.
                Reading::Recreated(_) | Reading::Resumed => return Seen::Anything,
                Reading::Interrupted(cause) => debug!(%cause, "decisions not watched"),
            }
        }
    }

    /// Starts behind what there is; whether that was possible.
    async fn start(&mut self) -> bool {
        match stream::state(&self.bus, DECISIONS_STREAM).await {
            Ok(state) => {
                let bus = self.bus.clone();
                self.reader = Some(OrderedReader::from_tip(bus, DECISIONS_STREAM, state));
                true
            }
            Err(error) => {
                debug!(%error, "decisions not watched");
                sleep(PAUSE).await;
                false
            }
        }
    }
}

//! What no longer holds of credentials in use, as the bucket `revocations`
//! says: read whole before anyone is admitted, then followed.
//!
//! Entries reach the shards before any event that is read after them: the
//! follower hands an entry to every shard first and moves its position then,
//! and whoever is about to deliver waits in [`Register::settled`] until that
//! position has reached what the bucket's leader has.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use signalbox_bus::key::{REVOCATIONS_ENTRIES, REVOCATIONS_STREAM};
use signalbox_bus::reader::{Delivery, OrderedReader, Reading};
use signalbox_bus::{Bus, BusError, history, stream};
use signalbox_identity::{Principal, Revocation, Revocations, Target, Verdict};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use crate::authority::Authority;

/// Entries that one batch has at most.
const BATCH: usize = 256;
/// Withdrawals that wait for a shard; when full, the follower waits, and with
/// it all deliveries that depend on what it reads.
pub(crate) const WITHDRAWALS_CAPACITY: usize = 16;
/// The pause before a question about the bucket is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// The shortest time that an entry lives, whatever tokens the auth service
/// issues: it keeps each for ten minutes beyond the longest token. After a
/// longer absence an entry may have come and gone unseen.
const SHORTEST_ENTRY: Duration = Duration::from_secs(600);
/// How often entries are dropped that can concern no one.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// What a shard is told about the credentials of its connections.
#[derive(Clone, Debug)]
pub(crate) enum Withdrawal {
    /// These entries are new.
    Entries(Arc<Revocations>),
    /// Entries may have come and gone unseen. Tokens have expired by then; API
    /// keys are to be presented again.
    Unseen,
}

/// How far the bucket has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    /// Everything up to this sequence has been handed to the shards.
    position: u64,
    /// Whether the bucket is being followed, without an interruption since it
    /// was last read to its end.
    current: bool,
}

/// The entries that are in force. Shared by all shards.
pub(crate) struct Register {
    bus: Bus,
    entries: RwLock<Revocations>,
    reached: watch::Sender<Reached>,
}

impl Register {
    /// A register that has read nothing yet.
    pub(crate) fn new(bus: Bus) -> Self {
        let nothing = Reached {
            position: 0,
            current: false,
        };
        Self {
            bus,
            entries: RwLock::default(),
            reached: watch::Sender::new(nothing),
        }
    }

    /// What all entries leave of a principal.
    pub(crate) fn judge(&self, principal: &Principal) -> Verdict {
        self.entries.read().judge(principal)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// Whether the bucket is being followed without an interruption.
    pub(crate) fn is_current(&self) -> bool {
        self.reached.borrow().current
    }

    /// Waits until the bucket is being followed.
    pub(crate) async fn current(&self) {
        let mut reached = self.reached.subscribe();
        // The sender is here, so it is not gone.
        reached.wait_for(|reached| reached.current).await.ok();
    }

    /// Waits until every entry that the bucket has now is with the shards.
    pub(crate) async fn settled(&self) {
        loop {
            self.current().await;
            match self.catch_up().await {
                Ok(()) => return,
                Err(error) => debug!(%error, "revocations not compared"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the position has reached what the bucket's leader has now.
    async fn catch_up(&self) -> Result<(), BusError> {
        let mut reached = self.reached.subscribe();
        let end = stream::state(&self.bus, REVOCATIONS_STREAM).await?.last;
        loop {
            let position = reached.borrow_and_update().position;
            if position >= end {
                return Ok(());
            }
            // The last sequences may be of entries that are gone.
            let next = history::first_at_leader(
                &self.bus,
                REVOCATIONS_STREAM,
                REVOCATIONS_ENTRIES,
                position + 1,
            );
            if next.await?.is_none() {
                return Ok(());
            }
            reached.changed().await.ok();
        }
    }

    fn insert(&self, new: &[Revocation]) {
        let mut entries = self.entries.write();
        for entry in new {
            entries.insert(entry.clone());
        }
    }

    fn prune(&self) {
        self.entries.write().prune(OffsetDateTime::now_utc());
    }

    fn interrupted(&self) {
        self.reached.send_modify(|reached| reached.current = false);
    }

    fn move_to(&self, position: u64) {
        self.reached
            .send_modify(|reached| reached.position = position);
    }
}

/// Reads the bucket and keeps the register, and the shards, up to date.
pub(crate) struct Follower {
    authority: Arc<Authority>,
    reader: OrderedReader,
    shards: Vec<mpsc::Sender<Withdrawal>>,
    absent_since: Option<Instant>,
    pruned: Instant,
}

impl Follower {
    /// Reads the whole bucket. No shard is told: none has connections yet.
    ///
    /// # Errors
    /// When the bucket does not exist or the bus does not answer.
    pub(crate) async fn open(bus: Bus, authority: Arc<Authority>) -> Result<Self, BusError> {
        let state = stream::state(&bus, REVOCATIONS_STREAM).await?;
        let reader = OrderedReader::new(bus, REVOCATIONS_STREAM, state.epoch, 0);
        let mut follower = Self {
            authority,
            reader,
            shards: Vec::new(),
            absent_since: None,
            pruned: Instant::now(),
        };
        let authority = Arc::clone(&follower.authority);
        let register = authority.revocations();
        tokio::select! {
            read = register.catch_up() => read?,
            () = follower.read_on() => {}
        }
        register
            .reached
            .send_modify(|reached| reached.current = true);
        info!(entries = register.len(), "revocations read");
        Ok(follower)
    }

    /// Follows the bucket, for as long as it is polled or until a shard is gone.
    pub(crate) async fn follow(mut self, shards: Vec<mpsc::Sender<Withdrawal>>) {
        self.shards = shards;
        self.read_on().await;
    }

    async fn read_on(&mut self) {
        let authority = Arc::clone(&self.authority);
        let register = authority.revocations();
        loop {
            // Only once the reader has its consumer again: what it delivers
            // moves the position.
            let resuming = !self.shards.is_empty() && !register.is_current();
            let resuming = resuming && self.reader.starts() > 0 && self.absent_since.is_none();
            let reading = tokio::select! {
                reading = self.reader.next(BATCH) => reading,
                settled = register.catch_up(), if resuming => {
                    match settled {
                        Ok(()) => {
                            info!(entries = register.len(), "revocations read again");
                            register.reached.send_modify(|reached| reached.current = true);
                        }
                        Err(error) => {
                            debug!(%error, "revocations not compared");
                            sleep(PAUSE).await;
                        }
                    }
                    continue;
                }
            };
            match reading {
                Reading::Batch(batch) => {
                    if self.take_in(&batch).await.is_none() {
                        return;
                    }
                    register.move_to(self.reader.position());
                }
                Reading::Interrupted(cause) => {
                    debug!(%cause, "revocations not followed");
                    register.interrupted();
                    self.absent_since.get_or_insert_with(Instant::now);
                }
                Reading::Resumed => {
                    let absent = self.absent_since.take();
                    if absent.is_some_and(|since| since.elapsed() >= SHORTEST_ENTRY)
                        && self.doubt().await.is_none()
                    {
                        return;
                    }
                }
                Reading::Recreated(_) => {
                    warn!("the bucket of revocations was made anew");
                    register.interrupted();
                    self.absent_since = None;
                    register.move_to(self.reader.position());
                    // What the former one had may not be in this one.
                    if self.doubt().await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Puts entries into force; `None` when a shard is gone.
    async fn take_in(&mut self, batch: &[Delivery]) -> Option<()> {
        let entries: Vec<Revocation> = batch.iter().filter_map(read).collect();
        if entries.is_empty() {
            return Some(());
        }
        // In force for those who authenticate, before anything that was
        // remembered is dropped, before those who are connected are judged.
        self.authority.revocations().insert(&entries);
        for entry in &entries {
            if let Target::Key(id) = &entry.target {
                self.authority.forget_key(id);
            }
        }
        if self.pruned.elapsed() >= PRUNE_INTERVAL {
            self.pruned = Instant::now();
            self.authority.revocations().prune();
        }
        let entries = Arc::new(entries.into_iter().collect());
        self.tell(Withdrawal::Entries(entries)).await
    }

    async fn doubt(&self) -> Option<()> {
        warn!("revocations may have been missed: API keys have to be presented again");
        self.authority.forget_all_keys();
        self.tell(Withdrawal::Unseen).await
    }

    async fn tell(&self, withdrawal: Withdrawal) -> Option<()> {
        for shard in &self.shards {
            shard.send(withdrawal.clone()).await.ok()?;
        }
        Some(())
    }
}

/// The entry in a message of the bucket; `None` for deletions, which need no
/// action.
fn read(delivery: &Delivery) -> Option<Revocation> {
    if delivery.payload.is_empty() {
        return None;
    }
    match serde_json::from_slice(&delivery.payload) {
        Ok(entry) => Some(entry),
        Err(error) => {
            error!(subject = %delivery.subject, %error, "revocation not understood");
            None
        }
    }
}

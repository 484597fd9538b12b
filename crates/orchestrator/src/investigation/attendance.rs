//! Who is in which investigation, as the gateways that live declare it. One view
//! for the whole orchestrator, kept up to date by one task.
//!
//! That somebody is there is certain. That somebody is not may only mean that it
//! is not known yet: it counts from [`Attendance::certain_since`] on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::connection::Link;
use signalbox_bus::key::{self, PRESENCE_STREAM};
use signalbox_bus::lease::{LeaseWatch, Leaseholders};
use signalbox_bus::reader::{Delivery, OrderedReader, Reading};
use signalbox_bus::{Bus, investigation, stream};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::investigation::{self as protocol, Declaration, Member};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// Declarations taken at once.
const BATCH: usize = 256;
/// The pause after a failed start.
const PAUSE: Duration = Duration::from_millis(200);
/// After a longer absence declarations may have been taken back unseen: the bus
/// forgets that one was after a minute.
const LONGEST_ABSENCE: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Attendance {
    inner: Mutex<Inner>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// Counts changes.
    version: u64,
    /// Since when changes have been followed without a break; `None` during one.
    certain_since: Option<Instant>,
    /// Whether there is a link to the bus.
    is_linked: bool,
    /// Since when declarations have not been followed, with or without a link.
    absent_since: Option<Instant>,
    /// What is declared, by subject.
    declared: HashMap<String, Declared>,
    /// The gateways that live.
    living: HashSet<String>,
    /// Since when the other gateways that declare something have been gone.
    gone: HashMap<String, Instant>,
    investigations: HashMap<Shard, HashMap<Arc<str>, Entry>>,
}

struct Declared {
    declaration: Declaration,
    revision: u64,
}

/// An investigation that somebody is declared to be in.
#[derive(Default)]
struct Entry {
    /// The last change that it was touched by.
    touched: u64,
    /// The subjects of its declarations.
    subjects: HashSet<String>,
}

impl Attendance {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Tells of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Since when it has been certain who is not there; `None` where it is not.
    pub(crate) fn certain_since(&self) -> Option<Instant> {
        self.inner.lock().certain_since
    }

    /// The investigations of a shard that anybody is declared to be in, those that
    /// changed behind `version` told apart, and the version that this is of.
    pub(crate) fn investigations(
        &self,
        shard: Shard,
        version: u64,
    ) -> (Vec<(Arc<str>, bool)>, u64) {
        let inner = self.inner.lock();
        let of_shard = inner.investigations.get(&shard);
        let entries = of_shard.into_iter().flatten();
        let listed = entries.map(|(id, entry)| (Arc::clone(id), entry.touched > version));
        (listed.collect(), inner.version)
    }

    /// Who is in an investigation, by id.
    pub(crate) fn present(&self, investigation_id: &str) -> BTreeMap<String, Member> {
        let inner = self.inner.lock();
        let shard = protocol::shard(investigation_id);
        let entry = inner.investigations.get(&shard);
        let subjects = entry.and_then(|of_shard| of_shard.get(investigation_id));
        let declared = subjects
            .into_iter()
            .flat_map(|entry| &entry.subjects)
            .filter_map(|subject| inner.declared.get(subject))
            .map(|declared| &declared.declaration)
            .filter(|declaration| inner.living.contains(&declaration.gateway));
        let mut first: BTreeMap<&str, &Declaration> = BTreeMap::new();
        for declaration in declared {
            let known = first.entry(&declaration.user.id).or_insert(declaration);
            let age = |one: &Declaration| (one.since, one.gateway.clone());
            if age(declaration) < age(known) {
                *known = declaration;
            }
        }
        let members = first.into_values().map(|one| one.user.clone());
        members.map(|user| (user.id.clone(), user)).collect()
    }

    /// The declarations in a shard of gateways that have been gone for as long as
    /// this, with their revisions.
    pub(crate) fn buried(&self, shard: Shard, age: Duration) -> Vec<(String, u64)> {
        let inner = self.inner.lock();
        let is_certain = inner
            .certain_since
            .is_some_and(|since| since.elapsed() >= age);
        let declared = inner.declared.iter().filter(|_| is_certain);
        let of_shard = declared.filter(|(_, declared)| {
            let declaration = &declared.declaration;
            let gone = inner.gone.get(&declaration.gateway);
            protocol::shard(&declaration.investigation_id) == shard
                && gone.is_some_and(|since| since.elapsed() >= age)
        });
        of_shard
            .map(|(subject, declared)| (subject.clone(), declared.revision))
            .collect()
    }

    /// Follows declarations and signs of life, for as long as it is polled.
    pub(crate) async fn follow(&self, bus: Bus) {
        let mut link = bus.link();
        self.note_link(*link.borrow_and_update());
        let mut leases = LeaseWatch::new(bus.clone());
        let mut reader = None;
        loop {
            let Some(reading) = &mut reader else {
                reader = self.start(&bus).await;
                continue;
            };
            let reading: &mut OrderedReader = reading;
            tokio::select! {
                reading = reading.next(BATCH) => match reading {
                    Reading::Batch(batch) => self.take_in(&batch),
                    Reading::Interrupted(cause) => {
                        debug!(%cause, "declarations not followed");
                        self.note_absence();
                    }
                    Reading::Resumed => {
                        if self.note_return() > LONGEST_ABSENCE {
                            reader = None;
                        }
                    }
                    Reading::Recreated(_) => {
                        warn!("the bucket of declarations was made anew");
                        reader = None;
                    }
                },
                living = leases.changed() => self.note_living(living),
                // The sender lives as long as the bus.
                Ok(()) = link.changed() => {
                    let link = *link.borrow_and_update();
                    self.note_link(link);
                }
            }
        }
    }

    /// Begins with the first declaration: the bucket keeps one of each key.
    async fn start(&self, bus: &Bus) -> Option<OrderedReader> {
        let state = match stream::state(bus, PRESENCE_STREAM).await {
            Ok(state) => state,
            Err(error) => {
                debug!(%error, "declarations not read");
                sleep(PAUSE).await;
                return None;
            }
        };
        self.change(|inner| {
            inner.declared.clear();
            inner.investigations.clear();
            inner.absent_since = None;
            inner.renew();
        });
        Some(OrderedReader::new(
            bus.clone(),
            PRESENCE_STREAM,
            state.epoch,
            0,
        ))
    }

    fn take_in(&self, batch: &[Delivery]) {
        self.change(|inner| {
            for message in batch {
                inner.remove(&message.subject);
                if let Some(declaration) = investigation::declared(message) {
                    inner.insert(message.subject.to_string(), message.sequence, declaration);
                }
            }
        });
    }

    fn note_living(&self, holders: &Leaseholders) {
        let living: HashSet<String> = holders
            .keys()
            .filter_map(|key| key::gateway_of_life(key))
            .map(str::to_owned)
            .collect();
        if self.inner.lock().living == living {
            return;
        }
        self.change(|inner| inner.note_living(living));
    }

    fn note_link(&self, link: Link) {
        if link.up {
            info!(
                generation = link.generation,
                "following who is in investigations"
            );
        }
        self.change(|inner| {
            inner.is_linked = link.up;
            inner.renew();
        });
    }

    /// Declarations are followed no more, be there a link or not.
    fn note_absence(&self) {
        if self.inner.lock().absent_since.is_some() {
            return;
        }
        self.change(|inner| {
            inner.absent_since = Some(Instant::now());
            inner.renew();
        });
    }

    /// Declarations are followed again; gives how long they were not.
    fn note_return(&self) -> Duration {
        let mut absence = Duration::ZERO;
        self.change(|inner| {
            let since = inner.absent_since.take();
            absence = since.map_or(absence, |since| since.elapsed());
            inner.renew();
        });
        absence
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let version = {
            let mut inner = self.inner.lock();
            inner.version += 1;
            change(&mut inner);
            inner.version
        };
        self.changes.send_replace(version);
    }
}

impl Inner {
    /// Begins anew to be certain, where changes are followed.
    fn renew(&mut self) {
        let is_followed = self.is_linked && self.absent_since.is_none();
        self.certain_since = is_followed.then(Instant::now);
    }

    fn insert(&mut self, subject: String, revision: u64, declaration: Declaration) {
        let id: Arc<str> = declaration.investigation_id.as_str().into();
        if !self.living.contains(&declaration.gateway) {
            let gone = self.gone.entry(declaration.gateway.clone());
            gone.or_insert_with(Instant::now);
        }
        let of_shard = self.investigations.entry(protocol::shard(&id)).or_default();
        let entry = of_shard.entry(id).or_default();
        entry.touched = self.version;
        entry.subjects.insert(subject.clone());
        let declared = Declared {
            declaration,
            revision,
        };
        self.declared.insert(subject, declared);
    }

    fn remove(&mut self, subject: &str) {
        let Some(declared) = self.declared.remove(subject) else {
            return;
        };
        let id = declared.declaration.investigation_id.as_str();
        let Some(of_shard) = self.investigations.get_mut(&protocol::shard(id)) else {
            return;
        };
        let Some(entry) = of_shard.get_mut(id) else {
            return;
        };
        entry.touched = self.version;
        entry.subjects.remove(subject);
        if entry.subjects.is_empty() {
            of_shard.remove(id);
        }
    }

    fn note_living(&mut self, living: HashSet<String>) {
        let changed: HashSet<&String> = living.symmetric_difference(&self.living).collect();
        let now = Instant::now();
        let declared = self.declared.values().map(|declared| &declared.declaration);
        for declaration in declared.filter(|one| changed.contains(&one.gateway)) {
            let id = declaration.investigation_id.as_str();
            let of_shard = self.investigations.get_mut(&protocol::shard(id));
            if let Some(entry) = of_shard.and_then(|of_shard| of_shard.get_mut(id)) {
                entry.touched = self.version;
            }
            if !living.contains(&declaration.gateway) {
                self.gone.entry(declaration.gateway.clone()).or_insert(now);
            }
        }
        self.gone.retain(|gateway, _| !living.contains(gateway));
        self.living = living;
    }
}

#[cfg(test)]
mod tests;

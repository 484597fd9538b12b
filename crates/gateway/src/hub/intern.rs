//! Filters and encodings that compare equal are one object, counted by the
//! subscriptions that use it.

use std::collections::HashMap;
use std::hash::Hash;

use slab::Slab;

use super::event::HubEvent;
use super::filter::Filter;

/// Names a filter for as long as a subscription uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FilterId(usize);

/// The filters in use, each evaluated once per event.
#[derive(Default)]
pub(super) struct Filters {
    ids: HashMap<Filter, FilterId>,
    entries: Slab<FilterEntry>,
    /// Evaluations since the start.
    evaluations: u64,
}

struct FilterEntry {
    filter: Filter,
    uses: usize,
    /// The event that `verdict` is about.
    judged: u64,
    verdict: bool,
}

impl Filters {
    pub(super) fn intern(&mut self, filter: Filter) -> FilterId {
        let entries = &mut self.entries;
        let id = *self.ids.entry(filter).or_insert_with_key(|filter| {
            FilterId(entries.insert(FilterEntry {
                filter: filter.clone(),
                uses: 0,
                judged: 0,
                verdict: false,
            }))
        });
        self.entries[id.0].uses += 1;
        id
    }

    pub(super) fn release(&mut self, id: FilterId) {
        let entry = &mut self.entries[id.0];
        entry.uses -= 1;
        if entry.uses == 0 {
            let entry = self.entries.remove(id.0);
            self.ids.remove(&entry.filter);
        }
    }

    /// The filter behind an id in use.
    pub(super) fn filter(&self, id: FilterId) -> &Filter {
        &self.entries[id.0].filter
    }

    /// Whether an event passes; evaluated unless the last question was about
    /// the same event.
    pub(super) fn matches(&mut self, id: FilterId, event: &HubEvent) -> bool {
        let entry = &mut self.entries[id.0];
        if entry.judged != event.sequence {
            entry.judged = event.sequence;
            entry.verdict = entry.filter.passes(&event.event);
            self.evaluations += 1;
        }
        entry.verdict
    }

    /// Forgets which events were judged: another life of the stream numbers
    /// its events anew.
    pub(super) fn forget_verdicts(&mut self) {
        self.entries
            .iter_mut()
            .for_each(|(_, entry)| entry.judged = 0);
    }

    /// Evaluations since the start.
    pub(super) fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Names an encoding. Never reused, since remembered frames carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EncodingId(u64);

/// The encodings in use.
pub(super) struct Encodings<K> {
    ids: HashMap<K, EncodingId>,
    entries: HashMap<EncodingId, (K, usize)>,
    next: u64,
}

impl<K> Default for Encodings<K> {
    fn default() -> Self {
        Self {
            ids: HashMap::new(),
            entries: HashMap::new(),
            next: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Encodings<K> {
    pub(super) fn intern(&mut self, encoder: &K) -> EncodingId {
        let id = match self.ids.get(encoder) {
            Some(id) => *id,
            None => {
                self.next += 1;
                let id = EncodingId(self.next);
                self.ids.insert(encoder.clone(), id);
                self.entries.insert(id, (encoder.clone(), 0));
                id
            }
        };
        if let Some((_, uses)) = self.entries.get_mut(&id) {
            *uses += 1;
        }
        id
    }

    pub(super) fn release(&mut self, id: EncodingId) {
        let Some((_, uses)) = self.entries.get_mut(&id) else {
            return;
        };
        *uses -= 1;
        if *uses == 0
            && let Some((encoder, _)) = self.entries.remove(&id)
        {
            self.ids.remove(&encoder);
        }
    }

    /// The id of an encoder, if a subscription uses it.
    pub(super) fn find(&self, encoder: &K) -> Option<EncodingId> {
        self.ids.get(encoder).copied()
    }

    /// The encoder behind an id in use.
    pub(super) fn encoder(&self, id: EncodingId) -> &K {
        &self.entries[&id].0
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

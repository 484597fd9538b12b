//! Groups: live subscriptions that want the same, walked together.

use std::collections::HashMap;

use slab::Slab;

use super::SubscriptionId;
use super::channels::Channels;
use super::event::HubEvent;
use super::filter::Filter;
use super::index::{Index, Place};
use super::intern::{EncodingId, FilterId};
use super::member::MemberId;
use super::selection::Address;

/// What the subscriptions of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) address: Address,
    pub(super) filter: Option<FilterId>,
    pub(super) encoding: EncodingId,
}

struct Group {
    key: Key,
    /// Subscriptions, live or catching up.
    uses: usize,
    /// The live ones, in no particular order.
    live: Vec<(MemberId, SubscriptionId)>,
    /// Where it is listed while it has live ones.
    place: Option<Place>,
}

/// All groups.
#[derive(Default)]
pub(super) struct Groups {
    ids: HashMap<Key, usize>,
    groups: Slab<Group>,
    /// One for each set of channels that somebody wants. There are few sets,
    /// since dialects make them and not their clients.
    shelves: Vec<Shelf>,
}

/// The groups that want one set of channels.
struct Shelf {
    channels: Channels,
    index: Index,
    /// Live subscriptions that are found by a clause of their filter.
    selective: u64,
}

impl Groups {
    /// The group for a key, with one more subscription in it.
    pub(super) fn intern(&mut self, key: Key) -> usize {
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.groups.insert(Group {
                    key: key.clone(),
                    uses: 0,
                    live: Vec::new(),
                    place: None,
                });
                self.ids.insert(key, id);
                id
            }
        };
        self.groups[id].uses += 1;
        id
    }

    /// Takes one subscription off a group; returns the group's key. An empty
    /// group is removed.
    pub(super) fn release(&mut self, id: usize) -> Key {
        let group = &mut self.groups[id];
        group.uses -= 1;
        if group.uses > 0 {
            return group.key.clone();
        }
        let group = self.groups.remove(id);
        self.ids.remove(&group.key);
        group.key
    }

    pub(super) fn key(&self, id: usize) -> &Key {
        &self.groups[id].key
    }

    /// Adds a subscription to the walk; returns its place there. `filter` is
    /// the group's.
    pub(super) fn add(
        &mut self,
        id: usize,
        member: MemberId,
        subscription: SubscriptionId,
        filter: Option<&Filter>,
    ) -> usize {
        let group = &mut self.groups[id];
        group.live.push((member, subscription));
        let channels = group.key.address.channels;
        let at = self
            .shelves
            .iter()
            .position(|shelf| shelf.channels == channels)
            .unwrap_or_else(|| {
                self.shelves.push(Shelf::new(channels));
                self.shelves.len() - 1
            });
        let shelf = &mut self.shelves[at];
        let place = group
            .place
            .get_or_insert_with(|| shelf.index.insert(id, &group.key.address, filter));
        if let Place::Clause(_) = place {
            shelf.selective += 1;
        }
        group.live.len() - 1
    }

    /// Takes the subscription at `place` out of the walk; returns the one
    /// that has that place now.
    pub(super) fn remove(&mut self, id: usize, place: usize) -> Option<SubscriptionId> {
        let group = &mut self.groups[id];
        group.live.swap_remove(place);
        let channels = group.key.address.channels;
        let is_selective = matches!(group.place, Some(Place::Clause(_)));
        let at = self
            .shelves
            .iter()
            .position(|shelf| shelf.channels == channels)?;
        let shelf = &mut self.shelves[at];
        if is_selective {
            shelf.selective -= 1;
        }
        if let Some((_, subscription)) = group.live.get(place) {
            return Some(*subscription);
        }
        if group.live.is_empty() {
            group.live = Vec::new();
            if let Some(place) = group.place.take() {
                shelf.index.remove(id, &place);
            }
            if shelf.index.is_empty() {
                self.shelves.swap_remove(at);
            }
        }
        None
    }

    /// Lists the groups that an event can reach, each once.
    pub(super) fn reached_by(&self, event: &HubEvent, reached: &mut Vec<usize>) {
        reached.clear();
        for shelf in self.shelves_for(event) {
            shelf.index.reached_by(event, reached);
        }
    }

    /// How many live subscriptions an event that reaches these groups does not
    /// reach because of a clause.
    pub(super) fn missed_by(&self, event: &HubEvent, reached: &[usize]) -> u64 {
        let all: u64 = self.shelves_for(event).map(|shelf| shelf.selective).sum();
        let found = reached.iter().map(|&id| match &self.groups[id] {
            Group {
                place: Some(Place::Clause(_)),
                live,
                ..
            } => live.len() as u64,
            _ => 0,
        });
        all - found.sum::<u64>()
    }

    fn shelves_for(&self, event: &HubEvent) -> impl Iterator<Item = &Shelf> {
        let channel = event.topic.channel;
        self.shelves
            .iter()
            .filter(move |shelf| shelf.channels.contains(channel))
    }

    /// The live subscriptions of a group.
    pub(super) fn walk(&self, id: usize) -> &[(MemberId, SubscriptionId)] {
        &self.groups[id].live
    }

    #[cfg(test)]
    pub(super) fn is_unlisted(&self) -> bool {
        self.shelves.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}

impl Shelf {
    fn new(channels: Channels) -> Self {
        Self {
            channels,
            index: Index::default(),
            selective: 0,
        }
    }
}

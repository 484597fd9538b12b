//! Groups: live subscriptions that want the same, walked together.

use std::collections::HashMap;

use signalbox_protocol::catalogue::Channel;
use slab::Slab;

use super::SubscriptionId;
use super::event::HubEvent;
use super::filter::Filter;
use super::index::{Index, Place};
use super::intern::{EncodingId, FilterId};
use super::member::MemberId;

/// What the subscriptions of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) channel: Channel,
    pub(super) object: Option<String>,
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
    index: HashMap<Channel, Index>,
    /// Live subscriptions that are found by a clause of their filter.
    selective: HashMap<Channel, u64>,
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
        if group.place.is_none() {
            let index = self.index.entry(group.key.channel).or_default();
            group.place = Some(index.insert(id, group.key.object.as_deref(), filter));
        }
        if let Some(Place::Clause(_)) = group.place {
            *self.selective.entry(group.key.channel).or_default() += 1;
        }
        group.live.len() - 1
    }

    /// Takes the subscription at `place` out of the walk; returns the one
    /// that has that place now.
    pub(super) fn remove(&mut self, id: usize, place: usize) -> Option<SubscriptionId> {
        let group = &mut self.groups[id];
        group.live.swap_remove(place);
        if let Some(Place::Clause(_)) = group.place
            && let Some(count) = self.selective.get_mut(&group.key.channel)
        {
            *count -= 1;
        }
        if group.live.is_empty() {
            group.live = Vec::new();
            if let Some(place) = group.place.take()
                && let Some(index) = self.index.get_mut(&group.key.channel)
            {
                index.remove(id, &place);
            }
            return None;
        }
        group.live.get(place).map(|(_, subscription)| *subscription)
    }

    /// Lists the groups that an event can reach, each once.
    pub(super) fn reached_by(&self, event: &HubEvent, reached: &mut Vec<usize>) {
        reached.clear();
        if let Some(index) = self.index.get(&event.topic.channel) {
            index.reached_by(event, reached);
        }
    }

    /// How many live subscriptions an event that reaches these groups does not
    /// reach because of a clause.
    pub(super) fn missed_by(&self, event: &HubEvent, reached: &[usize]) -> u64 {
        let all = self.selective.get(&event.topic.channel).copied();
        let found = reached.iter().map(|&id| match &self.groups[id] {
            Group {
                place: Some(Place::Clause(_)),
                live,
                ..
            } => live.len() as u64,
            _ => 0,
        });
        all.unwrap_or_default() - found.sum::<u64>()
    }

    /// The live subscriptions of a group.
    pub(super) fn walk(&self, id: usize) -> &[(MemberId, SubscriptionId)] {
        &self.groups[id].live
    }

    #[cfg(test)]
    pub(super) fn is_unlisted(&self) -> bool {
        self.index.values().all(Index::is_empty)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}

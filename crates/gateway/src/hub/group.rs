//! Groups: live subscriptions that want the same, walked together; and the
//! index from an event's topic to the groups that it reaches.

use std::collections::HashMap;

use signalbox_protocol::catalogue::{Channel, Topic};
use slab::Slab;

use super::SubscriptionId;
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
}

/// The groups of one channel with something live in them.
#[derive(Default)]
struct Index {
    /// Those that want every object.
    all: Vec<usize>,
    /// Those that want one, by its id.
    by_object: HashMap<String, Vec<usize>>,
}

/// All groups.
#[derive(Default)]
pub(super) struct Groups {
    ids: HashMap<Key, usize>,
    groups: Slab<Group>,
    index: HashMap<Channel, Index>,
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

    /// Adds a subscription to the walk; returns its place there.
    pub(super) fn add(
        &mut self,
        id: usize,
        member: MemberId,
        subscription: SubscriptionId,
    ) -> usize {
        let group = &mut self.groups[id];
        group.live.push((member, subscription));
        let place = group.live.len() - 1;
        if place == 0 {
            let index = self.index.entry(group.key.channel).or_default();
            match &group.key.object {
                None => index.all.push(id),
                Some(object) => index.by_object.entry(object.clone()).or_default().push(id),
            }
        }
        place
    }

    /// Takes the subscription at `place` out of the walk; returns the one
    /// that has that place now.
    pub(super) fn remove(&mut self, id: usize, place: usize) -> Option<SubscriptionId> {
        let group = &mut self.groups[id];
        group.live.swap_remove(place);
        if group.live.is_empty() {
            group.live = Vec::new();
            let key = group.key.clone();
            self.unlist(id, &key);
            return None;
        }
        self.groups[id]
            .live
            .get(place)
            .map(|(_, subscription)| *subscription)
    }

    fn unlist(&mut self, id: usize, key: &Key) {
        let Some(index) = self.index.get_mut(&key.channel) else {
            return;
        };
        match &key.object {
            None => index.all.retain(|other| *other != id),
            Some(object) => {
                if let Some(ids) = index.by_object.get_mut(object) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        index.by_object.remove(object);
                    }
                }
            }
        }
    }

    /// Lists the groups that an event with this topic reaches.
    pub(super) fn reached_by(&self, topic: &Topic, reached: &mut Vec<usize>) {
        reached.clear();
        let Some(index) = self.index.get(&topic.channel) else {
            return;
        };
        reached.extend_from_slice(&index.all);
        if let Some(ids) = topic
            .object
            .as_ref()
            .and_then(|object| index.by_object.get(object))
        {
            reached.extend_from_slice(ids);
        }
    }

    /// The live subscriptions of a group.
    pub(super) fn walk(&self, id: usize) -> &[(MemberId, SubscriptionId)] {
        &self.groups[id].live
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}

//! A subscription in the place of another: what that one has brought does not
//! come again.

use super::member::{MAX_PREDECESSORS, MemberId};
use super::{Encode, FanOut, Hub, Selection, Sink, SubscriptionId};

impl<K: Encode, S: Sink> Hub<K, S> {
    /// Puts a subscription in the place of another of the same member. What
    /// that one has brought does not come again; without a `start` the new one
    /// goes on where it stood. `None`, and nothing has changed, when too many
    /// replaced ones still wait for a replay to end.
    pub(crate) fn replace(
        &mut self,
        old: SubscriptionId,
        selection: Selection,
        encoding: &K,
        start: Option<u64>,
    ) -> Option<SubscriptionId> {
        let former = self.subscription(old)?;
        let member = former.member;
        if former.predecessors.len() >= MAX_PREDECESSORS {
            return None;
        }
        self.flush_member(member, &mut FanOut::default());
        let reached = self.cursor_of(old).sequence;
        let id = self.subscribe(member, selection, encoding, Some(start.unwrap_or(reached)));
        // Out of the walk, but kept: it knows what the member was sent.
        self.detach(old);
        self.serial += 1;
        let retired = SubscriptionId {
            index: old.index,
            serial: self.serial,
        };
        let mut predecessors = Vec::new();
        if let Some(former) = self.subscriptions.get_mut(old.index) {
            former.cursor = reached;
            // A replay of it that is under way finds it gone.
            former.serial = retired.serial;
            former.retired = true;
            predecessors.append(&mut former.predecessors);
        }
        self.rename(member, old, retired);
        predecessors.push(retired);
        if let Some(subscription) = self.subscriptions.get_mut(id.index) {
            subscription.predecessors = predecessors;
        }
        Some(id)
    }

    /// Gives a subscription another name wherever its member uses it.
    fn rename(&mut self, member: MemberId, old: SubscriptionId, new: SubscriptionId) {
        let Some(member) = self.members.get_mut(member) else {
            return;
        };
        for listed in &mut member.subscriptions {
            if *listed == old {
                *listed = new;
            }
            let Some(subscription) = self.subscriptions.get_mut(listed.index) else {
                continue;
            };
            for (other, _) in &mut subscription.before {
                if *other == old {
                    *other = new;
                }
            }
        }
    }
}

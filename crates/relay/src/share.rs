//! Which shards a relay takes and which it gives away. Pure: who holds what in,
//! what to do out.

use std::collections::BTreeMap;

use signalbox_bus::key;
use signalbox_bus::lease::Leaseholders;
use signalbox_protocol::fleet::Shard;

/// What a relay does with a shard that it took up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It holds it, or tries to acquire its lease.
    Holding,
    /// It is giving it away.
    Leaving,
}

/// What a relay should do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Shards to acquire.
    pub(crate) take: Vec<Shard>,
    /// Shards to give away.
    pub(crate) give: Vec<Shard>,
}

/// What the relay `id` should do, which has taken up `own`: take what nobody
/// holds until it has its share, and give away what it has above it. As long as
/// it does not see itself among the living, it does not know who else is, and
/// does nothing.
pub(crate) fn plan(id: &str, holders: &Leaseholders, own: &BTreeMap<Shard, Standing>) -> Plan {
    let mut plan = Plan::default();
    if !holders.contains_key(&key::relay_member(id)) {
        return plan;
    }
    let relays = holders.keys().filter(|key| key::is_relay_member(key)).count();
    let share = Shard::COUNT.div_ceil(relays.max(1));
    let holding: Vec<Shard> = own
        .iter()
        .filter(|(_, standing)| **standing == Standing::Holding)
        .map(|(shard, _)| *shard)
        .collect();
    if holding.len() > share {
        plan.give = holding[share..].to_vec();
        return plan;
    }
    let is_free = |shard: &Shard| {
        let holder = holders.get(&key::relay_lease(*shard));
        // A lease of this relay that it knows nothing of is left from an
        // acquisition that was not answered.
        !own.contains_key(shard) && holder.is_none_or(|holder| holder == id)
    };
    plan.take = Shard::all()
        .filter(is_free)
        .take(share - holding.len())
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(members: &[&str], held: &[(Shard, &str)]) -> Leaseholders {
        let members = members
            .iter()
            .map(|id| (key::relay_member(id), (*id).to_owned()));
        let held = held
            .iter()
            .map(|(shard, id)| (key::relay_lease(*shard), (*id).to_owned()));
        members.chain(held).collect()
    }

    fn all() -> Vec<Shard> {
        Shard::all().collect()
    }

    #[test]
    fn a_relay_alone_takes_everything() {
        let plan = plan("a", &holders(&["a"], &[]), &BTreeMap::new());
        assert_eq!((plan.take, plan.give), (all(), vec![]));
    }

    #[test]
    fn a_relay_that_does_not_see_itself_does_nothing() {
        assert_eq!(
            plan("a", &holders(&["b"], &[]), &BTreeMap::new()),
            Plan::default()
        );
    }

    #[test]
    fn the_surplus_goes_once_when_another_joins() {
        let seen = holders(&["a", "b"], &[]);
        let mut own: BTreeMap<Shard, Standing> = all()
            .into_iter()
            .map(|shard| (shard, Standing::Holding))
            .collect();
        let surplus = plan("a", &seen, &own).give;
        assert_eq!(surplus, all()[8..]);
        for shard in surplus {
            own.insert(shard, Standing::Leaving);
        }
        assert_eq!(plan("a", &seen, &own), Plan::default());
    }

    #[test]
    fn only_what_nobody_holds_is_taken_and_no_more_than_the_share() {
        let shards = all();
        let held = [(shards[0], "b"), (shards[1], "a"), (shards[2], "gone")];
        let taken = plan("a", &holders(&["a", "b"], &held), &BTreeMap::new()).take;
        let expected: Vec<Shard> = [1, 3, 4, 5, 6, 7, 8, 9].map(|at| shards[at]).to_vec();
        assert_eq!(taken, expected);
    }
}

//! Which parts a replica takes and which it gives away. Pure: who holds what in,
//! what to do out.

use std::collections::BTreeMap;

use super::Parts;
use crate::lease::Leaseholders;

/// What a replica does with a part that it took up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds it, or tries to acquire its lease.
    Holding,
    /// It finishes what is in flight, to give it away.
    Leaving,
}

/// What a replica should do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan<P> {
    /// Parts to acquire.
    pub(super) take: Vec<P>,
    /// Parts to give away.
    pub(super) give: Vec<P>,
}

/// The most parts that one of so many replicas holds.
const fn fair_share(parts: usize, replicas: usize) -> usize {
    if replicas == 0 {
        return parts;
    }
    parts.div_ceil(replicas)
}

/// What the replica `id` should do, which has taken up `own`.
///
/// It takes what nobody holds until it has its share, and gives away what it
/// has above it, the last parts first. As long as it does not see itself among
/// the living, it does not know who else is, and does nothing.
pub(super) fn plan<P: Copy + Ord>(
    parts: &Parts<P>,
    id: &str,
    holders: &Leaseholders,
    own: &BTreeMap<P, Standing>,
) -> Plan<P> {
    let mut plan = Plan {
        take: Vec::new(),
        give: Vec::new(),
    };
    if !holders.contains_key(&(parts.member)(id)) {
        return plan;
    }
    let replicas = holders.keys().filter(|key| (parts.is_member)(key)).count();
    let share = fair_share(parts.all.len(), replicas);
    let holding: Vec<P> = own
        .iter()
        .filter(|(_, standing)| **standing == Standing::Holding)
        .map(|(part, _)| *part)
        .collect();
    if holding.len() > share {
        plan.give = holding[share..].to_vec();
        return plan;
    }
    let is_free = |part: &P| {
        let holder = holders.get(&(parts.lease)(*part));
        // A lease of this replica that it knows nothing of is left from an
        // acquisition that was not answered.
        !own.contains_key(part) && holder.is_none_or(|holder| holder == id)
    };
    plan.take = parts
        .all
        .iter()
        .copied()
        .filter(is_free)
        .take(share - holding.len())
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u8 = 12;

    fn parts() -> Parts<u8> {
        Parts {
            service: "tester",
            all: (0..COUNT).collect(),
            lease: |part| format!("tester.part.{part}"),
            member: |id| format!("tester.member.{id}"),
            is_member: |key| key.starts_with("tester.member."),
        }
    }

    fn holders(members: &[&str], held: &[(u8, &str)]) -> Leaseholders {
        let parts = parts();
        let members = members.iter().map(|id| ((parts.member)(id), id));
        let held = held.iter().map(|(part, id)| ((parts.lease)(*part), id));
        members
            .chain(held)
            .map(|(key, id)| (key, (*id).to_owned()))
            .collect()
    }

    fn holding(parts: impl IntoIterator<Item = u8>) -> BTreeMap<u8, Standing> {
        parts
            .into_iter()
            .map(|part| (part, Standing::Holding))
            .collect()
    }

    fn plan_of(holders: &Leaseholders, own: &BTreeMap<u8, Standing>) -> (Vec<u8>, Vec<u8>) {
        let plan = plan(&parts(), "a", holders, own);
        (plan.take, plan.give)
    }

    #[test]
    fn shares_cover_all_parts_whatever_the_number_of_replicas() {
        for parts in 0..30 {
            for replicas in 1..40 {
                let share = fair_share(parts, replicas);
                assert!(share * replicas >= parts, "{parts} by {replicas}");
                assert!(share.saturating_sub(1) * replicas < parts.max(1));
            }
        }
        assert_eq!(fair_share(12, 0), 12);
        assert_eq!(
            [1, 2, 3, 5, 12, 13].map(|n| fair_share(12, n)),
            [12, 6, 4, 3, 1, 1]
        );
    }

    #[test]
    fn a_replica_alone_takes_everything() {
        let seen = holders(&["a"], &[]);
        let all: Vec<u8> = (0..COUNT).collect();
        assert_eq!(plan_of(&seen, &BTreeMap::new()), (all, vec![]));
    }

    #[test]
    fn a_replica_that_does_not_see_itself_does_nothing() {
        let seen = holders(&["b"], &[]);
        assert_eq!(plan_of(&seen, &BTreeMap::new()), (vec![], vec![]));
        assert_eq!(plan_of(&seen, &holding(0..COUNT)), (vec![], vec![]));
    }

    #[test]
    fn the_surplus_goes_when_another_joins_and_no_more_than_once() {
        let seen = holders(&["a", "b"], &[]);
        let mut own = holding(0..COUNT);
        let (take, surplus) = plan_of(&seen, &own);
        assert_eq!((take, &surplus), (vec![], &(6..COUNT).collect()));
        for part in surplus {
            own.insert(part, Standing::Leaving);
        }
        assert_eq!(plan_of(&seen, &own), (vec![], vec![]));
    }

    #[test]
    fn only_free_parts_are_taken_and_only_up_to_the_share() {
        let seen = holders(&["a", "b"], &[(0, "b"), (1, "a"), (2, "gone")]);
        let (take, give) = plan_of(&seen, &holding([10]));
        assert_eq!((take, give), (vec![1, 3, 4, 5, 6], vec![]));
    }
}

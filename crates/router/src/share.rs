//! Which domains a router takes and which it gives away. Pure: who holds what
//! in, what to do out.

use std::collections::BTreeMap;

use signalbox_bus::key;
use signalbox_bus::lease::Leaseholders;
use signalbox_protocol::domain::Domain;

/// What a router does with a domain that it took up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It works on it, or tries to acquire its lease.
    Working,
    /// It finishes what is in flight, to give the domain away.
    Leaving,
}

/// What a router should do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Domains to acquire.
    pub(crate) take: Vec<Domain>,
    /// Domains to give away.
    pub(crate) give: Vec<Domain>,
}

/// The most domains that one of so many routers works on.
pub(crate) const fn fair_share(domains: usize, routers: usize) -> usize {
    if routers == 0 {
        return domains;
    }
    domains.div_ceil(routers)
}

/// How many routers are alive.
pub(crate) fn members(holders: &Leaseholders) -> usize {
    holders.keys().filter(|key| key::is_member(key)).count()
}

/// What the router `id` should do, which has taken up `own`.
///
/// It takes what nobody holds until it has its share, and gives away what it
/// has above it, the last domains first. As long as it does not see itself
/// among the living, it does not know who else is, and does nothing.
pub(crate) fn plan(id: &str, holders: &Leaseholders, own: &BTreeMap<Domain, Standing>) -> Plan {
    let mut plan = Plan::default();
    if !holders.contains_key(&key::member(id)) {
        return plan;
    }
    let share = fair_share(Domain::ALL.len(), members(holders));
    let working: Vec<Domain> = own
        .iter()
        .filter(|(_, standing)| **standing == Standing::Working)
        .map(|(domain, _)| *domain)
        .collect();
    if working.len() > share {
        plan.give = working[share..].to_vec();
        return plan;
    }
    let is_free = |domain: &Domain| {
        let holder = holders.get(&key::router_lease(*domain));
        // A lease of this router that it knows nothing of is left from an
        // acquisition that was not answered.
        !own.contains_key(domain) && holder.is_none_or(|holder| holder == id)
    };
    plan.take = Domain::ALL
        .into_iter()
        .filter(is_free)
        .take(share - working.len())
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(members: &[&str], held: &[(Domain, &str)]) -> Leaseholders {
        let members = members.iter().map(|id| (key::member(id), (*id).to_owned()));
        let held = held
            .iter()
            .map(|(domain, id)| (key::router_lease(*domain), (*id).to_owned()));
        members.chain(held).collect()
    }

    fn working(domains: &[Domain]) -> BTreeMap<Domain, Standing> {
        domains
            .iter()
            .map(|domain| (*domain, Standing::Working))
            .collect()
    }

    #[test]
    fn shares_cover_all_domains_whatever_the_number_of_routers() {
        for domains in 0..30 {
            for routers in 1..40 {
                let share = fair_share(domains, routers);
                assert!(share * routers >= domains, "{domains} by {routers}");
                assert!(share.saturating_sub(1) * routers < domains.max(1));
            }
        }
        assert_eq!(fair_share(12, 0), 12);
        assert_eq!(
            [1, 2, 3, 5, 12, 13].map(|n| fair_share(12, n)),
            [12, 6, 4, 3, 1, 1]
        );
    }

    #[test]
    fn a_router_alone_takes_everything() {
        let plan = plan("a", &holders(&["a"], &[]), &BTreeMap::new());
        assert_eq!(
            (plan.take.as_slice(), plan.give.len()),
            (&Domain::ALL[..], 0)
        );
    }

    #[test]
    fn a_router_that_does_not_see_itself_does_nothing() {
        let seen = holders(&["b"], &[]);
        assert_eq!(plan("a", &seen, &BTreeMap::new()), Plan::default());
        assert_eq!(plan("a", &seen, &working(&Domain::ALL)), Plan::default());
    }

    #[test]
    fn the_surplus_goes_when_another_joins_and_no_more_than_once() {
        let seen = holders(&["a", "b"], &[]);
        let mut own = working(&Domain::ALL);
        let surplus = plan("a", &seen, &own);
        let mut rest = Domain::ALL;
        rest.sort();
        assert_eq!(surplus.give, rest[6..]);
        for domain in surplus.give {
            own.insert(domain, Standing::Leaving);
        }
        assert_eq!(plan("a", &seen, &own), Plan::default());
    }

    #[test]
    fn only_free_domains_are_taken_and_only_up_to_the_share() {
        let held = [
            (Domain::Threat, "b"),
            (Domain::Network, "a"),
            (Domain::Consensus, "gone"),
        ];
        let seen = holders(&["a", "b"], &held);
        let own = working(&[Domain::Ai]);
        let plan = plan("a", &seen, &own);
        let expected = [
            Domain::Network,
            Domain::Security,
            Domain::Monitoring,
            Domain::Pipeline,
            Domain::Project,
        ];
        assert_eq!((plan.take.as_slice(), plan.give.len()), (&expected[..], 0));
    }
}

//! Who is in which investigation on this gateway. Several subscriptions of a
//! connection and several connections of a user count as one; the last that goes
//! takes the user with it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use signalbox_protocol::investigation::{Declaration, Member};
use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// Investigations that a user may be in at once on a gateway; a subscription to
/// one more is refused. Their ids are the user's to choose, and orchestrators keep
/// some thousands of one shard: it takes many users to fill that.
const MOST_OF_USER: usize = 256;
/// Pairs of user and investigation on a gateway; beyond it nobody comes in
/// anywhere.
const CAPACITY: usize = 65_536;

/// A user in an investigation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) investigation_id: Arc<str>,
    pub(super) user_id: Arc<str>,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowded {
    /// The user is in too many investigations.
    #[error("a user is in at most {MOST_OF_USER} investigations at once")]
    User,
    /// There are too many users in too many investigations.
    #[error("the gateway has no room for more users in investigations")]
    Gateway,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Register {
    gateway: Arc<str>,
    inner: Mutex<Inner>,
    /// Woken when a place is to be declared anew.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    present: HashMap<Place, Present>,
    /// How many places each user has.
    of_user: HashMap<Arc<str>, usize>,
    /// Places that the bucket may not have as they are.
    undeclared: HashSet<Place>,
}

#[derive(Debug)]
struct Present {
    /// Subscriptions, over all connections.
    count: usize,
    user: Member,
    since: Timestamp,
}

/// Keeps a user in an investigation until it is dropped.
#[derive(Debug)]
pub(crate) struct Attendance {
    register: Arc<Register>,
    place: Place,
}

impl Attendance {
    /// The investigation.
    pub(crate) fn investigation_id(&self) -> &str {
        &self.place.investigation_id
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.register.leave(&self.place);
    }
}

impl Register {
    pub(super) fn new(gateway: &str) -> Self {
        Self {
            gateway: gateway.into(),
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        investigation_id: &str,
        user: Member,
    ) -> Result<Attendance, Crowded> {
        let place = Place {
            investigation_id: investigation_id.into(),
            user_id: user.id.as_str().into(),
        };
        let mut inner = self.inner.lock();
        if let Some(present) = inner.present.get_mut(&place) {
            present.count += 1;
        } else {
            if inner.present.len() >= CAPACITY {
                return Err(Crowded::Gateway);
            }
            let places = inner.of_user.entry(Arc::clone(&place.user_id)).or_default();
            if *places >= MOST_OF_USER {
                return Err(Crowded::User);
            }
            *places += 1;
            let present = Present {
                count: 1,
                user,
                since: OffsetDateTime::now_utc().into(),
            };
            inner.present.insert(place.clone(), present);
            inner.undeclared.insert(place.clone());
            self.changed.notify_one();
        }
        Ok(Attendance {
            register: Arc::clone(self),
            place,
        })
    }

    fn leave(&self, place: &Place) {
        let mut inner = self.inner.lock();
        let Some(present) = inner.present.get_mut(place) else {
            return;
        };
        present.count -= 1;
        if present.count > 0 {
            return;
        }
        inner.present.remove(place);
        if let Some(places) = inner.of_user.get_mut(&place.user_id) {
            *places -= 1;
            if *places == 0 {
                inner.of_user.remove(&place.user_id);
            }
        }
        inner.undeclared.insert(place.clone());
        self.changed.notify_one();
    }

    /// Has everyone declared anew: nobody knows what the bucket has.
    pub(super) fn doubt(&self) {
        let mut inner = self.inner.lock();
        let Inner {
            present,
            undeclared,
            ..
        } = &mut *inner;
        undeclared.extend(present.keys().cloned());
        self.changed.notify_one();
    }

    /// Has one place declared once more.
    pub(super) fn put_back(&self, place: Place) {
        self.inner.lock().undeclared.insert(place);
        self.changed.notify_one();
    }

    /// Waits until something is to be declared, and takes all of that.
    pub(super) async fn undeclared(&self) -> Vec<Place> {
        loop {
            let changed = self.changed.notified();
            let places: Vec<_> = self.inner.lock().undeclared.drain().collect();
            if !places.is_empty() {
                return places;
            }
            changed.await;
        }
    }

    /// What is to be declared of a place now; `None` where nobody is there.
    pub(super) fn declaration(&self, place: &Place) -> Option<Declaration> {
        let inner = self.inner.lock();
        let present = inner.present.get(place)?;
        Some(Declaration {
            investigation_id: place.investigation_id.to_string(),
            user: present.user.clone(),
            gateway: self.gateway.to_string(),
            since: present.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Member {
        Member {
            id: "ada".to_owned(),
            name: "Ada".to_owned(),
            role: "analyst".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_user_comes_once_and_goes_with_the_last_subscription() {
        let register = Arc::new(Register::new("g1"));
        let first = register.enter("inv-1", ada()).unwrap();
        let second = register.enter("inv-1", ada()).unwrap();
        let places = register.undeclared().await;
        assert_eq!(places.len(), 1);
        let declared = register.declaration(&places[0]).unwrap();
        assert_eq!((&*declared.gateway, declared.user), ("g1", ada()));
        drop(first);
        assert!(register.inner.lock().undeclared.is_empty());
        assert!(register.declaration(&places[0]).is_some());
        drop(second);
        assert_eq!(register.undeclared().await, places);
        assert_eq!(register.declaration(&places[0]), None);
        assert!(register.inner.lock().of_user.is_empty());
    }

    #[tokio::test]
    async fn everyone_is_declared_anew_in_doubt() {
        let register = Arc::new(Register::new("g1"));
        let _kept = register.enter("inv-1", ada()).unwrap();
        assert_eq!(register.undeclared().await.len(), 1);
        register.doubt();
        assert_eq!(register.undeclared().await.len(), 1);
    }

    #[test]
    fn a_few_users_leave_room_in_a_shard() {
        /// What an orchestrator keeps of a shard.
        const OF_SHARD: usize = 8_192;
        let register = Arc::new(Register::new("g1"));
        let mut held = Vec::new();
        for user in 0..16 {
            let user = Member {
                id: format!("user-{user}"),
                ..ada()
            };
            let enter = |number: usize| register.enter(&format!("inv-{number}"), user.clone());
            held.extend((0..OF_SHARD).map_while(|number| enter(number).ok()));
        }
        assert!(held.len() <= OF_SHARD / 2);
    }

    #[test]
    fn a_user_is_in_so_many_investigations() {
        let register = Arc::new(Register::new("g1"));
        let enter = |number: usize| register.enter(&format!("inv-{number}"), ada());
        let mut held: Vec<_> = (0..MOST_OF_USER).map(|one| enter(one).unwrap()).collect();
        assert_eq!(enter(MOST_OF_USER).unwrap_err(), Crowded::User);
        // One more subscription to one of them is no matter.
        assert!(enter(0).is_ok());
        held.pop();
        assert!(enter(MOST_OF_USER).is_ok());
    }
}

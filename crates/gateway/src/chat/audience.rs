//! A shard's connections that take part in chats, and what each is shown.
//!
//! A record reaches the connections that subscribed to all chats of the user,
//! and those that have a place in the chat: they began it, spoke in it, resumed
//! it or subscribed to it. A connection that is reading a chat back gets nothing
//! of it live; it turns live in the step in which it has read all that was told
//! on this shard.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signalbox_transport::Outbound;
use slab::Slab;

use super::following::{Interest, Telling};
use crate::shard::Shard;

/// Chats that one connection has a place in; beyond it the one that was quiet
/// for longest goes, and a message to it or `resume_chat` brings it back.
const PLACES_CAPACITY: usize = 64;
/// Chats that one connection reads back at once; more are refused.
const READINGS_CAPACITY: usize = 16;
/// Chats of a user whose last record is remembered; beyond it those go in which
/// nobody has a place.
const TIPS_CAPACITY: usize = 1_024;

/// See the module.
#[derive(Default)]
pub(crate) struct Audience {
    members: RefCell<Slab<Member>>,
    users: RefCell<HashMap<Arc<str>, Fans>>,
    clock: Cell<u64>,
}

/// A connection that takes part.
struct Member {
    outbound: Outbound,
    user: Arc<str>,
    /// Its subscriptions to all chats of the user.
    subscriptions: usize,
    places: HashMap<Rc<str>, Place>,
}

/// A connection's place in one chat.
struct Place {
    state: State,
    /// Subscriptions to this chat.
    subscriptions: usize,
    /// Whether it has the place also without a subscription.
    attached: bool,
    /// When something happened here last.
    touched: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Records from this number on are shown as they come.
    Live(u64),
    /// Records are read back, by the reading of this number.
    Reading(u64),
}

/// The connections of one user.
#[derive(Default)]
struct Fans {
    members: usize,
    /// Those that subscribed to all chats.
    subscribers: Vec<usize>,
    /// Those that have a place, by chat.
    rooms: HashMap<Rc<str>, Vec<usize>>,
    /// The last record that was told, by chat.
    tips: HashMap<Rc<str>, u64>,
}

/// A chat that a connection reads back.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    session: Rc<str>,
    serial: u64,
}

/// A connection already reads back as many chats as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyReadings;

impl Audience {
    /// Shows connections what the logs have.
    pub(super) fn play(&self, telling: &Telling) {
        let mut users = self.users.borrow_mut();
        let Some(fans) = users.get_mut(&telling.user) else {
            return;
        };
        let mut members = self.members.borrow_mut();
        for line in telling.lines.iter() {
            if !fans.tell(&line.session, line.number) {
                continue;
            }
            let Some(frame) = &line.frame else { continue };
            let here = fans
                .rooms
                .get(&*line.session)
                .map_or(&[][..], Vec::as_slice);
            for member in here {
                let member = &mut members[*member];
                let Some(place) = member.places.get_mut(&*line.session) else {
                    continue;
                };
                place.touched = self.tick();
                if matches!(place.state, State::Live(next) if line.number >= next) {
                    let _sent = member.outbound.send_frame(frame);
                }
            }
            for member in &fans.subscribers {
                let member = &members[*member];
                if !member.places.contains_key(&*line.session) {
                    let _sent = member.outbound.send_frame(frame);
                }
            }
        }
    }

    fn tick(&self) -> u64 {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        now
    }

    fn enter(&self, user: &Arc<str>, outbound: Outbound) -> usize {
        let mut users = self.users.borrow_mut();
        users.entry(Arc::clone(user)).or_default().members += 1;
        self.members.borrow_mut().insert(Member {
            outbound,
            user: Arc::clone(user),
            subscriptions: 0,
            places: HashMap::new(),
        })
    }

    fn leave(&self, index: usize) {
        let gone = self.members.borrow_mut().remove(index);
        let mut users = self.users.borrow_mut();
        let Some(fans) = users.get_mut(&gone.user) else {
            return;
        };
        fans.subscribers.retain(|member| *member != index);
        for session in gone.places.keys() {
            fans.vacate(session, index);
        }
        fans.members -= 1;
        if fans.members == 0 {
            users.remove(&gone.user);
        }
    }

    /// Gives a connection a place in a chat, or changes the one that it has.
    fn place(&self, index: usize, session: &Rc<str>, change: impl FnOnce(&mut Place)) {
        let mut members = self.members.borrow_mut();
        let mut users = self.users.borrow_mut();
        let member = &mut members[index];
        let Some(fans) = users.get_mut(&member.user) else {
            return;
        };
        if !member.places.contains_key(session) {
            if member.places.len() >= PLACES_CAPACITY
                && let Some(quiet) = member.quietest()
            {
                member.places.remove(&quiet);
                fans.vacate(&quiet, index);
            }
            fans.rooms
                .entry(Rc::clone(session))
                .or_default()
                .push(index);
        }
        let place = member
            .places
            .entry(Rc::clone(session))
            .or_insert_with(|| Place {
                state: State::Live(0),
                subscriptions: 0,
                attached: false,
                touched: 0,
            });
        place.touched = self.tick();
        change(place);
        if !place.attached && place.subscriptions == 0 {
            member.places.remove(session);
            fans.vacate(session, index);
        }
    }
}

impl Member {
    /// The chat without a subscription or reading in which nothing happened for
    /// longest.
    fn quietest(&self) -> Option<Rc<str>> {
        let idle = self
            .places
            .iter()
            .filter(|(_, place)| place.subscriptions == 0 && matches!(place.state, State::Live(_)));
        let quietest = idle.min_by_key(|(_, place)| place.touched);
        quietest.map(|(session, _)| Rc::clone(session))
    }
}

impl Fans {
    /// Notes a record; false for one that was told before.
    fn tell(&mut self, session: &str, number: u64) -> bool {
        if let Some(tip) = self.tips.get_mut(session) {
            let is_new = number > *tip;
            *tip = number.max(*tip);
            return is_new;
        }
        if self.tips.len() >= TIPS_CAPACITY {
            let rooms = &self.rooms;
            self.tips.retain(|session, _| rooms.contains_key(session));
        }
        self.tips.insert(session.into(), number);
        true
    }

    fn vacate(&mut self, session: &Rc<str>, index: usize) {
        if let Some(room) = self.rooms.get_mut(session) {
            room.retain(|member| *member != index);
            if room.is_empty() {
                self.rooms.remove(session);
            }
        }
    }
}

/// A connection's seat in the audience of its user's chats.
pub(crate) struct Seat {
    shard: Rc<Shard>,
    user: Arc<str>,
    index: usize,
    /// Nothing once it was left; then the index may be another's.
    interest: RefCell<Option<Interest>>,
}

impl Seat {
    /// Takes a seat; `None` when chats of too many users are followed here.
    pub(crate) fn take(shard: &Rc<Shard>, user: &str, outbound: Outbound) -> Option<Rc<Self>> {
        let user: Arc<str> = user.into();
        let interest = shard.shared.chats.follow(&user, shard.index)?;
        Some(Rc::new(Self {
            index: shard.audience.enter(&user, outbound),
            shard: Rc::clone(shard),
            user,
            interest: RefCell::new(Some(interest)),
        }))
    }

    /// Whose chats they are.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Waits until whatever is stored from then on is shown, for at most
    /// `patience`; says whether it is.
    pub(crate) async fn is_set(&self, patience: Duration) -> bool {
        let set = self
            .interest
            .borrow()
            .as_ref()
            .map(|interest| interest.is_set(patience));
        match set {
            Some(set) => set.await && !self.is_left(),
            None => false,
        }
    }

    /// Takes part no longer.
    pub(crate) fn leave(&self) {
        if self.interest.borrow_mut().take().is_some() {
            self.shard.audience.leave(self.index);
        }
    }

    fn is_left(&self) -> bool {
        self.interest.borrow().is_none()
    }

    /// Whether there is anything that the connection is shown.
    pub(crate) fn is_used(&self) -> bool {
        if self.is_left() {
            return false;
        }
        let members = self.shard.audience.members.borrow();
        let member = &members[self.index];
        member.subscriptions > 0 || !member.places.is_empty()
    }

    /// The last record of a chat that was told on this shard; 0 where none was.
    pub(crate) fn tip(&self, session: &str) -> u64 {
        let users = self.shard.audience.users.borrow();
        let fans = users.get(&self.user);
        fans.and_then(|fans| fans.tips.get(session).copied())
            .unwrap_or(0)
    }

    /// Whether the connection is subscribed to all chats.
    pub(crate) fn is_subscribed(&self) -> bool {
        let members = self.shard.audience.members.borrow();
        !self.is_left() && members[self.index].subscriptions > 0
    }

    /// Whether the connection is shown what is said in a chat from now on.
    pub(crate) fn follows(&self, session: &str) -> bool {
        let members = self.shard.audience.members.borrow();
        !self.is_left() && {
            let member = &members[self.index];
            member.subscriptions > 0 || member.places.contains_key(session)
        }
    }

    /// Subscribes to a chat, or to all.
    pub(crate) fn subscribe(&self, session: Option<&str>) {
        if self.is_left() {
            return;
        }
        let audience = &self.shard.audience;
        if let Some(session) = session {
            audience.place(self.index, &session.into(), |place| {
                place.subscriptions += 1;
            });
            return;
        }
        let mut members = audience.members.borrow_mut();
        let member = &mut members[self.index];
        member.subscriptions += 1;
        if member.subscriptions == 1
            && let Some(fans) = audience.users.borrow_mut().get_mut(&self.user)
        {
            fans.subscribers.push(self.index);
        }
    }

    /// Ends one such subscription.
    pub(crate) fn unsubscribe(&self, session: Option<&str>) {
        if self.is_left() {
            return;
        }
        let audience = &self.shard.audience;
        if let Some(session) = session {
            audience.place(self.index, &session.into(), |place| {
                place.subscriptions = place.subscriptions.saturating_sub(1);
            });
            return;
        }
        let mut members = audience.members.borrow_mut();
        let member = &mut members[self.index];
        member.subscriptions = member.subscriptions.saturating_sub(1);
        if member.subscriptions == 0
            && let Some(fans) = audience.users.borrow_mut().get_mut(&self.user)
        {
            fans.subscribers.retain(|member| *member != self.index);
        }
    }

    /// Shows the connection a chat's records from a number on, as they come.
    pub(crate) fn attach(&self, session: &str, next: u64) {
        if !self.is_left() {
            let audience = &self.shard.audience;
            audience.place(self.index, &session.into(), |place| {
                place.attached = true;
                place.state = State::Live(next);
            });
        }
    }

    /// Has a chat read back: until that has [turned live](Self::turn_live), the
    /// connection is shown nothing else of it.
    ///
    /// # Errors
    /// When it reads back too many already.
    pub(crate) fn read(&self, session: &Rc<str>) -> Result<Reading, TooManyReadings> {
        let audience = &self.shard.audience;
        let serial = audience.tick();
        if !self.is_left() {
            let others = {
                let members = audience.members.borrow();
                let places = members[self.index].places.iter();
                let reading = places.filter(|(other, place)| {
                    *other != session && matches!(place.state, State::Reading(_))
                });
                reading.count()
            };
            if others >= READINGS_CAPACITY {
                return Err(TooManyReadings);
            }
            audience.place(self.index, session, |place| {
                place.attached = true;
                place.state = State::Reading(serial);
            });
        }
        Ok(Reading {
            session: Rc::clone(session),
            serial,
        })
    }

    /// Whether a reading is to go on.
    pub(crate) fn is_reading(&self, reading: &Reading) -> bool {
        let members = self.shard.audience.members.borrow();
        !self.is_left()
            && members[self.index]
                .places
                .get(&reading.session)
                .is_some_and(|place| place.state == State::Reading(reading.serial))
    }

    /// Goes on live behind the record that a reading has reached; false where
    /// more was told meanwhile. True also where the reading is not to go on.
    pub(crate) fn turn_live(&self, reading: &Reading, reached: u64) -> bool {
        if !self.is_reading(reading) {
            return true;
        }
        if self.tip(&reading.session) > reached {
            return false;
        }
        self.attach(&reading.session, reached + 1);
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

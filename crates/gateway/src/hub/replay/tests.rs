//! Subscriptions that catch up together, as Socket.IO's recovery needs it: one
//! walk in stream order for all rooms of a client, and nothing out of turn that
//! the client could take for its place in the stream. One file, since the model
//! of such a client serves every test.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use signalbox_protocol::catalogue::{Audience, Channel};
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_transport::Frame;

use crate::hub::event::HubEvent;
use crate::hub::selection::tests::{OF_ROOMS, addressed, everyone, project, user};
use crate::hub::tests::{Client, publish};
use crate::hub::{Backlog, Encode, Hub, MemberId, Progress, RingLimits, Selection, SubscriptionId};
use crate::ledger::Joined;

/// Writes `sequence:in` for events in turn and `sequence:out` for others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Turn(&'static str);

impl Encode for Turn {
    fn encode(&self, event: &HubEvent, _: Cursor) -> Option<Frame> {
        Some(Frame::text(&format!("{}:{}", event.sequence, self.0)))
    }

    fn union(&self, _: &Self) -> Self {
        self.clone()
    }

    fn out_of_turn(&self) -> Self {
        Self("out")
    }
}

const IN_TURN: Turn = Turn("in");
type TurnHub = Hub<Turn, Client>;

fn epoch() -> Epoch {
    Epoch::from_unix_micros(1)
}

fn hub(ring_bytes: usize) -> TurnHub {
    let limits = RingLimits {
        age: Duration::from_secs(3_600),
        bytes: ring_bytes,
    };
    Hub::new(epoch(), 0, limits)
}

fn frames(client: &Client) -> Vec<String> {
    client.frames.borrow().clone()
}

/// For project `a`, for `ada`, for everyone, and for `a` and `ada`, in turn.
fn mixture(events: std::ops::RangeInclusive<u64>) -> Vec<Arc<HubEvent>> {
    let ada = || Audience::User("ada".to_owned());
    let event = |sequence: u64| match sequence % 4 {
        1 => addressed(sequence, Channel::ThreatAlerts, Some("a"), Audience::Nobody),
        2 => addressed(sequence, Channel::ThreatAlerts, None, ada()),
        3 => addressed(sequence, Channel::ThreatAlerts, None, Audience::Everyone),
        _ => addressed(sequence, Channel::ThreatAlerts, Some("a"), ada()),
    };
    events.map(event).collect()
}

/// What history has of some backlogs up to `covered`.
fn chapter(events: &[Arc<HubEvent>], backlogs: &[Backlog], covered: u64) -> Vec<Arc<HubEvent>> {
    let wanted = |event: &&Arc<HubEvent>| {
        event.sequence <= covered
            && backlogs.iter().any(|backlog| {
                event.sequence > backlog.after && backlog.address.covers(&event.topic)
            })
    };
    events.iter().filter(wanted).map(Arc::clone).collect()
}

#[test]
fn rooms_return_as_one_walk_and_turn_live_at_once() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=9));
    let member = hub.join(client.clone());
    let ids: Vec<SubscriptionId> = [
        (everyone(), 2),
        (project("a"), 2),
        // Joined later than the others.
        (user("ada"), 6),
    ]
    .into_iter()
    .map(|(room, start)| hub.subscribe(member, room, &IN_TURN, Some(start)))
    .collect();
    assert_eq!(hub.catch_up_together(&ids), Progress::Live);
    let expected = ["3:in", "4:in", "5:in", "7:in", "8:in", "9:in"];
    assert_eq!(frames(&client), expected);
    publish(&mut hub, &mixture(10..=12));
    assert_eq!(frames(&client)[6..], ["10:in", "11:in", "12:in"]);
    assert_eq!(hub.catch_up_together(&ids), Progress::Live);
    ids.iter().for_each(|id| hub.unsubscribe(*id));
    assert_eq!(hub.catch_up_together(&ids), Progress::Gone);
    assert_eq!(hub.catch_up_together(&[]), Progress::Gone);
}

#[test]
fn nothing_comes_live_to_rooms_that_return() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=2_000));
    let member = hub.join(client.clone());
    let ids = [everyone(), project("a"), user("ada")]
        .map(|room| hub.subscribe(member, room, &IN_TURN, Some(0)));
    assert_eq!(hub.catch_up_together(&ids), Progress::More);
    publish(&mut hub, &mixture(2_001..=2_002));
    while hub.catch_up_together(&ids) == Progress::More {}
    publish(&mut hub, &mixture(2_003..=2_003));
    let expected: Vec<u64> = (1..=2_003).collect();
    assert_eq!(client.received(), expected);
}

#[test]
fn what_memory_has_forgotten_is_asked_for_by_address() {
    let (mut hub, client) = (hub(2_000), Client::default());
    let events = mixture(1..=100);
    publish(&mut hub, &events);
    let floor = hub.ring.floor();
    let member = hub.join(client.clone());
    let rooms = [
        (everyone(), 0),
        (project("a"), 5),
        (project("a"), 3),
        (user("ada"), floor),
    ];
    let ids = rooms.map(|(room, start)| hub.subscribe(member, room, &IN_TURN, Some(start)));
    let Progress::Backlog(backlogs) = hub.catch_up_together(&ids) else {
        panic!()
    };
    let asked: Vec<(u64, u64)> = backlogs
        .iter()
        .map(|backlog| (backlog.after, backlog.until))
        .collect();
    assert_eq!(asked, [(0, floor), (3, floor)]);
    let history = chapter(&events, &backlogs, floor);
    let mut rest = history.as_slice();
    while !rest.is_empty() {
        let taken = hub.replay_together(&ids, epoch(), rest, floor);
        rest = &rest[taken..];
    }
    while hub.catch_up_together(&ids) == Progress::More {}
    let expected: Vec<u64> = events
        .iter()
        .filter(|event| match event.sequence % 4 {
            1 | 0 => event.sequence > 3,
            2 => event.sequence > floor,
            _ => true,
        })
        .map(|event| event.sequence)
        .collect();
    assert_eq!(client.received(), expected);
}

#[test]
fn a_room_that_returns_alone_is_replayed_out_of_turn() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=4));
    let member = hub.join(client.clone());
    let live = hub.subscribe(member, everyone(), &IN_TURN, None);
    hub.catch_up(live);
    let late = hub.subscribe(member, project("a"), &IN_TURN, Some(0));
    publish(&mut hub, &mixture(5..=7));
    while hub.catch_up(late) != Progress::Live {}
    publish(&mut hub, &mixture(8..=9));
    let expected = ["7:in", "1:out", "4:out", "5:out", "8:in", "9:in"];
    assert_eq!(frames(&client), expected);
    hub.leave(member);
    assert_eq!(hub.encodings.len(), 0);
}

#[test]
fn what_is_left_of_a_replay_alone_may_be_joined_by_others() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=2_000));
    let member = hub.join(client.clone());
    let ids = [project("a"), everyone()].map(|room| hub.subscribe(member, room, &IN_TURN, Some(0)));
    assert_eq!(hub.catch_up(ids[0]), Progress::More);
    let alone = client.received();
    while hub.catch_up_together(&ids) == Progress::More {}
    let mut received = client.received();
    assert!(received[alone.len()..].is_sorted());
    received.sort_unstable();
    let expected: Vec<u64> = (1..=2_000).filter(|sequence| sequence % 4 != 2).collect();
    assert_eq!(received, expected);
    assert!(
        frames(&client)[alone.len()..]
            .iter()
            .all(|frame| frame.ends_with(":in"))
    );
}

#[test]
fn rooms_that_know_more_than_the_hub_wait_for_it() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=3));
    let member = hub.join(client.clone());
    let ids = [(everyone(), 2), (project("a"), 5)]
        .map(|(room, start)| hub.subscribe(member, room, &IN_TURN, Some(start)));
    assert_eq!(hub.catch_up_together(&ids), Progress::Ahead);
    assert_eq!(client.received(), [3]);
    publish(&mut hub, &mixture(4..=5));
    // 4 and 5 are older than the room's start.
    assert_eq!(hub.catch_up_together(&ids), Progress::Live);
    publish(&mut hub, &mixture(6..=9));
    assert_eq!(client.received(), [3, 7, 8, 9]);
}

#[test]
fn rooms_that_end_while_they_return_leave_the_others_alone() {
    let (mut hub, client) = (hub(1 << 20), Client::default());
    publish(&mut hub, &mixture(1..=2_000));
    let member = hub.join(client.clone());
    let ids = [everyone(), project("a")].map(|room| hub.subscribe(member, room, &IN_TURN, Some(0)));
    assert_eq!(hub.catch_up_together(&ids), Progress::More);
    let before = client.received().len();
    hub.unsubscribe(ids[1]);
    while hub.catch_up_together(&ids) == Progress::More {}
    let received = client.received();
    assert!(received[before..].iter().all(|sequence| sequence % 4 == 3));
    let of_everyone = received.iter().filter(|sequence| *sequence % 4 == 3);
    assert_eq!(of_everyone.count(), 500);
}

/// Whom an event is for, for a strategy.
type Address = (usize, Option<usize>, usize);

/// What happens to a client and around it.
#[derive(Clone, Debug)]
enum Action {
    Publish(Vec<Address>),
    /// Joins a room from now on.
    Join(usize),
    /// Joins a room with a replay of the last so many positions.
    JoinBehind(usize, u64),
    Leave(usize),
    /// Takes one step in every replay.
    Step,
    /// Loses the connection, and so many frames that were on their way, and
    /// comes back while these batches are published.
    Return(usize, Vec<Vec<Address>>),
}

const CHANNELS: [Channel; 4] = [
    Channel::ThreatAlerts,
    Channel::InvestigationProgress,
    Channel::SystemMetrics,
    Channel::ResponseActions,
];
const OBJECTS: [&str; 2] = ["a", "b"];

fn audience(index: usize) -> Audience {
    match index {
        0 => Audience::Nobody,
        1 => Audience::Everyone,
        2 => Audience::User("ada".to_owned()),
        _ => Audience::User("bob".to_owned()),
    }
}

fn rooms() -> Vec<Selection> {
    vec![
        project("a"),
        project("b"),
        user("ada"),
        everyone(),
        Selection::of(Channel::ResponseActions),
        Selection::of(OF_ROOMS),
    ]
}

fn batch() -> impl Strategy<Value = Vec<Address>> {
    let object = prop::option::of(0..OBJECTS.len());
    prop::collection::vec((0..CHANNELS.len(), object, 0..4_usize), 0..6)
}

fn action() -> impl Strategy<Value = Action> {
    let room = || 0..rooms().len();
    prop_oneof![
        4 => batch().prop_map(Action::Publish),
        2 => room().prop_map(Action::Join),
        1 => (room(), 0..20_u64).prop_map(|(room, behind)| Action::JoinBehind(room, behind)),
        1 => room().prop_map(Action::Leave),
        2 => Just(Action::Step),
        2 => (0..8_usize, prop::collection::vec(batch(), 0..3))
            .prop_map(|(lost, batches)| Action::Return(lost, batches)),
    ]
}

/// A client that keeps its place like Socket.IO's, the gateway's side of it,
/// and what it should have got.
struct World {
    hub: TurnHub,
    events: Vec<Arc<HubEvent>>,
    /// Changes how much history comes at once.
    pages: u64,
    client: Client,
    member: MemberId,
    held: Vec<(usize, SubscriptionId, Joined)>,
    /// Rooms of this session by the part of the stream that they were held in.
    spans: Vec<(usize, u64, Option<u64>)>,
    /// Whether a room was ever joined behind the edge or left, which together
    /// would let the client ask for what it had.
    has_looked_back: bool,
    has_left: bool,
    connected_at: u64,
    /// What the client got on earlier connections of the session.
    got: Vec<(u64, bool)>,
}

impl World {
    fn new(ring_bytes: usize, pages: u64) -> Self {
        let mut hub = hub(ring_bytes);
        let client = Client::default();
        let member = hub.join(client.clone());
        Self {
            hub,
            events: Vec::new(),
            pages,
            client,
            member,
            held: Vec::new(),
            spans: Vec::new(),
            has_looked_back: false,
            has_left: false,
            connected_at: 0,
            got: Vec::new(),
        }
    }

    fn position(&self) -> u64 {
        self.events.len() as u64
    }

    fn at(&self, sequence: u64) -> Cursor {
        Cursor {
            epoch: epoch(),
            sequence,
        }
    }

    fn publish(&mut self, batch: &[Address]) {
        let first = self.position() + 1;
        let batch: Vec<_> = (first..)
            .zip(batch)
            .map(|(sequence, (channel, object, whom))| {
                let object = object.map(|index| OBJECTS[index]);
                addressed(sequence, CHANNELS[*channel], object, audience(*whom))
            })
            .collect();
        publish(&mut self.hub, &batch);
        self.events.extend(batch);
    }

    /// Frames of this connection: sequence, and whether in turn.
    fn arrived(&self) -> Vec<(u64, bool)> {
        let parse = |frame: &String| {
            let (sequence, turn) = frame.split_once(':').unwrap();
            (sequence.parse().unwrap(), turn == "in")
        };
        self.client.frames.borrow().iter().map(parse).collect()
    }

    fn history(&mut self, backlogs: &[Backlog]) -> (Vec<Arc<HubEvent>>, u64) {
        let after = backlogs.iter().map(|backlog| backlog.after).min().unwrap();
        let until = backlogs[0].until;
        self.pages = self
            .pages
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let covered = (after + 1 + (self.pages >> 33) % 9).min(until);
        (chapter(&self.events, backlogs, covered), covered)
    }

    /// One step of the replay of one room.
    fn step(&mut self, index: usize) {
        let (_, id, joined) = self.held[index];
        if joined != Joined::Replaying {
            return;
        }
        match self.hub.catch_up(id) {
            Progress::Live => self.held[index].2 = Joined::ReplayedUntil(self.at(self.position())),
            Progress::Backlog(backlogs) => {
                let (events, covered) = self.history(&backlogs);
                let mut rest = events.as_slice();
                loop {
                    let taken = self.hub.replay(id, epoch(), rest, covered);
                    rest = &rest[taken..];
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Progress::More => {}
            progress => panic!("{progress:?}"),
        }
    }

    fn settle(&mut self) {
        for index in 0..self.held.len() {
            while self.held[index].2 == Joined::Replaying {
                self.step(index);
            }
        }
    }

    fn join(&mut self, room: usize, start: Option<u64>) {
        if self.held.iter().any(|(held, ..)| *held == room) {
            return;
        }
        if start.is_some() && self.has_left {
            return;
        }
        let selection = rooms()[room].clone();
        let id = self.hub.subscribe(self.member, selection, &IN_TURN, start);
        let joined = match start {
            None => {
                assert_eq!(self.hub.catch_up(id), Progress::Live);
                Joined::At(self.at(self.position()))
            }
            Some(_) => Joined::Replaying,
        };
        self.has_looked_back |= start.is_some();
        self.held.push((room, id, joined));
        let start = start.unwrap_or(self.position());
        self.spans.push((room, start, None));
    }

    fn leave(&mut self, room: usize) {
        let Some(index) = self.held.iter().position(|(held, ..)| *held == room) else {
            return;
        };
        if self.has_looked_back {
            return;
        }
        self.has_left = true;
        let (_, id, _) = self.held.remove(index);
        self.hub.unsubscribe(id);
        let end = self.position();
        for span in &mut self.spans {
            if span.0 == room && span.2.is_none() {
                span.2 = Some(end);
            }
        }
    }

    /// Loses the connection and comes back.
    fn come_back(&mut self, lost: usize, batches: &[Vec<Address>]) {
        let mut arrived = self.arrived();
        arrived.truncate(arrived.len().saturating_sub(lost));
        self.got.extend(arrived);
        self.hub.leave(self.member);
        let in_turn = self.got.iter().rev().find(|(_, in_turn)| *in_turn);
        let offset = in_turn.map_or(self.connected_at, |(sequence, _)| *sequence);
        let offset = self.at(offset);
        let starts: Option<Vec<u64>> = self
            .held
            .iter()
            .map(|(.., joined)| joined.start(offset))
            .collect();
        self.client = Client::default();
        self.member = self.hub.join(self.client.clone());
        let Some(starts) = starts else {
            // Nobody can say what the client has: it begins anew.
            self.held.clear();
            self.spans.clear();
            self.got.clear();
            (self.has_left, self.has_looked_back) = (false, false);
            self.connected_at = self.position();
            return;
        };
        for ((room, id, _), start) in self.held.iter_mut().zip(starts) {
            let selection = rooms()[*room].clone();
            *id = self
                .hub
                .subscribe(self.member, selection, &IN_TURN, Some(start));
        }
        let ids: Vec<SubscriptionId> = self.held.iter().map(|(_, id, _)| *id).collect();
        let mut batches = batches.iter();
        loop {
            match self.hub.catch_up_together(&ids) {
                Progress::Live => break,
                Progress::Gone => {
                    assert!(ids.is_empty());
                    break;
                }
                Progress::More => {}
                Progress::Backlog(backlogs) => {
                    let (events, covered) = self.history(&backlogs);
                    let mut rest = events.as_slice();
                    loop {
                        let taken = self.hub.replay_together(&ids, epoch(), rest, covered);
                        rest = &rest[taken..];
                        if rest.is_empty() {
                            break;
                        }
                    }
                }
                Progress::Ahead => panic!("nothing is ahead of the only hub"),
            }
            if let Some(batch) = batches.next() {
                self.publish(batch);
            }
        }
    }

    /// Whether what the client got is what it should have got.
    fn check(mut self) -> Result<(), TestCaseError> {
        self.settle();
        let arrived = self.arrived();
        let once: BTreeSet<u64> = arrived.iter().map(|(sequence, _)| *sequence).collect();
        prop_assert_eq!(
            once.len(),
            arrived.len(),
            "twice on a connection: {:?}",
            arrived
        );
        self.got.extend(arrived);
        let in_turn = self.got.iter().filter(|(_, in_turn)| *in_turn);
        let in_turn: Vec<u64> = in_turn.map(|(sequence, _)| *sequence).collect();
        prop_assert!(
            in_turn.is_sorted_by(|a, b| a < b),
            "out of order: {:?}",
            in_turn
        );
        let got: BTreeSet<u64> = self.got.iter().map(|(sequence, _)| *sequence).collect();
        let rooms = rooms();
        for event in &self.events {
            let sequence = event.sequence;
            let mut holders = self.spans.iter().filter(|(room, start, end)| {
                let selection = &rooms[*room];
                selection.channels.contains(event.topic.channel)
                    && selection.object.is_none_or_is(&event.topic.object)
                    && selection
                        .audience
                        .as_ref()
                        .is_none_or(|whom| *whom == event.topic.audience)
                    && sequence > *start
                    && end.is_none_or(|end| sequence <= end)
            });
            let may = holders.clone().next().is_some();
            let must = holders.any(|(.., end)| end.is_none());
            prop_assert!(
                !must || got.contains(&sequence),
                "{} is missing: {:?}",
                sequence,
                self.got
            );
            prop_assert!(
                may || !got.contains(&sequence),
                "{} came uninvited: {:?}",
                sequence,
                self.got
            );
        }
        Ok(())
    }
}

/// What a selection says of an object.
trait Narrowing {
    fn is_none_or_is(&self, object: &Option<String>) -> bool;
}

impl Narrowing for Option<String> {
    fn is_none_or_is(&self, object: &Option<String>) -> bool {
        self.is_none() || self == object
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is published, joined, left, replayed, lost on the way and
    /// returned to, whatever memory still has: a client whose session is
    /// recovered has every event of its rooms, those in turn in order and once.
    #[test]
    fn a_session_that_is_recovered_has_everything_once(
        ring_bytes in prop::sample::select(vec![0_usize, 400, 1_500, 1 << 20]),
        pages in any::<u64>(),
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let mut world = World::new(ring_bytes, pages);
        for action in actions {
            match action {
                Action::Publish(batch) => world.publish(&batch),
                Action::Join(room) => world.join(room, None),
                Action::JoinBehind(room, behind) => {
                    let start = world.position().saturating_sub(behind);
                    world.join(room, Some(start));
                }
                Action::Leave(room) => world.leave(room),
                Action::Step => (0..world.held.len()).for_each(|index| world.step(index)),
                Action::Return(lost, batches) => world.come_back(lost, &batches),
            }
        }
        world.check()?;
    }
}

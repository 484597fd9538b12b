//! What subscribers of a hub get, and what it costs (G8, G10 at the level of
//! the hub). One file, since all share the recording subscribers below.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use signalbox_protocol::catalogue::{self, Channel};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::timestamp::Timestamp;

use super::*;

const EPOCH: u64 = 1;

/// A connection that keeps what it is sent.
#[derive(Clone, Default)]
pub(super) struct Client {
    pub(super) frames: Rc<RefCell<Vec<String>>>,
    writes: Rc<Cell<usize>>,
    gone: Rc<Cell<bool>>,
}

impl Client {
    /// The sequences that it received, in order.
    pub(super) fn received(&self) -> Vec<u64> {
        self.frames
            .borrow()
            .iter()
            .map(|text| text.split(':').next().unwrap().parse().unwrap())
            .collect()
    }
}

impl Sink for Client {
    fn send<'a>(&self, frames: impl Iterator<Item = &'a Frame> + Clone) -> Sent {
        if self.gone.get() {
            return Sent::Closed;
        }
        self.writes.set(self.writes.get() + 1);
        let text = |frame: &Frame| String::from_utf8(frame.as_bytes()[2..].to_vec()).unwrap();
        self.frames.borrow_mut().extend(frames.map(text));
        Sent::Written
    }
}

/// Writes `sequence:label`, counts how often, and wants only odd or all
/// sequences.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labelled {
    label: &'static str,
    odd_only: bool,
}

thread_local! {
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

impl Encode for Labelled {
    fn encode(&self, event: &HubEvent, _: Cursor) -> Option<Frame> {
        ENCODED.set(ENCODED.get() + 1);
        let wanted = !self.odd_only || event.sequence % 2 == 1;
        wanted.then(|| Frame::text(&format!("{}:{}", event.sequence, self.label)))
    }

    fn union(&self, other: &Self) -> Self {
        Self {
            label: self.label.min(other.label),
            odd_only: self.odd_only && other.odd_only,
        }
    }
}

pub(super) const ALL: Labelled = Labelled {
    label: "a",
    odd_only: false,
};

pub(super) type TestHub = Hub<Labelled, Client>;

pub(super) fn hub() -> TestHub {
    Hub::new(Epoch::from_unix_micros(EPOCH), 0, RingLimits::default())
}

fn alert(sequence: u64, severity: &str) -> Arc<HubEvent> {
    event(
        sequence,
        "threat_alert",
        json!({"incident_id": "t", "threat_type": "x", "severity": severity}),
    )
}

fn progress(sequence: u64, investigation: &str) -> Arc<HubEvent> {
    let data = json!({"investigation_id": investigation, "progress": 1, "status": "S"});
    event(sequence, "investigation_update", data)
}

pub(super) fn event(sequence: u64, name: &str, data: serde_json::Value) -> Arc<HubEvent> {
    let kind = catalogue::find(Domain::Threat, name).unwrap();
    let data = data.as_object().unwrap().clone();
    let topic = kind.route.topic(&data).unwrap();
    let event = Event {
        kind,
        id: sequence.to_string(),
        source: "s".into(),
        time: Timestamp::from_unix_millis(0).unwrap(),
        priority: Priority::Low,
        data,
    };
    Arc::new(HubEvent {
        sequence,
        topic,
        event,
        trace: None,
        weight: 100,
    })
}

pub(super) fn alerts(filter: Option<Filter>) -> Selection {
    Selection {
        filter,
        ..Selection::of(Channel::ThreatAlerts)
    }
}

fn investigation(id: Option<&str>) -> Selection {
    Selection {
        object: id.map(str::to_owned),
        ..Selection::of(Channel::InvestigationProgress)
    }
}

fn severity(value: &str) -> Option<Filter> {
    Filter::new(vec![Clause::new(
        "severity",
        Compare::EqualIgnoringCase,
        vec![value.to_owned()],
    )])
}

pub(super) fn publish<K: Encode>(hub: &mut Hub<K, Client>, events: &[Arc<HubEvent>]) -> FanOut {
    let position = events.last().map_or(hub.position, |event| event.sequence);
    hub.publish(events, position);
    let (outcome, more) = hub.flush(usize::MAX);
    assert!(!more);
    outcome
}

/// Subscribes from now on and goes live.
pub(super) fn follow(
    hub: &mut TestHub,
    client: &Client,
    selection: Selection,
) -> (MemberId, SubscriptionId) {
    let member = hub.join(client.clone());
    let id = hub.subscribe(member, selection, &ALL, None);
    assert_eq!(hub.catch_up(id), Progress::Live);
    (member, id)
}

/// Steps until live, from memory alone.
pub(super) fn catch_up<K: Encode>(hub: &mut Hub<K, Client>, id: SubscriptionId) {
    while hub.catch_up(id) == Progress::More {}
    assert_eq!(hub.catch_up(id), Progress::Live);
}

#[test]
fn a_subscriber_gets_what_comes_after_its_subscription() {
    let (mut hub, client) = (hub(), Client::default());
    publish(&mut hub, &[alert(1, "LOW")]);
    let (member, id) = follow(&mut hub, &client, alerts(None));
    assert_eq!(hub.cursor_of(id).sequence, 1);
    publish(
        &mut hub,
        &[alert(2, "LOW"), progress(3, "i"), alert(4, "LOW")],
    );
    hub.unsubscribe(id);
    publish(&mut hub, &[alert(5, "LOW")]);
    assert_eq!(client.received(), [2, 4]);
    hub.leave(member);
}

#[test]
fn a_batch_is_one_write_for_each_connection_that_it_touches() {
    let (mut hub, touched, other) = (hub(), Client::default(), Client::default());
    follow(&mut hub, &touched, alerts(None));
    follow(&mut hub, &other, investigation(None));
    let outcome = publish(
        &mut hub,
        &[alert(1, "LOW"), alert(2, "LOW"), alert(3, "LOW")],
    );
    assert_eq!((touched.writes.get(), other.writes.get()), (1, 0));
    assert_eq!(
        outcome,
        FanOut {
            written: 3,
            queued: 0,
            dropped: 0
        }
    );
}

#[test]
fn an_event_that_matches_twice_arrives_once() {
    let (mut hub, client) = (hub(), Client::default());
    let member = hub.join(client.clone());
    for filter in [None, severity("HIGH"), severity("high")] {
        let id = hub.subscribe(member, alerts(filter), &ALL, None);
        catch_up(&mut hub, id);
    }
    publish(&mut hub, &[alert(1, "HIGH"), alert(2, "LOW")]);
    assert_eq!(client.received(), [1, 2]);
}

#[test]
fn equal_filters_and_encodings_are_worked_once_per_event() {
    let mut hub = hub();
    let clients: Vec<Client> = (0..1_000).map(|_| Client::default()).collect();
    for (index, client) in clients.iter().enumerate() {
        follow(
            &mut hub,
            client,
            alerts(severity(
                ["LOW", "MEDIUM", "HIGH", "CRITICAL", "INFO"][index % 5],
            )),
        );
    }
    assert_eq!(
        (hub.filters.len(), hub.encodings.len(), hub.groups.len()),
        (5, 1, 5)
    );
    let (evaluated, encoded) = (hub.filters.evaluations(), ENCODED.get());
    publish(&mut hub, &[alert(1, "HIGH")]);
    assert_eq!(hub.filters.evaluations() - evaluated, 1);
    assert_eq!(ENCODED.get() - encoded, 1);
    assert_eq!(
        clients
            .iter()
            .filter(|client| client.received() == [1])
            .count(),
        200
    );
}

#[test]
fn an_event_costs_what_it_touches() {
    let mut hub = hub();
    for index in 0..500 {
        follow(
            &mut hub,
            &Client::default(),
            investigation(Some(&index.to_string())),
        );
    }
    let client = Client::default();
    follow(&mut hub, &client, investigation(None));
    publish(&mut hub, &[progress(1, "7")]);
    assert_eq!(hub.reached.len(), 2);
    assert_eq!(client.received(), [1]);
}

#[test]
fn nothing_is_left_of_those_who_left() {
    let mut hub = hub();
    let members: Vec<MemberId> = (0..10)
        .map(|index| {
            follow(
                &mut hub,
                &Client::default(),
                alerts(severity(&index.to_string())),
            )
            .0
        })
        .collect();
    members.into_iter().for_each(|member| hub.leave(member));
    assert_eq!(
        (hub.filters.len(), hub.encodings.len(), hub.groups.len()),
        (0, 0, 0)
    );
    assert!(hub.members.is_empty() && hub.subscriptions.is_empty());
}

/// Whoever follows into its place has nothing of it.
#[test]
fn who_has_left_subscribes_to_nothing() {
    let (mut hub, follower) = (hub(), Client::default());
    let (gone, _) = follow(&mut hub, &Client::default(), alerts(None));
    hub.leave(gone);
    let member = hub.join(follower.clone());
    let id = hub.subscribe(gone, alerts(None), &ALL, None);
    assert_eq!(hub.catch_up(id), Progress::Gone);
    assert!(hub.replace(id, alerts(None), &ALL, None).is_none());
    hub.unsubscribe(id);
    hub.settle(gone);
    hub.leave(gone);
    publish(&mut hub, &[alert(1, "LOW")]);
    assert_eq!(follower.received(), Vec::<u64>::new());
    hub.leave(member);
    assert!(hub.members.is_empty() && hub.subscriptions.is_empty());
}

#[test]
fn leaving_between_batch_and_flush_is_harmless() {
    let (mut hub, stays, leaves) = (hub(), Client::default(), Client::default());
    follow(&mut hub, &stays, alerts(None));
    let (member, _) = follow(&mut hub, &leaves, alerts(None));
    hub.publish(&[alert(1, "LOW")], 1);
    hub.leave(member);
    let newcomer = Client::default();
    follow(&mut hub, &newcomer, alerts(None));
    hub.flush(usize::MAX);
    assert_eq!(
        (stays.received(), leaves.received(), newcomer.received()),
        (vec![1], vec![], vec![])
    );
}

#[test]
fn frames_for_closed_connections_are_counted_as_dropped() {
    let (mut hub, client) = (hub(), Client::default());
    follow(&mut hub, &client, alerts(None));
    client.gone.set(true);
    assert_eq!(publish(&mut hub, &[alert(1, "LOW")]).dropped, 1);
}

#[test]
fn a_returning_subscriber_is_served_from_memory_then_live() {
    let (mut hub, client) = (hub(), Client::default());
    let events: Vec<_> = (1..=2_000).map(|sequence| alert(sequence, "LOW")).collect();
    publish(&mut hub, &events);
    let member = hub.join(client.clone());
    let id = hub.subscribe(member, alerts(None), &ALL, Some(3));
    assert_eq!(hub.cursor_of(id).sequence, 3);
    // Live events during the replay wait for their turn.
    assert_eq!(hub.catch_up(id), Progress::More);
    publish(&mut hub, &[alert(2_001, "LOW")]);
    catch_up(&mut hub, id);
    publish(&mut hub, &[alert(2_002, "LOW")]);
    assert_eq!(client.received(), (4..=2_002).collect::<Vec<_>>());
}

#[test]
fn what_memory_has_forgotten_comes_from_history() {
    let limits = RingLimits {
        age: Duration::from_secs(60),
        bytes: 1_000,
    };
    let mut hub: TestHub = Hub::new(Epoch::from_unix_micros(EPOCH), 0, limits);
    let events: Vec<_> = (1..=100).map(|sequence| alert(sequence, "LOW")).collect();
    publish(&mut hub, &events);
    let floor = hub.ring.floor();
    assert!((80..100).contains(&floor), "{floor}");
    assert!(!hub.remembers(floor - 1) && hub.remembers(floor));
    let client = Client::default();
    let member = hub.join(client.clone());
    let id = hub.subscribe(member, alerts(None), &ALL, Some(0));
    let Progress::Backlog(backlogs) = hub.catch_up(id) else {
        panic!()
    };
    let [backlog] = backlogs.as_slice() else {
        panic!("{backlogs:?}")
    };
    assert_eq!((backlog.after, backlog.until), (0, floor));
    let mut rest = &events[..backlog.until as usize];
    while !rest.is_empty() {
        let taken = hub.replay(id, backlog.epoch, rest, backlog.until);
        rest = &rest[taken..];
    }
    catch_up(&mut hub, id);
    assert_eq!(client.received(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn history_that_matches_nothing_still_moves_the_cursor() {
    let limits = RingLimits {
        age: Duration::ZERO,
        bytes: 0,
    };
    let mut hub: TestHub = Hub::new(Epoch::from_unix_micros(EPOCH), 50, limits);
    let member = hub.join(Client::default());
    let id = hub.subscribe(member, alerts(None), &ALL, Some(10));
    let Progress::Backlog(backlogs) = hub.catch_up(id) else {
        panic!()
    };
    let [backlog] = backlogs.as_slice() else {
        panic!("{backlogs:?}")
    };
    assert_eq!(hub.replay(id, backlog.epoch, &[], backlog.until), 0);
    assert_eq!(hub.catch_up(id), Progress::Live);
}

#[test]
fn a_replay_skips_what_another_subscription_of_the_connection_brought() {
    let (mut hub, client) = (hub(), Client::default());
    publish(&mut hub, &[alert(1, "HIGH"), alert(2, "LOW")]);
    let (member, _) = follow(&mut hub, &client, alerts(severity("HIGH")));
    publish(&mut hub, &[alert(3, "HIGH"), alert(4, "LOW")]);
    let id = hub.subscribe(member, alerts(None), &ALL, Some(0));
    catch_up(&mut hub, id);
    assert_eq!(client.received(), [3, 1, 2, 4]);
}

#[test]
fn an_event_that_another_encoding_left_out_is_not_skipped() {
    let (mut hub, client) = (hub(), Client::default());
    let member = hub.join(client.clone());
    let odd = Labelled {
        label: "a",
        odd_only: true,
    };
    let first = hub.subscribe(member, alerts(None), &odd, None);
    catch_up(&mut hub, first);
    publish(&mut hub, &[alert(1, "LOW"), alert(2, "LOW")]);
    let second = hub.subscribe(member, alerts(None), &ALL, Some(0));
    catch_up(&mut hub, second);
    assert_eq!(client.received(), [1, 2]);
}

#[test]
fn a_subscriber_that_knows_more_than_the_hub_waits_for_it() {
    let (mut hub, client) = (hub(), Client::default());
    publish(&mut hub, &[alert(1, "LOW")]);
    let member = hub.join(client.clone());
    let id = hub.subscribe(member, alerts(None), &ALL, Some(3));
    assert_eq!(hub.catch_up(id), Progress::Ahead);
    publish(
        &mut hub,
        &[alert(2, "LOW"), alert(3, "LOW"), alert(4, "LOW")],
    );
    catch_up(&mut hub, id);
    publish(&mut hub, &[alert(5, "LOW")]);
    assert_eq!(client.received(), [4, 5]);
}

#[test]
fn a_new_life_of_the_stream_begins_at_its_start_for_everyone() {
    let (mut hub, client) = (hub(), Client::default());
    publish(&mut hub, &[alert(1, "LOW"), alert(2, "HIGH")]);
    follow(&mut hub, &client, alerts(severity("HIGH")));
    publish(&mut hub, &[alert(3, "HIGH")]);
    hub.restart(Epoch::from_unix_micros(2), 0);
    assert_eq!(hub.cursor().to_string(), "2-0");
    publish(
        &mut hub,
        &[alert(1, "HIGH"), alert(2, "LOW"), alert(3, "HIGH")],
    );
    assert_eq!(client.received(), [3, 1, 3]);
}

#[test]
fn a_subscription_that_ended_stays_ended() {
    let (mut hub, client) = (hub(), Client::default());
    let member = hub.join(client.clone());
    let ended = hub.subscribe(member, alerts(None), &ALL, Some(0));
    hub.unsubscribe(ended);
    let other = hub.subscribe(member, investigation(None), &ALL, None);
    catch_up(&mut hub, other);
    assert_eq!(hub.catch_up(ended), Progress::Gone);
    publish(&mut hub, &[alert(1, "LOW")]);
    assert!(client.received().is_empty());
}

#[test]
fn a_replacement_brings_what_its_predecessor_did_not() {
    let (mut hub, client) = (hub(), Client::default());
    publish(&mut hub, &[alert(1, "HIGH"), alert(2, "LOW")]);
    let (_, first) = follow(&mut hub, &client, alerts(severity("HIGH")));
    publish(&mut hub, &[alert(3, "HIGH"), alert(4, "LOW")]);
    let second = hub.replace(first, alerts(None), &ALL, Some(0)).unwrap();
    assert_eq!(hub.catch_up(first), Progress::Gone);
    catch_up(&mut hub, second);
    publish(&mut hub, &[alert(5, "LOW")]);
    assert_eq!(client.received(), [3, 1, 2, 4, 5]);
    assert_eq!(hub.subscriptions.len(), 1);
    let third = hub.replace(second, alerts(severity("HIGH")), &ALL, None);
    catch_up(&mut hub, third.unwrap());
    publish(&mut hub, &[alert(6, "LOW"), alert(7, "HIGH")]);
    assert_eq!(client.received()[5..], [7]);
}

#[test]
fn a_replacement_goes_on_where_its_predecessor_stood() {
    let (mut hub, client) = (hub(), Client::default());
    let events: Vec<_> = (1..=600).map(|sequence| alert(sequence, "LOW")).collect();
    publish(&mut hub, &events);
    let member = hub.join(client.clone());
    let mut id = hub.subscribe(member, alerts(None), &ALL, Some(0));
    assert_eq!(hub.catch_up(id), Progress::More);
    id = hub.replace(id, alerts(None), &ALL, None).unwrap();
    assert_eq!(hub.cursor_of(id).sequence, client.received().len() as u64);
    id = hub.replace(id, alerts(None), &ALL, Some(0)).unwrap();
    catch_up(&mut hub, id);
    assert_eq!(client.received(), (1..=600).collect::<Vec<_>>());
}

#[test]
fn replacing_without_end_is_refused_while_a_replay_waits() {
    let mut hub = hub();
    publish(&mut hub, &[alert(1, "LOW")]);
    let member = hub.join(Client::default());
    let mut id = hub.subscribe(member, alerts(None), &ALL, Some(0));
    for _ in 0..member::MAX_PREDECESSORS {
        id = hub.replace(id, alerts(None), &ALL, Some(0)).unwrap();
    }
    assert_eq!(hub.replace(id, alerts(None), &ALL, Some(0)), None);
    catch_up(&mut hub, id);
    assert!(hub.replace(id, alerts(None), &ALL, Some(0)).is_some());
    hub.leave(member);
    assert!(hub.subscriptions.is_empty());
}

proptest! {
    /// Whatever the interleaving of batches, steps, subscriptions and leaves,
    /// each subscription's events arrive once and in order.
    #[test]
    fn every_interleaving_delivers_once_and_in_order(steps in prop::collection::vec((0_u8..6, 0_u64..40), 1..60)) {
        let mut hub = hub();
        let mut sequence = 0;
        let mut active: Vec<(Client, SubscriptionId, u64)> = Vec::new();
        for (action, number) in steps {
            match action {
                0 | 1 => {
                    let batch: Vec<_> = (0..=number % 4).map(|_| { sequence += 1; alert(sequence, "LOW") }).collect();
                    publish(&mut hub, &batch);
                }
                2 => {
                    let client = Client::default();
                    let start = number.min(sequence);
                    let member = hub.join(client.clone());
                    let id = hub.subscribe(member, alerts(None), &ALL, Some(start));
                    active.push((client, id, start));
                }
                3 | 4 if !active.is_empty() => {
                    let index = number as usize % active.len();
                    hub.catch_up(active[index].1);
                }
                5 if active.len() > 2 => {
                    let index = number as usize % active.len();
                    let (_, id, _) = active.swap_remove(index);
                    hub.unsubscribe(id);
                }
                _ => {}
            }
        }
        for (client, id, start) in active {
            catch_up(&mut hub, id);
            prop_assert_eq!(client.received(), (start + 1..=sequence).collect::<Vec<_>>());
        }
    }
}

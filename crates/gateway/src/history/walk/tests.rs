//! Walks give what naive reading gives, whatever the pages are like.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use signalbox_protocol::catalogue::{self, Audience, Topic};
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::timestamp::Timestamp;

use super::*;
use crate::hub::{Address, Channels};

const CHANNELS: [Channel; 3] = [
    Channel::ThreatAlerts,
    Channel::InvestigationProgress,
    Channel::SystemMetrics,
];

/// A history in memory, whose pages are small and whose servers lag and fail.
struct Fake {
    events: Vec<Arc<HubEvent>>,
    luck: Cell<u64>,
    /// The wildcards that were asked for.
    asked: RefCell<Vec<String>>,
}

impl Fake {
    fn draw(&self, most: u64) -> u64 {
        let next = self.luck.get().wrapping_mul(6_364_136_223_846_793_005);
        self.luck.set(next.wrapping_add(1_442_695_040_888_963_407));
        (self.luck.get() >> 33) % most
    }
}

impl Pages for Fake {
    async fn page(
        &self,
        wildcard: &str,
        after: u64,
        until: u64,
        limits: PageLimits,
    ) -> Result<Part, BusError> {
        self.asked.borrow_mut().push(wildcard.to_owned());
        let most = match self.draw(8) {
            0 => {
                return Err(BusError::Api {
                    action: "read".to_owned(),
                    cause: "no luck".to_owned(),
                });
            }
            1 => 0,
            other => (other as usize).min(limits.messages),
        };
        let on_wildcard = |event: &&Arc<HubEvent>| {
            (after + 1..=until).contains(&event.sequence)
                && is_on(&subject::topic(&event.topic), wildcard)
        };
        let mut found: Vec<_> = self.events.iter().filter(on_wildcard).cloned().collect();
        let is_last = found.len() <= most && most > 0;
        found.truncate(most);
        let last = found.last().map_or(after, |event| event.sequence);
        Ok(Part {
            events: found.into(),
            covered: if is_last { until } else { last },
        })
    }
}

/// Whether a subject matches a wildcard, token by token.
fn is_on(subject: &str, wildcard: &str) -> bool {
    let (mut subject, mut wildcard) = (subject.split('.'), wildcard.split('.'));
    loop {
        match (subject.next(), wildcard.next()) {
            (None, None) => return true,
            (Some(token), Some(pattern)) if pattern == "*" || pattern == token => {}
            _ => return false,
        }
    }
}

fn event(sequence: u64, topic: Topic) -> Arc<HubEvent> {
    Arc::new(HubEvent {
        sequence,
        topic,
        event: Event {
            kind: catalogue::all().next().unwrap(),
            id: sequence.to_string(),
            source: "s".into(),
            time: Timestamp::from_unix_millis(0).unwrap(),
            priority: Priority::Low,
            data: serde_json::Map::new(),
        },
        trace: None,
        weight: 0,
    })
}

fn audience() -> impl Strategy<Value = Audience> {
    prop::sample::select(vec![
        Audience::Nobody,
        Audience::Everyone,
        Audience::User("ada".to_owned()),
        Audience::User("bob".to_owned()),
    ])
}

fn object() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]))
}

fn topic() -> impl Strategy<Value = Topic> {
    let channel = prop::sample::select(CHANNELS.to_vec());
    (channel, object(), audience()).prop_map(|(channel, object, audience)| Topic {
        channel,
        object,
        audience,
    })
}

fn address() -> impl Strategy<Value = Address> {
    let channels = prop::sample::subsequence(CHANNELS.to_vec(), 1..=CHANNELS.len());
    (channels, object(), prop::option::of(audience())).prop_map(|(channels, object, audience)| {
        Address {
            channels: channels.into_iter().collect::<Channels>(),
            object,
            audience,
        }
    })
}

/// Walks to the end, as the hub does; gives what came.
async fn walk(fake: &Fake, mut backlogs: Vec<Backlog>) -> Vec<u64> {
    let mut walk = Walk::default();
    let mut came = Vec::new();
    loop {
        backlogs.retain(|backlog| backlog.after < backlog.until);
        if backlogs.is_empty() {
            return came;
        }
        let Ok(chapter) = walk.read(fake, &backlogs).await else {
            continue;
        };
        let least = backlogs.iter().map(|backlog| backlog.after).min().unwrap();
        assert_eq!(chapter.is_stuck, chapter.covered == least);
        assert!(
            chapter
                .events
                .iter()
                .all(|event| event.sequence <= chapter.covered)
        );
        for event in chapter.events {
            let is_owed = backlogs.iter().any(|backlog| {
                backlog.after < event.sequence && backlog.address.covers(&event.topic)
            });
            if is_owed {
                came.push(event.sequence);
            }
        }
        for backlog in &mut backlogs {
            backlog.after = backlog.after.max(chapter.covered);
        }
    }
}

fn backlog(address: Address, after: u64, until: u64) -> Backlog {
    Backlog {
        epoch: Epoch::from_unix_micros(1),
        address,
        after,
        until,
    }
}

proptest! {
    #[test]
    fn a_walk_has_everything_once_and_in_order(
        topics in prop::collection::vec(topic(), 0..120),
        asked in prop::collection::vec((address(), 0..60_u64), 1..8),
        luck in any::<u64>(),
    ) {
        let events: Vec<_> = (1..).zip(topics).map(|(sequence, topic)| event(sequence, topic)).collect();
        let until = events.len() as u64;
        let backlogs: Vec<Backlog> = asked
            .into_iter()
            .map(|(address, after)| backlog(address, after.min(until), until))
            .collect();
        let is_owed = |event: &&Arc<HubEvent>| backlogs.iter().any(|backlog| {
            backlog.after < event.sequence && backlog.address.covers(&event.topic)
        });
        let expected: Vec<u64> = events.iter().filter(is_owed).map(|event| event.sequence).collect();
        let fake = Fake { events, luck: Cell::new(luck), asked: RefCell::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let came = runtime.block_on(walk(&fake, backlogs));
        prop_assert_eq!(came, expected);
    }
}

fn fake() -> Fake {
    Fake {
        events: Vec::new(),
        luck: Cell::new(7),
        asked: RefCell::default(),
    }
}

/// The backlogs of so many projects of a connection, and of its user.
fn many(projects: usize) -> Vec<Backlog> {
    let channels = Channels::of(&CHANNELS[..2]);
    let project = |index: usize| Address {
        channels,
        object: Some(format!("p-{index}")),
        audience: None,
    };
    let mut backlogs: Vec<Backlog> = (0..projects)
        .map(|index| backlog(project(index), 5, 9))
        .collect();
    let user = Address {
        channels: CHANNELS.into_iter().collect(),
        object: None,
        audience: Some(Audience::User("ada".to_owned())),
    };
    backlogs.push(backlog(user, 3, 9));
    backlogs
}

#[test]
fn a_room_is_one_question_and_many_rooms_are_a_few() {
    let few = wildcards(&many(2));
    let expected = [
        ("topics.*.=p-0.*".to_owned(), 5),
        ("topics.*.=p-1.*".to_owned(), 5),
        ("topics.*.*.=ada".to_owned(), 3),
    ];
    assert_eq!(few, HashMap::from(expected));
    let whole = wildcards(&many(MAX_LANES));
    let expected = CHANNELS.map(|channel| (format!("topics.{channel}.*.*"), 3));
    assert_eq!(whole, HashMap::from(expected));
}

#[test]
fn pages_are_smaller_the_more_of_them_there_are() {
    for lanes in 1..=MAX_LANES {
        let limits = limits(lanes);
        assert!((SMALLEST_PAGE..=LARGEST_PAGE).contains(&limits.messages));
        assert!(limits.messages * lanes <= MESSAGES.max(SMALLEST_PAGE * lanes));
        assert!(limits.bytes * lanes <= BYTES && limits.bytes >= 32 * 1024);
    }
}

#[tokio::test]
async fn another_life_of_the_stream_begins_without_what_was_read() {
    let topic = Topic {
        channel: CHANNELS[0],
        object: Some("p-0".to_owned()),
        audience: Audience::Nobody,
    };
    let mut fake = fake();
    fake.events = (1..=9)
        .map(|sequence| event(sequence, topic.clone()))
        .collect();
    let mut backlogs = many(1);
    let mut walk = Walk::default();
    while walk.read(&fake, &backlogs).await.is_err() {}
    let asked = fake.asked.borrow().len();
    for backlog in &mut backlogs {
        backlog.epoch = Epoch::from_unix_micros(2);
        backlog.after = 0;
    }
    let chapter = loop {
        if let Ok(chapter) = walk.read(&fake, &backlogs).await {
            break chapter;
        }
    };
    assert!(fake.asked.borrow().len() >= asked + 2);
    assert_eq!(chapter.epoch, Epoch::from_unix_micros(2));
    let came: Vec<u64> = chapter.events.iter().map(|event| event.sequence).collect();
    assert_eq!(came, (1..=chapter.covered).collect::<Vec<_>>());
}

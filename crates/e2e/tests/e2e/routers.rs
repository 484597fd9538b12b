//! Several routers: they share the domains fairly and take over from one
//! another - killed, stopped in order, or halted and continued - and whatever
//! happens, each event is stored once and in the order of EVENTS on its
//! subject.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::stream::{EVENTS, TOPICS};
use signalbox_bus::{Bus, header, history, key};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::CE_ID;
use signalbox_testkit::{Arguments, DEADLINE, Platform, Service, WsClient, eventually};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::Message;

use crate::events::{alert, send};

const INVESTIGATIONS: usize = 50;
/// 200 events a second.
const PACE: Duration = Duration::from_millis(5);
/// Events in a burst.
const BURST: usize = 2_000;
/// Events that the router has stored when the fault comes.
const FAULT_AT: usize = 100;
/// Events published evenly after it.
const PACED: usize = 500;
/// A page of the history.
const PAGE: usize = 256;

/// Ids of events by what they are about, which is one TOPICS subject each.
type Ids = BTreeMap<String, Vec<String>>;

/// The routers' shares, by router.
async fn shares(admin: &Bus) -> BTreeMap<String, usize> {
    let bucket = admin.bucket(key::LEASES).await.unwrap();
    let mut shares = BTreeMap::new();
    for domain in Domain::ALL {
        if let Some(holder) = holder(&bucket, domain).await {
            *shares.entry(holder).or_default() += 1;
        }
    }
    shares
}

async fn holder(bucket: &async_nats::jetstream::kv::Store, domain: Domain) -> Option<String> {
    let value = bucket.get(key::router_lease(domain)).await.unwrap()?;
    (!value.is_empty()).then(|| String::from_utf8(value.to_vec()).unwrap())
}

/// Waits until these routers, and no others, have these shares.
async fn shared(admin: &Bus, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected
        .iter()
        .map(|(router, share)| ((*router).to_owned(), *share))
        .collect();
    eventually(&format!("shares {expected:?}"), DEADLINE, async || {
        (shares(admin).await == expected).then_some(())
    })
    .await;
}

/// The id under which a router holds leases.
async fn id(router: &Service) -> String {
    let line = router.process.wait_for_line("router=", DEADLINE).await;
    let (_, id) = line.split_once("router=").unwrap();
    id.split_whitespace().next().unwrap().to_owned()
}

/// Two routers with their ids, the holder of domain `threat` first.
async fn pair<'a>(admin: &Bus, one: &'a Service, other: &'a Service) -> [(&'a Service, String); 2] {
    let (first, second) = (id(one).await, id(other).await);
    shared(admin, &[(&first, 6), (&second, 6)]).await;
    let bucket = admin.bucket(key::LEASES).await.unwrap();
    let pair = [(one, first), (other, second)];
    if holder(&bucket, Domain::Threat).await.as_ref() == Some(&pair[0].1) {
        pair
    } else {
        let [one, other] = pair;
        [other, one]
    }
}

/// What was published and acknowledged.
struct Traffic {
    bus: Bus,
    number: usize,
    /// Position in EVENTS, what it is about, id.
    sent: Vec<(u64, String, String)>,
}

impl Traffic {
    async fn new(platform: &Platform) -> Self {
        Self {
            bus: platform.bus(User::Producer).await,
            number: 0,
            sent: Vec::new(),
        }
    }

    /// Publishes this many at once, a half of them on one subject.
    async fn burst(&mut self, count: usize) {
        let first = self.number;
        self.number += count;
        let bus = &self.bus;
        let sent = join_all((first..first + count).map(|number| async move {
            let id = format!("e-{number}");
            let (about, stored) = if number % 2 == 0 {
                let stored = send(bus, "threat_alert", &id, &alert("HIGH")).await;
                ("alerts".to_owned(), stored)
            } else {
                let about = format!("inv-{}", number % INVESTIGATIONS);
                let data = json!({"investigation_id": about, "progress": 1, "status": "RUNNING"});
                let stored = send(bus, "investigation_update", &id, &data).await;
                (about, stored)
            };
            (stored.sequence, about, id)
        }));
        self.sent.extend(sent.await);
    }

    /// Publishes one after the other, evenly, for at least this time.
    async fn stream(&mut self, count: usize, least: Duration) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (start, mut done) = (Instant::now(), 0);
        while done < count || start.elapsed() < least {
            pace.tick().await;
            self.burst(1).await;
            done += 1;
        }
    }

    /// The order that EVENTS gave them.
    fn expected(&self) -> Ids {
        let mut sent = self.sent.clone();
        sent.sort();
        let mut ids = Ids::new();
        for (_, about, id) in sent {
            ids.entry(about).or_default().push(id);
        }
        ids
    }
}

/// Follows alerts and all investigations until as many events have come as
/// `expected` says.
async fn follow(
    platform: &Platform,
    mut expected: watch::Receiver<Option<usize>>,
) -> JoinHandle<Ids> {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    for channel in ["threat_alerts", "investigation_progress"] {
        client.subscribe(json!({"channel": channel})).await;
    }
    tokio::spawn(async move {
        let (mut ids, mut count) = (Ids::new(), 0);
        while expected.borrow_and_update().is_none_or(|all| count < all) {
            let message = tokio::select! {
                message = client.next_message(DEADLINE) => message,
                changed = expected.changed() => {
                    changed.unwrap();
                    continue;
                }
            };
            let Some(Message::Text(text)) = message else {
                continue;
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let about = match frame["type"].as_str().unwrap() {
                "threat_alert" => "alerts",
                "investigation_update" => frame["investigation_id"].as_str().unwrap(),
                _ => continue,
            };
            let id = frame["id"].as_str().unwrap().to_owned();
            ids.entry(about.to_owned()).or_default().push(id);
            count += 1;
        }
        ids
    })
}

/// What lies on TOPICS.
async fn stored(admin: &Bus) -> Ids {
    let (mut ids, mut from) = (Ids::new(), 1);
    loop {
        let page = history::page(admin, TOPICS, "topics.>", from, PAGE)
            .await
            .unwrap();
        for message in &page.messages {
            from = message.sequence + 1;
            let id = header::value(message.headers.as_ref().unwrap(), CE_ID).unwrap();
            let object = message.subject.split('.').nth(2).unwrap();
            let about = object.strip_prefix('=').unwrap_or("alerts");
            ids.entry(about.to_owned()).or_default().push(id.to_owned());
        }
        if page.is_last {
            return ids;
        }
    }
}

/// Nothing is lost, doubled or out of order, for followers and on TOPICS.
async fn verify(
    admin: &Bus,
    traffic: &Traffic,
    expect: &watch::Sender<Option<usize>>,
    followers: Vec<JoinHandle<Ids>>,
) {
    let expected = traffic.expected();
    expect.send(Some(traffic.sent.len())).unwrap();
    for follower in followers {
        assert_eq!(follower.await.unwrap(), expected);
    }
    assert_eq!(stored(admin).await, expected);
}

#[tokio::test]
async fn routers_share_the_domains_fairly() {
    let platform = Platform::start(0).await;
    let admin = platform.bus(User::Admin).await;
    let first = id(&platform.router).await;
    shared(&admin, &[(&first, 12)]).await;
    let two = platform.start_router().await;
    let second = id(&two).await;
    shared(&admin, &[(&first, 6), (&second, 6)]).await;
    let three = platform.start_router().await;
    let third = id(&three).await;
    shared(&admin, &[(&first, 4), (&second, 4), (&third, 4)]).await;
    two.process.sigterm();
    assert!(two.process.wait(DEADLINE).await.success());
    shared(&admin, &[(&first, 6), (&third, 6)]).await;
}

#[tokio::test]
async fn a_killed_router_is_replaced_when_its_leases_expire() {
    let platform = Platform::start(1).await;
    let admin = platform.bus(User::Admin).await;
    let other = platform.start_router().await;
    let [(victim, _), (_, heir)] = pair(&admin, &platform.router, &other).await;
    let (expect, expected) = watch::channel(None);
    let followers = vec![
        follow(&platform, expected.clone()).await,
        follow(&platform, expected).await,
    ];
    let mut traffic = Traffic::new(&platform).await;
    let killed = async {
        busy(victim).await;
        victim.process.kill9();
        held(&admin).await
    };
    let ((), held) = tokio::join!(traffic.burst(BURST), killed);
    assert!(held > 1, "the router was killed with {held} events");
    traffic.stream(PACED, Duration::ZERO).await;
    shared(&admin, &[(&heir, 12)]).await;
    verify(&admin, &traffic, &expect, followers).await;
}

/// No lease expires within the test: what is not released is not taken over.
#[tokio::test]
async fn a_router_that_stops_hands_over_at_once() {
    let patient = ["--lease-ttl", "600"];
    let arguments = Arguments {
        router: &patient,
        ..Arguments::default()
    };
    let platform = Platform::start_as(1, arguments).await;
    let admin = platform.bus(User::Admin).await;
    let other = platform.start_router_with(&patient).await;
    let [(leaver, _), (_, heir)] = pair(&admin, &platform.router, &other).await;
    let (expect, expected) = watch::channel(None);
    let followers = vec![follow(&platform, expected).await];
    let mut traffic = Traffic::new(&platform).await;
    let stopped = async {
        busy(leaver).await;
        leaver.process.sigterm();
        assert!(leaver.process.wait(DEADLINE).await.success());
    };
    tokio::join!(traffic.burst(BURST), stopped);
    shared(&admin, &[(&heir, 12)]).await;
    traffic.stream(PACED / 5, Duration::ZERO).await;
    verify(&admin, &traffic, &expect, followers).await;
}

/// A router that is halted with events in flight, for longer than its lease
/// and longer than TOPICS recognises a repeat, wakes up to find that others
/// have stored them, and more behind them.
#[tokio::test]
async fn a_router_that_was_halted_does_no_harm_when_it_goes_on() {
    const WINDOW: Duration = Duration::from_secs(1);
    let arguments = Arguments {
        init: &["--duplicate-window", "1"],
        router: &["--lease-ttl", "1"],
        ..Arguments::default()
    };
    let platform = Platform::start_as(1, arguments).await;
    let admin = platform.bus(User::Admin).await;
    let other = platform.start_router_with(arguments.router).await;
    let [(zombie, zombie_id), (_, heir)] = pair(&admin, &platform.router, &other).await;
    let (expect, expected) = watch::channel(None);
    let followers = vec![follow(&platform, expected).await];
    let mut traffic = Traffic::new(&platform).await;
    let halted = async {
        busy(zombie).await;
        zombie.process.sigstop();
        held(&admin).await
    };
    let ((), held) = tokio::join!(traffic.burst(BURST), halted);
    assert!(held > 1, "the router was halted with {held} events");
    shared(&admin, &[(&heir, 12)]).await;
    // The events that the zombie holds were stored longer ago than that.
    eventually("the events stored", DEADLINE, async || {
        (stored(&admin).await == traffic.expected()).then_some(())
    })
    .await;
    traffic.stream(0, 2 * WINDOW).await;
    zombie.process.sigcont();
    traffic.stream(PACED / 2, Duration::ZERO).await;
    zombie.process.wait_for_line("part left", DEADLINE).await;
    shared(&admin, &[(&heir, 6), (&zombie_id, 6)]).await;
    traffic.stream(PACED / 2, Duration::ZERO).await;
    verify(&admin, &traffic, &expect, followers).await;
}

/// Waits until a router is in the middle of its work.
async fn busy(router: &Service) {
    eventually("a busy router", DEADLINE, async || {
        let lines = router.process.stderr().lines();
        let routed = lines.iter().filter(|line| line.contains(" routed "));
        (routed.count() >= FAULT_AT).then_some(())
    })
    .await;
}

/// Events of domain `threat` that were delivered and not acknowledged.
async fn held(admin: &Bus) -> usize {
    let stream = admin.jetstream().get_stream(EVENTS).await.unwrap();
    let mut consumers = stream.consumers();
    while let Some(consumer) = consumers.next().await {
        let consumer = consumer.unwrap();
        if consumer.config.filter_subject == "events.threat.>" {
            return consumer.num_ack_pending;
        }
    }
    0
}

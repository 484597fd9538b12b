//! Promises 1 and 2 under fire: rounds of seeded faults against all processes
//! and connections, with many clients of all kinds, judged by the ledger.
//!
//! `SIGNALBOX_TEST_SEED` chooses another course of events; every failure names
//! the seed that leads to it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use signalbox_bus::Bus;
use signalbox_bus::server::User;
use signalbox_testkit::ledger::{Entitlement, Event, FaultKind};
use signalbox_testkit::{DEADLINE, LiveLedger, Platform, Proxy, Service, Subscriber, WsClient};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::events::{alert, send};

pub(crate) const SEED_VARIABLE: &str = "SIGNALBOX_TEST_SEED";
/// The course of events unless another is asked for.
const SEED: u64 = 1;
const ROUNDS: usize = 10;
const CLIENTS: usize = 200;
const GATEWAYS: usize = 2;
/// Gateways that a client tries before it begins again with the first.
const COURSE: usize = 7;
const INVESTIGATIONS: usize = 20;
const SEVERITIES: [&str; 4] = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];

/// Producers of alerts and of investigations; each awaits its acknowledgements
/// one by one, and together they publish some 200 events a second.
const LANES: usize = 4;
const LANE_PACE: Duration = Duration::from_millis(20);
/// Events of a lane in a round: three seconds.
const LANE_EVENTS: usize = 150;
/// The latest moment of a round at which its fault strikes, in milliseconds.
const LATEST_FAULT_MS: u64 = 1_500;
/// How late an event may come once everything works again.
const BOUND: Duration = Duration::from_secs(15);
/// How long a link to the bus that died silently may go unnoticed: twice what
/// the probes need.
const NOTICED: Duration = Duration::from_secs(12);
/// How long after a round its last event may come.
const SETTLING: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// What breaks in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    GatewayKilled,
    GatewayStopped,
    RouterKilled,
    RouterHalted,
    BusKilled,
    BusHalted,
    ClientsCut,
    BusCut,
    BusSilenced,
}

const FAULTS: [Fault; 9] = [
    Fault::GatewayKilled,
    Fault::GatewayStopped,
    Fault::RouterKilled,
    Fault::RouterHalted,
    Fault::BusKilled,
    Fault::BusHalted,
    Fault::ClientsCut,
    Fault::BusCut,
    Fault::BusSilenced,
];

/// A small generator of our own (SplitMix64), so that a seed means the same on
/// every machine and with every version of every library.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }
}

/// Every fault once, in an order of the dice, then any.
fn draw(dice: &mut Dice) -> Vec<Fault> {
    let mut rest = FAULTS.to_vec();
    let mut drawn = Vec::new();
    while !rest.is_empty() && drawn.len() < ROUNDS {
        drawn.push(rest.swap_remove(dice.roll(rest.len() as u64) as usize));
    }
    while drawn.len() < ROUNDS {
        drawn.push(dice.pick(&FAULTS));
    }
    drawn
}

/// A platform whose clients and gateways all go through proxies.
struct Stage {
    platform: Platform,
    /// Between the clients and each gateway.
    fronts: Vec<Proxy>,
    /// Between each gateway and the bus.
    backs: Vec<Proxy>,
}

impl Stage {
    async fn set() -> Self {
        let mut platform = Platform::start(0).await;
        let (mut fronts, mut backs) = (Vec::new(), Vec::new());
        for _ in 0..GATEWAYS {
            let bus = ([127, 0, 0, 1], platform.nats.port()).into();
            let back = Proxy::start(bus).await;
            let anywhere = ([127, 0, 0, 1], 0).into();
            let gateway = platform
                .start_gateway_at(anywhere, back.addr().port())
                .await;
            fronts.push(Proxy::start(gateway.listener()).await);
            backs.push(back);
            platform.gateways.push(gateway);
        }
        Self {
            platform,
            fronts,
            backs,
        }
    }

    /// Starts a gateway again where it was.
    async fn restart(&mut self, index: usize) {
        let gateway: &Service = &self.platform.gateways[index];
        let (listen, port) = (gateway.listener(), self.backs[index].addr().port());
        self.platform.gateways[index] = self.platform.start_gateway_at(listen, port).await;
    }

    /// Breaks something and mends it.
    async fn strike(&mut self, fault: Fault, dice: &mut Dice) {
        let index = dice.roll(GATEWAYS as u64) as usize;
        let pause = Duration::from_millis(500 + dice.roll(1_500));
        match fault {
            Fault::GatewayKilled => {
                self.platform.gateways[index].process.kill9();
                self.restart(index).await;
            }
            Fault::GatewayStopped => {
                let process = &self.platform.gateways[index].process;
                process.sigterm();
                let status = process.wait(DEADLINE).await;
                assert!(status.success(), "a gateway ended with {status}");
                self.restart(index).await;
            }
            Fault::RouterKilled => {
                self.platform.router.process.kill9();
                self.platform.router = self.platform.start_router().await;
            }
            Fault::RouterHalted => {
                self.platform.router.process.sigstop();
                sleep(pause).await;
                self.platform.router.process.sigcont();
            }
            Fault::BusKilled => {
                self.platform.nats.kill9();
                self.platform.nats.restart().await;
            }
            Fault::BusHalted => {
                self.platform.nats.sigstop();
                sleep(pause).await;
                self.platform.nats.sigcont();
            }
            Fault::ClientsCut => self.fronts[index].cut(),
            Fault::BusCut => {
                self.backs[index].refuse();
                self.backs[index].cut();
                sleep(pause).await;
                self.backs[index].admit();
            }
            Fault::BusSilenced => self.backs[index].silence(),
        }
    }
}

/// Who the client with this number is: of 200, 5 without permission, 65 for
/// all alerts, 65 for one severity and 65 for one investigation.
fn client(number: usize) -> (&'static str, Entitlement) {
    let alerts = Entitlement::to("threat_alerts");
    if number.is_multiple_of(40) {
        return ("producer", alerts.forbidden());
    }
    let entitlement = match number % 3 {
        0 => alerts,
        1 => alerts.filtered("severity", &[SEVERITIES[number % SEVERITIES.len()]]),
        _ => {
            let object = format!("inv-{}", number % INVESTIGATIONS);
            Entitlement::to("investigation_progress").of_object(&object)
        }
    };
    ("viewer", entitlement)
}

/// Publishes a lane's part of a round, at its pace whatever happens.
async fn lane(bus: Bus, ledger: Arc<LiveLedger>, round: usize, lane: usize, mut dice: Dice) {
    let mut pace = interval(LANE_PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..LANE_EVENTS {
        pace.tick().await;
        let id = format!("r{round}-l{lane}-{number}");
        // The first lane has all alerts, so that their order is known; the
        // others have investigations of their own.
        let (name, channel, object, data) = if lane == 0 {
            let data = alert(dice.pick(&SEVERITIES));
            ("threat_alert", "threat_alerts", None, data)
        } else {
            let share = INVESTIGATIONS.div_ceil(LANES - 1) as u64;
            let chosen = (dice.roll(share) as usize * (LANES - 1) + lane - 1) % INVESTIGATIONS;
            let object = format!("inv-{chosen}");
            let data = json!({"investigation_id": object, "progress": number, "status": "X"});
            (
                "investigation_update",
                "investigation_progress",
                Some(object),
                data,
            )
        };
        ledger.publishing(Event {
            id: id.clone(),
            channel: channel.to_owned(),
            object,
            data: data.clone(),
        });
        let stored = send(&bus, name, &id, &data).await;
        ledger.acknowledged(&id, stored.sequence);
    }
}

/// Waits until nobody misses anything.
async fn settle(ledger: &LiveLedger, what: &str) {
    let end = Instant::now() + SETTLING;
    loop {
        let verdict = ledger.verdict();
        if verdict.count(FaultKind::Lost) == 0 {
            return verdict.assert_clean(what);
        }
        assert!(Instant::now() < end, "{what}: {verdict}");
        sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_misordered_in_ten_rounds_of_faults() {
    let seed =
        std::env::var(SEED_VARIABLE).map_or(SEED, |text| text.parse().expect("a seed is a number"));
    let mut dice = Dice(seed);
    let mut stage = Stage::set().await;
    let ledger = LiveLedger::new(BOUND);
    let (stop, stopped) = watch::channel(false);
    let (answered, mut answers) = mpsc::channel(CLIENTS);
    let mut clients = JoinSet::new();
    let fronts: Vec<_> = stage.fronts.iter().map(Proxy::addr).collect();
    for number in 0..CLIENTS {
        let (role, entitlement) = client(number);
        // Each goes round the gateways by a course of its own, so that all
        // gateways have clients at all times.
        let mut gateways = vec![fronts[number % GATEWAYS]];
        gateways.extend((1..COURSE).map(|_| dice.pick(&fronts)));
        let subscriber = Subscriber {
            name: format!("c-{number}"),
            gateways,
            token: stage.platform.unlimited_token(role),
            entitlement,
            since: None,
        };
        clients.spawn(subscriber.run(Arc::clone(&ledger), answered.clone(), stopped.clone()));
    }
    for _ in 0..CLIENTS {
        timeout(DEADLINE, answers.recv()).await.unwrap().unwrap();
    }

    for (round, fault) in draw(&mut dice).into_iter().enumerate() {
        let what = format!("{SEED_VARIABLE}={seed}, round {round}, {fault:?}");
        let mut lanes = JoinSet::new();
        for number in 0..LANES {
            let bus = stage.platform.bus(User::Producer).await;
            let its_dice = Dice(dice.roll(u64::MAX));
            lanes.spawn(lane(bus, Arc::clone(&ledger), round, number, its_dice));
        }
        let delay = Duration::from_millis(dice.roll(LATEST_FAULT_MS));
        sleep(delay).await;
        ledger.disturbed();
        stage.strike(fault, &mut dice).await;
        ledger.calm();
        while let Some(lane) = lanes.join_next().await {
            lane.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        settle(&ledger, &what).await;
        eprintln!("{what}: {}", ledger.verdict());
    }

    stop.send(true).unwrap();
    let mut returns = 0;
    while let Some(client) = clients.join_next().await {
        returns += client.unwrap();
    }
    // What came unasked behind the last event would have come by now.
    let verdict = ledger.verdict();
    verdict.assert_clean(&format!("{SEED_VARIABLE}={seed}, at the end"));
    assert_eq!(verdict.acknowledged, ROUNDS * LANES * LANE_EVENTS);
    assert!(
        returns >= CLIENTS / GATEWAYS / 2,
        "{SEED_VARIABLE}={seed}: only {returns} returns"
    );
}

/// Nothing tells a gateway that a cable was pulled, but that its probes remain
/// unanswered.
#[tokio::test]
async fn a_link_to_the_bus_that_dies_silently_is_noticed() {
    let stage = Stage::set().await;
    let mut client = WsClient::connect(&stage.platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&stage.platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    let bus = stage.platform.bus(User::Producer).await;
    stage.backs[0].silence();
    send(&bus, "threat_alert", "behind", &alert("HIGH")).await;
    let frame = client.next_json(NOTICED).await;
    assert_eq!(frame["id"], "behind");
}

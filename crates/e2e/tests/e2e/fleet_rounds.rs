//! F4, F5, F7, G8 under fire: rounds of seeded faults against relays, gateways,
//! the bus and every connection, while an agent writes as fast as it may and two
//! dashboards watch. Each command is started once, and each dashboard gets the
//! bytes that the command wrote, each once, and its end last.
//!
//! 15 rounds; `SIGNALBOX_TEST_SCALE=7` runs 105. `SIGNALBOX_TEST_SEED` chooses
//! another course of events; every failure names the seed and the round.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_testkit::{Platform, Proxy, Service, post};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::faults::Dice;
use crate::fleet_script::{Known, Manner, RETURN_PAUSE, STEP, Script, open, read};
use crate::fleet_viewer::{Sights, Viewer};
use crate::fleet_world::UNLIMITED;

const SEED_VARIABLE: &str = "SIGNALBOX_TEST_SEED";
const SCALE_VARIABLE: &str = "SIGNALBOX_TEST_SCALE";
/// The course of events unless another is asked for.
const SEED: u64 = 1;
const ROUNDS: u64 = 15;
const GATEWAYS: usize = 2;
const RELAYS: usize = 2;
const VIEWERS: usize = 2;
const AGENT: &str = "builder-1";
/// A lease of one second is lost by relays that wait for a processor on a machine
/// with too much to do.
const RELAY: [&str; 2] = ["--lease-ttl", "2"];

/// What the agent writes where nothing limits it: 5 MB/s.
const FAST: Manner = Manner {
    rate: 5_000_000,
    piece: 48 * 1024,
    between: Duration::ZERO,
};
/// Bytes of a command's standard output at that rate: most of a second.
const FAST_BYTES: u64 = 3_500_000;
/// What an agent writes that keeps to the default limits, with room to spare for
/// two streams: 800 messages a minute.
const MODEST: Manner = Manner {
    rate: 1_000_000,
    piece: 96 * 1024,
    between: Duration::from_millis(150),
};
const MODEST_BYTES: u64 = 800_000;
const MODEST_ROUNDS: u64 = 2;

/// The latest moment of a round at which a fault strikes, in milliseconds.
const LATEST_FAULT_MS: u64 = 900;
/// The most faults of a round.
const MOST_FAULTS: u64 = 3;
/// How long after a round's last fault everybody may take to have everything.
const SETTLING: Duration = Duration::from_secs(90);
/// Lines of each service's log that are shown when that did not happen.
const LAST_WORDS: usize = 200;
const POLL: Duration = Duration::from_millis(20);

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    AgentCut,
    AgentSilenced,
    ViewerCut,
    RelayKilled,
    RelayHalted,
    GatewayKilled,
    BusCut,
    BusKilled,
}

const FAULTS: [Fault; 8] = [
    Fault::AgentCut,
    Fault::AgentSilenced,
    Fault::ViewerCut,
    Fault::RelayKilled,
    Fault::RelayHalted,
    Fault::GatewayKilled,
    Fault::BusCut,
    Fault::BusKilled,
];

/// A platform of which every connection can be broken.
struct Stage {
    platform: Platform,
    relays: Vec<Service>,
    /// Between the agent and each gateway, and between each viewer and each.
    doors: Vec<Vec<Proxy>>,
    /// Between each gateway and the bus.
    backs: Vec<Proxy>,
    arguments: Vec<&'static str>,
}

impl Stage {
    async fn set(arguments: &[&'static str]) -> Self {
        let mut platform = Platform::start(0).await;
        let mut backs = Vec::new();
        for _ in 0..GATEWAYS {
            let bus = ([127, 0, 0, 1], platform.nats.port()).into();
            let back = Proxy::start(bus).await;
            let port = back.addr().port();
            let gateway = platform.start_gateway_through(port, arguments).await;
            platform.gateways.push(gateway);
            backs.push(back);
        }
        let mut doors = Vec::new();
        for _ in 0..=VIEWERS {
            let mut own = Vec::new();
            for gateway in &platform.gateways {
                own.push(Proxy::start(gateway.listener()).await);
            }
            doors.push(own);
        }
        let mut relays = Vec::new();
        for _ in 0..RELAYS {
            relays.push(platform.start_relay(&RELAY).await);
        }
        Self {
            platform,
            relays,
            doors,
            backs,
            arguments: arguments.to_vec(),
        }
    }

    /// The addresses at which a client reaches the gateways; 0 is the agent.
    fn addresses(&self, client: usize) -> Vec<SocketAddr> {
        self.doors[client].iter().map(Proxy::addr).collect()
    }

    async fn agent_token(&self) -> String {
        let key = self.platform.api_key("agent");
        let body = json!({"api_key": key, "agent_id": AGENT, "ttl": 43_200});
        let listener = self.platform.gateways[0].listener();
        let (status, answer) = post(listener, "/api/v1/auth/token", &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Breaks something and mends it.
    async fn strike(&mut self, fault: Fault, dice: &mut Dice) {
        let gateway = dice.roll(GATEWAYS as u64) as usize;
        let relay = dice.roll(RELAYS as u64) as usize;
        let viewer = 1 + dice.roll(VIEWERS as u64) as usize;
        let pause = Duration::from_millis(200 + dice.roll(1_300));
        match fault {
            Fault::AgentCut => self.doors[0].iter().for_each(Proxy::cut),
            Fault::AgentSilenced => self.doors[0].iter().for_each(Proxy::silence),
            Fault::ViewerCut => self.doors[viewer].iter().for_each(Proxy::cut),
            Fault::RelayKilled => {
                self.relays[relay].process.kill9();
                self.relays[relay] = self.platform.start_relay(&RELAY).await;
            }
            Fault::RelayHalted => {
                self.relays[relay].process.sigstop();
                sleep(pause).await;
                self.relays[relay].process.sigcont();
            }
            Fault::GatewayKilled => {
                self.platform.gateways[gateway].process.kill9();
                let port = self.backs[gateway].addr().port();
                let started = self.platform.start_gateway_through(port, &self.arguments);
                let started = started.await;
                for doors in &self.doors {
                    doors[gateway].retarget(started.listener());
                }
                self.platform.gateways[gateway] = started;
            }
            Fault::BusCut => {
                self.backs[gateway].refuse();
                self.backs[gateway].cut();
                sleep(pause).await;
                self.backs[gateway].admit();
            }
            Fault::BusKilled => {
                self.platform.nats.kill9();
                self.platform.nats.restart().await;
            }
        }
    }

    /// Shows what the services said last.
    fn explain(&self, what: &str) {
        for service in self.platform.gateways.iter().chain(&self.relays) {
            let lines = service.process.stderr().lines();
            eprintln!("{what}: process {} said last", service.process.pid());
            for line in lines.iter().skip(lines.len().saturating_sub(LAST_WORDS)) {
                eprintln!("  {line}");
            }
        }
    }

    /// Asserts that nothing panicked.
    fn assert_sound(&self, what: &str) {
        for service in self.platform.gateways.iter().chain(&self.relays) {
            let lines = service.process.stderr().lines();
            let panic = lines.iter().find(|line| line.contains("panicked"));
            assert_eq!(panic, None, "{what}");
        }
    }
}

/// Asks for a command until it is accepted; gives its id.
async fn request(gateways: Vec<SocketAddr>, key: String, name: String, command: String) -> String {
    for gateway in gateways.iter().cycle() {
        let asked = async {
            let mut socket = open(*gateway, &key).await?;
            let join = json!({"type": "dashboard:connect", "dashboardId": name});
            let ask = json!({
                "type": "command:request",
                "agentId": AGENT,
                "command": command,
                "idempotencyKey": name,
                "queueIfOffline": true,
            });
            for message in [join, ask] {
                socket.send(Message::text(message.to_string())).await.ok()?;
            }
            loop {
                let Some(message) = read(socket.next().await)? else {
                    continue;
                };
                if message["type"] == "command:queued" {
                    return message["commandId"].as_str().map(str::to_owned);
                }
                if message["type"] == "command:error" {
                    return None;
                }
            }
        };
        if let Ok(Some(id)) = timeout(2 * STEP, asked).await {
            return id;
        }
        sleep(RETURN_PAUSE).await;
    }
    unreachable!("there are gateways")
}

/// Everybody who takes part, and what they noticed.
struct Cast {
    stage: Stage,
    known: Arc<Mutex<Known>>,
    sights: Vec<Arc<Mutex<Sights>>>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    dice: Dice,
}

impl Cast {
    async fn call(arguments: &[&'static str], manner: Manner, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let stage = Stage::set(arguments).await;
        let (stop, stopped) = watch::channel(false);
        let known = Arc::new(Mutex::new(Known::default()));
        let mut tasks = JoinSet::new();
        let script = Script {
            id: AGENT.to_owned(),
            token: stage.agent_token().await,
            gateways: stage.addresses(0),
            manner,
            known: Arc::clone(&known),
            dice: Dice(dice.roll(u64::MAX)),
        };
        tasks.spawn(script.run(stopped.clone()));
        let mut sights = Vec::new();
        for number in 1..=VIEWERS {
            let own = Arc::new(Mutex::new(Sights::default()));
            let viewer = Viewer {
                name: format!("viewer-{number}"),
                token: stage.platform.api_key("viewer"),
                gateways: stage.addresses(number),
                sights: Arc::clone(&own),
                dice: Dice(dice.roll(u64::MAX)),
            };
            tasks.spawn(viewer.run(stopped.clone()));
            sights.push(own);
        }
        let end = Instant::now() + SETTLING;
        while !sights.iter().all(|sights| sights.lock().is_in) {
            assert!(Instant::now() < end, "the dashboards do not come in");
            sleep(POLL).await;
        }
        Self {
            stage,
            known,
            sights,
            tasks,
            stop,
            dice,
        }
    }

    /// One command, with faults while it runs; gives its id.
    async fn round(&mut self, name: &str, bytes: u64, faults: &[Fault], what: &str) -> String {
        let total = [bytes as usize, bytes as usize / 8];
        let key = self.stage.platform.api_key("operator");
        let asking = request(
            self.stage.addresses(1),
            key,
            name.to_owned(),
            format!("flow {bytes}"),
        );
        let asking = tokio::spawn(asking);
        for fault in faults {
            sleep(Duration::from_millis(self.dice.roll(LATEST_FAULT_MS))).await;
            self.stage.strike(*fault, &mut self.dice).await;
        }
        let id = timeout(SETTLING, asking)
            .await
            .unwrap_or_else(|_| panic!("{what}: the command was not accepted"))
            .unwrap();
        let end = Instant::now() + SETTLING;
        loop {
            let is_over = |sights: &Arc<Mutex<Sights>>| {
                let sights = sights.lock();
                let seen = sights.commands.get(&id);
                !sights.faults.is_empty() || seen.is_some_and(|seen| seen.complete.is_some())
            };
            let is_confirmed = self.known.lock().confirmed.contains(&id);
            let is_late = Instant::now() >= end;
            if is_late {
                self.stage.explain(what);
            }
            if is_late || (is_confirmed && self.sights.iter().all(is_over)) {
                break;
            }
            sleep(POLL).await;
        }
        self.assert_whole(&id, total, what);
        id
    }

    fn assert_whole(&self, id: &str, total: [usize; 2], what: &str) {
        let known = self.known.lock();
        assert!(
            known.faults.is_empty(),
            "{what}: the agent: {:?}",
            known.faults
        );
        let started = known.journal.iter().filter(|one| *one == id).count();
        assert_eq!(started, 1, "{what}: {id} was started so often");
        for (number, sights) in self.sights.iter().enumerate() {
            let mut sights = sights.lock();
            let what = format!("{what}: dashboard {number}");
            assert!(sights.faults.is_empty(), "{what}: {:?}", sights.faults);
            // An end that was seen is kept, so that what comes behind is noticed.
            let seen = sights.commands.entry(id.to_owned()).or_default();
            if let Err(fault) = seen.verdict(id, total) {
                panic!("{what}: {id}: {fault}");
            }
            // The agent kept everything until it was acknowledged.
            assert_eq!(seen.gaps, [0; 2], "{what}");
        }
        assert!(
            known.confirmed.contains(id),
            "{what}: the end is not confirmed"
        );
        self.stage.assert_sound(what);
    }

    /// Ends everybody; gives how often the agent and the dashboards returned.
    async fn dismiss(mut self, accepted: &[String], what: &str) -> (usize, usize) {
        self.stop.send(true).unwrap();
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let known = self.known.lock();
        assert_eq!(known.journal, accepted, "{what}: what was started");
        let mut returns = 0;
        for sights in &self.sights {
            let sights = sights.lock();
            assert!(sights.faults.is_empty(), "{what}: {:?}", sights.faults);
            assert_eq!(sights.commands.len(), accepted.len(), "{what}");
            returns += sights.returns;
        }
        (known.returns, returns)
    }
}

fn seed() -> u64 {
    std::env::var(SEED_VARIABLE).map_or(SEED, |text| text.parse().expect("a seed is a number"))
}

/// The faults of each round: every fault comes first once, in an order of the
/// dice, and then any.
fn draw(dice: &mut Dice, rounds: u64) -> Vec<Vec<Fault>> {
    let mut rest = FAULTS.to_vec();
    let mut round = || {
        let first = match rest.len() as u64 {
            0 => dice.pick(&FAULTS),
            left => rest.swap_remove(dice.roll(left) as usize),
        };
        let more = dice.roll(MOST_FAULTS);
        let mut faults = vec![first];
        faults.extend((0..more).map(|_| dice.pick(&FAULTS)));
        faults
    };
    (0..rounds).map(|_| round()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_run_twice_in_rounds_of_faults() {
    let seed = seed();
    let scale = std::env::var(SCALE_VARIABLE).ok();
    let scale: u64 = scale.map_or(1, |scale| scale.parse().expect("a scale is a number"));
    let mut cast = Cast::call(&UNLIMITED, FAST, seed).await;
    let rounds = draw(&mut cast.dice, ROUNDS * scale);
    let mut accepted = Vec::new();
    for (round, faults) in rounds.iter().enumerate() {
        let what = format!("{SEED_VARIABLE}={seed}, round {round}, {faults:?}");
        let begun = Instant::now();
        let bytes = FAST_BYTES / 4 + cast.dice.roll(FAST_BYTES);
        let name = format!("round-{round}");
        let id = cast.round(&name, bytes, faults, &what).await;
        eprintln!("{what}: {bytes} bytes in {:?}", begun.elapsed());
        accepted.push(id);
    }
    let what = format!("{SEED_VARIABLE}={seed}, at the end");
    let (agent, dashboards) = cast.dismiss(&accepted, &what).await;
    eprintln!("{what}: {agent} returns of the agent, {dashboards} of dashboards");
    assert!(agent > 1 && dashboards > 1, "{what}: nothing was broken");
}

/// F13: with the limits as documented, for an agent that keeps to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_limits_leave_room_for_an_honest_agent() {
    let seed = seed();
    let mut cast = Cast::call(&[], MODEST, seed).await;
    let rounds = draw(&mut cast.dice, MODEST_ROUNDS);
    let mut accepted = Vec::new();
    for (round, faults) in rounds.iter().enumerate() {
        let what = format!("{SEED_VARIABLE}={seed}, modest round {round}, {faults:?}");
        let name = format!("modest-{round}");
        accepted.push(cast.round(&name, MODEST_BYTES, faults, &what).await);
    }
    let what = format!("{SEED_VARIABLE}={seed}, at the end of the modest rounds");
    cast.dismiss(&accepted, &what).await;
}

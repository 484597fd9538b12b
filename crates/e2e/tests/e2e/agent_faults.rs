//! F14 under fire: rounds of seeded faults while the product's runner executes
//! commands: the runner, its connection, the relay or the gateway is killed at a
//! moment of the dice, and often another of them soon after. Nothing runs twice,
//! no process and no descriptor is left, and output is whole or says what is
//! missing.
//!
//! `SIGNALBOX_TEST_SEED` chooses another course of events, and
//! `SIGNALBOX_TEST_SCALE=7` makes more than a hundred rounds; every failure names
//! its round and its faults.

use std::time::Duration;

use signalbox_bus::server::User as BusUser;
use signalbox_protocol::wire::{CommandPriority, CommandState};
use signalbox_testkit::{DEADLINE, Process, Proxy, eventually};
use tokio::time::{Instant, sleep};

use crate::agent_world::{LONG, Machine, descriptors, in_terminal, until_gone};
use crate::faults::{Dice, SEED_VARIABLE};
use crate::fleet_side::{Log, User, run};
use crate::fleet_world::{UNLIMITED, World};

/// The course of events unless another is asked for.
const SEED: u64 = 1;
/// Rounds at scale 1.
const ROUNDS: usize = 15;
/// Commands of a round; two run at once.
const COMMANDS: usize = 3;
/// Lines that a command writes, within about a second.
const LINES: usize = 300;
/// The latest moment of a round at which a fault strikes, in milliseconds.
const LATEST_MS: u64 = 1_500;
/// What every command leaves behind, by its argument.
const LEFT: &str = "81726358";
/// Descriptors that a runner may have more than at its start.
const SPARE_DESCRIPTORS: usize = 4;

/// How often a log is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Runner,
    Connection,
    /// The connection, and it cannot be made again for a while.
    Network,
    Relay,
    Gateway,
}

const FAULTS: [Fault; 5] = [
    Fault::Runner,
    Fault::Connection,
    Fault::Network,
    Fault::Relay,
    Fault::Gateway,
];

/// A machine behind a proxy, and the platform.
struct Stage {
    world: World,
    front: Proxy,
    machine: Machine,
    runner: Process,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start(1).await;
        let front = Proxy::start(world.platform.gateways[0].listener()).await;
        let machine = Machine::new(&world, "m-1");
        let runner = Self::serve(&machine, &front).await;
        Self {
            world,
            front,
            machine,
            runner,
        }
    }

    async fn serve(machine: &Machine, front: &Proxy) -> Process {
        machine
            .serve_all(front.addr(), &["--concurrency", "2"])
            .await
    }

    /// The log of a command, once it has ended.
    async fn log_of(&self, user: &User, id: &str, place: &str) -> Log {
        let end = Instant::now() + LONG;
        loop {
            let log = user.read_log(id).await;
            let seen = log.as_ref().map(|log| (log.started, log.output.len()));
            if let Some(log) = log.filter(|log| log.ended.is_some()) {
                return log;
            }
            if Instant::now() >= end {
                let gateway = &self.world.platform.gateways[0];
                for process in [&self.runner, &gateway.process, &self.world.relay.process] {
                    let lines = process.stderr().lines();
                    let from = lines.len().saturating_sub(60);
                    eprintln!("----\n{}", lines[from..].join("\n"));
                }
                panic!("no end of {place}, of which is seen {seen:?}");
            }
            sleep(POLL).await;
        }
    }

    async fn strike(&mut self, fault: Fault, dice: &mut Dice) {
        match fault {
            Fault::Runner => {
                self.runner.kill9();
                self.runner = Self::serve(&self.machine, &self.front).await;
            }
            Fault::Connection => self.front.cut(),
            Fault::Network => {
                self.front.refuse();
                self.front.cut();
                sleep(Duration::from_millis(dice.roll(1_000))).await;
                self.front.admit();
            }
            Fault::Relay => {
                self.world.relay.process.kill9();
                self.world.relay = self.world.platform.start_relay(&[]).await;
            }
            Fault::Gateway => {
                self.world.platform.gateways[0].process.kill9();
                let gateway = self.world.platform.start_gateway(&UNLIMITED).await;
                self.front.retarget(gateway.listener());
                self.world.platform.gateways[0] = gateway;
            }
        }
    }
}

/// A command that makes its mark, leaves a process behind, and writes.
fn command(label: &str) -> String {
    format!(
        "echo {label} >> ledger; sleep {LEFT} > /dev/null 2>&1 < /dev/null & \
         i=0; while [ $i -lt {LINES} ]; do echo {label} $i grün; i=$((i+1)); \
         [ $((i % 30)) -eq 0 ] && sleep 0.1; done; true"
    )
}

fn written(label: &str) -> Vec<u8> {
    let text: String = (0..LINES)
        .map(|line| format!("{label} {line} grün\n"))
        .collect();
    in_terminal(&text)
}

#[tokio::test]
async fn nothing_runs_twice_and_nothing_is_lost_whatever_is_killed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let seed = number(SEED_VARIABLE).unwrap_or(SEED);
    let scale: u64 = number("SIGNALBOX_TEST_SCALE").unwrap_or(1);
    let mut dice = Dice(seed);
    let mut stage = Stage::set().await;
    let user = User {
        bus: stage.world.platform.bus(BusUser::Gateway).await,
    };
    let at_first = descriptors(stage.runner.pid());
    let (mut unknown, mut whole) = (0, 0);
    for round in 0..ROUNDS * scale as usize {
        // Each fault first of all, then any.
        let first = FAULTS.get(round).copied();
        let first = first.unwrap_or_else(|| dice.pick(&FAULTS));
        let second = (dice.roll(2) == 0).then(|| dice.pick(&FAULTS));
        let faults: Vec<Fault> = std::iter::once(first).chain(second).collect();
        let place = format!("round {round} of seed {seed}, {faults:?}");
        let mut commands = Vec::new();
        for number in 0..COMMANDS {
            let label = format!("r{round}c{number}");
            let mut request = run("m-1", &command(&label), CommandPriority::Normal);
            // The last fault may have struck when all had ended.
            request.queue_if_offline = true;
            let accepted = user.run(request).await;
            let accepted = accepted.unwrap_or_else(|refusal| panic!("{place}: {refusal:?}"));
            commands.push((label, accepted.command_id));
        }
        for fault in &faults {
            sleep(Duration::from_millis(dice.roll(LATEST_MS))).await;
            stage.strike(*fault, &mut dice).await;
        }
        for (label, id) in &commands {
            let place = format!("{label} {id} {place}");
            let log = stage.log_of(&user, id, &place).await;
            let ended = log.ended.as_ref().unwrap();
            let expected = written(label);
            let begun = stage.machine.text("ledger");
            let begun = begun.lines().filter(|line| line == label).count();
            match (ended.state(), ended.reason.as_str()) {
                (CommandState::Completed, "") => {
                    assert_eq!(begun, 1, "{place}");
                    assert!(log.gaps.is_empty() && !ended.incomplete, "{place}");
                    assert!(log.output == expected, "output is another, {place}");
                    whole += 1;
                }
                (CommandState::Failed, "outcome_unknown") => {
                    assert!(faults.contains(&Fault::Runner), "{place}");
                    assert!(begun <= 1, "{place}");
                    assert!(expected.starts_with(&log.output), "{place}");
                    let is_told = ended.incomplete || !log.gaps.is_empty();
                    assert!(is_told || log.output == expected, "{place}: {ended:?}");
                    unknown += 1;
                }
                other => panic!("{other:?}, {place}"),
            }
        }
        until_gone(LEFT).await;
        let pid = stage.runner.pid();
        eventually(&format!("few descriptors, {place}"), DEADLINE, async || {
            (descriptors(pid) <= at_first + SPARE_DESCRIPTORS).then_some(())
        })
        .await;
    }
    // The rounds were worth their name.
    assert!(
        whole >= ROUNDS && unknown > 0,
        "{whole} whole, {unknown} unknown"
    );
    stage.runner.sigterm();
    assert_eq!(stage.runner.wait(DEADLINE).await.code(), Some(0));
}

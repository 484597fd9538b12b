//! `bench terminal`: the way of a line through dialect `fleet`, there and back.
//!
//! Scripted agents run one command each, dashboards have started them. First
//! lines are typed into all of them and echoed: dashboard, gateway, relay,
//! gateway, agent, and back through relay and log to every dashboard. Then some
//! of the agents write lines in batches, at one rate and then at rising ones.
//! Every byte at every dashboard is accounted for. Dialect `fleet` has no
//! filter: each dashboard gets the output of all agents, so that the work grows
//! with the product of both.

mod agent;
mod dashboard;
mod options;
mod play;
mod text;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use signalbox_bus::server::User;
use signalbox_identity::Role as KeyRole;
use signalbox_service::{Shutdown, Tasks};
use tokio::time::{Instant, sleep};

pub(in crate::bench) use self::options::TerminalArgs;

use self::play::{Play, Role, Scene, Setup, Thread};
use super::{AFTERMATH, Start, settled};
use crate::bench::account::Tally;
use crate::bench::measure::{Generator, Used, Window};
use crate::bench::procfs::Memory;
use crate::bench::progress::{Quantiles, read};
use crate::bench::report::{Run, Search, Step, Terminal};
use crate::bench::stage::{SETTLING, Stage};
use crate::token;

/// The dialect's limits are for people; this is no person.
const UNLIMITED: [&str; 11] = [
    "--fleet-all-per-minute",
    "--fleet-all-per-hour",
    "--fleet-messages-per-minute",
    "--fleet-messages-per-hour",
    "--fleet-burst",
    "--fleet-requests-per-minute",
    "--fleet-requests-per-hour",
    "--fleet-output-per-minute",
    "--fleet-output-per-hour",
    "--fleet-input-per-minute",
    "--fleet-heartbeats-per-minute",
];
/// The relay keeps this much of a command, in MiB: more than a run writes.
const OUTPUT_MIB: &str = "65536";
/// Tokens that are asked for at once.
const TOKENS_AT_ONCE: usize = 16;
/// How long an agent's token is valid, in seconds.
const TOKEN_SECONDS: u32 = 12 * 3_600;
/// Rates of lines that a search tries, each a second.
const RATES: [f64; 12] = [
    50_000.0,
    100_000.0,
    150_000.0,
    200_000.0,
    300_000.0,
    400_000.0,
    600_000.0,
    800_000.0,
    1_000_000.0,
    1_400_000.0,
    2_000_000.0,
    3_000_000.0,
];
/// Seconds for which a search keeps each rate.
const STEP_SECONDS: f64 = 4.0;
/// How late the last byte may be for a rate to count as kept up, in
/// milliseconds.
const KEPT_BEHIND_MS: f64 = 500.0;
/// The share of the wanted rate that must have gone out.
const KEPT_SHARE: f64 = 0.97;

/// The cast, and what it plays on. Fields are dropped in order.
struct Theatre {
    agents: Thread,
    dashboards: Thread,
    play: Arc<Play>,
    start: Start,
}

/// What was measured while a scene was played.
struct Scored {
    sent: u64,
    /// For how long lines were sent off.
    seconds: f64,
    /// How long after that the last byte came.
    behind_ms: f64,
    lost: u64,
    returns: u64,
    latency: Quantiles,
    used: Used,
    generator: Generator,
}

/// `bench terminal`.
pub(crate) async fn terminal(args: &TerminalArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let theatre = Theatre::open(args, shutdown).await?;
    let mut run = Run {
        connections: (args.sessions + args.dashboards) as u64,
        ..Run::default()
    };
    let duration = Duration::from_secs_f64(args.seconds);
    let echo = theatre
        .play(Scene::Echo { rate: args.keys }, duration)
        .await?;
    run.parts.insert("echo", theatre.part(args, echo)?);
    let lines = theatre
        .play(Scene::Lines { rate: args.lines }, duration)
        .await?;
    let mut lines = theatre.part(args, lines)?;
    if !args.no_search {
        lines.search = Some(theatre.search(args.lines).await?);
    }
    run.parts.insert("lines", lines);
    sleep(AFTERMATH).await;
    run.output = Some(theatre.dashboards.audit().await?);
    run.trouble = theatre.play.reasons();
    Ok(run)
}

impl Theatre {
    async fn open(args: &TerminalArgs, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let mut target = args.target.clone();
        for flag in UNLIMITED {
            target.gateway_arg.extend([flag.to_owned(), "0".to_owned()]);
        }
        let clients = args.sessions + args.dashboards;
        let mut start = Start::new(&target, clients, 1, shutdown).await?;
        if start.stage.is_own() {
            let keep = ["--output-mib", OUTPUT_MIB];
            let relay = start.stage.add_service("relay", User::Relay, &keep).await?;
            start.stage.parts.relay = Some(relay);
        }
        let key = match (&args.agent_key_file, start.stage.key(KeyRole::Agent)) {
            (Some(path), _) => fs::read_to_string(path)
                .with_context(|| format!("--agent-key-file {}", path.display()))?
                .trim()
                .to_owned(),
            (None, Some(key)) => key,
            (None, None) => anyhow::bail!("--url needs the agents' credential: --agent-key-file"),
        };
        let token = access_token(&start.stage, shutdown).await?;
        let setup = Setup {
            address: start.stage.gateway,
            token,
            agents: agents(&start.stage, &key, args.sessions, shutdown).await?,
            dashboards: args.dashboards,
            writers: args.writers(),
            batch: args.batch.into(),
            line_bytes: args.line_bytes as usize,
            opening: args.target.opening as usize,
        };
        let play = Play::new(setup);
        let agents = Thread::start(Role::Agents, &play)?;
        play.all("agents are connected", &play.agents, args.sessions)
            .await?;
        let dashboards = Thread::start(Role::Dashboards, &play)?;
        play.all(
            "dashboards are connected",
            &play.dashboards,
            args.dashboards,
        )
        .await?;
        play.all("commands run", &play.running, args.sessions)
            .await?;
        // What follows the start of commands is no part of what is measured.
        sleep(SETTLING).await;
        Ok(Self {
            agents,
            dashboards,
            play,
            start,
        })
    }

    /// Has a scene played for a while, and waits until all of it has arrived.
    async fn play(&self, scene: Scene, duration: Duration) -> anyhow::Result<Scored> {
        let play = &self.play;
        for times in [&play.latency, &play.late, &play.lag] {
            times.take();
        }
        let (sent, returns) = (read(&play.sent), read(&play.returns));
        let window = Window::open(&self.start.stage, None, None).await?;
        let threads = [self.agents.nanos(), self.dashboards.nanos()];
        let began = Instant::now();
        play.set(scene).await?;
        sleep(duration).await;
        play.set(Scene::Pause).await?;
        let seconds = began.elapsed().as_secs_f64();
        let stopped = Instant::now();
        let lines = read(&play.sent) - sent;
        if matches!(scene, Scene::Echo { .. }) {
            // Echoes are written once what was typed has arrived.
            self.echoed().await;
        }
        let due = play.written() * play.setup.dashboards as u64;
        let last = settled(&play.received, due).await;
        let (used, mut generator) = window.close(&self.start.stage, None, None).await?;
        let now = [self.agents.nanos(), self.dashboards.nanos()];
        let spent: Vec<f64> = now
            .iter()
            .zip(threads)
            .map(|(now, before)| now.saturating_sub(before) as f64 / 1e9)
            .collect();
        generator.add(&spent, used.seconds, play.lag.take(), play.late.take());
        let tally: Tally = self.dashboards.audit().await?;
        Ok(Scored {
            sent: lines,
            seconds,
            behind_ms: last.saturating_duration_since(stopped).as_secs_f64() * 1e3,
            lost: tally.lost,
            returns: read(&play.returns) - returns,
            latency: play.latency.take(),
            used,
            generator,
        })
    }

    /// Waits until as much was echoed as was typed, or no more is.
    async fn echoed(&self) {
        let mut last = (0, Instant::now());
        loop {
            let left: usize = self
                .play
                .sessions
                .iter()
                .map(|session| session.under_way.lock().len())
                .sum();
            let written = self.play.written();
            if written != last.0 {
                last = (written, Instant::now());
            }
            if left == 0 || last.1.elapsed() > super::QUIET {
                return;
            }
            sleep(super::POLL).await;
        }
    }

    fn part(&self, args: &TerminalArgs, scored: Scored) -> anyhow::Result<Run> {
        let memory = |pids: &[u32]| {
            pids.iter().try_fold(Memory::default(), |sum, pid| {
                let memory = Memory::of(*pid)?;
                anyhow::Ok(Memory {
                    resident: sum.resident + memory.resident,
                    anonymous: sum.anonymous + memory.anonymous,
                })
            })
        };
        let parts = &self.start.stage.parts;
        let cpu_s = cpu_s(&scored.used);
        let lines = scored.sent.max(1) as f64;
        Ok(Run {
            connections: (args.sessions + args.dashboards) as u64,
            terminal: Some(Terminal {
                lines: scored.sent,
                lines_per_s: scored.sent as f64 / scored.seconds,
                dashboards: args.dashboards as u64,
                line_bytes: args.line_bytes.into(),
                returns: scored.returns,
                us_per_line: cpu_s * 1e6 / lines,
                lines_per_cpu_s: lines / cpu_s.max(1e-9),
                gateway_memory: memory(&parts.gateways)?,
                relay_memory: memory(parts.relay.as_slice())?,
            }),
            latency: Some(scored.latency),
            used: Some(scored.used),
            generator: Some(scored.generator),
            ..Run::default()
        })
    }

    /// Tries rising rates until one is not kept up.
    async fn search(&self, first: f64) -> anyhow::Result<Search> {
        let mut search = Search {
            highest: 0.0,
            generator_was_the_limit: false,
            steps: Vec::new(),
        };
        for rate in RATES.into_iter().filter(|rate| *rate >= first) {
            let duration = Duration::from_secs_f64(STEP_SECONDS);
            let scored = self.play(Scene::Lines { rate }, duration).await?;
            let went_out = scored.sent as f64 / scored.seconds;
            let kept = scored.lost == 0
                && scored.returns == 0
                && scored.behind_ms <= KEPT_BEHIND_MS
                && went_out >= rate * KEPT_SHARE;
            search.steps.push(Step {
                rate_wanted: rate,
                rate: went_out,
                kept,
                behind_ms: scored.behind_ms,
                lost: scored.lost,
                latency: scored.latency,
                acknowledgement: Quantiles::default(),
                us_per_delivery: cpu_s(&scored.used) * 1e6 / scored.sent.max(1) as f64,
                generator: scored.generator.why.clone(),
            });
            if !kept {
                search.generator_was_the_limit = scored.generator.saturated;
                break;
            }
            search.highest = rate;
        }
        Ok(search)
    }
}

/// CPU time of all parts that a line passes.
fn cpu_s(used: &Used) -> f64 {
    let parts = [Some(used.gateway), used.relay, used.nats];
    parts.into_iter().flatten().map(|cpu| cpu.total_s).sum()
}

/// A token for dashboards: a key is not let in by a URL.
async fn access_token(stage: &Stage, shutdown: &Shutdown) -> anyhow::Result<String> {
    if !stage.token.starts_with("sbk_") {
        return Ok(stage.token.clone());
    }
    let body = json!({"api_key": stage.token, "ttl": TOKEN_SECONDS}).to_string();
    let tasks = Tasks::new(shutdown.clone());
    token::exchange(&format!("http://{}", stage.gateway), body, &tasks).await
}

/// Names and tokens of agents.
async fn agents(
    stage: &Stage,
    key: &str,
    count: usize,
    shutdown: &Shutdown,
) -> anyhow::Result<Vec<(String, String)>> {
    // Agents of several runs may be known in one place.
    let run: u32 = rand::random();
    let url = format!("http://{}", stage.gateway);
    let mut agents = Vec::with_capacity(count);
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(TOKENS_AT_ONCE) {
        let tasks = Tasks::new(shutdown.clone());
        let exchanges = numbers.iter().map(|number| {
            let id = format!("bench-{run:08x}-{number}");
            let body = json!({"api_key": key, "agent_id": id, "ttl": TOKEN_SECONDS}).to_string();
            let (url, tasks) = (&url, &tasks);
            async move { anyhow::Ok((id, token::exchange(url, body, tasks).await?)) }
        });
        agents.extend(futures_util::future::try_join_all(exchanges).await?);
    }
    Ok(agents)
}

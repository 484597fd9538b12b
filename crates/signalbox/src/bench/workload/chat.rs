//! `chat`: answers that a scripted model writes. Every token has a stamp, so that
//! its way through orchestrator, bus and gateway to the client is measured, and
//! a number, so that what arrives is accounted for.

mod client;
mod model;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use signalbox_identity::{
    Claims, CredentialId, Issuance, Limits, Origin, Principal, Role, SigningKey, UserId,
};
use signalbox_service::Shutdown;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use self::client::{Clients, Plan};
use self::model::Model;
use crate::bench::account::Tally;
use crate::bench::measure::Window;
use crate::bench::options::ChatArgs;
use crate::bench::procfs::{CpuSample, Memory};
use crate::bench::progress::{Times, read};
use crate::bench::report::{ChatReport, PublishedReport, Run};
use crate::bench::stage::{SETTLING, Stage};

/// The type of agent that the model answers as.
const AGENT: &str = "bench";
/// How long opening connections and chats may take.
const OPENING_PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing may arrive before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(10);
/// How often arrivals are looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long the clients' tokens are valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// What clients count, all of them together.
#[derive(Default)]
struct Progress {
    /// Chats that have begun.
    begun: AtomicU64,
    /// Tokens that have come.
    tokens: AtomicU64,
    /// Answers that have ended well, their text being that of their chunks and
    /// of what the model wrote.
    whole: AtomicU64,
    /// Tokens that came again, or behind later ones.
    doubled: AtomicU64,
    reordered: AtomicU64,
    /// Chunks, and bytes of the messages in which they came.
    chunks: AtomicU64,
    bytes: AtomicU64,
    /// Clients that gave up.
    failed: AtomicU64,
    /// From the model to the client.
    latency: Times,
    /// From a message to the first token of its answer at the client.
    first: Times,
}

/// `bench chat`: with one answer at a time, then with many.
pub(crate) async fn chat(args: &ChatArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    ensure!(
        args.target.url.is_none(),
        "this workload starts what it measures: leave --url out"
    );
    let mut run = Run {
        connections: u64::from(args.streams),
        ..Run::default()
    };
    run.parts.insert("one", part(args, 1, shutdown).await?);
    if args.streams > 1 {
        let many = part(args, args.streams, shutdown).await?;
        run.parts.insert("many", many);
    }
    Ok(run)
}

async fn part(args: &ChatArgs, streams: u32, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let interval = Duration::from_secs_f64(1.0 / args.rate);
    let model = Model::start(args.tokens, interval).await?;
    let mut stage = Stage::set(&args.target, false, shutdown).await?;
    stage.fits(streams as usize)?;
    let agents = stage.directory()?.join("agents.toml");
    fs::write(&agents, model.agents())?;
    let mut arguments = vec!["--agents".into(), agents.into_os_string()];
    // Every answer is one of this run.
    let most = streams.to_string();
    arguments.extend(["--chat-answers".into(), most.into()]);
    arguments.extend(args.orchestrator_arg.iter().map(Into::into));
    let orchestrator = stage.start_orchestrator(&arguments).await?;

    sleep(SETTLING).await;
    let before = memory(&stage, orchestrator)?;
    let progress = Arc::new(Progress::default());
    let clients = Clients::start(
        Plan {
            gateway: stage.gateway,
            tokens: tokens(&stage, streams)?,
            expected: args.tokens,
            interval,
        },
        &progress,
    )?;
    reached(&progress.begun, u64::from(streams), OPENING_PATIENCE)
        .await
        .context("not all chats have begun")?;
    sleep(SETTLING).await;
    let quiet = memory(&stage, orchestrator)?;

    let window = Window::open(&stage, None, None).await?;
    let own = CpuSample::of(std::process::id())?;
    let began = Instant::now();
    clients.speak();
    sleep(interval * args.tokens / 2).await;
    let busy = memory(&stage, orchestrator)?;
    settled(&progress, u64::from(streams)).await;
    let seconds = began.elapsed().as_secs_f64();
    let (used, mut generator) = window.close(&stage, None, None).await?;
    // Clients and the model's server.
    generator.count_process(&own, seconds)?;
    let trouble = clients.end();

    let due = u64::from(streams) * u64::from(args.tokens);
    let received = read(&progress.tokens);
    let chunks = read(&progress.chunks);
    let each = |from: u64, to: u64| (to as f64 - from as f64) / f64::from(streams);
    Ok(Run {
        connections: u64::from(streams),
        published: Some(PublishedReport {
            events: model.written(),
            unacknowledged: 0,
            rate_wanted: args.rate * f64::from(streams),
            rate: model.written() as f64 / seconds.max(1e-9),
            data_bytes: 0,
            message_bytes: read(&progress.bytes) as f64 / chunks.max(1) as f64,
        }),
        deliveries: Some(Tally {
            due,
            received,
            lost: due.saturating_sub(received),
            doubled: read(&progress.doubled),
            reordered: read(&progress.reordered),
            // An answer whose text is not what its chunks are joined.
            unknown: u64::from(streams).saturating_sub(read(&progress.whole)),
            ..Tally::default()
        }),
        latency: Some(progress.latency.take()),
        chat: Some(ChatReport {
            first: progress.first.take(),
            chunks,
            gateway_per_chat: each(before.gateway, quiet.gateway),
            gateway_per_stream: each(before.gateway, busy.gateway),
            orchestrator_per_chat: each(before.orchestrator, quiet.orchestrator),
            orchestrator_per_stream: each(before.orchestrator, busy.orchestrator),
        }),
        used: Some(used),
        trouble,
        generator: Some(generator),
        ..Run::default()
    })
}

/// Resident memory, in bytes.
struct Resident {
    gateway: u64,
    orchestrator: u64,
}

fn memory(stage: &Stage, orchestrator: u32) -> anyhow::Result<Resident> {
    let gateways = stage.parts.gateways.iter();
    let gateway = gateways
        .map(|pid| Ok(Memory::of(*pid)?.resident))
        .sum::<anyhow::Result<u64>>()?;
    Ok(Resident {
        gateway,
        orchestrator: Memory::of(orchestrator)?.resident,
    })
}

/// Waits until a count is reached.
async fn reached(count: &AtomicU64, due: u64, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while read(count) < due {
        ensure!(
            Instant::now() < deadline,
            "{} of {due} within {patience:?}",
            read(count)
        );
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until every client has its answer or has given up, or nothing arrives
/// any more.
async fn settled(progress: &Progress, streams: u64) {
    let mut last = (0, Instant::now());
    while read(&progress.whole) + read(&progress.failed) < streams {
        let now = read(&progress.tokens);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > QUIET {
            return;
        }
        sleep(POLL).await;
    }
}

/// An access token for a user of its own for each stream, signed with the key of
/// the stage's auth service.
fn tokens(stage: &Stage, streams: u32) -> anyhow::Result<Vec<String>> {
    let key = signing_key(stage)?;
    (0..streams)
        .map(|number| {
            let name = format!("bench-{number}");
            let principal = Principal {
                subject: UserId::new(name.as_str())?,
                name,
                role: Some(Role::Analyst),
                permissions: Role::Analyst.permissions(),
                projects: Vec::new(),
                agent_id: None,
                limits: Limits {
                    messages_per_minute: u32::MAX,
                    agent_chats_per_hour: u32::MAX,
                },
                expires_at: None,
                credential: CredentialId::new("bench")?,
                origin: Origin::default(),
            };
            let issuance = Issuance {
                issuer: "signalbox".to_owned(),
                audience: "signalbox".to_owned(),
                id: CredentialId::new("bench")?,
                issued_at: OffsetDateTime::now_utc(),
                lifetime: TOKEN_LIFETIME,
                family: None,
            };
            let token = key.sign(&Claims::issue(&principal, issuance))?;
            Ok(token.expose().to_owned())
        })
        .collect()
}

fn signing_key(stage: &Stage) -> anyhow::Result<SigningKey> {
    let folder = stage.directory()?.join(crate::services::SIGNING_KEYS);
    let file = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "pem"))
        .with_context(|| format!("no signing key in {}", folder.display()))?;
    Ok(SigningKey::from_pkcs8_pem(&fs::read_to_string(file)?)?)
}

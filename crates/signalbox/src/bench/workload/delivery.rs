//! Events to clients that stay: `fanout` and `topics`.

use signalbox_service::Shutdown;
use tokio::time::sleep;

use super::{AFTERMATH, Start, published_report, settled};
use crate::bench::crowd::{Gathered, Life};
use crate::bench::dialect::{Events, Subject};
use crate::bench::floor::{self, FloorArgs};
use crate::bench::measure::Window;
use crate::bench::options::{FanoutArgs, LoadArgs, TargetArgs, TopicsArgs};
use crate::bench::progress::{read, take_all};
use crate::bench::publisher::{Plan, Publisher};
use crate::bench::report::{PerUnit, Run, Search, Step};
use crate::bench::stage::SETTLING;

/// Rates that a search tries, from the one that it starts at.
const RATES: [f64; 19] = [
    100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1_000.0, 1_400.0, 2_000.0, 3_000.0, 4_000.0,
    5_000.0, 6_000.0, 8_000.0, 10_000.0, 14_000.0, 20_000.0, 30_000.0,
];
/// How long each is tried, in seconds.
const STEP_SECONDS: f64 = 4.0;
/// The share of a wanted rate that has to go out for it to be kept up.
const KEPT_SHARE: f64 = 0.97;
/// How far behind the last publish the last delivery may be, in milliseconds:
/// a backlog that grows is longer after four seconds.
const KEPT_BEHIND_MS: f64 = 500.0;

/// One way to send events.
struct Shape {
    events: Events,
    targets: u32,
    clients: usize,
    subject: fn(usize) -> Subject,
    /// Clients that get each event.
    receivers: usize,
    rate: f64,
}

/// `bench fanout`.
pub(crate) async fn fanout(args: &FanoutArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let shape = Shape {
        events: args.target.dialect.dialect().broadcast,
        targets: 1,
        clients: args.connections,
        subject: |_| Subject::Broadcast,
        receivers: args.connections,
        rate: args.rate,
    };
    if args.search {
        let start = Start::new(&args.target, shape.clients, 1, shutdown).await?;
        let crowd = start
            .gather(&args.target, shape.clients, shape.subject, Life::Once)
            .await?;
        let publisher = start.publisher().await?;
        let plan = shape.plan(args.load.bytes);
        let search = search(&start, &crowd, &publisher, plan, shape.receivers).await?;
        return Ok(Run {
            connections: shape.clients as u64,
            deliveries: Some(crowd.audit().await?),
            search: Some(search),
            trouble: crowd.reasons(),
            ..Run::default()
        });
    }
    deliver(&args.target, &args.load, &shape, shutdown).await
}

/// `bench topics`.
pub(crate) async fn topics(args: &TopicsArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let shape = Shape {
        events: args.target.dialect.dialect().objects,
        targets: u32::try_from(args.connections)?,
        clients: args.connections,
        subject: |index| Subject::Object(u32::try_from(index).unwrap_or(u32::MAX)),
        receivers: 1,
        rate: args.rate,
    };
    deliver(&args.target, &args.load, &shape, shutdown).await
}

impl Shape {
    fn plan(&self, bytes: usize) -> Plan {
        Plan {
            events: self.events,
            rate: self.rate,
            count: 0,
            targets: self.targets,
            bytes,
        }
    }
}

async fn deliver(
    target: &TargetArgs,
    load: &LoadArgs,
    shape: &Shape,
    shutdown: &Shutdown,
) -> anyhow::Result<Run> {
    let start = Start::new(target, shape.clients, shape.targets as usize, shutdown).await?;
    let crowd = start
        .gather(target, shape.clients, shape.subject, Life::Once)
        .await?;
    let publisher = start.publisher().await?;
    sleep(SETTLING).await;
    let count = (shape.rate * load.seconds).round().max(1.0) as u64;
    let window = Window::open(&start.stage, Some(&crowd), Some(&publisher)).await?;
    let published = publisher
        .publish(Plan {
            count,
            ..shape.plan(load.bytes)
        })
        .await?;
    settled(
        &start.progress.delivered,
        published.acknowledged * shape.receivers as u64,
    )
    .await;
    let (used, generator) = window
        .close(&start.stage, Some(&crowd), Some(&publisher))
        .await?;
    sleep(AFTERMATH).await;
    let deliveries = crowd.audit().await?;
    let report = published_report(&crowd, &published, shape.rate, load.bytes);
    let delivered = deliveries.received.max(1) as f64;
    let per_delivery = PerUnit {
        us: used.gateway.total_s * 1e6 / delivered,
        user_us: used.gateway.user_s * 1e6 / delivered,
    };
    let mut run = Run {
        connections: shape.clients as u64,
        published: Some(report),
        deliveries: Some(deliveries),
        latency: Some(take_all(crowd.stats().map(|stats| &stats.latency))),
        acknowledgement: Some(publisher.times.acknowledgement.take()),
        opening: Some(take_all(crowd.stats().map(|stats| &stats.opening))),
        used: Some(used),
        per_delivery: (!start.stage.parts.gateways.is_empty()).then_some(per_delivery),
        trouble: crowd.reasons(),
        generator: Some(generator),
        ..Run::default()
    };
    // The floor comes alone: what was measured is gone by then.
    drop(crowd);
    drop(publisher);
    drop(start);
    if !load.no_floor {
        let floor = floor::measure(FloorArgs {
            connections: shape.clients,
            per_round: shape.receivers,
            rate: shape.rate,
            rounds: count,
            bytes: report.message_bytes.round() as usize,
        })
        .await?;
        run.floor_ratio = run.per_delivery.map(|unit| unit.us / floor.us_per_send);
        run.floor = Some(floor);
    }
    Ok(run)
}

/// Tries rising rates until one is not kept up.
pub(super) async fn search(
    start: &Start,
    crowd: &Gathered,
    publisher: &Publisher,
    plan: Plan,
    receivers: usize,
) -> anyhow::Result<Search> {
    let mut search = Search {
        highest: 0.0,
        generator_was_the_limit: false,
        steps: Vec::new(),
    };
    for rate in RATES.into_iter().filter(|rate| *rate >= plan.rate) {
        let count = (rate * STEP_SECONDS).round() as u64;
        let plan = Plan {
            rate,
            count,
            ..plan
        };
        take_all(crowd.stats().map(|stats| &stats.latency));
        publisher.times.acknowledgement.take();
        let before = read(&start.progress.delivered);
        let window = Window::open(&start.stage, Some(crowd), Some(publisher)).await?;
        let began = tokio::time::Instant::now();
        let published = publisher.publish(plan).await?;
        let due = published.acknowledged * receivers as u64;
        let last = settled(&start.progress.delivered, before + due).await;
        let (used, generator) = window
            .close(&start.stage, Some(crowd), Some(publisher))
            .await?;
        let delivered = read(&start.progress.delivered) - before;
        let last_publish = began + std::time::Duration::from_secs_f64(published.seconds);
        let behind_ms = last.saturating_duration_since(last_publish).as_secs_f64() * 1e3;
        let went_out = count as f64 / published.seconds.max(1e-9);
        let lost = due.saturating_sub(delivered);
        let kept = lost == 0 && behind_ms <= KEPT_BEHIND_MS && went_out >= rate * KEPT_SHARE;
        search.steps.push(Step {
            rate_wanted: rate,
            rate: went_out,
            kept,
            behind_ms,
            lost,
            latency: take_all(crowd.stats().map(|stats| &stats.latency)),
            acknowledgement: publisher.times.acknowledgement.take(),
            us_per_delivery: used.gateway.total_s * 1e6 / delivered.max(1) as f64,
            generator: generator.why.clone(),
        });
        if !kept {
            search.generator_was_the_limit = generator.saturated;
            break;
        }
        search.highest = rate;
    }
    Ok(search)
}

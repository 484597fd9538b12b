//! From an acknowledged publish through the router to one client: `ingest`.

use signalbox_service::Shutdown;
use tokio::time::sleep;

use super::delivery::search;
use super::{AFTERMATH, Start, published_report, settled};
use crate::bench::crowd::Life;
use crate::bench::dialect::{Events, Subject};
use crate::bench::measure::Window;
use crate::bench::options::IngestArgs;
use crate::bench::progress::take_all;
use crate::bench::publisher::Plan;
use crate::bench::report::Run;
use crate::bench::stage::SETTLING;

/// `bench ingest`: once over many objects, once on one channel.
pub(crate) async fn ingest(args: &IngestArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let dialect = args.target.dialect.dialect();
    let mut run = Run {
        connections: 1,
        ..Run::default()
    };
    let objects = part(
        args,
        dialect.objects,
        args.objects,
        |_| Subject::Objects,
        shutdown,
    );
    run.parts.insert("objects", objects.await?);
    let channel = part(args, dialect.broadcast, 1, |_| Subject::Broadcast, shutdown);
    run.parts.insert("channel", channel.await?);
    Ok(run)
}

async fn part(
    args: &IngestArgs,
    events: Events,
    targets: u32,
    subject: fn(usize) -> Subject,
    shutdown: &Shutdown,
) -> anyhow::Result<Run> {
    let start = Start::new(&args.target, 1, targets as usize, shutdown).await?;
    let crowd = start.gather(&args.target, 1, subject, Life::Once).await?;
    let publisher = start.publisher().await?;
    sleep(SETTLING).await;
    let count = (args.rate * args.seconds).round().max(1.0) as u64;
    let plan = Plan {
        events,
        rate: args.rate,
        count,
        targets,
        bytes: args.bytes,
    };
    let window = Window::open(&start.stage, Some(&crowd), Some(&publisher)).await?;
    let published = publisher.publish(plan).await?;
    settled(&start.progress.delivered, published.acknowledged).await;
    let (used, generator) = window
        .close(&start.stage, Some(&crowd), Some(&publisher))
        .await?;
    let latency = take_all(crowd.stats().map(|stats| &stats.latency));
    let acknowledgement = publisher.times.acknowledgement.take();
    let report = published_report(&crowd, &published, args.rate, args.bytes);
    let search = match args.no_search {
        true => None,
        false => Some(search(&start, &crowd, &publisher, plan, 1).await?),
    };
    sleep(AFTERMATH).await;
    Ok(Run {
        connections: 1,
        published: Some(report),
        deliveries: Some(crowd.audit().await?),
        latency: Some(latency),
        acknowledgement: Some(acknowledgement),
        used: Some(used),
        search,
        trouble: crowd.reasons(),
        generator: Some(generator),
        ..Run::default()
    })
}

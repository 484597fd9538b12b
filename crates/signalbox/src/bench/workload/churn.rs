//! Clients that return: `resume` and `jitter`.

use std::time::Duration;

use anyhow::{bail, ensure};
use signalbox_service::Shutdown;
use tokio::time::{Instant, sleep};

use super::{AFTERMATH, POLL, Start, published_report, settled};
use crate::bench::crowd::{Gate, Life};
use crate::bench::dialect::Subject;
use crate::bench::measure::Window;
use crate::bench::options::{JitterArgs, ResumeArgs};
use crate::bench::progress::{read, take_all};
use crate::bench::publisher::Plan;
use crate::bench::report::Run;
use crate::bench::stage::SETTLING;

/// Events before and after the return, and events a second outside it: enough
/// that every client has a position to return to, and is seen to be live.
const WARM_UP: u64 = 50;
/// Events a second of those, and of what is missed.
const RATE: f64 = 200.0;
/// How long clients may take to notice that their gateway is gone.
const NOTICE: Duration = Duration::from_secs(30);

/// `bench resume`.
pub(crate) async fn resume(args: &ResumeArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let mut start = Start::new(&args.target, args.connections, 1, shutdown).await?;
    ensure!(
        start.stage.is_own(),
        "resume kills the gateway, so it has to start it: leave out --url"
    );
    let clients = args.connections as u64;
    let broadcast = |_| Subject::Broadcast;
    let crowd = start
        .gather(&args.target, args.connections, broadcast, Life::Return)
        .await?;
    let publisher = start.publisher().await?;
    let events = args.target.dialect.dialect().broadcast;
    let plan = Plan {
        events,
        rate: RATE,
        count: WARM_UP,
        targets: 1,
        bytes: args.bytes,
    };
    let mut acknowledged = publisher.publish(plan).await?.acknowledged;
    settled(&start.progress.delivered, acknowledged * clients).await;
    if args.second {
        start.stage.add_gateway().await?;
    }
    crowd.set_gate(Gate {
        open: false,
        moving: false,
        address: start.stage.gateway,
    });
    start.stage.kill_gateway()?;
    let deadline = Instant::now() + NOTICE;
    while read(&start.progress.open) > 0 {
        if Instant::now() > deadline {
            bail!("clients did not notice that their gateway was killed");
        }
        sleep(POLL).await;
    }
    let missed = Plan {
        count: args.missed,
        ..plan
    };
    let missed = publisher.publish(missed).await?;
    acknowledged += missed.acknowledged;
    if !args.second {
        start.stage.restart_gateway().await?;
    }
    take_all(crowd.stats().map(|stats| &stats.latency));
    let window = Window::open(&start.stage, Some(&crowd), Some(&publisher)).await?;
    crowd.set_gate(Gate {
        open: true,
        moving: false,
        address: start.stage.gateway,
    });
    settled(&start.progress.caught_up, clients).await;
    let (used, generator) = window
        .close(&start.stage, Some(&crowd), Some(&publisher))
        .await?;
    acknowledged += publisher.publish(plan).await?.acknowledged;
    settled(&start.progress.delivered, acknowledged * clients).await;
    sleep(AFTERMATH).await;
    let caught_up = take_all(crowd.stats().map(|stats| &stats.caught_up));
    let mut trouble = crowd.reasons();
    if caught_up.count < clients {
        trouble.insert(
            "a return never caught up".to_owned(),
            clients - caught_up.count,
        );
    }
    Ok(Run {
        connections: clients,
        published: Some(published_report(&crowd, &missed, RATE, args.bytes)),
        deliveries: Some(crowd.audit().await?),
        latency: Some(take_all(crowd.stats().map(|stats| &stats.latency))),
        returning: Some(take_all(crowd.stats().map(|stats| &stats.returning))),
        caught_up: Some(caught_up),
        used: Some(used),
        trouble,
        generator: Some(generator),
        ..Run::default()
    })
}

/// `bench jitter`.
pub(crate) async fn jitter(args: &JitterArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let start = Start::new(&args.target, args.connections, 1, shutdown).await?;
    let clients = args.connections as u64;
    let life = Life::Jitter {
        every: Duration::from_secs_f64(args.every),
        away: Duration::from_secs_f64(args.away),
    };
    let broadcast = |_| Subject::Broadcast;
    let crowd = start
        .gather(&args.target, args.connections, broadcast, life)
        .await?;
    let publisher = start.publisher().await?;
    sleep(SETTLING).await;
    let window = Window::open(&start.stage, Some(&crowd), Some(&publisher)).await?;
    let gate = Gate {
        open: true,
        moving: true,
        address: start.stage.gateway,
    };
    crowd.set_gate(gate);
    let count = (args.rate * args.seconds).round().max(1.0) as u64;
    let events = args.target.dialect.dialect().broadcast;
    let plan = Plan {
        events,
        rate: args.rate,
        count,
        targets: 1,
        bytes: args.bytes,
    };
    let published = publisher.publish(plan).await?;
    crowd.set_gate(Gate {
        moving: false,
        ..gate
    });
    settled(&start.progress.delivered, published.acknowledged * clients).await;
    let (used, generator) = window
        .close(&start.stage, Some(&crowd), Some(&publisher))
        .await?;
    sleep(AFTERMATH).await;
    Ok(Run {
        connections: clients,
        published: Some(published_report(&crowd, &published, args.rate, args.bytes)),
        deliveries: Some(crowd.audit().await?),
        latency: Some(take_all(crowd.stats().map(|stats| &stats.latency))),
        acknowledgement: Some(publisher.times.acknowledgement.take()),
        opening: Some(take_all(crowd.stats().map(|stats| &stats.opening))),
        returning: Some(take_all(crowd.stats().map(|stats| &stats.returning))),
        caught_up: Some(take_all(crowd.stats().map(|stats| &stats.caught_up))),
        used: Some(used),
        trouble: crowd.reasons(),
        generator: Some(generator),
        ..Run::default()
    })
}

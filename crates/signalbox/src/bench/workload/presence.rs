//! Connections without events: `idle` and `connect`.

use std::time::Duration;

use signalbox_service::Shutdown;
use tokio::time::sleep;

use super::Start;
use crate::bench::crowd::Life;
use crate::bench::dialect::Subject;
use crate::bench::measure::Window;
use crate::bench::options::{ConnectArgs, IdleArgs};
use crate::bench::procfs::{Memory, kernel_slab};
use crate::bench::progress::take_all;
use crate::bench::report::{ConnectRate, Idle, MemoryReport, PerUnit, Run};
use crate::bench::stage::{SETTLING, Stage};

/// `bench idle`.
pub(crate) async fn idle(args: &IdleArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let start = Start::new(&args.target, args.connections, 1, shutdown).await?;
    sleep(SETTLING).await;
    let (before, slab_before) = (memory(&start.stage)?, kernel_slab());
    let crowd = start
        .gather(
            &args.target,
            args.connections,
            |_| Subject::Broadcast,
            Life::Once,
        )
        .await?;
    sleep(SETTLING).await;
    let (after, slab_after) = (memory(&start.stage)?, kernel_slab());
    let window = Window::open(&start.stage, Some(&crowd), None).await?;
    sleep(Duration::from_secs_f64(args.seconds)).await;
    let (used, generator) = window.close(&start.stage, Some(&crowd), None).await?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / args.connections as f64;
    let measured = !start.stage.parts.gateways.is_empty();
    Ok(Run {
        connections: args.connections as u64,
        memory: measured.then(|| MemoryReport {
            before,
            after,
            per_connection: each(before.resident, after.resident),
            kernel_per_connection: each(
                slab_before.unwrap_or_default(),
                slab_after.unwrap_or_default(),
            ),
        }),
        idle: measured.then(|| Idle {
            seconds: used.seconds,
            core: used.gateway.total_s / used.seconds,
        }),
        opening: Some(take_all(crowd.stats().map(|stats| &stats.opening))),
        used: Some(used),
        trouble: crowd.reasons(),
        generator: Some(generator),
        ..Run::default()
    })
}

/// `bench connect`.
pub(crate) async fn connect(args: &ConnectArgs, shutdown: &Shutdown) -> anyhow::Result<Run> {
    let start = Start::new(&args.target, args.connections, 1, shutdown).await?;
    sleep(SETTLING).await;
    let subject = match args.subscribe {
        true => |_| Subject::Broadcast,
        false => |_| Subject::Nothing,
    };
    let window = Window::open(&start.stage, None, None).await?;
    let crowd = start
        .gather(&args.target, args.connections, subject, Life::Once)
        .await?;
    let (used, generator) = window.close(&start.stage, Some(&crowd), None).await?;
    let connections = args.connections as f64;
    let measured = !start.stage.parts.gateways.is_empty();
    Ok(Run {
        connections: args.connections as u64,
        connects: Some(ConnectRate {
            per_s: connections / used.seconds,
            per_cpu_s: connections / used.gateway.total_s.max(1e-9),
        }),
        per_connect: measured.then(|| PerUnit {
            us: used.gateway.total_s * 1e6 / connections,
            user_us: used.gateway.user_s * 1e6 / connections,
        }),
        opening: Some(take_all(crowd.stats().map(|stats| &stats.opening))),
        used: Some(used),
        trouble: crowd.reasons(),
        generator: Some(generator),
        ..Run::default()
    })
}

/// The memory of all gateways together.
fn memory(stage: &Stage) -> anyhow::Result<Memory> {
    stage
        .parts
        .gateways
        .iter()
        .try_fold(Memory::default(), |sum, pid| {
            let memory = Memory::of(*pid)?;
            Ok(Memory {
                resident: sum.resident + memory.resident,
                anonymous: sum.anonymous + memory.anonymous,
            })
        })
}

//! How a dashboard comes to see what happens: first what it lacks, from the
//! stream, then what is on the stage, all at its own pace.

use std::rc::Rc;

use signalbox_transport::{Outbound, READER_TOO_SLOW};
use tokio::sync::Notify;

use super::logs::{Backlog, Walk};
use super::stage::{Lacking, Step, send_away};
use super::transcript::{Told, Transcript, told};
use crate::shard::Shard;

/// Tells a dashboard what it lacks, at its own pace, and then what happens.
pub(super) async fn follow(shard: Rc<Shard>, outbound: Outbound, place: usize, news: Rc<Notify>) {
    let lacking = loop {
        news.notified().await;
        if let Some(lacking) = shard.stage.take_lacking(place) {
            break lacking;
        }
    };
    catch_up(&shard, &outbound, place, lacking).await;
    let mut bus_present = shard.shared.bus_present.clone();
    loop {
        // Without the bus nothing is delivered from memory.
        if bus_present.wait_for(|present| *present).await.is_err() {
            return;
        }
        outbound.drained().await;
        if outbound.is_closed() {
            return;
        }
        match shard.stage.advance(place) {
            Step::Level => news.notified().await,
            Step::More => {}
            Step::Large { sequence, frames } => {
                let told = shard
                    .stage
                    .epoch()
                    .map(|epoch| told(epoch, sequence, frames));
                let told = told.unwrap_or_default();
                if send_slowly(&shard, &outbound, place, &told).await.is_none() {
                    return;
                }
                if !shard.stage.settle(place, sequence) {
                    send_away(&outbound, READER_TOO_SLOW);
                    return;
                }
            }
        }
    }
}

/// Sends frames one by one, each when the one before is gone; `None` when the
/// connection is.
async fn send_slowly(
    shard: &Shard,
    outbound: &Outbound,
    place: usize,
    told: &[Told],
) -> Option<()> {
    for Told { seq, frame } in told {
        let _sent = outbound.send_frame(frame);
        shard.stage.pass(place, *seq);
        outbound.drained().await;
        if outbound.is_closed() {
            return None;
        }
    }
    Some(())
}

async fn catch_up(shard: &Shard, outbound: &Outbound, place: usize, lacking: Lacking) {
    let bus = shard.shared.fleet.bus().clone();
    let Some(epoch) = shard.stage.epoch() else {
        return;
    };
    let mut walk = match lacking {
        Lacking::Missed { after, part } => Walk::new(bus, Transcript::new(epoch), after, part),
        Lacking::Backlog { commands, until } => {
            let transcript = Transcript::new(epoch);
            let mut backlog = Backlog::open(bus.clone(), transcript, commands, until).await;
            while let Some(told) = backlog.next().await {
                if send_slowly(shard, outbound, place, &told).await.is_none() {
                    return;
                }
            }
            Walk::new(bus, backlog.transcript, until, 0)
        }
    };
    let mut bus_present = shard.shared.bus_present.clone();
    loop {
        if walk.is_whole() && shard.stage.settle(place, walk.reached) {
            return;
        }
        if bus_present.wait_for(|present| *present).await.is_err() {
            return;
        }
        shard.shared.authority.revocations().current().await;
        let told = walk.next(shard.stage.floor()).await;
        if send_slowly(shard, outbound, place, &told).await.is_none() {
            return;
        }
    }
}

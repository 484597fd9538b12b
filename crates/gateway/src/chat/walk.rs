//! Reading a chat's log back for one connection, up to where the chat is
//! followed anyway.

use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::history;
use signalbox_bus::log;
use signalbox_bus::stream::CHAT;
use signalbox_bus::subject::{self, LogKind};
use signalbox_protocol::chat;
use signalbox_transport::{Frame, Outbound};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::audience::{Reading, Seat};
use crate::dialect::threat;
use crate::shard::Shard;

/// Records that are read at once.
const PAGE: usize = 256;
/// Frames that are sent before the next look at the connection's queue.
const STRIDE: usize = 32;
/// Reads in a row without a record after which the rest is taken to be gone.
const EMPTY_READS: u32 = 200;
/// Bytes that are sent before it, but for the last frame's.
const STRIDE_BYTES: usize = 64 * 1024;
/// The pause before a read that failed, or of a server that lags, is tried
/// again.
const PAUSE: Duration = Duration::from_millis(50);

/// A part of a chat's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    /// The chat.
    pub(crate) session: Rc<str>,
    /// Where it begins in the stream.
    pub(crate) from: u64,
    /// A record of the chat that there is at least.
    pub(crate) until: u64,
    /// Records up to this number are left out.
    pub(crate) after: u64,
    /// Chunks of an answer that are left out: up to the second of the first.
    pub(crate) known: (u32, u32),
}

/// Shows a connection a passage at its own pace, and has it shown what follows.
/// Ends early when the connection no longer takes part, or reads elsewhere.
pub(crate) async fn walk(
    shard: Rc<Shard>,
    outbound: Outbound,
    seat: Rc<Seat>,
    reading: Reading,
    passage: Passage,
) {
    let filter = subject::log(LogKind::Chat, &chat::log_id(seat.user(), &passage.session));
    let bus = shard.shared.chats.bus().clone();
    let mut bus_present = shard.shared.bus_present.clone();
    let link = bus.link();
    let (mut from, mut reached) = (passage.from, (0, passage.after));
    let mut empty_reads = 0;
    loop {
        // Without the bus nothing is delivered from memory, nor before what was
        // revoked is known.
        if bus_present.wait_for(|present| *present).await.is_err() {
            return;
        }
        shard.shared.authority.revocations().current().await;
        let before = *link.borrow();
        let page = history::page(&bus, CHAT, &filter, from, PAGE).await;
        if *link.borrow() != before {
            shard.shared.authority.revocations().settled().await;
        }
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                debug!(%error, "chat not read, trying again");
                sleep(PAUSE).await;
                continue;
            }
        };
        let is_stuck = page.messages.is_empty();
        let mut frames = Vec::new();
        for record in &page.messages {
            let number = log::number(record);
            from = record.sequence + 1;
            let is_known = number <= reached.1;
            reached = (record.sequence, number.max(reached.1));
            if is_known {
                continue;
            }
            let (session, known) = (&passage.session, passage.known);
            frames.extend(threat::chat::frame_unless(session, &record.payload, known));
            if frames.len() >= STRIDE || weight(&frames) >= STRIDE_BYTES {
                if !seat.is_reading(&reading) || outbound.is_closed() {
                    return;
                }
                let _sent = outbound.send(frames.iter());
                outbound.drained().await;
                frames.clear();
            }
        }
        if !seat.is_reading(&reading) || outbound.is_closed() {
            return;
        }
        let _sent = outbound.send(frames.iter());
        outbound.drained().await;
        if reached.0 >= passage.until && seat.turn_live(&reading, reached.1) {
            return;
        }
        empty_reads = if is_stuck { empty_reads + 1 } else { 0 };
        if empty_reads > EMPTY_READS {
            warn!(session = %passage.session, "the stream no longer has all of the chat");
            seat.attach(&passage.session, reached.1 + 1);
            return;
        }
        if is_stuck {
            sleep(PAUSE).await;
        }
    }
}

fn weight(frames: &[Frame]) -> usize {
    frames.iter().map(Frame::len).sum()
}

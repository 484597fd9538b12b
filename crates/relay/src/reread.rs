//! Reads a log again, to make up the hash of what a former owner has written: page
//! by page, since a log may be larger than all memory for output.

use std::time::Duration;

use prost::Message as _;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, history};
use signalbox_protocol::wire::{TermRecord, term_record::Record};
use tokio::time::sleep;
use tracing::debug;

use crate::output::Reading;

/// Logs that are read at once by all recorders; each takes a page of memory.
pub(crate) const REREADS: usize = 16;
/// Records of a page.
const PAGE: usize = 64;
/// The pause before a page is asked for again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is paused for a server that lacks the end of the log.
const LAG_PAUSES: u32 = 50;

/// Takes in a command's log up to the record with the sequence `last`, for as long
/// as the bus does not answer. Not all of it where the stream has dropped records.
pub(crate) async fn read(bus: &Bus, command_id: &str, last: u64) -> Reading {
    let filter = subject::log(LogKind::Term, command_id);
    let stream = LogKind::Term.stream();
    let mut reading = Reading::default();
    let (mut from, mut pauses) = (1, 0);
    while from <= last && pauses < LAG_PAUSES {
        match history::page(bus, stream, &filter, from, PAGE).await {
            Ok(page) => {
                for message in page.messages {
                    from = message.sequence + 1;
                    let record = TermRecord::decode(message.payload).unwrap_or_default();
                    if let Some(Record::Output(output)) = record.record {
                        output.chunks.iter().for_each(|chunk| reading.add(chunk));
                    }
                }
                if !page.is_last || from > last {
                    continue;
                }
                // It may come from a server that lags.
                pauses += 1;
            }
            Err(cause) => debug!(command_id, %cause, "log not read again"),
        }
        sleep(PAUSE).await;
    }
    reading
}

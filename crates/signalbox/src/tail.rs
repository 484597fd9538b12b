//! `signalbox tail`: events as they are stored on TOPICS.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::reader::{OrderedReader, Reading};
use signalbox_bus::stored_event::{self, StoredEvent};
use signalbox_bus::stream::{self, TOPICS};
use signalbox_bus::{Bus, BusOptions};
use signalbox_protocol::catalogue::{Audience, Channel};
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_service::{ExitError, run as run_service};
use tracing::{info, warn};

use crate::cli::TailArgs;
use crate::output;
use crate::runtime::Runtime;

/// How long the bus may take to answer at the start.
const BUS_WAIT: Duration = Duration::from_secs(10);
/// Events taken in at once.
const BATCH: usize = 256;

pub(crate) fn run(args: &TailArgs) -> Result<(), ExitError> {
    let channels = args
        .channel
        .iter()
        .map(|name| name.parse::<Channel>())
        .collect::<Result<HashSet<_>, _>>()
        .map_err(ExitError::config)?;
    let url = match &args.nats_url {
        Some(url) => url.clone(),
        None => Runtime::read(&args.data.data_dir)?.observer_url,
    };
    run_service("tail", Duration::ZERO, async |shutdown| {
        let bus = Bus::connect(
            &BusOptions {
                url,
                wait: BUS_WAIT,
            },
            "signalbox-tail",
        )
        .await?;
        let state = stream::verify(&bus, TOPICS).await?;
        let mut reader = OrderedReader::from_tip(bus, TOPICS, state);
        let mut left = args.count;
        info!("following");
        loop {
            let reading = tokio::select! {
                () = shutdown.wait() => return Ok(()),
                reading = reader.next(BATCH) => reading,
            };
            let batch = match reading {
                Reading::Batch(batch) => batch,
                Reading::Interrupted(cause) => {
                    warn!(%cause, "interrupted");
                    continue;
                }
                Reading::Recreated(_) | Reading::Resumed => continue,
            };
            for stored in batch.iter().filter_map(stored_event::decode) {
                if !channels.is_empty() && !channels.contains(&stored.topic.channel) {
                    continue;
                }
                let text = if args.json {
                    as_json(&stored, reader.epoch())
                } else {
                    as_text(&stored)
                };
                if !output::line(text)? {
                    return Ok(());
                }
                left = left.map(|left| left.saturating_sub(1));
                if left == Some(0) {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        }
    })
}

/// A line for people: time, priority, where to, what, data.
fn as_text(stored: &StoredEvent) -> String {
    let StoredEvent { topic, event, .. } = stored;
    let object = topic
        .object
        .as_ref()
        .map(|id| format!("/{id}"))
        .unwrap_or_default();
    format!(
        "{}  {:6}  {}{object}  {}  {}",
        event.time,
        event.priority.as_str(),
        topic.channel,
        event.kind.name,
        Value::Object(event.data.clone()),
    )
}

/// A line for programs.
fn as_json(stored: &StoredEvent, epoch: Epoch) -> String {
    let StoredEvent {
        sequence,
        topic,
        event,
        trace,
    } = stored;
    json!({
        "seq": Cursor { epoch, sequence: *sequence },
        "id": event.id,
        "type": format!("{}.{}", event.kind.domain, event.kind.name),
        "source": event.source,
        "time": event.time,
        "priority": event.priority.as_str(),
        "channel": topic.channel.name(),
        "object": topic.object,
        "user": match &topic.audience {
            Audience::Nobody => None,
            Audience::Everyone => Some("global"),
            Audience::User(id) => Some(id.as_str()),
        },
        "trace_id": trace.map(|trace| trace.trace_id().to_string()),
        "data": event.data,
    })
    .to_string()
}

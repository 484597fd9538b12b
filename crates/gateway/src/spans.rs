//! The gateway's spans. Those of events are made when everything is known, of
//! notes that were taken on the way.

use std::time::SystemTime;

use signalbox_bus::trace::{Kind, Span, current};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::trace::SpanId;
use signalbox_service::metrics::Count;

use crate::hub::{Backlog, Channels, HubEvent};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.gateway";

/// Notes that a shard which began to write at this time has handed out an
/// event. The last one makes its spans: the fan-out, and in it the write.
pub(crate) fn handed_out(event: &HubEvent, began: SystemTime) -> Option<SpanId> {
    let tally = event.tally().filter(|tally| tally.finish(began))?;
    let channel = event.topic.channel;
    let name = format!("fan-out {channel}").into();
    let mut span = Span::since(tally.received, &tally.context, SCOPE, Kind::Consumer, name)?;
    span.set("messaging.system", "nats");
    span.set("messaging.operation.name", "fan-out");
    span.set("signalbox.channel", channel.to_string());
    span.set("signalbox.topics.sequence", number(event.sequence));
    let counts = [
        ("signalbox.fanout.matched", &tally.matched),
        ("signalbox.fanout.filtered", &tally.filtered),
        ("signalbox.fanout.written", &tally.written),
        ("signalbox.fanout.queued", &tally.queued),
        ("signalbox.fanout.dropped", &tally.dropped),
    ];
    for (key, count) in counts {
        span.set(key, number(count.get()));
    }
    let oldest = tally.oldest().as_secs_f64();
    span.set("signalbox.fanout.oldest_queue_age", oldest);
    let frames = [&tally.written, &tally.queued].map(Count::get);
    if frames != [0, 0] {
        let name = format!("write {channel}").into();
        let write = tally.first_write();
        if let Some(mut write) = Span::since(write, span.context(), SCOPE, Kind::Internal, name) {
            write.set("signalbox.frames", number(frames.iter().sum()));
        }
    }
    Some(span.context().parent().span_id())
}

/// The catching up of one subscription.
pub(crate) fn replay(channel: Channel) -> Option<Span> {
    let mut span = Span::root(SCOPE, Kind::Internal, || format!("replay {channel}").into())?;
    span.set("signalbox.channel", channel.to_string());
    Some(span)
}

/// The reading of one part of what subscriptions have missed.
pub(crate) fn chapter(backlogs: &[Backlog]) -> Option<Span> {
    let name = || {
        let addresses = backlogs.iter().map(|backlog| &backlog.address);
        let channels = addresses.flat_map(|address| address.channels.iter());
        format!("read history {}", channels.collect::<Channels>()).into()
    };
    let mut span = Span::behind(&current()?, SCOPE, Kind::Client, name)?;
    let after = backlogs.iter().map(|backlog| backlog.after).min();
    let until = backlogs.iter().map(|backlog| backlog.until).max();
    span.set("signalbox.replay.after", number(after.unwrap_or_default()));
    span.set("signalbox.replay.until", number(until.unwrap_or_default()));
    Some(span)
}

/// The check of a credential, or the issue of a token.
pub(crate) fn credential(name: &'static str) -> Option<Span> {
    Span::here(SCOPE, Kind::Internal, || name.into())
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

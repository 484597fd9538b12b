//! Reading stored events back with batch direct get (NATS ADR-31), which
//! leaves no state on the server.

use std::time::Duration;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use async_nats::{HeaderMap, Message};
use futures_util::StreamExt as _;
use serde_json::json;
use signalbox_protocol::timestamp::Timestamp;
use tokio::time::timeout;

use crate::connection::{Bus, BusError};
use crate::header;
use crate::reader::Delivery;

/// How long the server may take for the next message of a page.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of a page, but for its last message.
pub const PAGE_BYTES: usize = 512 * 1024;

/// A part of a stream's history.
#[derive(Debug)]
pub struct Page {
    /// Messages in stream order.
    pub messages: Vec<Delivery>,
    /// Whether the server has none behind the last of them, on this subject.
    pub is_last: bool,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With this sequence or the next one that matches.
    Sequence(u64),
    /// With the first message that was stored then or later.
    Time(Timestamp),
}

/// How much a page may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes, but for the last message.
    pub bytes: usize,
}

impl PageLimits {
    /// So many messages, in [`PAGE_BYTES`].
    #[must_use]
    pub const fn messages(most: usize) -> Self {
        Self {
            messages: most,
            bytes: PAGE_BYTES,
        }
    }
}

/// Reads up to `most` messages of `stream` that match the wildcard `filter`,
/// beginning with sequence `from`.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn page(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
    from: u64,
    most: usize,
) -> Result<Page, BusError> {
    page_from(bus, stream, filter, Start::Sequence(from), most).await
}

/// As [`page`], within these limits.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn page_within(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
    from: u64,
    limits: PageLimits,
) -> Result<Page, BusError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let start = Start::Sequence(from);
    bus.unless_refused(&subject, read(bus, stream, filter, start, limits))
        .await?
}

/// As [`page`], beginning with a sequence or a time.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn page_from(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
    start: Start,
    most: usize,
) -> Result<Page, BusError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let limits = PageLimits::messages(most);
    bus.unless_refused(&subject, read(bus, stream, filter, start, limits))
        .await?
}

async fn read(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
    start: Start,
    limits: PageLimits,
) -> Result<Page, BusError> {
    let failed =
        |cause: &dyn std::fmt::Display| BusError::api(format!("read history of {stream}"), cause);
    let client = bus.client();
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| failed(&error))?;
    let mut request = json!({
        "next_by_subj": filter,
        "batch": limits.messages,
        "max_bytes": limits.bytes,
    });
    match start {
        Start::Sequence(from) => request["seq"] = from.max(1).into(),
        Start::Time(time) => request["start_time"] = time.to_string().into(),
    }
    client
        .publish_with_reply(
            format!("$JS.API.DIRECT.GET.{stream}"),
            inbox,
            request.to_string().into(),
        )
        .await
        .map_err(|error| failed(&error))?;
    let mut page = Page {
        messages: Vec::new(),
        is_last: false,
    };
    loop {
        let message = match timeout(PATIENCE, answers.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(failed(&"the connection ended")),
            Err(_) => return Err(failed(&format!("nothing within {PATIENCE:?}"))),
        };
        match message.status.map(|status| status.as_u16()) {
            None | Some(200) => match delivery(message) {
                Some(delivery) => page.messages.push(delivery),
                None => return Err(failed(&"a message without position")),
            },
            // End of batch; what is pending lies behind it.
            Some(204) => {
                page.is_last = number(message.headers.as_ref(), "Nats-Num-Pending") == Some(0);
                return Ok(page);
            }
            Some(404) => {
                page.is_last = true;
                return Ok(page);
            }
            Some(status) => {
                let words = message.description.unwrap_or_default();
                return Err(failed(&format!("{status} {words}")));
            }
        }
    }
}

/// The sequence of the first message at or behind `from` that matches the
/// wildcard `filter`, as the stream's leader has it. A page may come from a
/// follower that lags.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn first_at_leader(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
    from: u64,
) -> Result<Option<u64>, BusError> {
    let failed =
        |cause: &dyn std::fmt::Display| BusError::api(format!("ask the leader of {stream}"), cause);
    let handle = bus
        .jetstream()
        .get_stream_no_info(stream)
        .await
        .map_err(|error| failed(&error))?;
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let first = handle.get_first_raw_message_by_subject(filter, from.max(1));
    match bus.unless_refused(&subject, first).await? {
        Ok(message) => Ok(Some(message.sequence)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// The last message of `stream` on `subject`, as the stream's leader has it.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn last_at_leader(
    bus: &Bus,
    stream: &'static str,
    subject: &str,
) -> Result<Option<Delivery>, BusError> {
    let failed =
        |cause: &dyn std::fmt::Display| BusError::api(format!("ask the leader of {stream}"), cause);
    let handle = bus
        .jetstream()
        .get_stream_no_info(stream)
        .await
        .map_err(|error| failed(&error))?;
    let refusal = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let last = handle.get_last_raw_message_by_subject(subject);
    match bus.unless_refused(&refusal, last).await? {
        Ok(message) => Ok(Some(Delivery {
            sequence: message.sequence,
            subject: message.subject,
            headers: Some(message.headers),
            payload: message.payload,
        })),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn delivery(message: Message) -> Option<Delivery> {
    let headers = message.headers?;
    let sequence = number(Some(&headers), "Nats-Sequence")?;
    let subject = header::value(&headers, "Nats-Subject")?.to_owned();
    Some(Delivery {
        sequence,
        subject: subject.into(),
        headers: Some(headers),
        payload: message.payload,
    })
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    header::value(headers?, name)?.parse().ok()
}

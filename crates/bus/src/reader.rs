//! The ordered reader: every message of a stream behind a position, in stream
//! order, each once, through lost links and restarted servers.
//!
//! It is an ephemeral push consumer without acknowledgements. The server
//! numbers what it delivers; a number out of turn, a missed heartbeat or a new
//! link makes the reader start a fresh consumer behind the last message that
//! it handed on. Flow control bounds what is under way.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull, push};
use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use signalbox_protocol::cursor::Epoch;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::connection::{Bus, BusError, Link};
use crate::header;
use crate::stream::{self, StreamState};

/// How often the server speaks when it has nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a silence the reader takes for a dead consumer.
const SILENCE: Duration = Duration::from_millis(2_500);
/// How long the server keeps the consumer of a reader that is gone.
const INACTIVE: Duration = Duration::from_secs(30);
/// The pause after a failed start.
const PAUSE: Duration = Duration::from_millis(200);

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: Subject,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
}

/// What a reader has to tell.
#[derive(Debug)]
pub enum Reading {
    /// Messages in stream order; at least one.
    Batch(Vec<Delivery>),
    /// The stream was made anew, or has lost its tail: positions in the former one
    /// mean nothing. Reading goes on from its beginning, unless
    /// [`skip_handed_on`](OrderedReader::skip_handed_on) is called.
    Recreated(StreamState),
    /// The bus is out of reach or refuses; reading goes on when it is back.
    Interrupted(String),
    /// The consumer was started afresh after an interruption.
    Resumed,
}

/// A reader of one stream. Owns its consumer and its position.
pub struct OrderedReader {
    bus: Bus,
    stream: &'static str,
    epoch: Epoch,
    /// The last stream sequence handed on.
    position: u64,
    /// When the server stored that message, in nanoseconds of Unix time; 0 while
    /// nothing was handed on.
    stored: u64,
    /// The last sequence of what was handed on before the stream was another.
    handed_on: u64,
    /// Messages that the server had for this reader behind its last delivery.
    lag: u64,
    consumer: Option<Consumer>,
    /// Messages taken in but not handed on yet.
    pending: Vec<Delivery>,
    link: watch::Receiver<Link>,
    interrupted: bool,
    starts: u64,
}

/// One life of the server's side.
struct Consumer {
    subscriber: Subscriber,
    /// The number of the last delivery.
    delivered: u64,
    /// When it was last heard of.
    heard: Instant,
}

/// What one message from the server means.
enum Heard {
    /// A message, how many the server has behind it, and when it was stored.
    Delivery(Delivery, u64, u64),
    Nothing,
    OutOfTurn,
}

impl OrderedReader {
    /// A reader that hands on everything behind `state.last`.
    #[must_use]
    pub fn from_tip(bus: Bus, stream: &'static str, state: StreamState) -> Self {
        Self::new(bus, stream, state.epoch, state.last)
    }

    /// A reader that hands on everything behind `position` in the stream's
    /// life `epoch`.
    #[must_use]
    pub fn new(bus: Bus, stream: &'static str, epoch: Epoch, position: u64) -> Self {
        let link = bus.link();
        Self {
            bus,
            stream,
            epoch,
            position,
            stored: 0,
            handed_on: position,
            lag: 0,
            consumer: None,
            pending: Vec::new(),
            link,
            interrupted: false,
            starts: 0,
        }
    }

    /// The stream's life that positions belong to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last stream sequence handed on.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Leaves out what was handed on before the stream was another: all that is
    /// left of one that lost its tail, but for what was stored since. For whoever
    /// has just been told so.
    pub const fn skip_handed_on(&mut self) {
        self.position = self.handed_on;
    }

    /// How many consumers were started. It changes with every interruption,
    /// also with one too short to be told of.
    #[must_use]
    pub const fn starts(&self) -> u64 {
        self.starts
    }

    /// How many messages lie behind [`position`](Self::position) in the stream,
    /// as the server said with the last delivery.
    #[must_use]
    pub const fn lag(&self) -> u64 {
        self.lag
    }

    /// Waits for something to tell; a batch has at most `most` messages, all
    /// that have arrived already. Cancelling loses nothing.
    pub async fn next(&mut self, most: usize) -> Reading {
        loop {
            if !self.pending.is_empty() {
                return Reading::Batch(std::mem::take(&mut self.pending));
            }
            let Some(consumer) = &mut self.consumer else {
                if let Some(reading) = self.start().await {
                    return reading;
                }
                continue;
            };
            let deadline = consumer.heard + SILENCE;
            let message = tokio::select! {
                message = timeout_at(deadline, consumer.subscriber.next()) => message,
                // What was under way on the old link is lost.
                Ok(()) = self.link.changed() => {
                    self.link.borrow_and_update();
                    self.consumer = None;
                    continue;
                }
            };
            let Ok(Some(message)) = message else {
                debug!(
                    stream = self.stream,
                    position = self.position,
                    "reader fell silent"
                );
                self.consumer = None;
                return self.interrupt("the bus fell silent");
            };
            self.collect(message, most).await;
        }
    }

    /// Takes `first` and whatever else has arrived.
    async fn collect(&mut self, first: Message, most: usize) {
        let mut next = Some(first);
        while let (Some(message), Some(consumer)) = (next.take(), &mut self.consumer) {
            match consumer.hear(&self.bus, message).await {
                Heard::Nothing => {}
                Heard::Delivery(delivery, behind, stored) => {
                    self.lag = behind;
                    self.stored = stored;
                    // A fresh consumer may begin with what was handed on.
                    if delivery.sequence > self.position {
                        self.position = delivery.sequence;
                        self.pending.push(delivery);
                    }
                }
                Heard::OutOfTurn => {
                    debug!(
                        stream = self.stream,
                        position = self.position,
                        "delivery out of turn"
                    );
                    self.consumer = None;
                    break;
                }
            }
            if self.pending.len() < most {
                next = self
                    .consumer
                    .as_mut()
                    .and_then(|consumer| consumer.subscriber.next().now_or_never().flatten());
            }
        }
    }

    /// Starts a consumer behind the position.
    async fn start(&mut self) -> Option<Reading> {
        self.link.borrow_and_update();
        if !self.link.borrow().up {
            if !self.interrupted {
                return Some(self.interrupt("the link to the bus is down"));
            }
            self.link.changed().await.ok();
            return None;
        }
        let mut link = self.link.clone();
        let started = tokio::select! {
            started = self.try_start() => started,
            // An answer that was under way on the old link never comes.
            Ok(()) = link.changed() => return None,
        };
        match started {
            Ok(None) => {
                let resumed = std::mem::take(&mut self.interrupted);
                resumed.then_some(Reading::Resumed)
            }
            Ok(Some(state)) => Some(Reading::Recreated(state)),
            Err(error) => {
                let reading = self.interrupt(&error.to_string());
                sleep(PAUSE).await;
                Some(reading)
            }
        }
    }

    /// Starts a consumer, unless the stream turns out to be another, whose
    /// state it returns.
    async fn try_start(&mut self) -> Result<Option<StreamState>, BusError> {
        let state = stream::state(&self.bus, self.stream).await?;
        if state.epoch != self.epoch || state.last < self.position {
            let lost_tail = state.epoch == self.epoch;
            warn!(stream = self.stream, lost_tail, "stream is another");
            let beginning = state.first.saturating_sub(1);
            self.handed_on = match lost_tail {
                true => self.last_handed_on(&state).await?,
                false => beginning,
            };
            self.epoch = state.epoch;
            self.position = beginning;
            self.stored = 0;
            return Ok(Some(state));
        }
        let inbox = self.bus.client().new_inbox();
        // Subscribed first, or the first deliveries would find nobody.
        let subscriber = self
            .bus
            .client()
            .subscribe(inbox.clone())
            .await
            .map_err(|error| BusError::api("subscribe to deliveries", error))?;
        let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let config = push::Config {
            name: Some(name),
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.position + 1,
            },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: INACTIVE,
            ..push::Config::default()
        };
        let subject = format!("$JS.API.CONSUMER.CREATE.{}.", self.stream);
        let create = self
            .bus
            .jetstream()
            .create_consumer_on_stream(config, self.stream);
        self.bus
            .unless_refused(&subject, create)
            .await?
            .map_err(|error| BusError::api(format!("read {}", self.stream), error))?;
        self.starts += 1;
        self.consumer = Some(Consumer {
            subscriber,
            delivered: 0,
            heard: Instant::now(),
        });
        Ok(None)
    }

    /// The last message that a stream without its tail still has of those that were
    /// handed on: others may have been stored since, under the numbers of what was
    /// lost. The server finds it by time, which its clock must not have set back.
    async fn last_handed_on(&self, state: &StreamState) -> Result<u64, BusError> {
        if self.stored == 0 {
            return Ok(state.last);
        }
        let stored = i128::from(self.stored) + 1;
        let start_time = OffsetDateTime::from_unix_timestamp_nanos(stored)
            .map_err(|error| BusError::api("read the time of a message", error))?;
        let inbox = self.bus.client().new_inbox();
        // Nothing is ever asked of it: where it would begin is the answer.
        let config = pull::Config {
            name: inbox.rsplit('.').next().map(str::to_owned),
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ack_policy: AckPolicy::None,
            num_replicas: 1,
            memory_storage: true,
            inactive_threshold: INACTIVE,
            ..pull::Config::default()
        };
        let subject = format!("$JS.API.CONSUMER.CREATE.{}.", self.stream);
        let create = self
            .bus
            .jetstream()
            .create_consumer_on_stream(config, self.stream);
        let consumer = self
            .bus
            .unless_refused(&subject, create)
            .await?
            .map_err(|error| BusError::api(format!("look into {}", self.stream), error))?;
        Ok(consumer.cached_info().delivered.stream_sequence)
    }

    fn interrupt(&mut self, cause: &str) -> Reading {
        self.interrupted = true;
        Reading::Interrupted(cause.to_owned())
    }
}

impl Consumer {
    async fn hear(&mut self, bus: &Bus, message: Message) -> Heard {
        self.heard = Instant::now();
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            return self.control(bus, &message).await;
        }
        let Some(positions) = message.reply.as_deref().and_then(positions) else {
            return Heard::Nothing;
        };
        let Positions {
            sequence,
            delivered,
            stored,
            behind,
        } = positions;
        if delivered != self.delivered + 1 {
            return Heard::OutOfTurn;
        }
        self.delivered = delivered;
        let delivery = Delivery {
            sequence,
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
        };
        Heard::Delivery(delivery, behind, stored)
    }

    /// Answers flow control, and compares a heartbeat's count with ours.
    async fn control(&mut self, bus: &Bus, message: &Message) -> Heard {
        let stalled = message
            .headers
            .as_ref()
            .and_then(|headers| header::value(headers, "Nats-Consumer-Stalled"));
        let reply = message
            .reply
            .as_ref()
            .map(ToString::to_string)
            .or(stalled.map(str::to_owned));
        if let Some(reply) = reply {
            if let Err(error) = bus.client().publish(reply, Bytes::new()).await {
                debug!(%error, "flow control not answered");
            }
            return Heard::Nothing;
        }
        let last = message
            .headers
            .as_ref()
            .and_then(|headers| header::value(headers, "Nats-Last-Consumer"))
            .and_then(|text| text.parse::<u64>().ok());
        match last {
            Some(last) if last != self.delivered => Heard::OutOfTurn,
            _ => Heard::Nothing,
        }
    }
}

/// What the server says about a delivery.
#[derive(Debug, PartialEq, Eq)]
struct Positions {
    /// The message's sequence in the stream.
    sequence: u64,
    /// The number of the delivery.
    delivered: u64,
    /// When it was stored, in nanoseconds of Unix time.
    stored: u64,
    /// How many messages it has behind this one.
    behind: u64,
}

/// Reads the reply subject
/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<tries>.<stream sequence>.<delivery>.<time>.<pending>[.<token>]`.
fn positions(reply: &str) -> Option<Positions> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = if tokens.len() >= 9 { 5 } else { 3 };
    let number = |index: usize| tokens.get(index)?.parse::<u64>().ok();
    Some(Positions {
        sequence: number(at)?,
        delivered: number(at + 1)?,
        stored: number(at + 2)?,
        behind: number(at + 3).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let expected = Some(Positions {
            sequence: 42,
            delivered: 7,
            stored: 1_700_000_000_000_000_000,
            behind: 5,
        });
        assert_eq!(
            positions("$JS.ACK.TOPICS.c.1.42.7.1700000000000000000.5"),
            expected
        );
        assert_eq!(
            positions("$JS.ACK.d.acc.TOPICS.c.1.42.7.1700000000000000000.5.tok"),
            expected
        );
        assert_eq!(positions("$JS.ACK.TOPICS.c"), None);
        assert_eq!(positions("_INBOX.x"), None);
    }
}

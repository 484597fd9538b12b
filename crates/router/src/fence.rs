//! Storing an event on TOPICS once and in order, whatever happens meanwhile.
//!
//! Every publish names the sequence that the subject's last message must have.
//! A lease or a duplicate window would not do: a router may be stopped for
//! longer than either and go on afterwards.
//!
//! The fence rests on two things. Whoever publishes an event has seen all
//! earlier ones of its subject stored, since it took them from a consumer that
//! nobody shares, and has one publish per subject in flight. And whatever is
//! known of a subject's last message includes which event that is: a sequence
//! alone would let an event pass that lies behind it already.

use std::time::Duration;

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use signalbox_bus::publish::{Outgoing, PublishError, Stored, publish_fenced};
use signalbox_bus::{Bus, BusError, header, stream};
use signalbox_protocol::cursor::Epoch;
use tokio::time::sleep;
use tracing::{debug, error};

use crate::metrics::DomainCounts;

/// The pause before a refused or unanswered publish is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The last message of a TOPICS subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tip {
    /// Its sequence in TOPICS; 0 when there is none.
    sequence: u64,
    /// The position in EVENTS of the event that it holds.
    source: Option<(Epoch, u64)>,
}

/// An event that is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// The subject's last message, where known.
    pub(crate) tip: Option<Tip>,
    /// Whether it was stored now, and not before.
    pub(crate) is_new: bool,
}

/// Stores an event, trying for as long as it takes. `tip` is the subject's
/// last message where known.
///
/// Cancelling is safe at any point: whoever stores the event next finds out
/// whether it is stored.
pub(crate) async fn store(
    bus: &Bus,
    message: &Outgoing,
    epoch: Epoch,
    sequence: u64,
    mut tip: Option<Tip>,
    counts: &DomainCounts,
) -> Kept {
    let mut pause = PAUSE;
    loop {
        let last = match tip {
            Some(last) => last,
            None => match read_tip(bus, &message.subject).await {
                Ok(found) => found,
                Err(cause) => {
                    debug!(subject = %message.subject, %cause, "tip not read");
                    back_off(&mut pause).await;
                    continue;
                }
            },
        };
        // Also where the tip is remembered: an event whose acknowledgement was
        // lost comes again, and one that this router held while it was stopped
        // may have been stored by another, with others behind it.
        if last.covers(epoch, sequence) {
            return Kept {
                tip: Some(last),
                is_new: false,
            };
        }
        match publish_fenced(bus, message, last.sequence).await {
            Ok(Stored {
                sequence: stored,
                duplicate: false,
            }) => {
                let tip = Tip {
                    sequence: stored,
                    source: Some((epoch, sequence)),
                };
                return Kept {
                    tip: Some(tip),
                    is_new: true,
                };
            }
            // The acknowledgement names the earlier message, which need not be
            // the subject's last.
            Ok(Stored {
                duplicate: true, ..
            }) => {
                return Kept {
                    tip: None,
                    is_new: false,
                };
            }
            Err(PublishError::Fenced) => {
                debug!(subject = %message.subject, sequence, "fenced");
                counts.fenced.add(1);
                tip = None;
            }
            Err(PublishError::Unacknowledged(_)) => {
                counts.failed.add(1);
                tip = None;
                back_off(&mut pause).await;
            }
            Err(cause) => {
                error!(subject = %message.subject, %cause, "event not stored, trying again");
                counts.failed.add(1);
                tip = None;
                back_off(&mut pause).await;
            }
        }
    }
}

impl Tip {
    /// Whether the event at this position of EVENTS is stored: a subject holds
    /// its events in the order of EVENTS.
    fn covers(self, epoch: Epoch, sequence: u64) -> bool {
        self.source
            .is_some_and(|(its_epoch, its_sequence)| its_epoch == epoch && its_sequence >= sequence)
    }
}

/// Reads a subject's last message from the stream's leader.
async fn read_tip(bus: &Bus, subject: &str) -> Result<Tip, BusError> {
    let failed = |cause: String| BusError::Api {
        action: format!("read the tip of {subject}"),
        cause,
    };
    let stream = bus
        .jetstream()
        .get_stream_no_info(stream::TOPICS)
        .await
        .map_err(|error| failed(error.to_string()))?;
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => {
            let number = |name| header::value(&message.headers, name);
            let source = number(header::EVENT_STREAM)
                .and_then(|text| text.parse().ok())
                .zip(number(header::EVENT_SEQUENCE).and_then(|text| text.parse().ok()));
            Ok(Tip {
                sequence: message.sequence,
                source,
            })
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Tip {
            sequence: 0,
            source: None,
        }),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use signalbox_bus::BusOptions;
    use signalbox_bus::server::User;
    use signalbox_bus::stream::StreamSettings;
    use signalbox_testkit::{DEADLINE, NatsServer};

    use super::*;

    const SUBJECT: &str = "topics.threat_alerts.-.-";

    /// The event at a position of EVENTS. `window` is part of the message's id:
    /// in another window nobody recognises a repeat.
    fn event(sequence: u64, window: &str) -> Outgoing {
        let mut headers = HeaderMap::new();
        headers.insert(header::EVENT_STREAM, epoch().to_string());
        headers.insert(header::EVENT_SEQUENCE, sequence.to_string());
        Outgoing {
            subject: SUBJECT.to_owned(),
            message_id: format!("{window}/{sequence}"),
            headers,
            payload: "{}".into(),
        }
    }

    fn epoch() -> Epoch {
        Epoch::from_unix_micros(7)
    }

    async fn store_as(
        bus: &Bus,
        message: &Outgoing,
        sequence: u64,
        tip: Option<Tip>,
    ) -> Option<Tip> {
        let counts = DomainCounts::default();
        let kept = store(bus, message, epoch(), sequence, tip, &counts).await;
        kept.tip
    }

    async fn bus(server: &NatsServer) -> Bus {
        let options = BusOptions {
            url: server.url(User::Admin),
            wait: DEADLINE,
        };
        Bus::connect(&options, "test").await.unwrap()
    }

    /// What the subject holds, as positions of EVENTS.
    async fn stored(bus: &Bus) -> Vec<u64> {
        let page = signalbox_bus::history::page(bus, stream::TOPICS, SUBJECT, 1, 100);
        page.await
            .unwrap()
            .messages
            .iter()
            .map(|message| {
                let headers = message.headers.as_ref().unwrap();
                let sequence = header::value(headers, header::EVENT_SEQUENCE).unwrap();
                sequence.parse().unwrap()
            })
            .collect()
    }

    /// A router that wakes up long after another took over goes through what it
    /// holds: the first event meets the fence, and what it learns there must
    /// not let the next one pass.
    #[tokio::test]
    async fn what_others_stored_meanwhile_is_not_stored_again() {
        let server = NatsServer::start().await;
        let bus = bus(&server).await;
        stream::init(&bus, &StreamSettings::default())
            .await
            .unwrap();
        let store = async |sequence, window, tip| {
            store_as(&bus, &event(sequence, window), sequence, tip).await
        };
        let known = store(1, "then", None).await;
        let mut tip = known;
        for sequence in 2..=5 {
            tip = store(sequence, "then", tip).await;
        }
        let mut tip = known;
        for sequence in 2..=5 {
            tip = store(sequence, "now", tip).await;
        }
        assert_eq!(stored(&bus).await, [1, 2, 3, 4, 5]);
        store(6, "now", tip).await;
        // Its acknowledgement is lost, so it comes again.
        let tip = store(7, "now", None).await;
        store(6, "later", tip).await;
        store(7, "later", tip).await;
        assert_eq!(stored(&bus).await, [1, 2, 3, 4, 5, 6, 7]);
    }

    /// A producer's own repeat is another event of EVENTS with the same id. The
    /// bus names the earlier message, which need not be the subject's last.
    #[tokio::test]
    async fn a_recognised_repeat_does_not_tell_the_tip() {
        let server = NatsServer::start().await;
        let bus = bus(&server).await;
        stream::init(&bus, &StreamSettings::default())
            .await
            .unwrap();
        let mut tip = None;
        for sequence in 1..=3 {
            tip = store_as(&bus, &event(sequence, "w"), sequence, tip).await;
        }
        let mut repeat = event(4, "w");
        repeat.message_id = event(2, "w").message_id;
        let tip = store_as(&bus, &repeat, 4, tip).await;
        assert_eq!(tip, None);
        store_as(&bus, &event(5, "w"), 5, tip).await;
        assert_eq!(stored(&bus).await, [1, 2, 3, 5]);
    }

    #[test]
    fn only_the_same_life_of_the_stream_covers_an_event() {
        let epoch = Epoch::from_unix_micros(1);
        let tip = Tip {
            sequence: 9,
            source: Some((epoch, 5)),
        };
        assert!(tip.covers(epoch, 5) && tip.covers(epoch, 4));
        assert!(!tip.covers(epoch, 6));
        assert!(!tip.covers(Epoch::from_unix_micros(2), 5));
        assert!(
            !Tip {
                sequence: 9,
                source: None
            }
            .covers(epoch, 1)
        );
    }
}

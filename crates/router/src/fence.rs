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

/// Stores an event, trying for as long as it takes. `tip` is the subject's
/// last message where known; returns the new one where known.
///
/// Cancelling is safe at any point: whoever stores the event next finds out
/// whether it is stored.
pub(crate) async fn store(
    bus: &Bus,
    message: &Outgoing,
    epoch: Epoch,
    sequence: u64,
    mut tip: Option<Tip>,
) -> Option<Tip> {
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
            return Some(last);
        }
        match publish_fenced(bus, message, last.sequence).await {
            Ok(Stored {
                sequence: stored,
                duplicate: false,
            }) => {
                return Some(Tip {
                    sequence: stored,
                    source: Some((epoch, sequence)),
                });
            }
            // The acknowledgement names the earlier message, which need not be
            // the subject's last.
            Ok(Stored {
                duplicate: true, ..
            }) => return None,
            Err(PublishError::Fenced) => {
                debug!(subject = %message.subject, sequence, "fenced");
                tip = None;
            }
            Err(PublishError::Unacknowledged(_)) => {
                tip = None;
                back_off(&mut pause).await;
            }
            Err(cause) => {
                error!(subject = %message.subject, %cause, "event not stored, trying again");
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
    use super::*;

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

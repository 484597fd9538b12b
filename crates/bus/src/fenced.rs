//! Writing where one owner at a time may write: each message names the sequence
//! that the subject's last one must have, and an answer that was lost is made
//! up for by looking whether the message is there.

use std::time::Duration;

use async_nats::HeaderMap;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::connection::Bus;
use crate::publish::{Outgoing, PublishError, publish_fenced};
use crate::reader::Delivery;
use crate::{header, history};

/// The pause before an unanswered write is tried again; doubled each time.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why a message was not written, and never will be.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The subject's last message is neither the expected one nor this one.
    #[error("somebody else has written")]
    Overtaken(Option<Box<Delivery>>),
    /// The bus refuses the message itself.
    #[error(transparent)]
    Refused(PublishError),
}

/// Writes a message behind the one with the sequence `last` (0: as the first of
/// its subject), trying for as long as it takes; gives its sequence. Its id must
/// be new. Cancelling leaves it open whether it is written.
///
/// A subject whose messages the stream has dropped meanwhile is begun anew.
///
/// # Errors
/// [`FenceError`] says why it is not and will not be written.
pub async fn write(
    bus: &Bus,
    stream: &'static str,
    message: &Outgoing,
    mut last: u64,
) -> Result<u64, FenceError> {
    let mut pause = PAUSE;
    loop {
        match publish_fenced(bus, message, last).await {
            Ok(stored) => return Ok(stored.sequence),
            Err(PublishError::Fenced) => {}
            Err(PublishError::Unacknowledged(_)) => {
                back_off(&mut pause).await;
            }
            Err(error @ PublishError::TooLarge) => return Err(FenceError::Refused(error)),
            Err(cause) => {
                warn!(subject = %message.subject, %cause, "not written, trying again");
                back_off(&mut pause).await;
            }
        }
        // Whatever the answer was, it may be about an earlier attempt.
        match history::last_at_leader(bus, stream, &message.subject).await {
            Ok(Some(tip)) if id(tip.headers.as_ref()) == Some(&message.message_id) => {
                return Ok(tip.sequence);
            }
            Ok(Some(tip)) if tip.sequence == last => {}
            Ok(Some(tip)) => return Err(FenceError::Overtaken(Some(Box::new(tip)))),
            Ok(None) => last = 0,
            Err(cause) => {
                debug!(subject = %message.subject, %cause, "last message not read");
                back_off(&mut pause).await;
            }
        }
    }
}

fn id(headers: Option<&HeaderMap>) -> Option<&str> {
    header::value(headers?, header::MESSAGE_ID)
}

async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

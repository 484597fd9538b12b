//! The emergency stop: a lock in the bucket of the fleet, which any relay sets
//! and lifts when it is asked to, and all of them watch.

use prost::Message as _;
use signalbox_bus::document::{self, Document};
use signalbox_bus::fenced::FenceError;
use signalbox_bus::reader::{OrderedReader, Reading};
use signalbox_bus::{Bus, BusError, key, rpc, stream, subject};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{
    CommandError, CommandRefusal, EmergencyReply, EmergencyRequest, EmergencyState,
    emergency_reply, emergency_request,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};
use tracing::{debug, info, warn};

/// Changes taken at once.
const BATCH: usize = 16;
/// The pause after a watch that could not be started.
const PAUSE: Duration = Duration::from_millis(200);

/// The lock as it is stored now; not active where there is none.
pub(crate) async fn read(bus: &Bus) -> Result<EmergencyState, BusError> {
    let found = document::read(bus, key::FLEET_STREAM, key::EMERGENCY_STOP).await?;
    Ok(found.map_or_else(EmergencyState::default, |found| {
        decode(found.sequence, &found.payload)
    }))
}

fn decode(revision: u64, payload: &[u8]) -> EmergencyState {
    match EmergencyState::decode(payload) {
        Ok(state) => EmergencyState { revision, ..state },
        Err(error) => {
            // What cannot be read is taken for a stop: the safe side.
            warn!(%error, "unreadable emergency stop, taken for one in force");
            EmergencyState {
                active: true,
                stop_id: format!("unreadable-{revision}"),
                revision,
                ..EmergencyState::default()
            }
        }
    }
}

/// Keeps `state` as the lock is, until the process ends.
pub(crate) async fn follow(bus: Bus, state: watch::Sender<EmergencyState>) {
    loop {
        let life = match stream::state(&bus, key::FLEET_STREAM).await {
            Ok(life) => life,
            Err(error) => {
                debug!(%error, "emergency stop not watched");
                sleep(PAUSE).await;
                continue;
            }
        };
        let mut reader = OrderedReader::new(bus.clone(), key::FLEET_STREAM, life.epoch, 0);
        loop {
            match reader.next(BATCH).await {
                Reading::Batch(batch) => {
                    for change in batch {
                        if *change.subject == *key::EMERGENCY_STOP {
                            let now = decode(change.sequence, &change.payload);
                            state.send_if_modified(|known| {
                                let newer = now.revision > known.revision;
                                if newer {
                                    known.clone_from(&now);
                                }
                                newer
                            });
                        }
                    }
                }
                Reading::Interrupted(_) | Reading::Resumed => {}
                Reading::Recreated(_) => break,
            }
        }
    }
}

/// Answers requests about the lock, with the other relays.
pub(crate) async fn serve(bus: Bus) {
    let of_requests = bus.clone();
    let served = rpc::serve(
        bus,
        subject::EMERGENCY,
        subject::RELAY_GROUP,
        move |request: EmergencyRequest| answer(of_requests.clone(), request),
    );
    if let Err(error) = served.await {
        warn!(%error, "emergency requests not served");
        // The other relays serve them; this one follows the stop all the same.
        std::future::pending::<()>().await;
    }
}

async fn answer(bus: Bus, request: EmergencyRequest) -> EmergencyReply {
    let outcome = match carry_out(&bus, request).await {
        Ok(state) => emergency_reply::Outcome::State(state),
        Err(cause) => {
            warn!(%cause, "emergency request not carried out");
            emergency_reply::Outcome::Refusal(CommandRefusal {
                code: CommandError::Unavailable.into(),
                message: "the bus does not answer".to_owned(),
                agent_id: String::new(),
            })
        }
    };
    EmergencyReply {
        outcome: Some(outcome),
    }
}

async fn carry_out(bus: &Bus, request: EmergencyRequest) -> Result<EmergencyState, BusError> {
    loop {
        let known = read(bus).await?;
        let wanted = match &request.verb {
            Some(emergency_request::Verb::Stop(stop)) if !known.active => EmergencyState {
                active: true,
                stop_id: format!("{:016x}", rand::random::<u64>()),
                reason: stop.reason.clone(),
                by: request.by.clone(),
                at: Timestamp::from(OffsetDateTime::now_utc()).to_string(),
                revision: 0,
            },
            Some(emergency_request::Verb::Resume(_)) if known.active => EmergencyState {
                active: false,
                by: request.by.clone(),
                at: Timestamp::from(OffsetDateTime::now_utc()).to_string(),
                revision: 0,
                ..known.clone()
            },
            _ => return Ok(known),
        };
        let mut lock = Document::new(
            bus.clone(),
            key::FLEET_STREAM,
            key::EMERGENCY_STOP.to_owned(),
            known.revision,
        );
        match lock.write(wanted.encode_to_vec().into()).await {
            Ok(revision) => {
                info!(active = wanted.active, by = %wanted.by, stop = %wanted.stop_id, "emergency stop");
                return Ok(EmergencyState { revision, ..wanted });
            }
            Err(FenceError::Overtaken(_)) => {}
            Err(FenceError::Refused(cause)) => {
                return Err(BusError::Api {
                    action: "store the emergency stop".to_owned(),
                    cause: cause.to_string(),
                });
            }
        }
    }
}

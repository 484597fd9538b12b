//! Who of dialect `workspace` is where, over all gateways: each tells what it
//! has to whoever asks on the bus.

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::subject::GATEWAY_STATS;
use signalbox_bus::{Bus, BusError, survey};
use signalbox_protocol::wire::{OccupancyReply, OccupancyRequest};
use tokio::time::sleep;
use tracing::warn;

use crate::sockets::{Occupancy, Occupants};

/// How long the gateways have to answer; one that takes longer is left out.
const PATIENCE: Duration = Duration::from_millis(500);
/// Rooms of one message; a longer list takes several.
const ROOMS_PER_PART: usize = 4_096;
/// The pause before a subscription that was lost is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// The counts of all gateways together.
pub(crate) struct Everywhere {
    pub(crate) occupants: Occupants,
    /// How many gateways have answered.
    pub(crate) gateways: u64,
}

/// What asks and answers. Shared by all shards.
pub(crate) struct Statistics {
    bus: Bus,
    occupancy: Arc<Occupancy>,
}

impl Statistics {
    pub(crate) fn new(bus: Bus, occupancy: Arc<Occupancy>) -> Self {
        Self { bus, occupancy }
    }

    /// Answers other gateways, and this one, for as long as it is polled.
    pub(crate) async fn answer(&self) {
        loop {
            let tell = |_: OccupancyRequest| parts(self.here());
            if let Err(error) = survey::answer_all(&self.bus, GATEWAY_STATS, tell).await {
                warn!(%error, "statistics not told to other gateways");
            }
            sleep(PAUSE).await;
        }
    }

    /// The connection over which gateways talk to each other.
    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The counts of this gateway.
    pub(crate) fn here(&self) -> Occupants {
        self.occupancy.now()
    }

    /// The counts of all gateways that answer in time.
    ///
    /// # Errors
    /// When they cannot be asked.
    pub(crate) async fn everywhere(&self) -> Result<Everywhere, BusError> {
        let question = OccupancyRequest {};
        let answers: Vec<OccupancyReply> =
            survey::ask_all(&self.bus, GATEWAY_STATS, &question, PATIENCE).await?;
        let mut all = Everywhere {
            occupants: Occupants::default(),
            gateways: 0,
        };
        for answer in answers {
            all.gateways += u64::from(!answer.more);
            all.occupants.merge(Occupants {
                connections: answer.connections,
                rooms: answer.rooms.into_iter().collect(),
            });
        }
        Ok(all)
    }
}

/// An answer in messages that the bus takes.
fn parts(occupants: Occupants) -> Vec<OccupancyReply> {
    let rooms: Vec<(String, u64)> = occupants.rooms.into_iter().collect();
    let mut parts: Vec<OccupancyReply> = rooms
        .chunks(ROOMS_PER_PART)
        .map(|rooms| OccupancyReply {
            connections: 0,
            rooms: rooms.iter().cloned().collect(),
            more: true,
        })
        .collect();
    if parts.is_empty() {
        parts.push(OccupancyReply::default());
    }
    if let Some(first) = parts.first_mut() {
        first.connections = occupants.connections;
    }
    if let Some(last) = parts.last_mut() {
        last.more = false;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_take_several_messages() {
        let rooms = (0..ROOMS_PER_PART + 1).map(|number| (format!("project:{number}"), 1));
        let told = parts(Occupants {
            connections: 7,
            rooms: rooms.collect(),
        });
        let told: Vec<_> = told
            .iter()
            .map(|part| (part.connections, part.rooms.len(), part.more))
            .collect();
        assert_eq!(told, [(7, ROOMS_PER_PART, true), (0, 1, false)]);
        assert_eq!(parts(Occupants::default()), [OccupancyReply::default()]);
    }
}

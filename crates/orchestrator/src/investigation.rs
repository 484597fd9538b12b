//! Investigations that people work on together: who is there is announced, and
//! what they note is kept.
//!
//! | direction | subject |
//! |---|---|
//! | in | `$KV.presence.<shard>.<investigation>.<user>.<gateway>`: who is there, as gateways declare it |
//! | in | `$KV.leases.gateway.<id>`: which gateways live |
//! | in | `svc.orchestrator.<shard>.investigation`: notes |
//! | in | `topics.investigation_progress.…`: which events are stored |
//! | out | `events.threat.investigation_collaboration`, `….investigation_note_added` |
//! | both | `$KV.investigations.<shard>.<part>.<investigation>.<id>`: people and notes |
//! | both | `$KV.leases.orchestrator.investigations.<shard>`: who holds a shard |
//!
//! # Record, publish, complete
//!
//! Whatever everyone is told is recorded first, with the id of its event, then
//! published, and completed once the event is found on TOPICS. Whoever takes a
//! shard over finds what is recorded and not complete, looks whether the event is
//! stored, and publishes it under the same id otherwise. An announcement is
//! therefore made once, wherever the former holder was killed.
//!
//! # People
//!
//! A user is there while a living gateway declares it. Somebody who is there and
//! has no record is announced as having joined; somebody who has one and has not
//! been there for the grace is announced as having left. The grace covers a reload
//! and a return to another gateway. While the bus was out of reach nobody can
//! tell who has gone: gateways get [`RETURN`] to come back before absence counts.
//!
//! # Notes
//!
//! A note is named by its author and the id that the client gave it, so that the
//! same request again is the same note. The notes of an investigation are
//! published one after the other, in the order of their numbers.
//!
//! # Bounds
//!
//! An investigation has so many people and so many notes, see
//! [`signalbox_protocol::investigation`]. Beyond them nobody is announced, and
//! notes are refused. One in which nothing changed for the configured age and
//! where nobody is is forgotten.

mod announcement;
mod attendance;
mod config;
mod holding;
mod keeper;
mod notes;
mod people;
mod settlement;

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::assignment::{Hold, Left, Parts, Work};
use signalbox_bus::{Bus, key};
use signalbox_protocol::fleet::Shard;

pub(crate) use self::attendance::Attendance;
pub use self::config::{InvestigationArgs, InvestigationOptions};
use self::holding::Holding;

/// How long gateways get to come back after the bus was out of reach, before
/// somebody who is not declared counts as absent.
pub(crate) const RETURN: Duration = Duration::from_secs(7);

/// The shards of investigations, one orchestrator for each; it may hold other
/// shards of chats.
pub(crate) fn shards() -> Parts<Shard> {
    Parts {
        service: "investigations",
        all: Shard::all().collect(),
        lease: key::investigations_lease,
        member: key::investigations_member,
        is_member: key::is_investigations_member,
    }
}

/// What all investigations of an orchestrator share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) attendance: Arc<Attendance>,
    pub(crate) options: InvestigationOptions,
}

impl Work<Shard> for Shared {
    async fn hold(&self, hold: Hold<Shard>) -> Left {
        Holding::new(self.clone(), hold).run().await
    }
}

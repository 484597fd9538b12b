//! Investigations that people work on together. The gateway says who is there,
//! tells those who come what there is, and passes notes on; orchestrators tell
//! everyone, by events.
//!
//! | part | does |
//! |---|---|
//! | [`register`] | counts who is in which investigation, over all connections |
//! | [`declare`] | keeps the bucket `presence` as the register is, and the gateway's sign of life |
//! | [`state`] | what all events up to a position add up to |
//! | [`found`] | the same from records and events alone, without the bus |
//! | [`ask`] | notes, sent to orchestrators until they are answered |
//!
//! A user is in an investigation while some subscription here names it. Name and
//! role are those of the credential.

mod ask;
mod declare;
mod found;
mod register;
mod state;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::Bus;
use signalbox_identity::Principal;
use signalbox_protocol::investigation::Member;
use tokio::sync::Semaphore;

pub(crate) use self::found::State;
use self::register::Register;
pub(crate) use self::register::{Attendance, Crowded};

/// The longest name of a user that others are shown, in bytes; what is longer is
/// cut.
const MAX_SHOWN_NAME_BYTES: usize = 256;

/// Investigations that a gateway reads at once; each may take some megabytes.
const READINGS: usize = 4;

/// What all shards share of investigations.
pub(crate) struct Investigations {
    bus: Bus,
    /// Permits to read one; whoever comes next waits.
    readings: Semaphore,
    register: Arc<Register>,
}

impl Investigations {
    /// Nobody is in any yet. `gateway` is an id that no other gateway has.
    pub(crate) fn new(bus: Bus, gateway: &str) -> Self {
        Self {
            bus,
            readings: Semaphore::new(READINGS),
            register: Arc::new(Register::new(gateway)),
        }
    }

    /// Says that the user is in an investigation, until the attendance is dropped.
    ///
    /// # Errors
    /// Says which bound is reached.
    pub(crate) fn attend(
        &self,
        investigation_id: &str,
        principal: &Principal,
    ) -> Result<Attendance, Crowded> {
        self.register.enter(investigation_id, member(principal))
    }

    /// Declares who is there until `left`, then that nobody is.
    pub(crate) fn declare<F: Future<Output = ()>>(
        &self,
        ttl: Duration,
        left: F,
    ) -> impl Future<Output = ()> + use<F> {
        declare::run(self.bus.clone(), Arc::clone(&self.register), ttl, left)
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }
}

/// A user as the others see them.
pub(crate) fn member(principal: &Principal) -> Member {
    let name = &principal.name;
    let mut end = name.len().min(MAX_SHOWN_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Member {
        id: principal.subject.to_string(),
        name: name[..end].to_owned(),
        role: principal
            .role
            .map_or_else(String::new, |role| role.to_string()),
    }
}

//! Readiness: named conditions that must all hold, and why they do not.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::shutdown::Shutdown;

/// The reason of a condition that was never set.
const STARTING: &str = "starting";
/// The reason of a condition whose owner is gone.
const STOPPED: &str = "stopped";
/// The name of the condition that fails once the process shuts down.
const SHUTDOWN: &str = "shutdown";

/// Whether the process can do its work: it is ready while there is at least
/// one condition, all of them hold, and no shutdown was asked for. Clones share
/// one state.
#[derive(Clone, Debug)]
pub struct Health {
    shutdown: Shutdown,
    /// Held for a few instructions at a time and never across a call out.
    states: Arc<Mutex<Vec<ConditionState>>>,
}

/// A readiness condition, owned by whoever knows whether it holds. It starts
/// not ready, and is not ready again when its owner drops it.
#[derive(Debug)]
#[must_use = "a dropped condition is never ready"]
pub struct Condition {
    index: usize,
    states: Arc<Mutex<Vec<ConditionState>>>,
}

/// What all conditions were at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthSnapshot {
    /// Whether all of them held.
    pub ready: bool,
    /// Each of them, in the order of their registration.
    pub conditions: Vec<ConditionState>,
}

/// What one condition was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConditionState {
    /// What must hold.
    pub name: &'static str,
    /// Whether it held.
    pub ready: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Health {
    /// Health without conditions, which is not ready; nor is it ever after
    /// `shutdown` is triggered.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            states: Arc::default(),
        }
    }

    /// Adds a condition, not ready until its owner says otherwise.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut states = self.states.lock();
        states.push(ConditionState::not_ready(name, STARTING));
        Condition {
            index: states.len() - 1,
            states: Arc::clone(&self.states),
        }
    }

    /// Whether the process can do its work now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let states = self.states.lock();
        !self.shutdown.is_triggered() && !states.is_empty() && states.iter().all(|s| s.ready)
    }

    /// What holds now, and what does not and why.
    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        let mut conditions = self.states.lock().clone();
        if self.shutdown.is_triggered() {
            conditions.push(ConditionState::not_ready(SHUTDOWN, "shutting down"));
        }
        HealthSnapshot {
            ready: !conditions.is_empty() && conditions.iter().all(|c| c.ready),
            conditions,
        }
    }
}

impl Condition {
    /// Says that the condition holds.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// Says that the condition does not hold, and why, for operators.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Says whether the condition holds, and why if not.
    pub fn set_ready_if(&self, holds: bool, reason: &str) {
        self.set((!holds).then(|| reason.to_owned()));
    }

    fn set(&self, reason: Option<String>) {
        let mut states = self.states.lock();
        let state = &mut states[self.index];
        state.ready = reason.is_none();
        state.reason = reason;
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.set_not_ready(STOPPED);
    }
}

impl ConditionState {
    fn not_ready(name: &'static str, reason: &str) -> Self {
        Self {
            name,
            ready: false,
            reason: Some(reason.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_ready_before_all_conditions_hold() {
        let health = Health::new(Shutdown::new());
        assert!(!health.is_ready() && !health.snapshot().ready);

        let (bus, keys) = (health.condition("bus"), health.condition("keys"));
        bus.set_ready();
        assert!(!health.is_ready());
        keys.set_ready();
        assert!(health.is_ready() && health.snapshot().ready);
        bus.set_not_ready("reconnecting");
        assert!(!health.is_ready() && !health.snapshot().ready);
    }

    #[test]
    fn a_dropped_condition_is_not_ready() {
        let health = Health::new(Shutdown::new());
        let bus = health.condition("bus");
        bus.set_ready();
        drop(bus);
        assert!(!health.is_ready());
        assert_eq!(
            health.snapshot().conditions[0].reason.as_deref(),
            Some("stopped")
        );
    }

    #[test]
    fn a_shutdown_ends_readiness() {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let bus = health.condition("bus");
        bus.set_ready();
        shutdown.trigger();
        assert!(!health.is_ready() && !health.snapshot().ready);
    }

    #[test]
    fn a_snapshot_lists_conditions_and_reasons() {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let (bus, _keys) = (health.condition("bus"), health.condition("keys"));
        bus.set_ready();
        shutdown.trigger();
        assert_eq!(
            serde_json::to_value(health.snapshot()).unwrap(),
            json!({"ready": false, "conditions": [
                {"name": "bus", "ready": true},
                {"name": "keys", "ready": false, "reason": "starting"},
                {"name": "shutdown", "ready": false, "reason": "shutting down"},
            ]})
        );
    }
}

//! The steps by which processes are ended. Pure: times in, steps out.

use std::time::Instant;

use crate::command::Urgency;
use crate::executor::Graces;

/// How far a command was told to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ladder {
    graces: Graces,
    /// The last step, and when the next one is due.
    step: Option<(Urgency, Instant)>,
}

impl Ladder {
    pub(super) const fn new(graces: Graces) -> Self {
        Self { graces, step: None }
    }

    /// Asks for a step; it is to be taken if it is returned.
    pub(super) fn ask(&mut self, urgency: Urgency, now: Instant) -> Option<Urgency> {
        if self.step.is_some_and(|(taken, _)| taken >= urgency) {
            return None;
        }
        let grace = match urgency {
            Urgency::Interrupt => self.graces.interrupt,
            Urgency::Terminate => self.graces.terminate,
            Urgency::Kill => self.graces.kill,
        };
        self.step = Some((urgency, now + grace));
        Some(urgency)
    }

    /// The step that is due, if there is one.
    pub(super) fn due(&mut self, now: Instant) -> Option<Urgency> {
        match self.step {
            Some((Urgency::Interrupt, at)) if now >= at => self.ask(Urgency::Terminate, now),
            Some((Urgency::Terminate, at)) if now >= at => self.ask(Urgency::Kill, now),
            _ => None,
        }
    }

    /// When the next step is due, or the last one has been in vain.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.step.map(|(_, at)| at)
    }

    /// Whether processes are being ended, not only asked to.
    pub(super) fn is_ending(&self) -> bool {
        self.step
            .is_some_and(|(step, _)| step >= Urgency::Terminate)
    }

    /// Whether processes are being killed.
    pub(super) fn is_killing(&self) -> bool {
        self.step.is_some_and(|(step, _)| step == Urgency::Kill)
    }

    /// Whether even that has been in vain.
    pub(super) fn is_exhausted(&self, now: Instant) -> bool {
        matches!(self.step, Some((Urgency::Kill, at)) if now >= at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACES: Graces = Graces {
        interrupt: Duration::from_secs(5),
        terminate: Duration::from_secs(3),
        kill: Duration::from_secs(2),
        drain: Duration::ZERO,
    };

    #[test]
    fn every_step_has_its_grace() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut ladder = Ladder::new(GRACES);
        assert_eq!(ladder.due(after(100)), None);
        assert_eq!(
            ladder.ask(Urgency::Interrupt, start),
            Some(Urgency::Interrupt)
        );
        assert_eq!(ladder.ask(Urgency::Interrupt, after(4)), None);
        assert_eq!(ladder.due(after(4)), None);
        assert_eq!(ladder.due(after(5)), Some(Urgency::Terminate));
        assert_eq!(ladder.due(after(7)), None);
        assert_eq!(ladder.due(after(8)), Some(Urgency::Kill));
        assert!(ladder.is_killing() && !ladder.is_exhausted(after(9)));
        assert!(ladder.is_exhausted(after(10)));
    }

    #[test]
    fn more_urgency_skips_steps_and_less_changes_nothing() {
        let start = Instant::now();
        let mut ladder = Ladder::new(GRACES);
        assert_eq!(ladder.ask(Urgency::Kill, start), Some(Urgency::Kill));
        assert_eq!(ladder.ask(Urgency::Terminate, start), None);
    }
}

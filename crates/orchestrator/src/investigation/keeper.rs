//! One investigation while something happens in it: people come and go, notes are
//! added. Everything is recorded, published and completed here, one after the
//! other; what is under way when this is cancelled is the next holder's.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::fenced::FenceError;
use signalbox_bus::lease::Tenure;
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::{BusError, investigation, key};
use signalbox_protocol::investigation::HeadRecord;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, warn};

use super::Shared;
use super::announcement::Open;
use super::holding::Request;
use super::notes::Notes;
use super::people::People;
use super::settlement::{Matter, Settlement};

/// Requests that may wait for an investigation; a further one is not answered and
/// comes again.
pub(super) const INBOX_CAPACITY: usize = 64;
/// How long an investigation in which nothing happens stays in memory.
const IDLE: Duration = Duration::from_secs(60);
/// How long one attempt to publish an announcement may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// The part of an investigation's age after which it is noted again that it
/// changes.
const HEADS_PER_AGE: u32 = 100;

/// Why an investigation is kept no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing happens in it, or it is to be given away.
    Idle,
    /// Another orchestrator writes its records.
    Superseded,
    /// A record is refused as such.
    Broken,
}

/// The investigation is to be left.
pub(super) type Step<T = ()> = Result<T, Ended>;

/// See the module.
pub(super) struct Keeper {
    pub(super) shared: Shared,
    pub(super) id: Arc<str>,
    tenure: Tenure,
    pub(super) settlement: Settlement,
    pub(super) people: People,
    pub(super) notes: Notes,
    /// When it was noted that the investigation changes.
    changed: Option<Instant>,
    /// When something happened.
    active: Instant,
}

impl Keeper {
    pub(super) fn new(shared: Shared, id: Arc<str>, tenure: Tenure) -> Self {
        Self {
            settlement: Settlement::new(shared.bus.clone(), &id),
            people: People::default(),
            notes: Notes::default(),
            changed: None,
            active: Instant::now(),
            shared,
            id,
            tenure,
        }
    }

    /// Keeps the investigation until nothing happens in it any more, or `inbox` is
    /// closed. `look` says that somebody may have come or gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>, look: &Notify) -> Ended {
        match self.keep(&mut inbox, look).await {
            Ok(()) => Ended::Idle,
            Err(ended) => ended,
        }
    }

    async fn keep(&mut self, inbox: &mut mpsc::Receiver<Request>, look: &Notify) -> Step {
        self.take_up().await?;
        loop {
            self.look_around().await?;
            let due = [self.settlement.due(), self.people.due()];
            let due = due.into_iter().flatten().min();
            let idle = IDLE.min(self.shared.options.age);
            let idle = (due.is_none() && self.people.is_empty()).then_some(self.active + idle);
            tokio::select! {
                biased;
                () = until(self.settlement.due()) => self.settle().await?,
                request = inbox.recv() => match request {
                    Some(request) => {
                        self.active = Instant::now();
                        self.note(request).await?;
                    }
                    None => return Ok(()),
                },
                () = look.notified() => {}
                () = until(due) => {}
                () = until(idle) => return Ok(()),
            }
            self.still_holds()?;
        }
    }

    /// Reads what is kept, and goes on with what is not complete.
    async fn take_up(&mut self) -> Step {
        let id = Arc::clone(&self.id);
        let bus = self.shared.bus.clone();
        let records = self.insist(|| investigation::read(&bus, &id)).await?;
        let half = self.notes.take_up(records.notes, &records.fresh);
        self.people.take_up(records.members);
        let open: Vec<Open> = self.people.open().chain(half).collect();
        self.clear_leftovers().await?;
        if open.is_empty() {
            return Ok(());
        }
        for one in &open {
            let (id, matter) = (one.event_id.clone(), one.matter.clone());
            self.settlement.expect(id, matter, one.at);
        }
        // What is stored already is not published again: the bus recognises a
        // repeat only for a while.
        while let Err(cause) = self.settle_once().await? {
            debug!(investigation = %self.id, %cause, "not taken up yet");
            sleep(PAUSE).await;
        }
        for one in &open {
            if self.settlement.awaits(&one.event_id) {
                warn!(investigation = %self.id, event = %one.event_id, "announced by the next holder");
                self.publish(&one.event).await?;
            }
        }
        Ok(())
    }

    /// Completes what is stored.
    async fn settle(&mut self) -> Step {
        if let Err(cause) = self.settle_once().await? {
            debug!(investigation = %self.id, %cause, "events not looked for");
        }
        Ok(())
    }

    async fn settle_once(&mut self) -> Step<Result<(), BusError>> {
        let found = match self.settlement.look().await {
            Ok(found) => found,
            Err(cause) => return Ok(Err(cause)),
        };
        for matter in found {
            self.active = Instant::now();
            match matter {
                Matter::Member(user_id) => self.complete_member(&user_id).await?,
                Matter::Note(note_id) => self.complete_note(&note_id).await?,
            }
        }
        Ok(Ok(()))
    }

    /// Notes that the investigation changes, unless that was done lately.
    pub(super) async fn note_change(&mut self) -> Step {
        let often = self.shared.options.age / HEADS_PER_AGE;
        if self.changed.is_some_and(|at| at.elapsed() < often) {
            return Ok(());
        }
        let head = HeadRecord {
            investigation_id: self.id.to_string(),
            changed_at: OffsetDateTime::now_utc().into(),
        };
        let bus = self.shared.bus.clone();
        self.insist(|| investigation::note_change(&bus, &head, PATIENCE))
            .await?;
        self.changed = Some(Instant::now());
        Ok(())
    }

    /// Publishes an announcement, for as long as it takes.
    pub(super) async fn publish(&self, announcement: &Outgoing) -> Step {
        let bus = &self.shared.bus;
        self.insist(|| publish(bus, announcement, PATIENCE))
            .await
            .map(|_| ())
    }

    /// Does something again until it succeeds, while the shard is held.
    pub(super) async fn insist<T, E, F>(&self, mut attempt: impl FnMut() -> F) -> Step<T>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        loop {
            self.still_holds()?;
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(cause) => warn!(investigation = %self.id, %cause, "failed, trying again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// After the process was stopped, this may be the first to notice that another
    /// holds the shard.
    pub(super) fn still_holds(&self) -> Step {
        match self.tenure.is_over() {
            true => Err(Ended::Superseded),
            false => Ok(()),
        }
    }

    /// What became of the write of a record.
    pub(super) fn written<T>(&self, written: Result<T, FenceError>) -> Step<T> {
        written.map_err(|cause| match cause {
            FenceError::Overtaken(_) => Ended::Superseded,
            FenceError::Refused(cause) => {
                error!(investigation = %self.id, %cause, "record refused");
                Ended::Broken
            }
        })
    }

    /// The revision behind which a record is written that is not there: that of
    /// its removal, where it was.
    pub(super) async fn revision(&self, subject: &str) -> Step<u64> {
        let bus = self.shared.bus.clone();
        self.insist(|| investigation::revision(&bus, subject)).await
    }

    pub(super) fn subject(&self, part: key::InvestigationPart, id: &str) -> String {
        key::investigation_record(part, &self.id, id)
    }
}

/// Waits for a moment that may not come.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

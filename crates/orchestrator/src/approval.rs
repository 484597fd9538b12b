//! Approval: calls of tools that wait until people have decided on them.
//!
//! A call that waits is an action, told of in events `action_update`. People
//! decide by `action_decision`, which gateways record in the bucket `decisions`;
//! here the record is waited for, and written where nobody decides in time or the
//! chat is cancelled. It is written once, so that of a decision and an expiry one
//! is all there is.
//!
//! # What the turn does, and when
//!
//! | behind the record | it calls |
//! |---|---|
//! | `ChatToolHeld` is stored | [`hold`](Approvals::hold), then [`decided`](Approvals::decided) |
//! | while it waits, the chat is cancelled | [`settle`](Approvals::settle) in place of `decided` |
//! | `ChatToolDecided` is stored, not approved | [`tell`](Approvals::tell) REJECTED, EXPIRED or CANCELLED |
//! | `ChatToolStarted` is stored | `tell` EXECUTING, then it runs the tool |
//! | `ChatToolEnded` is stored | `tell` COMPLETED or FAILED, before the answer's end |
//!
//! Every one of them may be repeated by whoever goes on with the answer, at any
//! later time: what was told is not told again, and the same is decided.
//!
//! # Invariants
//!
//! - `decided` gives `Approved` only for a decision that was made before the
//!   action's expiry, by the decider's clock and by that of the bus, and on the
//!   arguments that the action has: where anybody has told of others, nothing runs.
//! - By the time that it returns so, the decision's event is on the bus: people see
//!   PENDING, the decision, EXECUTING and the end in this order. Events of other
//!   decisions are left out when the bus refuses them for some seconds: the record
//!   is what decides, and nothing is run by these.
//! - An action has one end, and no status is told behind it.

mod seats;
mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use signalbox_bus::decision::{
    DecisionError, DecisionWatch, Decisions, Ending, Known, SYSTEM, Seen, Settlement,
};
use signalbox_bus::trace::TraceContext;
use signalbox_bus::{Bus, BusError, key};
use signalbox_protocol::decision::Verdict;
use signalbox_protocol::timestamp::Timestamp;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use self::seats::{Seat, Seats};
use self::status::{Outlook, Refusal};
pub use self::status::{Status, Untold};
use crate::moment;

/// The target of audit lines.
const AUDIT: &str = "audit";
/// The pause before the bus is asked again; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The clock is read again at least this often while an action waits: it may be
/// set, and timers rest with the machine.
const CLOCK: Duration = Duration::from_secs(10);
/// Why an action ends on which nobody decided.
const TOO_LATE: &str = "nobody decided in time";
/// Why nothing is run that was approved with other arguments.
const OTHER_ARGUMENTS: &str = "the decision was made on other arguments";

/// A call of a tool that people decide on.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// As [`action_id`](crate::tools::action_id) makes it.
    pub action_id: String,
    /// What kind of action it is.
    pub action_type: String,
    /// The tool.
    pub tool_name: String,
    /// What it is given: an object.
    pub arguments: Value,
    /// As [`arguments_hash`](crate::tools::arguments_hash) makes it.
    pub arguments_hash: String,
    /// The user whose chat it is.
    pub requested_by: String,
    /// The chat.
    pub session_id: String,
    /// Which answer of the chat.
    pub answer: u32,
    /// Which call of the answer.
    pub tool_call: u32,
    /// Until when it can be decided on, in Unix milliseconds.
    pub expires_at_ms: u64,
    /// The trace that the call is part of, and with it all that is told of it.
    pub trace: Option<TraceContext>,
}

impl Action {
    fn expires_at(&self) -> Timestamp {
        let ms = i64::try_from(self.expires_at_ms).unwrap_or(i64::MAX);
        // A moment that cannot be written is none that can be waited for.
        Timestamp::from_unix_millis(ms).unwrap_or_else(moment::now)
    }

    fn is_over(&self) -> bool {
        moment::now() >= self.expires_at()
    }
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is to be carried out.
    Approved {
        /// Who says so.
        by: String,
        /// Why.
        reason: Option<String>,
    },
    /// It is not to be carried out.
    Rejected {
        /// Who says so.
        by: String,
        /// Why.
        reason: Option<String>,
    },
    /// Nobody decided in time.
    Expired,
}

/// How long others are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long the bus may refuse an action that is to be put to people; the time
    /// for which it is away does not count.
    pub hold: Duration,
    /// As `hold`, for what becomes of an action later, and for the event of a
    /// decision by which nothing is run.
    pub tell: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// How long whoever recorded a decision has to publish it; then it is done
    /// here.
    pub publication: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(10),
            tell: Duration::from_secs(5),
            attempt: Duration::from_secs(5),
            publication: Duration::from_millis(500),
        }
    }
}

/// Puts actions to people and waits for their decisions. Clones share it.
#[derive(Clone)]
pub struct Approvals {
    bus: Bus,
    decisions: Decisions,
    seats: Arc<Seats>,
    patience: Patience,
}

impl Approvals {
    /// Opens the record of decisions.
    ///
    /// # Errors
    /// When the bus does not answer or was not prepared by `init`.
    pub async fn open(bus: Bus) -> Result<Self, BusError> {
        Ok(Self {
            decisions: Decisions::open(bus.clone()).await?,
            bus,
            seats: Arc::default(),
            patience: Patience::default(),
        })
    }

    /// The same, with this patience.
    #[must_use]
    pub fn with(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Hears of decisions for all actions that wait, until it is dropped. Nothing
    /// is decided without it.
    pub async fn watch(&self) {
        let mut watch = DecisionWatch::new(self.bus.clone());
        loop {
            match watch.next().await {
                Seen::Changed(keys) => keys.iter().for_each(|key| self.seats.wake(key)),
                Seen::Anything => self.seats.wake_all(),
            }
        }
    }

    /// Puts an action to people: tells that it is PENDING. Waits for a bus that is
    /// away.
    ///
    /// # Errors
    /// [`Untold`]: the bus refuses it, so that nobody can decide on it.
    pub async fn hold(&self, action: &Action) -> Result<(), Untold> {
        let mut refusal = Refusal::default();
        self.put(action, Status::Pending, self.patience.hold, &mut refusal)
            .await
    }

    /// Tells what becomes of an action, once. Waits for a bus that is away; what
    /// the bus refuses for some seconds is left out, with a line in the log, since
    /// an answer must not hang on those who look on.
    pub async fn tell(&self, action: &Action, status: Status) {
        self.teller().tell(action, status).await;
    }

    /// Tells one thing after the other; the bus may refuse all of them together for
    /// as long as one.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller {
            approvals: self.clone(),
            refusal: Refusal::default(),
        }
    }

    /// Waits until it is decided, for as long as the bus is away if need be, and
    /// settles it when its time is over. An approval waits for a bus that refuses its
    /// event as well.
    pub async fn decided(&self, action: &Action) -> Decided {
        // Taken before the record is read, or what comes between goes unheard.
        let mut seat = self.seats.take(key::decision(&action.action_id));
        let (mut pause, mut refusal) = (PAUSE, Refusal::default());
        loop {
            match self.look(action, &mut seat).await {
                Ok(Some(decided)) => return decided,
                Ok(None) => {
                    pause = PAUSE;
                    wait(action, &mut seat).await;
                }
                Err(error) => {
                    if let Some(decided) = self.untold(action, &error, &mut refusal).await
                        && !matches!(decided, Decided::Approved { .. })
                    {
                        return decided;
                    }
                    warn!(action = %action.action_id, %error, "decision not known, trying again");
                    back_off(&mut pause).await;
                }
            }
        }
    }

    /// Gives an action up for this reason, unless somebody has decided; gives what
    /// is decided then, by which nothing is to be run. Tries for as long as the bus
    /// is away.
    pub async fn settle(&self, action: &Action, reason: &str) -> Decided {
        let (mut pause, mut refusal) = (PAUSE, Refusal::default());
        loop {
            match self.cancel(action, reason).await {
                Ok(decided) => return decided,
                Err(error) => {
                    if let Some(decided) = self.untold(action, &error, &mut refusal).await {
                        return decided;
                    }
                    warn!(action = %action.action_id, %error, "action not given up, trying again");
                    back_off(&mut pause).await;
                }
            }
        }
    }

    /// What is decided and published, if anything is.
    async fn look(
        &self,
        action: &Action,
        seat: &mut Seat,
    ) -> Result<Option<Decided>, DecisionError> {
        match self.published(action, seat).await? {
            Some(known) => Ok(Some(self.weigh(action, &known).await?)),
            None => Ok(None),
        }
    }

    /// Gives an action up, unless it is decided; gives what is decided then.
    async fn cancel(&self, action: &Action, reason: &str) -> Result<Decided, DecisionError> {
        let known = self.end(action, Settlement::Cancelled, reason).await?;
        self.weigh(action, &known).await
    }

    /// What is recorded, once the bus has refused its event for long enough.
    async fn untold(
        &self,
        action: &Action,
        error: &DecisionError,
        refusal: &mut Refusal,
    ) -> Option<Decided> {
        let is_refused = match error {
            DecisionError::Unpublished(error) => status::outlook(error) != Outlook::Away,
            _ => false,
        };
        if !refusal.lasts(is_refused, self.patience.tell) {
            return None;
        }
        error!(action = %action.action_id, %error, "decision not told");
        let known = self.decisions.find(&action.action_id).await.ok()??;
        self.weigh(action, &known).await.ok()
    }

    /// What a record means for an action, by what people were told of that.
    async fn weigh(&self, action: &Action, known: &Known) -> Result<Decided, DecisionError> {
        let decided = judge(action, known);
        if let Decided::Approved { by, .. } = &decided
            && !status::is_told_as_it_is(&self.bus, action).await?
        {
            return Ok(on_others(action, by));
        }
        Ok(decided)
    }

    /// The record of what is decided, once its event is on the bus.
    async fn published(
        &self,
        action: &Action,
        seat: &mut Seat,
    ) -> Result<Option<Known>, DecisionError> {
        let Some(known) = self.decisions.find(&action.action_id).await? else {
            if !action.is_over() {
                return Ok(None);
            }
            let ended = self.end(action, Settlement::Expired, TOO_LATE).await?;
            return Ok(Some(ended));
        };
        if known.is_published() {
            return Ok(Some(known));
        }
        // Whoever recorded it is about to publish it, unless it was ended.
        timeout(self.patience.publication, seat.woken()).await.ok();
        let known = self.decisions.find(&action.action_id).await?;
        match known {
            Some(known) => Ok(Some(self.decisions.finish(known).await?)),
            None => Ok(None),
        }
    }

    /// Ends an action on which nobody decided.
    async fn end(
        &self,
        action: &Action,
        settlement: Settlement,
        reason: &str,
    ) -> Result<Known, DecisionError> {
        let ending = Ending {
            action_id: action.action_id.clone(),
            action_type: action.action_type.clone(),
            settlement,
            reason: reason.to_owned(),
            expires_at: action.expires_at(),
        };
        let known = self.decisions.settle(&ending).await?;
        if known.settlement() == Some(settlement) {
            info!(target: AUDIT, action = %action.action_id, reason, "settled");
        }
        Ok(known)
    }

    async fn put(
        &self,
        action: &Action,
        status: Status,
        patience: Duration,
        refusal: &mut Refusal,
    ) -> Result<(), Untold> {
        let mut pause = PAUSE;
        loop {
            let attempt = self.patience.attempt;
            let told = status::tell(&self.bus, action, status, attempt);
            let told = timeout(attempt, told).await;
            let error = match told {
                Ok(Ok(())) => {
                    *refusal = Refusal::default();
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(_) => Untold::Silent(attempt),
            };
            let outlook = error.outlook();
            let lasts = refusal.lasts(outlook == Outlook::Refused, patience);
            if lasts || outlook == Outlook::Never {
                return Err(error);
            }
            debug!(action = %action.action_id, %status, %error, "telling again");
            back_off(&mut pause).await;
        }
    }
}

/// Tells what becomes of actions, one after the other.
pub struct Teller {
    approvals: Approvals,
    refusal: Refusal,
}

impl Teller {
    /// As [`Approvals::tell`].
    pub async fn tell(&mut self, action: &Action, status: Status) {
        let (approvals, refusal) = (&self.approvals, &mut self.refusal);
        let told = approvals.put(action, status, approvals.patience.tell, refusal);
        if let Err(error) = told.await {
            error!(action = %action.action_id, %status, %error, "status of an action not told");
        }
    }
}

/// Waits for news of an action, or for its end.
async fn wait(action: &Action, seat: &mut Seat) {
    loop {
        let left = action.expires_at().unix_millis() - moment::now().unix_millis();
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        if left.is_zero() || timeout(left.min(CLOCK), seat.woken()).await.is_ok() {
            return;
        }
    }
}

/// What a record means for an action, taken by itself.
fn judge(action: &Action, known: &Known) -> Decided {
    let decision = known.decision();
    let reason = decision.reason.clone();
    match known.settlement() {
        Some(Settlement::Expired) => return Decided::Expired,
        Some(Settlement::Cancelled) => {
            let by = SYSTEM.to_owned();
            return Decided::Rejected { by, reason };
        }
        None => {}
    }
    // The record goes by what an event said of the action; this is the action.
    if !known.is_before(action.expires_at()) {
        warn!(action = %action.action_id, by = %decision.decided_by, "decided too late");
        return Decided::Expired;
    }
    let by = decision.decided_by.clone();
    match decision.verdict {
        // All that we tell of an action has its hash, and so has what goes by that.
        Verdict::Approve if decision.arguments_hash.as_ref() != Some(&action.arguments_hash) => {
            on_others(action, &by)
        }
        Verdict::Approve => Decided::Approved { by, reason },
        Verdict::Reject => Decided::Rejected { by, reason },
    }
}

/// Turns down what somebody has approved with other arguments.
fn on_others(action: &Action, by: &str) -> Decided {
    warn!(action = %action.action_id, by, OTHER_ARGUMENTS);
    Decided::Rejected {
        by: SYSTEM.to_owned(),
        reason: Some(OTHER_ARGUMENTS.to_owned()),
    }
}

async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

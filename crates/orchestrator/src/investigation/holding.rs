//! The holder of one shard of investigations: finds what is not complete, then
//! hands to the keeper of each investigation what happens in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use futures_util::StreamExt as _;
use prost::Message as _;
use signalbox_bus::assignment::{Hold, Left};
use signalbox_bus::key::{self, InvestigationPart};
use signalbox_bus::{Bus, BusError, investigation, subject};
use signalbox_protocol::investigation::{HeadRecord, MemberRecord, NoteRecord, shard as shard_of};
use signalbox_protocol::name;
use signalbox_protocol::wire::investigation_reply::Outcome;
use signalbox_protocol::wire::investigation_request::Verb;
use signalbox_protocol::wire::{
    AddNote, InvestigationError, InvestigationReply, InvestigationRequest,
};
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::Shared;
use super::keeper::{Ended, INBOX_CAPACITY, Keeper};
use super::notes::refusal;

/// The pause before a shard that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Investigations of a shard in which something happens at once; further notes
/// are told to come again, and people are announced when there is room.
const MOST_KEPT: usize = 8_192;
/// How long gateways must be gone before their declarations are removed.
const BURIAL: Duration = Duration::from_secs(60);
/// How long what is under way may take when the shard is given away.
const DRAIN: Duration = Duration::from_secs(3);
/// The longest time between two looks for what is to be forgotten.
const LONGEST_SWEEP: Duration = Duration::from_secs(60);
/// How many such looks there are in the age of an investigation, at least.
const SWEEPS_PER_AGE: u32 = 10;

/// A request to note something.
pub(super) struct Request {
    pub(super) user_id: String,
    pub(super) note: AddNote,
    pub(super) reply: Reply,
}

/// Who waits for an answer. Dropped without one, the request is sent again.
pub(super) struct Reply(Option<Subject>);

impl Reply {
    pub(super) async fn send(self, bus: &Bus, outcome: Outcome) {
        let Some(to) = self.0 else { return };
        let body = InvestigationReply {
            outcome: Some(outcome),
        };
        let sent = bus.client().publish(to, body.encode_to_vec().into());
        if let Err(error) = sent.await {
            debug!(%error, "answer not sent");
        }
    }
}

/// A shard that this orchestrator holds.
pub(super) struct Holding {
    shared: Shared,
    hold: Hold<signalbox_protocol::fleet::Shard>,
    keepers: HashMap<Arc<str>, Kept>,
    tasks: JoinSet<(Arc<str>, Ended)>,
    /// The version of the attendance that the keepers know.
    seen: u64,
    /// Since when it was certain who is not there, as the keepers know.
    certain_since: Option<Instant>,
    /// Whether there is no room for another keeper.
    is_full: bool,
}

/// The way to a keeper.
struct Kept {
    inbox: mpsc::Sender<Request>,
    look: Arc<Notify>,
}

impl Holding {
    pub(super) fn new(shared: Shared, hold: Hold<signalbox_protocol::fleet::Shard>) -> Self {
        Self {
            shared,
            hold,
            keepers: HashMap::new(),
            tasks: JoinSet::new(),
            seen: 0,
            certain_since: None,
            is_full: false,
        }
    }

    /// Serves the shard until it is to be given away, or is another's. Cancelling
    /// ends everything that belongs to it.
    pub(super) async fn run(mut self) -> Left {
        let stop = self.hold.stop.clone();
        let mut changes = self.shared.attendance.changes();
        let mut requests = tokio::select! {
            () = stop.wait() => return Left::Done,
            requests = self.take_over() => requests,
        };
        info!(shard = %self.hold.part, open = self.keepers.len(), "investigations served");
        self.look();
        let pause = (self.shared.options.age / SWEEPS_PER_AGE).min(LONGEST_SWEEP);
        let mut sweeps = interval_at(Instant::now() + pause, pause);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(ended) = self.tasks.join_next() => {
                    if let Some(left) = self.note_end(ended) {
                        return left;
                    }
                }
                // The sender lives as long as the orchestrator.
                Ok(()) = changes.changed() => {
                    changes.borrow_and_update();
                    self.look();
                }
                message = requests.next() => match message {
                    Some(message) => self.take(message).await,
                    None => return Left::Broken,
                },
                _ = sweeps.tick() => self.sweep().await,
            }
            // After the process was stopped, this may be the first to notice.
            if self.hold.tenure.is_over() {
                return Left::Superseded;
            }
        }
        self.leave().await
    }

    /// Has what is under way completed, as far as that is a matter of moments.
    async fn leave(&mut self) -> Left {
        self.keepers.clear();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(DRAIN, ended).await.is_err() {
            warn!(shard = %self.hold.part, left = self.tasks.len(), "investigations left behind");
        }
        Left::Done
    }

    /// Takes up what is not complete and whoever is told to be there, and listens.
    async fn take_over(&mut self) -> Subscriber {
        loop {
            match self.try_take_over().await {
                Ok(requests) => return requests,
                Err(cause) => {
                    debug!(shard = %self.hold.part, %cause, "investigations not served yet");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_take_over(&mut self) -> Result<Subscriber, BusError> {
        let (bus, shard) = (self.shared.bus.clone(), self.hold.part);
        let of = |part| key::investigations_of(shard, part);
        let members = of(InvestigationPart::Member);
        let members = investigation::read_part::<MemberRecord>(&bus, &members).await?;
        let fresh = of(InvestigationPart::FreshNote);
        let fresh = investigation::read_part::<NoteRecord>(&bus, &fresh).await?;
        let subject = subject::orchestrator_investigation(shard);
        let requests = bus.client().subscribe(subject.clone()).await;
        let requests = requests.map_err(|error| BusError::Api {
            action: format!("serve {subject}"),
            cause: error.to_string(),
        })?;
        let members = members.into_iter().map(|kept| kept.record.investigation_id);
        let fresh = fresh.into_iter().map(|kept| kept.record.investigation_id);
        for id in members.chain(fresh) {
            self.keep(&id);
        }
        Ok(requests)
    }

    /// Tells the keepers that somebody may have come or gone.
    fn look(&mut self) {
        let certain_since = self.shared.attendance.certain_since();
        let is_same = std::mem::replace(&mut self.certain_since, certain_since) == certain_since;
        let (listed, version) = self
            .shared
            .attendance
            .investigations(self.hold.part, self.seen);
        self.seen = version;
        for (id, is_touched) in &listed {
            let is_kept = self.keepers.contains_key(id);
            // Those whose gateways are gone may be left in peace.
            if *is_touched || !is_kept && !self.shared.attendance.present(id).is_empty() {
                self.keep(id);
            }
        }
        wake(&self.keepers, &listed, is_same);
    }

    /// The keeper of an investigation; `None` where there is no room for one.
    fn keep(&mut self, id: &str) -> Option<&Kept> {
        if !self.keepers.contains_key(id) {
            if self.keepers.len() >= MOST_KEPT {
                if !std::mem::replace(&mut self.is_full, true) {
                    warn!(shard = %self.hold.part, "too many investigations at once");
                }
                return None;
            }
            let id: Arc<str> = id.into();
            let (inbox, requests) = mpsc::channel(INBOX_CAPACITY);
            let look = Arc::new(Notify::new());
            let keeper = Keeper::new(
                self.shared.clone(),
                Arc::clone(&id),
                self.hold.tenure.clone(),
            );
            let (name, looking) = (Arc::clone(&id), Arc::clone(&look));
            self.tasks
                .spawn(async move { (name, keeper.run(requests, &looking).await) });
            self.keepers.insert(id, Kept { inbox, look });
        }
        self.keepers.get(id)
    }

    /// Takes note that an investigation is kept no more; gives why the shard is to
    /// be left, if so.
    fn note_end(&mut self, ended: Result<(Arc<str>, Ended), JoinError>) -> Option<Left> {
        match ended {
            Ok((id, ended)) => {
                self.keepers.remove(&id);
                self.is_full = false;
                match ended {
                    Ended::Idle => {
                        // Somebody may have come in the same moment.
                        if !self.shared.attendance.present(&id).is_empty() {
                            self.keep(&id);
                        }
                        None
                    }
                    Ended::Superseded => {
                        warn!(investigation = %id, "another orchestrator writes the records");
                        Some(Left::Superseded)
                    }
                    Ended::Broken => {
                        error!(investigation = %id, "put away");
                        None
                    }
                }
            }
            // Whoever takes the shard next finds everything as it was.
            Err(cause) => {
                error!(shard = %self.hold.part, %cause, "keeper of an investigation ended");
                Some(Left::Broken)
            }
        }
    }

    async fn take(&mut self, message: Message) {
        let reply = Reply(message.reply);
        let Ok(request) = InvestigationRequest::decode(message.payload) else {
            warn!(shard = %self.hold.part, "unreadable request");
            return;
        };
        let InvestigationRequest {
            investigation_id,
            user_id,
            verb: Some(Verb::AddNote(note)),
        } = request
        else {
            return self.refuse(reply, "verb", "a verb").await;
        };
        if !name::is_valid(&investigation_id) || shard_of(&investigation_id) != self.hold.part {
            let expected = "an investigation of this shard";
            return self.refuse(reply, "investigation_id", expected).await;
        }
        if !name::is_valid(&user_id) {
            return self.refuse(reply, "user_id", "a user").await;
        }
        let Some(kept) = self.keep(&investigation_id) else {
            let words = "too many investigations at once";
            let refusal = refusal(InvestigationError::Unavailable, "", words);
            return reply
                .send(&self.shared.bus, Outcome::Refusal(refusal))
                .await;
        };
        // Without room it is not answered, and comes again.
        let request = Request {
            user_id,
            note,
            reply,
        };
        kept.inbox.try_send(request).ok();
    }

    async fn refuse(&self, reply: Reply, field: &str, expected: &str) {
        let refusal = refusal(InvestigationError::Invalid, field, expected);
        reply
            .send(&self.shared.bus, Outcome::Refusal(refusal))
            .await;
    }

    /// Forgets investigations in which nothing has happened for long, and what
    /// gateways declared that are gone.
    async fn sweep(&mut self) {
        if let Err(cause) = self.try_sweep().await {
            debug!(shard = %self.hold.part, %cause, "not swept");
        }
    }

    async fn try_sweep(&mut self) -> Result<(), BusError> {
        let bus = self.shared.bus.clone();
        for (subject, revision) in self.shared.attendance.buried(self.hold.part, BURIAL) {
            if let Err(error) = investigation::bury(&bus, &subject, revision).await {
                debug!(%error, subject, "declaration not removed");
            }
        }
        let heads = key::investigations_of(self.hold.part, InvestigationPart::Head);
        let heads = investigation::read_part::<HeadRecord>(&bus, &heads).await?;
        let now = OffsetDateTime::now_utc();
        for kept in heads {
            let head = kept.record;
            let id = head.investigation_id.as_str();
            let changed = head.changed_at.unix_millis();
            let age = i128::from(changed) * 1_000_000 + self.shared.options.age.as_nanos() as i128;
            let is_old = now.unix_timestamp_nanos() >= age;
            if is_old && !self.keepers.contains_key(id) && !self.hold.tenure.is_over() {
                info!(investigation = id, "forgotten");
                investigation::forget(&bus, id).await?;
            }
        }
        Ok(())
    }
}

/// Has keepers look who is there: those of investigations that changed, and those
/// of investigations that nobody is declared to be in any more. All of them, if it
/// is not for as long certain who is not there as they know.
fn wake(keepers: &HashMap<Arc<str>, Kept>, listed: &[(Arc<str>, bool)], is_as_certain: bool) {
    let untouched = listed.iter().filter(|(_, is_touched)| !is_touched);
    let quiet: HashSet<&str> = untouched.map(|(id, _)| &**id).collect();
    for (id, kept) in keepers {
        if !is_as_certain || !quiet.contains(&**id) {
            kept.look.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn only_who_has_something_to_see_is_woken() {
        let ids: [Arc<str>; 3] = ["changed".into(), "quiet".into(), "left".into()];
        let keepers: HashMap<_, _> = ids
            .iter()
            .map(|id| {
                let (inbox, _) = mpsc::channel(1);
                let look = Arc::new(Notify::new());
                (Arc::clone(id), Kept { inbox, look })
            })
            .collect();
        let woken = || -> Vec<bool> {
            let looks = ids.iter().map(|id| &keepers[id].look);
            looks
                .map(|look| look.notified().now_or_never().is_some())
                .collect()
        };
        let listed = [(Arc::clone(&ids[0]), true), (Arc::clone(&ids[1]), false)];
        wake(&keepers, &listed, true);
        assert_eq!(woken(), [true, false, true]);
        wake(&keepers, &listed, false);
        assert_eq!(woken(), [true, true, true]);
        assert_eq!(woken(), [false, false, false]);
    }
}

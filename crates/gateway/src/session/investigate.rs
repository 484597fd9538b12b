//! Investigations: who is in one, what those who come are told, and notes.

use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::BusError;
use signalbox_bus::rpc::Unheard;
use signalbox_identity::Principal;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::threat::investigation::{AddNote, InvestigationFrame};
use signalbox_protocol::investigation::MAX_MEMBERS;
use signalbox_protocol::wire::investigation_reply::Outcome;
use signalbox_protocol::wire::investigation_request::Verb;
use signalbox_protocol::wire::{self, InvestigationError};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info};
use uuid::Uuid;

use super::standing::Standing;
use super::{AUDIT, Session};
use crate::dialect::{Answer, Dialect, Subscribe};
use crate::hub::SubscriptionId;
use crate::investigation::{Attendance, State};
use crate::replay::replay;
use crate::shard::Shard;

/// How long is tried to find out the state of an investigation; a client is told
/// then that nobody can tell.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before that is tried again.
const PAUSE: Duration = Duration::from_millis(200);

impl<D: Dialect + 'static> Session<D> {
    /// Puts the user into the investigation that a subscription names, if it does.
    pub(super) fn attend(&self, asked: &Subscribe) -> Result<Option<Attendance>, Complaint> {
        let (Channel::InvestigationProgress, Some(id)) = (asked.channel, &asked.selection.object)
        else {
            return Ok(None);
        };
        let Some(principal) = self.standing.principal() else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        let investigations = &self.shard.shared.investigations;
        let attendance = investigations.attend(id, &principal);
        let refused = |crowded| Complaint::plain(ErrorCode::RateLimit, format!("{crowded}"));
        attendance.map(Some).map_err(refused)
    }

    /// Tells the client what there is, then what comes.
    pub(super) fn introduce(
        &mut self,
        investigation_id: String,
        name: String,
        id: SubscriptionId,
        seq: Cursor,
    ) {
        let (shard, standing) = (Rc::clone(&self.shard), Rc::clone(&self.standing));
        let outbound = self.outbound.clone();
        self.replays.push(Box::pin(async move {
            let state = find_out(&shard, &investigation_id, seq).await;
            // It may have been ended meanwhile, or the right to it.
            if standing.find(&name) != Some(id) {
                return;
            }
            let user = standing.principal();
            let is_among = |state: &State| {
                let id = user.as_ref().map(|user| user.subject.as_str());
                state.users.iter().any(|user| Some(&*user.id) == id)
            };
            match &state {
                Some(state) if state.users.len() >= MAX_MEMBERS && !is_among(state) => {
                    return turn_away(&shard, &standing, &investigation_id, &name);
                }
                _ => say(&standing, &investigation_id, seq, state),
            }
            replay(shard, outbound, id).await;
        }));
    }

    /// Notes something for everyone in an investigation, and answers.
    pub(super) async fn add_note(&self, asked: AddNote) -> Result<(), Complaint> {
        let principal = self.note_taker(&asked.investigation_id)?;
        let shared = &self.shard.shared;
        if !*shared.bus_present.borrow() {
            return Err(unavailable());
        }
        let drawn = || Uuid::new_v4().simple().to_string();
        let verb = Verb::AddNote(wire::AddNote {
            note_id: asked.note_id.clone().unwrap_or_else(drawn),
            content: asked.content,
            attachments: asked.attachments,
        });
        let investigation_id = &asked.investigation_id;
        let user_id = principal.subject.to_string();
        let patience = shared.options.chat.patience;
        let investigations = &shared.investigations;
        let outcome = investigations
            .ask(investigation_id, user_id, verb, patience)
            .await;
        match outcome {
            Ok(Outcome::NoteAdded(added)) => {
                info!(
                    target: AUDIT,
                    session = %self.name,
                    subject = %principal.subject,
                    investigation = investigation_id,
                    note = added.id,
                    "noted"
                );
                let frame = InvestigationFrame::InvestigationNoteRecorded {
                    investigation_id,
                    note_id: asked.note_id.as_deref().unwrap_or(&added.id),
                    id: &added.id,
                };
                self.answer(&Answer::Investigation(&frame));
                Ok(())
            }
            Ok(Outcome::Refusal(refusal)) => Err(match refusal.code() {
                InvestigationError::Full => Complaint::plain(ErrorCode::RateLimit, refusal.message),
                InvestigationError::Invalid => Complaint::field(&refusal.field, &refusal.message),
                InvestigationError::Unavailable | InvestigationError::Unspecified => unavailable(),
            }),
            Err(Unheard) => Err(unavailable()),
        }
    }

    /// The user, who may note something there.
    fn note_taker(&self, investigation_id: &str) -> Result<Rc<Principal>, Complaint> {
        self.authorise(Channel::InvestigationProgress)?;
        let attends = self.standing.attends(investigation_id);
        match self.standing.principal().filter(|_| attends) {
            Some(principal) => Ok(principal),
            None => Err(Complaint {
                code: ErrorCode::Forbidden,
                message: "subscribe to the investigation first: only those in it note something"
                    .to_owned(),
                field: Some("investigation_id".to_owned()),
            }),
        }
    }
}

fn unavailable() -> Complaint {
    let message = "nothing can be noted now, send it again with the same note_id";
    Complaint::plain(ErrorCode::Unavailable, message)
}

/// The state at a position; `None` where nobody can tell in time.
async fn find_out(shard: &Shard, investigation_id: &str, seq: Cursor) -> Option<State> {
    let deadline = Instant::now() + PATIENCE;
    let trying = async {
        loop {
            match try_find_out(shard, investigation_id, seq).await {
                Ok(state) => return state,
                Err(error) => debug!(%error, investigation_id, "no state yet"),
            }
            sleep(PAUSE).await;
        }
    };
    timeout_at(deadline, trying).await.ok()
}

async fn try_find_out(
    shard: &Shard,
    investigation_id: &str,
    seq: Cursor,
) -> Result<State, BusError> {
    let shared = &shard.shared;
    let link = shared.link.clone();
    let before = *link.borrow();
    let investigations = &shared.investigations;
    let state = investigations
        .state(&shared.history, investigation_id, seq.sequence)
        .await?;
    // What was revoked while the link was cut is applied first.
    if *link.borrow() != before {
        shared.authority.revocations().settled().await;
    }
    Ok(state)
}

fn say<D: Dialect>(
    standing: &Standing<D>,
    investigation_id: &str,
    seq: Cursor,
    state: Option<State>,
) {
    let unavailable = state.is_none();
    let state = state.unwrap_or_default();
    standing.answer(&Answer::Investigation(
        &InvestigationFrame::InvestigationState {
            investigation_id,
            seq,
            users: &state.users,
            notes: &state.notes,
            notes_omitted: (state.notes_omitted > 0).then_some(state.notes_omitted),
            progress: state.progress.as_ref(),
            progress_omitted: state.progress_omitted,
            unavailable,
        },
    ));
}

/// Ends a subscription to an investigation that is full.
fn turn_away<D: Dialect>(
    shard: &Shard,
    standing: &Standing<D>,
    investigation_id: &str,
    name: &str,
) {
    let message = format!(
        "investigation {investigation_id} has {MAX_MEMBERS} people in it, the most there may be"
    );
    let complaint = Complaint::plain(ErrorCode::RateLimit, message);
    standing.dismiss(shard, name, &complaint);
}

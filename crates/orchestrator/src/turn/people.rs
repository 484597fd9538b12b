//! Calls that people decide on: who is asked, what they say, and what they are told
//! of it. Whoever goes on with the answer asks and tells the same again, which is
//! harmless.

use signalbox_bus::{decision, trace};
use signalbox_protocol::wire::{
    ChatToolDecided, ChatToolHeld, ToolOutcome, ToolVerdict, chat_record::Record,
};
use tracing::debug;

use super::Turn;
use super::desk::Desk;
use super::places::Full;
use super::plan::REASON_BYTES;
use crate::answer::{Called, Stage};
use crate::approval::{Action, Decided, Status};
use crate::chat_log::Lost;
use crate::moment;
use crate::tools::{self, Approval, Outcome};

impl Turn {
    /// Asks people to decide on a call, unless too many are asked already.
    pub(super) async fn hold(
        &mut self,
        desk: &mut Desk,
        call: &Called,
        approval: &Approval,
    ) -> Result<(), Lost> {
        if desk.room.is_none() {
            match self.places.try_wait(&self.means.waiting) {
                Ok(room) => desk.room = Some(room),
                Err(full) => {
                    let words = match full {
                        Full::OfUser => {
                            "too many chats of this user wait for people to decide; it was not run"
                        }
                        Full::OfAll => "too many chats wait for people to decide; it was not run",
                    };
                    let outcome = Outcome::Error(words.to_owned());
                    return self.end_call(desk, call, outcome).await;
                }
            }
        }
        let number = call.number();
        self.append(Record::ToolHeld(self.held(call, approval)))
            .await?;
        if let Some(call) = self.answer.call(number).cloned() {
            self.wait_for_people(desk, &call);
        }
        Ok(())
    }

    fn held(&self, call: &Called, approval: &Approval) -> ChatToolHeld {
        let planned = &call.planned;
        let (session_id, answer) = (&self.key.session_id, self.answer.number);
        let hash = &planned.arguments_hash;
        ChatToolHeld {
            tool_call: planned.tool_call,
            tool_name: planned.tool_name.clone(),
            arguments: planned.arguments.clone(),
            arguments_hash: hash.clone(),
            action_id: tools::action_id(session_id, answer, planned.tool_call, hash),
            action_type: approval.action_type.clone(),
            expires_at_ms: moment::now_ms() + moment::millis(approval.expires_in),
        }
    }

    /// Asks people, again if need be, which is harmless.
    pub(super) fn wait_for_people(&self, desk: &mut Desk, call: &Called) {
        let Some(action) = self.action(call) else {
            return;
        };
        let approvals = self.means.approvals.clone();
        if desk.room.is_none() {
            // Taken over: it waits already, whatever the bound is here.
            desk.room = self.places.try_wait(&self.means.waiting).ok();
        }
        let counted = self.means.metrics.waiting_approval();
        let number = call.number();
        desk.waiting.push(Box::pin(async move {
            let _counted = counted;
            if let Err(error) = approvals.hold(&action).await {
                debug!(action = %action.action_id, %error, "nobody can be asked");
                let words = "it could not be put to people";
                return (number, approvals.settle(&action, words).await);
            }
            (number, approvals.decided(&action).await)
        }));
    }

    /// What people decide on, where they do.
    pub(super) fn action(&self, call: &Called) -> Option<Action> {
        let held = call.held.as_ref()?;
        Some(Action {
            action_id: held.action_id.clone(),
            action_type: held.action_type.clone(),
            tool_name: held.tool_name.clone(),
            arguments: call.arguments(),
            arguments_hash: held.arguments_hash.clone(),
            requested_by: self.key.user_id.clone(),
            session_id: self.key.session_id.clone(),
            answer: self.answer.number,
            tool_call: held.tool_call,
            expires_at_ms: held.expires_at_ms,
            trace: trace::current(),
        })
    }

    /// Tells people what another orchestrator may not have come to tell them.
    pub(super) async fn tell_again(&self, desk: &mut Desk, call: &Called) {
        let Some(action) = self.action(call) else {
            return;
        };
        if call.started_ms.is_some() {
            desk.told(action.clone(), Status::Executing).await;
        }
        if let Some(ended) = &call.ended {
            let status = status_at_end(call, ended.outcome());
            desk.told(action, status).await;
        }
    }

    /// Takes note of what people have decided.
    pub(super) async fn decide(
        &mut self,
        desk: &mut Desk,
        number: u32,
        decided: Decided,
    ) -> Result<(), Lost> {
        self.note_decision(number, decided).await?;
        let Some(call) = self.answer.call(number).cloned() else {
            return Ok(());
        };
        match call.stage() {
            Stage::Approved => desk.ready.push_back(number),
            _ => self.decline(desk, &call).await?,
        }
        if desk.waiting.is_empty() {
            desk.room = None;
        }
        Ok(())
    }

    pub(super) async fn note_decision(
        &mut self,
        number: u32,
        decided: Decided,
    ) -> Result<(), Lost> {
        let held = self.answer.call(number).and_then(|call| call.held.clone());
        let Some(held) = held else { return Ok(()) };
        let (verdict, by, reason) = match decided {
            Decided::Approved { by, reason } => (ToolVerdict::Approve, by, reason),
            Decided::Rejected { by, reason } => (ToolVerdict::Reject, by, reason),
            Decided::Expired => (ToolVerdict::Expired, String::new(), None),
        };
        self.append(Record::ToolDecided(ChatToolDecided {
            tool_call: number,
            tool_name: held.tool_name,
            action_id: held.action_id,
            verdict: verdict.into(),
            decided_by: by,
            reason: tools::contain_text(&reason.unwrap_or_default(), REASON_BYTES),
        }))
        .await
    }

    /// Ends a call that people have not agreed to.
    pub(super) async fn decline(&mut self, desk: &mut Desk, call: &Called) -> Result<(), Lost> {
        let words = match &call.decided {
            Some(decided) if decided.verdict() == ToolVerdict::Reject => {
                let reason = match decided.reason.is_empty() {
                    true => String::new(),
                    false => format!(": {}", decided.reason),
                };
                format!("{} has rejected this call{reason}", decided.decided_by)
            }
            _ => "nobody has approved this call in time; it was not run".to_owned(),
        };
        self.end_call(desk, call, Outcome::Error(words)).await
    }
}

/// What people are told of an action at its end.
pub(super) fn status_at_end(call: &Called, outcome: ToolOutcome) -> Status {
    let decided = call.decided.as_ref();
    // Given up by us, not turned down by anybody.
    let decided = decided.filter(|decided| decided.decided_by != decision::SYSTEM);
    match (outcome, decided.map(ChatToolDecided::verdict)) {
        (ToolOutcome::Value, _) => Status::Completed,
        (ToolOutcome::Cancelled, _) if call.started_ms.is_none() => Status::Cancelled,
        (ToolOutcome::Refused, Some(ToolVerdict::Reject)) => Status::Rejected,
        (ToolOutcome::Refused, Some(ToolVerdict::Expired)) => Status::Expired,
        (ToolOutcome::Refused, _) => Status::Cancelled,
        _ => Status::Failed,
    }
}

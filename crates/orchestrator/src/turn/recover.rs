//! What becomes of an answer whose orchestrator is gone.

use std::sync::Arc;
use std::time::Duration;

use signalbox_protocol::wire::{ChatCallSettled, ChatError, ChatTaken, chat_record::Record};
use tokio::time::timeout;
use tracing::info;

use super::ending::{Verdict, failed};
use super::{RECOVERIES, Turn};
use crate::agents::Agent;
use crate::analysis::Fault;
use crate::chat_log::Lost;
use crate::usage;

/// What a user is told of an answer that nobody can go on with.
pub(super) const INTERRUPTED: &str = "the answer was interrupted";
/// How long tools are waited for that are not there yet when an answer is gone on
/// with.
const TOOLS: Duration = Duration::from_secs(10);

impl Turn {
    /// Makes the log this orchestrator's and settles the call that was under way.
    /// Gives how the answer ends, or nothing where it is to be written on: what its
    /// tools are about is seen to there.
    pub(super) async fn recover(&mut self) -> Result<Option<Verdict>, Lost> {
        let recovery = self.answer.recoveries + 1;
        // From here on the former owner cannot write any more.
        self.append(Record::Taken(ChatTaken { recovery })).await?;
        self.means.metrics.recoveries.add(1);
        if let Some((started, shown)) = self.answer.open_call.clone() {
            let used = usage::of_lost_call(&started, shown);
            let cost = usage::settled(&used, &self.meter.price);
            self.means.metrics.count_usage(&cost);
            self.append(Record::CallSettled(ChatCallSettled {
                call: started.call,
                usage: Some(cost),
                outcome: "lost".to_owned(),
                // Calls are planned when the model has said all it had to say. It
                // may ask again for those that were not.
                goes_on: !self.answer.called().is_empty(),
            }))
            .await?;
        }
        if self.answer.interruptions > RECOVERIES {
            return Ok(Some(interrupted()));
        }
        let Some(agent) = self.agent.clone() else {
            // What this means is said where answers are written.
            return Ok(None);
        };
        if self.answer.is_final {
            // Of the answer nothing is missing but its analysis, which is to rest on
            // what the answer does.
            self.gather(&agent).await;
            let fault = Fault {
                written: None,
                problems: vec!["there is no analysis".to_owned()],
            };
            return self.repair(&agent, &fault).await.map(Some);
        }
        let is_unseen = self.answer.unfinished_text().is_empty();
        if is_unseen || agent.provider.repeats_itself() {
            return Ok(None);
        }
        Ok(Some(interrupted()))
    }

    /// Waits for the agent's tools, unless the answer is cancelled: they come in the
    /// background, and this orchestrator may have begun a moment ago. What was
    /// planned with one of them would be refused before it is there, and a model
    /// would be asked to go on without it.
    pub(super) async fn await_tools(&mut self, agent: &Agent) {
        let toolbox = Arc::clone(&self.means.toolbox);
        tokio::select! {
            biased;
            () = self.cancel.wait() => {}
            settled = timeout(TOOLS, toolbox.settled(&agent.tools)) => {
                if settled.is_err() {
                    info!(agent = %agent.agent_type, "going on without tools that are not there yet");
                }
            }
        }
    }
}

fn interrupted() -> Verdict {
    failed(ChatError::AgentUnavailable, INTERRUPTED, true)
}

//! Tool `run_command`: a command on a remote agent, asked of the agent's relay in
//! the name of the user who asks in the chat, and followed in its log to its end.
//!
//! ```text
//! Call ──▶ request ──svc.relay.<shard>.command──▶ relay ──▶ agent
//!              │ accepted: Note::Terminal                     │
//!              ▼                                              ▼
//!  Outcome ◀─ report ◀─ following ◀────log.term.<command>─────┘
//! ```
//!
//! It is a command like any other: dashboards of dialect `fleet` show it live, and
//! its whole output is in its log. The call's own name is its idempotency key, so
//! that asking again, here or by another orchestrator, is the same command: it is
//! started once, and whoever asks follows the same log. What becomes of a command
//! is the relay's matter; whether a call is run at all is the turn's.

mod allowed;
mod following;
mod interrupts;
mod report;
mod request;
mod tail;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use signalbox_bus::Bus;
use signalbox_bus::relays::Relays;
use signalbox_protocol::wire::command_reply::Outcome as Answered;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{debug, info};

use self::allowed::Allowed;
use self::following::{Followed, Following};
use self::interrupts::{Interrupts, Told};
use self::report::Report;
use self::request::{Arguments, Request};
use super::config::BuiltIn;
use super::{Call, DEFAULT_RESULT_BYTES, Limits, Note, Outcome, Runner, Running};
use crate::moment;

/// What models call it.
pub const NAME: &str = "run_command";
/// How long a command may take where nothing else is said.
pub const DEFAULT_TIME: Duration = Duration::from_secs(120);

/// What the user who asks must be permitted.
const PERMISSION: &str = "run_commands";
/// How long relays may take to accept a command, or to end one, where nothing else
/// is said: longer than a shard takes to change hands.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(15);
/// How long a command that was interrupted, since its time is over, may take to
/// end: then it is told as one that still runs.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What is left of a call's time when its command is interrupted, at most: for
/// the last words and some slack.
const RESERVE: Duration = Duration::from_secs(5);
/// The same where the call has little time, as a part of that.
const RESERVE_PART: u32 = 4;
/// The time that must be left for a successor to begin a command that was never
/// accepted.
const LEAST_TO_BEGIN: Duration = Duration::from_secs(8);
/// When a request expires with which nothing is begun, in Unix milliseconds.
const LONG_AGO: u64 = 1;
/// How long a command of a cancelled call is waited for; the turn waits for two
/// seconds.
const CANCEL_GRACE: Duration = Duration::from_millis(1_500);

/// The tool, for those who may run commands.
pub(super) const RUN_COMMAND: BuiltIn = BuiltIn {
    name: NAME,
    description: request::DESCRIPTION,
    parameters: include_str!("run_command/arguments.schema.json"),
    limits: Limits {
        time: DEFAULT_TIME,
        result_bytes: DEFAULT_RESULT_BYTES,
    },
    approval: true,
    permission: Some(PERMISSION),
    addresses_agents: true,
    runner: |definition, supplies| {
        let settings = Settings {
            agents: definition.agents.clone(),
            result_bytes: definition.limits.result_bytes,
            ..Settings::default()
        };
        runner(supplies.bus.clone(), settings)
    },
};

/// What commands are held to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agents that may be addressed: ids, in which `*` stands for any
    /// characters. None by default.
    pub agents: Vec<String>,
    /// The longest result, in bytes of JSON.
    pub result_bytes: usize,
    /// How long relays may take to accept a command, or to end one. After that it
    /// is told that nothing was run, or that nobody knows.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            agents: Vec::new(),
            result_bytes: DEFAULT_RESULT_BYTES,
            patience: DEFAULT_PATIENCE,
        }
    }
}

/// What runs commands over this connection.
#[must_use]
pub fn runner(bus: Bus, settings: Settings) -> Arc<dyn Runner> {
    let relays = Relays::new(bus.clone());
    Arc::new(RunCommand {
        allowed: Arc::new(Allowed::new(settings.agents)),
        result_bytes: settings.result_bytes,
        patience: settings.patience,
        interrupts: Arc::new(Interrupts::new(relays.clone(), settings.patience)),
        relays,
        bus,
    })
}

/// See the module.
#[derive(Clone)]
struct RunCommand {
    bus: Bus,
    relays: Relays,
    allowed: Arc<Allowed>,
    result_bytes: usize,
    patience: Duration,
    interrupts: Arc<Interrupts>,
}

impl fmt::Debug for RunCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCommand")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl Runner for RunCommand {
    fn refusal(&self, arguments: &Value) -> Option<String> {
        let arguments = Arguments::read(arguments);
        let checked = arguments.and_then(|arguments| self.allowed.check(&arguments.agent_id));
        checked.err()
    }

    fn run(&self, call: Call) -> Running {
        Box::pin(self.clone().execute(call, Asking::ToRun))
    }

    /// Asks again: a command that was accepted is the same one, and one that never
    /// was is as good to run now, unless its time is over or nearly so. Then it may
    /// have been long ago, and its log be gone by which relays would know it.
    fn adopt(&self, call: Call) -> Option<Running> {
        let left = call.deadline.saturating_duration_since(Instant::now());
        let asking = match left < LEAST_TO_BEGIN {
            true => Asking::IfKnown,
            false => Asking::ToRun,
        };
        Some(Box::pin(self.clone().execute(call, asking)))
    }
}

/// How a command is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// It is to run, if it does not yet.
    ToRun,
    /// It is followed if it was accepted before, and else not begun.
    IfKnown,
}

/// Why a command is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Cancelled,
    TimeOver,
}

impl RunCommand {
    async fn execute(self, call: Call, asking: Asking) -> Outcome {
        if call.permissions.iter().all(|one| one != PERMISSION) {
            return Outcome::Error(format!("commands need the permission `{PERMISSION}`"));
        }
        let asked = Request::read(&call).and_then(|request| {
            self.allowed.check(&request.agent_id)?;
            Ok(request)
        });
        match asked {
            Ok(request) => self.command(&call, &request, asking).await,
            Err(words) => Outcome::Error(words),
        }
    }

    /// A command from its request to its end, or to that of its time.
    async fn command(&self, call: &Call, request: &Request, asking: Asking) -> Outcome {
        let until = end_of_waiting(call, request);
        let accepted = tokio::select! {
            accepted = self.ask(request, asking) => accepted,
            () = call.cancel.wait() => {
                // It may have been accepted, and only the answer be under way.
                self.interrupts.send(request);
                return Outcome::Stopped(format!(
                    "command {} was being asked for, and is interrupted if it was accepted",
                    request.command_id
                ));
            }
        };
        if let Err(outcome) = accepted {
            return outcome;
        }
        let note = Note::Terminal {
            agent_id: request.agent_id.clone(),
            command_id: request.command_id.clone(),
        };
        // A turn that takes no notes has no use for this one.
        call.note.send(note).await.ok();
        let mut following = Following::new(self.bus.clone(), request, self.result_bytes);
        let why = tokio::select! {
            followed = following.end() => return self.told(request, &following, followed, None),
            () = call.cancel.wait() => Why::Cancelled,
            () = sleep_until(until) => Why::TimeOver,
        };
        let told = self.interrupts.send(request);
        match why {
            Why::Cancelled => {
                let followed = timeout(CANCEL_GRACE, following.end()).await;
                let end = match &followed {
                    Ok(Followed::Ended(end)) => Some(&**end),
                    Ok(Followed::Another) | Err(_) => None,
                };
                info!(command = %request.command_id, ended = end.is_some(), "command of a cancelled call interrupted");
                self.report(request, &following).cancelled(end)
            }
            Why::TimeOver => {
                let after = until.saturating_duration_since(request.asked_at);
                let last =
                    until + LAST_WORDS.min(call.deadline.saturating_duration_since(until) / 2);
                match timeout_at(last, following.end()).await {
                    Ok(followed) => self.told(request, &following, followed, Some(after)),
                    Err(_) => self.still_runs(request, &following, after, told.now()),
                }
            }
        }
    }

    /// Has the relay accept the command.
    async fn ask(&self, request: &Request, asking: Asking) -> Result<(), Outcome> {
        info!(
            target: "audit",
            subject = %request.by,
            agent = %request.agent_id,
            command = %request.command_id,
            "command requested by an agent of a chat"
        );
        let asked = request.run(match asking {
            Asking::ToRun => moment::now_ms().saturating_add(moment::millis(self.patience)),
            Asking::IfKnown => LONG_AGO,
        });
        match self
            .relays
            .command(request.shard, &asked, self.patience)
            .await
        {
            Some(Answered::Accepted(accepted)) if accepted.command_id == request.command_id => {
                debug!(command = %accepted.command_id, repeated = accepted.repeated, "command accepted");
                Ok(())
            }
            Some(Answered::Refusal(refusal)) => Err(report::refused(request, &refusal)),
            Some(Answered::Accepted(_) | Answered::Done(_)) => Err(Outcome::Unknown(
                "the relay has accepted another command than it was asked for".to_owned(),
            )),
            None => Err(self.unanswered(request, asking).await),
        }
    }

    /// The command may have been accepted, and only the answer lost: nothing is to
    /// run that nobody waits for.
    async fn unanswered(&self, request: &Request, asking: Asking) -> Outcome {
        match self.interrupts.send(request).wait().await {
            Told::Interrupted => Outcome::Error(format!(
                "no relay has answered within {} s; the command may have begun and was interrupted",
                self.patience.as_secs()
            )),
            Told::NotFound if asking == Asking::IfKnown => Outcome::Unknown(format!(
                "command {} is not known any more, and nobody knows whether it ran",
                request.command_id
            )),
            Told::NotFound => Outcome::Error(format!(
                "no relay has accepted the command within {} s; nothing was run",
                self.patience.as_secs()
            )),
            Told::Unanswered => Outcome::Unknown(format!(
                "no relay answers, and nobody knows whether command {} runs",
                request.command_id
            )),
        }
    }

    fn report<'a>(&self, request: &'a Request, following: &'a Following) -> Report<'a> {
        Report {
            request,
            seen: following.seen(),
            result_bytes: self.result_bytes,
        }
    }

    fn told(
        &self,
        request: &Request,
        following: &Following,
        followed: Followed,
        timed_out: Option<Duration>,
    ) -> Outcome {
        match followed {
            Followed::Ended(end) => self.report(request, following).ended(&end, timed_out),
            Followed::Another => Outcome::Error(format!(
                "another command has the key of this call already; command {} was not run for it",
                request.command_id
            )),
        }
    }

    fn still_runs(
        &self,
        request: &Request,
        following: &Following,
        after: Duration,
        told: Option<Told>,
    ) -> Outcome {
        let is_told = told == Some(Told::Interrupted);
        self.report(request, following).still_runs(after, is_told)
    }
}

/// When a command is interrupted: so long before the turn gives the call up that
/// its end can still be told.
fn end_of_waiting(call: &Call, request: &Request) -> Instant {
    let left = call.deadline.saturating_duration_since(request.asked_at);
    let reserve = RESERVE.min(left / RESERVE_PART);
    let last = call.deadline.checked_sub(reserve).unwrap_or(call.deadline);
    request
        .timeout
        .and_then(|timeout| request.asked_at.checked_add(timeout))
        .map_or(last, |wanted| wanted.min(last))
}

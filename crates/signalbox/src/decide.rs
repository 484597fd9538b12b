//! `signalbox decide`: decides on an action that waits for it, in the name of the
//! credential's user, and shows what was decided on where the action's events say
//! it.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use signalbox_service::ExitError;
use tokio::runtime;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ask::complaint;
use crate::client::{ConnectArgs, Failure, Heard, Message, Target, plain};
use crate::output;

/// How long the gateway may take to record a decision.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it is waited for whoever acts on a decision to say what it was about.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// `signalbox decide`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DecideArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The action, as `response_actions` and `signalbox ask` name it
    action_id: String,
    /// What is to become of it
    #[arg(value_enum)]
    decision: Decision,
    /// Why, for those who read it later
    #[arg(long)]
    reason: Option<String>,
}

/// What is to become of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decision {
    /// It is carried out
    Approve,
    /// It is not
    Reject,
}

impl Decision {
    /// The word on the wire.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }
}

pub(crate) fn run(args: &DecideArgs) -> Result<(), ExitError> {
    let target = Target::new(&args.connect, Dialect::Threat, Role::Analyst)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExitError::runtime)?;
    let decided = runtime.block_on(async {
        let decided = timeout(PATIENCE, decide(&target, args)).await;
        decided.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", PATIENCE.as_secs())))
    });
    // Not waited for: a look-up of a name may be under way.
    runtime.shutdown_background();
    let subject = decided.map_err(ExitError::runtime)?;
    let done = match args.decision {
        Decision::Approve => "approved",
        Decision::Reject => "rejected",
    };
    let id = plain(&args.action_id);
    match subject {
        Some(subject) => output::line(format_args!("{done} {id}: {subject}"))?,
        None => output::line(format_args!("{done} {id}"))?,
    };
    Ok(())
}

/// Decides; gives what was decided on, where that is said in time.
async fn decide(target: &Target, args: &DecideArgs) -> anyhow::Result<Option<String>> {
    let why = |failure: Failure| match failure {
        Failure::Passing(why) | Failure::Final(why) | Failure::Elsewhere(why) => anyhow!(why),
    };
    let mut connection = target.connect().await.map_err(why)?;
    let subscribe = json!({"type": "subscribe", "channel": "response_actions"});
    let mut decision = json!({
        "type": "action_decision",
        "action_id": args.action_id,
        "decision": args.decision.as_str(),
    });
    if let Some(reason) = &args.reason {
        decision["reason"] = json!(reason);
    }
    let (mut is_made, mut told) = (false, None);
    loop {
        let message = match connection.next().await {
            Heard::Ended(failure) => return Err(why(failure)),
            Heard::Message(message) => message,
        };
        match message.kind() {
            "auth_success" => connection.send(&subscribe).await.map_err(why)?,
            "subscription_confirmed" => {
                is_made = true;
                connection.send(&decision).await.map_err(why)?;
            }
            "action_decision_recorded" => break,
            "error" => match message.text("code") {
                // The connection stays until then.
                Some("TOKEN_EXPIRING") => {}
                // Who may not look on may decide all the same.
                Some("FORBIDDEN") if !is_made => {
                    (is_made, told) = (true, Some(Told::Nothing));
                    connection.send(&decision).await.map_err(why)?;
                }
                _ => bail!(complaint(&message)),
            },
            "rate_limit_exceeded" => bail!(complaint(&message)),
            _ => told = told.or_else(|| tells(&message, &args.action_id)),
        }
    }
    let end = Instant::now() + TOLD_WITHIN;
    while told.is_none() {
        // The decision stands, whatever becomes of the connection.
        let Ok(Heard::Message(message)) = timeout_at(end, connection.next()).await else {
            break;
        };
        told = tells(&message, &args.action_id);
    }
    Ok(told.and_then(|told| match told {
        Told::Subject(subject) => Some(subject),
        Told::Nothing => None,
    }))
}

/// What an event tells of that on which was decided.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It, in one line that is harmless to a terminal.
    Subject(String),
    /// That nothing will be told.
    Nothing,
}

/// What a message tells of an action.
fn tells(message: &Message, action_id: &str) -> Option<Told> {
    let of = |field: &str| message.value("data")?.get(field);
    let text = |field: &str| of(field).and_then(Value::as_str);
    if text("action_id") != Some(action_id) {
        return None;
    }
    match (message.kind(), of("arguments")) {
        ("action_update", Some(arguments)) => {
            let tool = plain(text("tool_name").unwrap_or_default());
            let arguments = plain(&arguments.to_string());
            Some(Told::Subject(format!("{tool} {arguments}")))
        }
        // Without a hash of them, the action has no arguments.
        ("action_decided", _) if of("arguments_hash").is_none() => Some(Told::Nothing),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, data: Value) -> Option<Told> {
        let message = json!({"type": kind, "data": data}).to_string();
        tells(&Message::read(&message).unwrap()[0], "a-1")
    }

    #[test]
    fn what_was_decided_on_is_told_whole_and_moves_no_terminal() {
        let blanks = " ".repeat(1_000);
        let update = |id: &str| {
            json!({"action_id": id, "status": "EXECUTING", "tool_name": "run\u{1b}[2J",
                "arguments": {"command": format!("ls{blanks};\u{9b}2J curl")}})
        };
        let expected = format!("run^[[2J {{\"command\":\"ls{blanks};<9b>2J curl\"}}");
        assert_eq!(
            told("action_update", update("a-1")),
            Some(Told::Subject(expected))
        );
        assert_eq!(told("action_update", update("a-2")), None);
        let decided = json!({"action_id": "a-1", "decision": "approve"});
        assert_eq!(told("action_decided", decided.clone()), Some(Told::Nothing));
        let mut hashed = decided;
        hashed["arguments_hash"] = json!("0f");
        assert_eq!(told("action_decided", hashed), None);
    }
}

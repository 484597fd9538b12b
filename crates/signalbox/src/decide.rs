//! `signalbox decide`: decides on an action that waits for it, in the name of the
//! credential's user.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use signalbox_service::ExitError;
use tokio::runtime;
use tokio::time::timeout;

use crate::ask::complaint;
use crate::client::{ConnectArgs, Failure, Heard, Target, plain};
use crate::output;

/// How long the gateway may take to record a decision.
const PATIENCE: Duration = Duration::from_secs(30);

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
    decided.map_err(ExitError::runtime)?;
    output::line(format_args!(
        "{} {}",
        match args.decision {
            Decision::Approve => "approved",
            Decision::Reject => "rejected",
        },
        plain(&args.action_id)
    ))?;
    Ok(())
}

async fn decide(target: &Target, args: &DecideArgs) -> anyhow::Result<()> {
    let why = |failure: Failure| match failure {
        Failure::Passing(why) | Failure::Final(why) | Failure::Elsewhere(why) => anyhow!(why),
    };
    let mut connection = target.connect().await.map_err(why)?;
    let mut decision = json!({
        "type": "action_decision",
        "action_id": args.action_id,
        "decision": args.decision.as_str(),
    });
    if let Some(reason) = &args.reason {
        decision["reason"] = json!(reason);
    }
    loop {
        match connection.next().await {
            Heard::Ended(failure) => return Err(why(failure)),
            Heard::Message(message) => match message.kind() {
                "auth_success" => connection.send(&decision).await.map_err(why)?,
                "action_decision_recorded" => return Ok(()),
                // The connection stays until then.
                "error" if message.text("code") == Some("TOKEN_EXPIRING") => {}
                "error" | "rate_limit_exceeded" => bail!(complaint(&message)),
                _ => {}
            },
        }
    }
}

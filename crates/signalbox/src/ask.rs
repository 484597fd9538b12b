//! `signalbox ask`: asks an agent in dialect `threat` and shows the answer while
//! it is written, with the tools that the agent uses and what it concludes. The
//! answer goes to standard output, everything else to standard error. It returns
//! by itself when its connection is cut, and misses nothing.

mod show;
mod talk;

use clap::Args;
use serde_json::{Map, Value};
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use signalbox_service::ExitError;
use tokio::runtime;

pub(crate) use self::talk::complaint;
use self::talk::{Ending, Talk};
use crate::client::{ConnectArgs, Target};

/// Who answers where nobody is named.
const AGENT: &str = "threat_classifier";
/// The exit code of an answer that was cancelled: as of SIGINT.
const CANCELLED: u8 = 130;

/// `signalbox ask`.
///
/// Ctrl-C cancels the answer, as soon as a gateway is there to be told; a second
/// one does not wait for that. It ends with 0 once there is a whole answer, with
/// 130 where that was cancelled.
#[derive(Args, Clone, Debug)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// What to ask
    #[arg(required = true)]
    question: Vec<String>,
    /// Which agent is to answer [default: threat_classifier]
    #[arg(long, value_name = "TYPE")]
    agent: Option<String>,
    /// The incident that it is about
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
    /// The investigation that it is for; whoever follows that sees the progress
    #[arg(long, value_name = "ID")]
    investigation: Option<String>,
    /// What else it is about: a JSON object
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// Go on with this chat
    #[arg(long, value_name = "SESSION_ID", conflicts_with = "agent")]
    chat: Option<String>,
    /// Print messages as they come, one JSON object a line
    #[arg(long)]
    json: bool,
}

impl AskArgs {
    /// What the question is about, if anything is said.
    ///
    /// # Errors
    /// When that is not as it must be.
    fn context(&self) -> Result<Option<Value>, ExitError> {
        let wrong = |cause: String| ExitError::config(format!("--context: {cause}"));
        let mut context: Map<String, Value> = match &self.context {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| wrong(format!("expected a JSON object: {error}")))?,
            None => Map::new(),
        };
        let named = [
            ("incident_id", &self.incident),
            ("investigation_id", &self.investigation),
        ];
        for (field, id) in named {
            if let Some(id) = id {
                context.insert(field.to_owned(), Value::from(id.as_str()));
            }
        }
        Ok((!context.is_empty()).then_some(Value::Object(context)))
    }
}

pub(crate) fn run(args: &AskArgs) -> Result<(), ExitError> {
    let target = Target::new(&args.connect, Dialect::Threat, Role::Analyst)?;
    let talk = Talk::new(target, args, args.context()?);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExitError::runtime)?;
    let ending = runtime.block_on(talk.run());
    // Not waited for: a look-up of a name may be under way.
    runtime.shutdown_background();
    match ending.map_err(ExitError::runtime)? {
        Ending::Answered => Ok(()),
        Ending::Cancelled => Err(ExitError::Code(CANCELLED)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ask: AskArgs,
    }

    fn context(arguments: &[&str]) -> Result<Option<Value>, String> {
        let line = ["ask", "what?"].iter().chain(arguments);
        let line = Line::try_parse_from(line).unwrap();
        line.ask.context().map_err(|error| error.line())
    }

    #[test]
    fn what_is_named_is_the_context() {
        assert_eq!(context(&[]), Ok(None));
        let named = ["--incident", "t-1", "--investigation", "i-1"];
        let both = json!({"incident_id": "t-1", "investigation_id": "i-1"});
        assert_eq!(context(&named), Ok(Some(both)));
        let more = ["--context", r#"{"a":1}"#, "--incident", "t-1"];
        let both = json!({"a": 1, "incident_id": "t-1"});
        assert_eq!(context(&more), Ok(Some(both)));
        let wrong = context(&["--context", "[1]"]).unwrap_err();
        assert!(
            wrong.starts_with("--context: expected a JSON object"),
            "{wrong}"
        );
    }
}

//! What a call asks for: its arguments, and the request to the relay that they
//! make. Pure.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use signalbox_protocol::fleet::{Shard, keyed_command_id};
use signalbox_protocol::wire::{
    CommandPriority, CommandRequest, InterruptCommand, RunCommand, command_request::Verb,
};
use tokio::time::Instant;

use crate::tools::{Call, contain_text};

/// What models are told.
pub(super) const DESCRIPTION: &str = "Run a command on a remote agent and wait for its end. \
    Gives the exit code, the duration and the last part of the output; an exit code other than \
    0 is a result, not an error. The agent splits `command` into words; `args` are further \
    words, as they are. Usually there is no shell: no pipes, variables or wildcards. The command \
    gets no input. Programs that do not end by themselves need `timeout_seconds`.";

/// What a call is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    pub(super) agent_id: String,
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

impl Arguments {
    /// Reads them.
    ///
    /// # Errors
    /// Says what is wrong with them. What people cannot see, or see in another order,
    /// they cannot approve.
    pub(super) fn read(arguments: &Value) -> Result<Self, String> {
        let read = Self::deserialize(arguments)
            .map_err(|error| format!("the arguments are not as they must be: {error}"))?;
        let words = [&read.agent_id, &read.command];
        let mut all = words.into_iter().chain(&read.args);
        if all.all(|word| contain_text(word, word.len()) == *word) {
            drop(all);
            return Ok(read);
        }
        Err(
            "the command has characters that cannot be seen (control characters, invisible \
             ones, or such that turn the writing direction around): write it without them"
                .to_owned(),
        )
    }
}

/// A command that a call asks for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Who asks: the user.
    pub(super) by: String,
    pub(super) agent_id: String,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    /// How long it may take, where the model says so.
    pub(super) timeout: Option<Duration>,
    /// The same call is the same command.
    key: String,
    pub(super) command_id: String,
    /// The shard of the agent.
    pub(super) shard: Shard,
    /// When this orchestrator began with it.
    pub(super) asked_at: Instant,
}

impl Request {
    /// The command that a call asks for.
    ///
    /// # Errors
    /// Says what is wrong with the arguments.
    pub(super) fn read(call: &Call) -> Result<Self, String> {
        let arguments = Arguments::read(&call.arguments)?;
        let key = format!("tool/{}", call.id());
        Ok(Self {
            command_id: keyed_command_id(&arguments.agent_id, &call.user_id, &key),
            shard: Shard::of_agent(&arguments.agent_id),
            by: call.user_id.clone(),
            agent_id: arguments.agent_id,
            command: arguments.command,
            args: arguments.args,
            timeout: arguments.timeout_seconds.map(Duration::from_secs),
            key,
            asked_at: Instant::now(),
        })
    }

    /// The request to run it, which is not accepted any more after that, in Unix
    /// milliseconds, unless it was accepted before.
    pub(super) fn run(&self, expires_at_ms: u64) -> CommandRequest {
        self.verb(Verb::Run(RunCommand {
            agent_id: self.agent_id.clone(),
            command: self.command.clone(),
            args: self.args.clone(),
            priority: CommandPriority::Normal.into(),
            idempotency_key: self.key.clone(),
            queue_if_offline: false,
            nonce: String::new(),
            expires_at_ms,
        }))
    }

    /// The request to end it.
    pub(super) fn interrupt(&self) -> CommandRequest {
        self.verb(Verb::Interrupt(InterruptCommand {
            command_id: self.command_id.clone(),
        }))
    }

    fn verb(&self, verb: Verb) -> CommandRequest {
        CommandRequest {
            by: self.by.clone(),
            verb: Some(verb),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;
    use signalbox_bus::assignment::Stop;
    use tokio::sync::mpsc;

    use super::super::RUN_COMMAND;
    use super::*;
    use crate::tools::config::Definition;

    /// A call of user `ada` with these arguments.
    pub(in super::super) fn call(arguments: Value) -> Call {
        Call {
            user_id: "ada".to_owned(),
            session_id: "chat-1".to_owned(),
            answer: 2,
            number: 3,
            name: "run_command".to_owned(),
            arguments,
            channels: Vec::new(),
            permissions: vec!["run_commands".to_owned()],
            deadline: Instant::now() + Duration::from_secs(60),
            cancel: Stop::default(),
            note: mpsc::channel(1).0,
            trace: None,
        }
    }

    #[tokio::test]
    async fn the_same_call_is_the_same_command() {
        let arguments = json!({"agent_id": "web-1", "command": "uptime", "args": ["-p"]});
        let one = Request::read(&call(arguments.clone())).unwrap();
        let same = Request::read(&call(arguments.clone())).unwrap();
        assert_eq!(one.command_id, same.command_id);
        assert_eq!(Shard::of_command(&one.command_id), Some(one.shard));
        let other = Call {
            number: 4,
            ..call(arguments)
        };
        assert_ne!(one.command_id, Request::read(&other).unwrap().command_id);
        let Some(Verb::Run(run)) = one.run(77).verb else {
            panic!("it is run");
        };
        assert_eq!(run.idempotency_key, "tool/chat-1/2/3");
        assert_eq!((run.command.as_str(), run.args.len()), ("uptime", 1));
        assert_eq!(run.expires_at_ms, 77);
    }

    #[tokio::test]
    async fn arguments_that_pass_the_schema_are_read() {
        let schema = Definition::of(&RUN_COMMAND).schema;
        for (arguments, is_good) in [
            (json!({"agent_id": "a", "command": "ls"}), true),
            (
                json!({"agent_id": "a", "command": "ls", "args": [], "timeout_seconds": 5}),
                true,
            ),
            (json!({"agent_id": "a", "command": " "}), false),
            (json!({"agent_id": "", "command": "ls"}), false),
            (json!({"agent_id": "a"}), false),
            (
                json!({"agent_id": "a", "command": "ls", "timeout_seconds": 0}),
                false,
            ),
            (
                json!({"agent_id": "a", "command": "ls", "shell": true}),
                false,
            ),
            (json!({"agent_id": "a", "command": ["ls"]}), false),
        ] {
            assert_eq!(
                schema.problems(&arguments).is_empty(),
                is_good,
                "{arguments}"
            );
            if is_good {
                Request::read(&call(arguments)).unwrap();
            }
        }
        for hidden in ["ls\u{202e}", "ls \u{200b}-l", "\u{1b}[2Jls", "a\rb"] {
            let arguments = json!({"agent_id": "a", "command": "x", "args": [hidden]});
            let refused = Arguments::read(&arguments).err().unwrap();
            assert!(refused.contains("cannot be seen"), "{hidden:?}: {refused}");
        }
        let shown = json!({"agent_id": "a", "command": "printf 'ü\n\t\\033'"});
        assert!(Arguments::read(&shown).is_ok());
        let bad = Request::read(&call(json!({"agent_id": "a"}))).unwrap_err();
        assert!(bad.contains("missing field `command`"), "{bad}");
    }
}

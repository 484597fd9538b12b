//! Tools: what agents can have looked up and done.
//!
//! The turn decides whether a call is run, and writes down that it is; here is
//! what there is to run. A [`Runner`] is given one call and gives back what became
//! of it; it knows no model, no chat and no log.
//!
//! ```text
//! agents.toml ──▶ Toolbox ──offered──▶ provider: name, description, schema
//!                    └────find──▶ Tool ──run──▶ Runner ──▶ Outcome
//! ```

pub mod config;
mod contain;
mod events;
pub mod mcp;
pub mod registry;
mod responder;
pub mod run_command;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use signalbox_bus::assignment::Stop;
use signalbox_bus::trace::TraceContext;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::analysis::Schema;
use crate::provider;

pub use self::contain::{Contained, contain, contain_text};

/// The time that a tool has where nothing else is said.
pub const DEFAULT_TIME: Duration = Duration::from_secs(20);
/// What a tool may give where nothing else is said, in bytes of JSON.
pub const DEFAULT_RESULT_BYTES: usize = 16 * 1024;
/// The most that any tool may give, in bytes of JSON.
pub const MAX_RESULT_BYTES: usize = 128 * 1024;
/// How long people have to decide where nothing else is said.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(600);
/// What a tool may tell while it runs; more waits for the turn.
pub const NOTES_CAPACITY: usize = 4;

/// A tool of an agent.
#[derive(Clone, Debug)]
pub struct Tool {
    /// What models call it: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, for models.
    pub description: String,
    /// What its arguments must be: an object.
    pub schema: Arc<Schema>,
    /// What one call may take.
    pub limits: Limits,
    /// Whether people decide on each call.
    pub approval: Option<Approval>,
    /// What the user who asks must be permitted, by name.
    pub permission: Option<String>,
    /// What runs it.
    pub runner: Arc<dyn Runner>,
}

/// What one call of a tool may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From its start to its end.
    pub time: Duration,
    /// The longest result, in bytes of JSON; a longer one is cut.
    pub result_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: DEFAULT_TIME,
            result_bytes: DEFAULT_RESULT_BYTES,
        }
    }
}

/// How people decide on calls of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// What kind of action it is, for those who decide and for filters.
    pub action_type: String,
    /// How long they have.
    pub expires_in: Duration,
}

/// One call of a tool, which is to be run now.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks: the subject of the token.
    pub user_id: String,
    /// The chat.
    pub session_id: String,
    /// Which answer of the chat, from 1.
    pub answer: u32,
    /// Which call of the answer, from 1.
    pub number: u32,
    /// The tool's name.
    pub name: String,
    /// What it is given, an object that fits the tool's schema.
    pub arguments: Value,
    /// The channels of events that the user may read, by name.
    pub channels: Vec<String>,
    /// What the user may do, by name.
    pub permissions: Vec<String>,
    /// When the turn gives it up.
    pub deadline: Instant,
    /// Uttered when the answer is cancelled or the time is over: to be ended
    /// soon, whatever that takes; dropped a little later.
    pub cancel: Stop,
    /// Tells what people should know while it runs. A full channel waits, a
    /// closed one is nobody's fault.
    pub note: mpsc::Sender<Note>,
    /// The trace that the call is part of.
    pub trace: Option<TraceContext>,
}

impl Call {
    /// Names the call, the same for whoever runs it: no two calls share it.
    #[must_use]
    pub fn id(&self) -> String {
        call_id(&self.session_id, self.answer, self.number)
    }
}

/// What a tool tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It runs a command, whose terminal can be watched.
    Terminal {
        /// The agent that runs it.
        agent_id: String,
        /// The command.
        command_id: String,
    },
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gave this.
    Value(Value),
    /// It failed, in a sentence for the model.
    Error(String),
    /// It gave nothing in its time.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It was cancelled, and this is known of what it did, in a sentence.
    Stopped(String),
    /// Nobody knows whether it did what it was to do, in a sentence.
    Unknown(String),
}

/// A call that is being run.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What runs calls of a tool.
pub trait Runner: fmt::Debug + Send + Sync {
    /// Why a call with these arguments, which fit the schema, is never to run, in
    /// a sentence: asked when it is planned, before anybody decides on it. `None`
    /// where nothing is known against it.
    fn refusal(&self, arguments: &Value) -> Option<String> {
        let _ = arguments;
        None
    }

    /// Runs a call. Nothing happens before the future is polled; dropped, it
    /// leaves nothing running on this machine.
    fn run(&self, call: Call) -> Running;

    /// Goes on with a call that another orchestrator has begun to run, where that
    /// cannot make it happen twice. `None` where it could: its outcome is unknown
    /// then.
    fn adopt(&self, call: Call) -> Option<Running> {
        let _ = call;
        None
    }
}

/// Tools that come and go while the orchestrator runs.
pub trait Shelf: fmt::Debug + Send + Sync {
    /// The tool of a name, if it is there now.
    fn find(&self, name: &str) -> Option<Arc<Tool>>;
    /// All that are there now.
    fn tools(&self) -> Vec<Arc<Tool>>;
    /// Ends when no tool of these names, as [`Toolbox::offered`] takes them, is just
    /// about to come: wherever it could come from has said what there is, or is away.
    fn settled(&self, names: &[String]) -> Settling;
}

/// A wait for a shelf.
pub type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All tools, by name.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    tools: BTreeMap<String, Arc<Tool>>,
    shelves: Vec<Arc<dyn Shelf>>,
}

impl Toolbox {
    /// A toolbox of these; of two of a name the later one stays.
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Self {
        let named = |tool: Tool| (tool.name.clone(), Arc::new(tool));
        Self {
            tools: tools.into_iter().map(named).collect(),
            shelves: Vec::new(),
        }
    }

    /// This toolbox with what is on a shelf; of two tools of a name the one that
    /// was there before is found.
    #[must_use]
    pub fn with(mut self, shelf: Arc<dyn Shelf>) -> Self {
        self.shelves.push(shelf);
        self
    }

    /// The tool of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Tool>> {
        let own = self.tools.get(name).cloned();
        own.or_else(|| self.shelves.iter().find_map(|shelf| shelf.find(name)))
    }

    /// What a model is told of an agent's tools: those of these names, and of
    /// each name that ends in `*` those that begin like it, which a user with
    /// these permissions may use.
    #[must_use]
    pub fn offered(&self, names: &[String], permissions: &[String]) -> Arc<[provider::Tool]> {
        let shelved = self.shelves.iter().flat_map(|shelf| shelf.tools());
        let tools = self.tools.values().cloned().chain(shelved);
        let offered = tools.filter(|tool| is_offered(tool, names, permissions));
        offered
            .map(|tool| provider::Tool {
                name: tool.name.clone(),
                description: tool.description.clone(),
                parameters: tool.schema.source().clone(),
            })
            .collect()
    }

    /// The tool of a name, if it is there now and one of those that are
    /// [`offered`](Self::offered).
    #[must_use]
    pub fn find_offered(
        &self,
        name: &str,
        names: &[String],
        permissions: &[String],
    ) -> Option<Arc<Tool>> {
        let found = self.find(name);
        found.filter(|tool| is_offered(tool, names, permissions))
    }

    /// Waits until no tool of these names is just about to come.
    pub async fn settled(&self, names: &[String]) {
        join_all(self.shelves.iter().map(|shelf| shelf.settled(names))).await;
    }
}

fn is_offered(tool: &Tool, names: &[String], permissions: &[String]) -> bool {
    let is_wanted = names.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => tool.name.starts_with(start),
        None => tool.name == *name,
    });
    let needed = tool.permission.as_ref();
    is_wanted && needed.is_none_or(|needed| permissions.contains(needed))
}

/// Names a call of a tool: no two calls share it.
#[must_use]
pub fn call_id(session_id: &str, answer: u32, number: u32) -> String {
    format!("{session_id}/{answer}/{number}")
}

/// What an approval is bound to: SHA-256 over a tool's name and its arguments
/// in canonical form, 64 hexadecimal digits.
#[must_use]
pub fn arguments_hash(name: &str, arguments: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(canonical(arguments).to_string().as_bytes());
    hex(&hash.finalize())
}

/// What is decided on when a call waits for approval. It stands for one call
/// with these arguments, so that nobody can approve it with others.
#[must_use]
pub fn action_id(session_id: &str, answer: u32, number: u32, arguments_hash: &str) -> String {
    let mut hash = Sha256::new();
    let (answer, number) = (answer.to_string(), number.to_string());
    for part in [session_id, &answer, &number, arguments_hash] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    format!("tool-{}", &hex(&hash.finalize())[..32])
}

/// A value with the keys of all its objects in order.
pub(crate) fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| key.as_str());
            let fields = sorted.into_iter();
            Value::Object(
                fields
                    .map(|(key, value)| (key.clone(), canonical(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Runner for Nothing {
        fn run(&self, _: Call) -> Running {
            Box::pin(async { Outcome::Value(Value::Null) })
        }
    }

    fn tool(name: &str, permission: Option<&str>) -> Tool {
        Tool {
            name: name.to_owned(),
            description: String::new(),
            schema: Arc::new(Schema::compile(json!({"type": "object"})).unwrap()),
            limits: Limits::default(),
            approval: None,
            permission: permission.map(str::to_owned),
            runner: Arc::new(Nothing),
        }
    }

    #[test]
    fn an_agent_is_offered_what_it_has_and_its_user_may_use() {
        let toolbox = Toolbox::new([
            tool("files__read", None),
            tool("files__write", Some("execute_actions")),
            tool("search_events", None),
        ]);
        let offered = |names: &[&str], permissions: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            let (names, permissions): (Vec<_>, Vec<_>) = (owned(names), owned(permissions));
            let offered = toolbox.offered(&names, &permissions);
            offered
                .iter()
                .map(|tool| tool.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(offered(&["files__*"], &[]), ["files__read"]);
        assert_eq!(
            offered(&["files__*"], &["execute_actions"]),
            ["files__read", "files__write"]
        );
        assert_eq!(offered(&["search_events", "files"], &[]), ["search_events"]);
        assert_eq!(offered(&[], &[]), [""; 0]);
    }

    #[test]
    fn an_action_stands_for_one_call_with_its_arguments() {
        let one = arguments_hash("t", &json!({"b": [1, {"z": 1, "y": 2}], "a": "x"}));
        let same = arguments_hash("t", &json!({"a": "x", "b": [1, {"y": 2, "z": 1}]}));
        assert_eq!(one, same);
        assert_eq!(one.len(), 64);
        let others = [
            arguments_hash("u", &json!({"a": "x", "b": [1, {"y": 2, "z": 1}]})),
            arguments_hash("t", &json!({"a": "x", "b": [{"y": 2, "z": 1}, 1]})),
            arguments_hash("t", &json!({"a": "x"})),
        ];
        assert!(others.iter().all(|other| *other != one));
        let action = action_id("chat-1", 1, 2, &one);
        assert_eq!(action.len(), "tool-".len() + 32);
        assert_ne!(action, action_id("chat-1", 12, 2, &one));
        assert_ne!(action, action_id("chat-1", 1, 2, &others[0]));
    }
}

//! The agents that can be talked to: those shipped with the program, changed
//! and added to by a file. What an agent is allowed to take (time, tokens,
//! money) is here; holding it to that is the turn's business.

mod agent_table;
mod document;
mod file;
mod mcp_table;
mod provider_table;
mod schema_field;
mod tool_table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::analysis::Schema;
use crate::provider::retry::Retries;
use crate::provider::{Ask, Provider, Usage};
use crate::tools::config::Definition;
use crate::tools::mcp::ServerConfig;

pub use self::document::{Problem, Severity};
pub use self::file::{Source, is_agents_file};

/// All agents, by type, and the tools that they may use.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    agents: BTreeMap<String, Arc<Agent>>,
    tools: Vec<Definition>,
    servers: Vec<ServerConfig>,
}

/// An agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What clients ask for, such as `threat_classifier`.
    pub agent_type: String,
    /// What people read.
    pub name: String,
    /// What answers.
    pub provider: Arc<dyn Provider>,
    /// The model, as the provider calls it and as clients are told.
    pub model: String,
    /// Its standing instructions.
    pub instructions: String,
    /// What it is good for, as clients are told.
    pub capabilities: Vec<String>,
    /// The names of the tools it may use; one that ends in `*` stands for all that
    /// begin like it.
    pub tools: Vec<String>,
    /// What its analysis must look like.
    pub schema: Arc<Schema>,
    /// How the model hands the analysis over.
    pub ask: Ask,
    /// How many related events it is given with a question.
    pub events: usize,
    /// Whether it tells how far it is, in chats that are about an investigation.
    pub progress: bool,
    /// The longest answer to one request, in tokens.
    pub max_output_tokens: u32,
    /// How often a request is sent again before anything is visible.
    pub retries: Retries,
    /// How long it may take.
    pub clocks: Clocks,
    /// What it may use up.
    pub budget: Budget,
    /// What its tokens cost.
    pub price: Price,
}

/// The clocks of a turn. Each runs out in a failure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Until the first piece of a request, its retries included; anew where one
    /// that had begun is sent again.
    pub first_token: Duration,
    /// From one piece to the next.
    pub between_tokens: Duration,
    /// For a whole turn: all requests, tools and the repair of its analysis.
    pub total: Duration,
}

/// What a chat may use up; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Tokens of all kinds together, over the chat.
    pub tokens: Option<u64>,
    /// Money over the chat, in the currency of the price, in millionths.
    pub money_micros: Option<u64>,
    /// Requests to the model in one turn.
    pub calls: Option<u32>,
    /// Calls of tools in one turn; 32 where nothing is said.
    pub tool_calls: Option<u32>,
    /// Time in which turns were running, over the chat.
    pub wall_time: Option<Duration>,
}

/// What a million tokens cost, in millionths of the currency's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Read.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the cache.
    pub cache_read: u64,
    /// Written into the cache.
    pub cache_write: u64,
}

impl Price {
    /// What these tokens cost, in millionths, rounded up.
    #[must_use]
    pub fn of(&self, usage: &Usage) -> u64 {
        let parts = [
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, self.cache_read),
            (usage.cache_write, self.cache_write),
        ];
        let sum: u128 = parts
            .iter()
            .map(|(tokens, price)| u128::from(*tokens) * u128::from(*price))
            .sum();
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

impl Agents {
    /// The agent of a type.
    #[must_use]
    pub fn find(&self, agent_type: &str) -> Option<&Arc<Agent>> {
        self.agents.get(agent_type)
    }

    /// The tools that are built in or have a table, by name.
    #[must_use]
    pub fn tools(&self) -> &[Definition] {
        &self.tools
    }

    /// The tool servers, by name.
    #[must_use]
    pub fn servers(&self) -> &[ServerConfig] {
        &self.servers
    }

    /// The types that there are, in order.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }
}

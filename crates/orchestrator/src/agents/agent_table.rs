//! `[agents.TYPE]`: what an agent is, what it may take, and what that costs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::document::{Placed, Problems, Section};
use super::provider_table::{Kind, ProviderDraft};
use super::schema_field;
use super::tool_table::KnownTools;
use super::{Agent, Budget, Clocks, Price};
use crate::analysis::Schema;
use crate::provider::retry::Retries;
use crate::provider::{Ask, Provider, offline};

/// The longest instructions, in bytes.
const MAX_INSTRUCTION_BYTES: usize = 64 * 1024;
/// The longest name, model or type, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The longest time that any clock may have.
const MAX_CLOCK: Duration = Duration::from_secs(3600);
/// The longest time that a chat's budget may have.
const MAX_WALL_TIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most money, in the currency's unit.
const MAX_MONEY: f64 = 1_000_000.0;
/// The most events that an agent may be given with a question.
const MAX_EVENTS: u64 = 200;

/// The fields with the schema of the analysis, and with the name of its file.
const SCHEMA_FIELDS: [&str; 2] = ["analysis_schema", "analysis_schema_file"];

/// The words for how the analysis is handed over.
const ASKS: &[(&str, Ask)] = &[("tool", Ask::Tool), ("fence", Ask::Fence)];

/// An agent as files have it; what is not set may be set elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentDraft {
    place: Range<usize>,
    enabled: Option<bool>,
    name: Option<String>,
    provider: Option<Placed<String>>,
    model: Option<Placed<String>>,
    instructions: Option<String>,
    capabilities: Option<Vec<String>>,
    tools: Option<Vec<Placed<String>>>,
    schema: Option<Arc<Schema>>,
    ask: Option<Ask>,
    events: Option<usize>,
    progress: Option<bool>,
    max_output_tokens: Option<u32>,
    retries: Option<u32>,
    first_token: Option<Duration>,
    between_tokens: Option<Duration>,
    total: Option<Duration>,
    tokens: Option<u64>,
    money_micros: Option<Placed<u64>>,
    calls: Option<u32>,
    tool_calls: Option<u32>,
    wall_time: Option<Duration>,
    price: [Option<Placed<u64>>; 4],
}

/// Whether this can be an agent's type.
pub(super) fn is_type(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 64
        && bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Reads a table.
pub(super) fn read(
    mut section: Section<'_>,
    directory: &Path,
    problems: &mut Problems,
) -> AgentDraft {
    let place = section.place.clone();
    let mut clocks = section.section("clocks", problems);
    let mut budget = section.section("budget", problems);
    let mut price = section.section("price", problems);
    let draft = AgentDraft {
        place,
        enabled: section.flag("enabled", problems),
        name: owned(section.bounded_text("name", MAX_NAME_BYTES, problems)),
        provider: placed(section.bounded_text("provider", MAX_NAME_BYTES, problems)),
        model: placed(section.bounded_text("model", MAX_NAME_BYTES, problems)),
        instructions: owned(section.bounded_text("instructions", MAX_INSTRUCTION_BYTES, problems)),
        capabilities: section
            .texts("capabilities", 32, problems)
            .map(|texts| texts.into_iter().map(|(text, _)| text.to_owned()).collect()),
        tools: section.texts("tools", 128, problems).map(|tools| {
            let owned = |(name, place): Placed<&str>| (name.to_owned(), place);
            tools.into_iter().map(owned).collect()
        }),
        schema: schema_field::read(&mut section, SCHEMA_FIELDS, directory, problems),
        ask: value(section.word("analysis_by", ASKS, problems)),
        events: value(section.count("events", 0..MAX_EVENTS + 1, problems))
            .map(|count| count as usize),
        progress: section.flag("progress", problems),
        max_output_tokens: value(section.count("max_output_tokens", 16..1_000_001, problems))
            .map(|count| count as u32),
        retries: value(section.count("retries", 0..11, problems)).map(|count| count as u32),
        first_token: value(clocks.seconds("first_token", MAX_CLOCK, problems)),
        between_tokens: value(clocks.seconds("between_tokens", MAX_CLOCK, problems)),
        total: value(clocks.seconds("total", MAX_CLOCK, problems)),
        tokens: value(budget.count("tokens", 1..1_000_000_000_001, problems)),
        money_micros: budget
            .amount("money", MAX_MONEY, false, problems)
            .map(micros),
        calls: value(budget.count("calls", 1..1001, problems)).map(|count| count as u32),
        tool_calls: value(budget.count("tool_calls", 0..1001, problems)).map(|count| count as u32),
        wall_time: value(budget.seconds("wall_time", MAX_WALL_TIME, problems)),
        price: ["input", "output", "cache_read", "cache_write"]
            .map(|key| price.amount(key, MAX_MONEY, true, problems).map(micros)),
    };
    for rest in [clocks, budget, price, section] {
        rest.finish(problems);
    }
    draft
}

impl AgentDraft {
    /// This one with what another one sets; the other is a later file.
    pub(super) fn with(self, later: Self) -> Self {
        // Prices belong to a model, so that those of another one do not stay.
        let price = if later.model.is_some() || later.provider.is_some() {
            later.price
        } else {
            let [a, b, c, d] = later.price;
            let [e, f, g, h] = self.price;
            [a.or(e), b.or(f), c.or(g), d.or(h)]
        };
        // A model belongs to a provider likewise.
        let model = match &later.provider {
            Some(_) => later.model,
            None => later.model.or(self.model),
        };
        Self {
            place: later.place,
            enabled: later.enabled.or(self.enabled),
            name: later.name.or(self.name),
            provider: later.provider.or(self.provider),
            model,
            instructions: later.instructions.or(self.instructions),
            capabilities: later.capabilities.or(self.capabilities),
            tools: later.tools.or(self.tools),
            schema: later.schema.or(self.schema),
            ask: later.ask.or(self.ask),
            events: later.events.or(self.events),
            progress: later.progress.or(self.progress),
            max_output_tokens: later.max_output_tokens.or(self.max_output_tokens),
            retries: later.retries.or(self.retries),
            first_token: later.first_token.or(self.first_token),
            between_tokens: later.between_tokens.or(self.between_tokens),
            total: later.total.or(self.total),
            tokens: later.tokens.or(self.tokens),
            money_micros: later.money_micros.or(self.money_micros),
            calls: later.calls.or(self.calls),
            tool_calls: later.tool_calls.or(self.tool_calls),
            wall_time: later.wall_time.or(self.wall_time),
            price,
        }
    }

    /// Whether it is to be there at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// Where it names its provider.
    pub(super) fn provider_place(&self) -> Range<usize> {
        let named = self.provider.as_ref();
        named.map_or_else(|| self.place.clone(), |(_, place)| place.clone())
    }

    /// Says of each of its tools that there is not.
    pub(super) fn check_tools(&self, field: &str, known: &KnownTools, problems: &mut Problems) {
        for (number, (name, place)) in self.tools.iter().flatten().enumerate() {
            if let Err(message) = known.check(name) {
                problems.error(place, &format!("{field}.tools[{number}]"), message);
            }
        }
    }

    /// The provider it names, if there is one of the name.
    pub(super) fn provider<'p>(
        &self,
        field: &str,
        providers: &'p BTreeMap<String, ProviderDraft>,
        problems: &mut Problems,
    ) -> Option<(&'p str, &'p ProviderDraft)> {
        let known = || {
            providers
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let field = format!("{field}.provider");
        let Some((name, place)) = &self.provider else {
            let message = format!("expected the name of a provider: {}", known());
            problems.error(&self.place, &field, message);
            return None;
        };
        let Some((name, draft)) = providers.get_key_value(name) else {
            let message = format!("there is no provider `{name}`; expected {}", known());
            problems.error(place, &field, message);
            return None;
        };
        Some((name, draft))
    }

    /// Makes the agent.
    pub(super) fn build(
        self,
        agent_type: &str,
        kind: Kind,
        provider: Arc<dyn Provider>,
        default_schema: &Arc<Schema>,
        problems: &mut Problems,
    ) -> Agent {
        let field = format!("agents.{agent_type}");
        let model = self.model(&field, kind, problems);
        let clocks = self.clocks(&field, problems);
        let budget = Budget {
            tokens: self.tokens,
            money_micros: self.money_micros.as_ref().map(|(micros, _)| *micros),
            calls: self.calls,
            tool_calls: self.tool_calls,
            wall_time: self.wall_time,
        };
        let price = self.price.map(|price| price.map(|(micros, _)| micros));
        let [input, output, cache_read, cache_write] = price;
        let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
        if let Some((_, place)) = &self.money_micros
            && (input == 0 || output == 0)
            && kind != Kind::Offline
        {
            let message = "expected price.input and price.output above 0, to count the money";
            problems.error(place, &format!("{field}.budget.money"), message);
        }
        if self.instructions.is_none() && kind != Kind::Offline {
            let message = "expected what the model is to do";
            problems.error(&self.place, &format!("{field}.instructions"), message);
        }
        if self.schema.is_some() && kind == Kind::Offline {
            let message = "expected none: the offline analyst has one form of analysis";
            problems.error(&self.place, &format!("{field}.analysis_schema"), message);
        }
        let standard = match kind {
            Kind::OpenAi => Ask::Fence,
            Kind::Anthropic | Kind::Offline => Ask::Tool,
        };
        let retries = Retries::default();
        Agent {
            agent_type: agent_type.to_owned(),
            name: self.name.unwrap_or_else(|| agent_type.to_owned()),
            provider,
            model,
            instructions: self.instructions.unwrap_or_default(),
            capabilities: self.capabilities.unwrap_or_default(),
            tools: self
                .tools
                .unwrap_or_default()
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            schema: self.schema.unwrap_or_else(|| Arc::clone(default_schema)),
            ask: self.ask.unwrap_or(standard),
            events: self.events.unwrap_or(20),
            progress: self.progress.unwrap_or(false),
            max_output_tokens: self.max_output_tokens.unwrap_or(4096),
            retries: Retries {
                most: self.retries.unwrap_or(retries.most),
                ..retries
            },
            clocks,
            budget,
            price: Price {
                input,
                output,
                // Some providers cache by themselves: that is not for nothing.
                cache_read: cache_read.unwrap_or(input),
                cache_write: cache_write.unwrap_or(input),
            },
        }
    }

    fn model(&self, field: &str, kind: Kind, problems: &mut Problems) -> String {
        let field = format!("{field}.model");
        match (&self.model, kind) {
            (None, Kind::Offline) => offline::MODEL.to_owned(),
            (Some((model, place)), Kind::Offline) if model != offline::MODEL => {
                let message = format!(
                    "expected \"{}\" or nothing: people are told who answers",
                    offline::MODEL
                );
                problems.error(place, &field, message);
                String::new()
            }
            (Some((model, _)), _) => model.clone(),
            (None, _) => {
                let message = "expected the model's name, as its provider calls it";
                problems.error(&self.place, &field, message);
                String::new()
            }
        }
    }

    fn clocks(&self, field: &str, problems: &mut Problems) -> Clocks {
        let total = self.total.unwrap_or(Duration::from_secs(300));
        let clocks = Clocks {
            first_token: self
                .first_token
                .unwrap_or(Duration::from_secs(60).min(total)),
            between_tokens: self
                .between_tokens
                .unwrap_or(Duration::from_secs(30).min(total)),
            total,
        };
        for (name, clock) in [
            ("first_token", clocks.first_token),
            ("between_tokens", clocks.between_tokens),
        ] {
            if clock > clocks.total {
                let message = format!("expected at most total, {} s", total.as_secs_f64());
                problems.error(&self.place, &format!("{field}.clocks.{name}"), message);
            }
        }
        clocks
    }
}

fn owned(text: Option<Placed<&str>>) -> Option<String> {
    text.map(|(text, _)| text.to_owned())
}

fn placed(text: Option<Placed<&str>>) -> Option<Placed<String>> {
    text.map(|(text, place)| (text.to_owned(), place))
}

fn value<T>(placed: Option<Placed<T>>) -> Option<T> {
    placed.map(|(value, _)| value)
}

fn micros((units, place): Placed<f64>) -> Placed<u64> {
    // Bounded above by MAX_MONEY, below by zero.
    ((units * 1_000_000.0).round() as u64, place)
}

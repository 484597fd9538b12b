//! What the orchestrator measures. Its tasks count, whoever collects reads.

use std::sync::Arc;

use opentelemetry::{KeyValue, global};
use signalbox_bus::Bus;
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{ChatError, ChatUsage, ToolOutcome};
use signalbox_service::metrics::{About, Count, counter, gauge};

use crate::usage;

/// The scope of these metrics.
const SCOPE: &str = "signalbox.orchestrator";
/// The label of a shard.
const SHARD: &str = "signalbox.shard";
/// The label of a failure.
const CODE: &str = "signalbox.code";
/// The label of what became of a call of a tool.
const OUTCOME: &str = "outcome";

const STARTED: About = About {
    name: "signalbox.orchestrator.chats.started",
    unit: "{chat}",
    text: "Chats that were begun",
};
const ACCEPTED: About = About {
    name: "signalbox.orchestrator.messages.accepted",
    unit: "{message}",
    text: "Messages that were accepted and stored",
};
const REFUSED: About = About {
    name: "signalbox.orchestrator.requests.refused",
    unit: "{request}",
    text: "Requests that were turned down",
};
const ANSWERED: About = About {
    name: "signalbox.orchestrator.answers.completed",
    unit: "{answer}",
    text: "Answers that are complete",
};
const STOPPED: About = About {
    name: "signalbox.orchestrator.answers.cancelled",
    unit: "{answer}",
    text: "Answers that their user has cancelled",
};
const FAILED: About = About {
    name: "signalbox.orchestrator.answers.failed",
    unit: "{answer}",
    text: "Answers that broke off, by what their user was told",
};
const RECOVERIES: About = About {
    name: "signalbox.orchestrator.answers.recovered",
    unit: "{answer}",
    text: "Answers that were taken over from another orchestrator",
};
const CHUNKS: About = About {
    name: "signalbox.orchestrator.chunks",
    unit: "{chunk}",
    text: "Pieces of answers that were stored",
};
const RECORDS: About = About {
    name: "signalbox.orchestrator.log.records",
    unit: "{record}",
    text: "Records appended to the logs of chats",
};
const CALLS_FAILED: About = About {
    name: "signalbox.orchestrator.calls.failed",
    unit: "{call}",
    text: "Calls that a provider did not answer to the end",
};
const RETRIES: About = About {
    name: "signalbox.orchestrator.calls.repeated",
    unit: "{call}",
    text: "Requests that were sent to a provider again before anything was visible",
};
const REPAIRS: About = About {
    name: "signalbox.orchestrator.analyses.repaired",
    unit: "{analysis}",
    text: "Analyses that did not fit their schema and were asked for again",
};
const CALLS: About = About {
    name: "signalbox.orchestrator.calls",
    unit: "{call}",
    text: "Calls of providers that were settled",
};
const ESTIMATED: About = About {
    name: "signalbox.orchestrator.calls.estimated",
    unit: "{call}",
    text: "Calls of providers that were settled by an estimate",
};
const INPUT: About = About {
    name: "signalbox.orchestrator.tokens.input",
    unit: "{token}",
    text: "Tokens that providers have read",
};
const OUTPUT: About = About {
    name: "signalbox.orchestrator.tokens.output",
    unit: "{token}",
    text: "Tokens that providers have written",
};
const COST: About = About {
    name: "signalbox.orchestrator.cost",
    unit: "{micro}",
    text: "What calls have cost by the agents' prices, in millionths",
};
const TOOLS: About = About {
    name: "signalbox.orchestrator.tools.calls",
    unit: "{call}",
    text: "Calls of tools that have ended, by what became of them",
};
const TOOL_TIME: About = About {
    name: "signalbox.orchestrator.tools.time",
    unit: "ms",
    text: "Time from the start of each call of a tool to its end, together",
};
const APPROVALS: About = About {
    name: "signalbox.orchestrator.approvals.waiting",
    unit: "{call}",
    text: "Calls of tools that wait until people have decided",
};
const FENCED: About = About {
    name: "signalbox.orchestrator.fenced",
    unit: "{chat}",
    text: "Chats that this orchestrator has left because another writes them",
};
const HELD: About = About {
    name: "signalbox.orchestrator.assigned",
    unit: "",
    text: "Whether this orchestrator holds the shard (1) or not (0)",
};
const SESSIONS: About = About {
    name: "signalbox.orchestrator.chats",
    unit: "{chat}",
    text: "Chats that are in memory",
};
const RUNNING: About = About {
    name: "signalbox.orchestrator.answers.running",
    unit: "{answer}",
    text: "Answers that are being written",
};

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) started: Count,
    pub(crate) accepted: Count,
    pub(crate) refused: Count,
    pub(crate) answered: Count,
    pub(crate) stopped: Count,
    pub(crate) recoveries: Count,
    pub(crate) chunks: Count,
    pub(crate) records: Count,
    pub(crate) calls_failed: Count,
    pub(crate) retries: Count,
    pub(crate) repairs: Count,
    calls: Count,
    estimated: Count,
    input: Count,
    output: Count,
    cost: Count,
    pub(crate) fenced: Count,
    /// Chats in memory.
    sessions: Count,
    /// Answers being written.
    running: Count,
    tool_time: Count,
    /// Calls that people are asked about.
    approvals: Count,
    tools: [Count; OUTCOMES.len()],
    failed: [Count; CODES.len()],
    shards: [Count; Shard::COUNT],
}

/// How answers fail, by what their user is told.
const CODES: [(ChatError, &str); 4] = [
    (ChatError::AgentUnavailable, "AGENT_UNAVAILABLE"),
    (ChatError::AgentTimeout, "AGENT_TIMEOUT"),
    (ChatError::BudgetExceeded, "BUDGET_EXCEEDED"),
    (ChatError::Unspecified, "OTHER"),
];

/// What becomes of calls of tools.
const OUTCOMES: [(ToolOutcome, &str); 6] = [
    (ToolOutcome::Value, "value"),
    (ToolOutcome::Error, "error"),
    (ToolOutcome::TimedOut, "timed_out"),
    (ToolOutcome::Cancelled, "cancelled"),
    (ToolOutcome::Refused, "refused"),
    (ToolOutcome::Unknown, "unknown"),
];

/// The orchestrator's metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counts>);

impl std::ops::Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// Picks one of the numbers.
type Which = fn(&Counts) -> &Count;

impl Metrics {
    /// Has the process's meter collect them.
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        let metrics = Self(Arc::default());
        let counters: [(About, Which); 18] = [
            (STARTED, |counts| &counts.started),
            (ACCEPTED, |counts| &counts.accepted),
            (REFUSED, |counts| &counts.refused),
            (ANSWERED, |counts| &counts.answered),
            (STOPPED, |counts| &counts.stopped),
            (RECOVERIES, |counts| &counts.recoveries),
            (CHUNKS, |counts| &counts.chunks),
            (RECORDS, |counts| &counts.records),
            (CALLS_FAILED, |counts| &counts.calls_failed),
            (RETRIES, |counts| &counts.retries),
            (REPAIRS, |counts| &counts.repairs),
            (CALLS, |counts| &counts.calls),
            (ESTIMATED, |counts| &counts.estimated),
            (INPUT, |counts| &counts.input),
            (OUTPUT, |counts| &counts.output),
            (COST, |counts| &counts.cost),
            (FENCED, |counts| &counts.fenced),
            (TOOL_TIME, |counts| &counts.tool_time),
        ];
        for (about, which) in counters {
            let counts = Arc::clone(&metrics.0);
            counter(&meter, about, move |observe| {
                observe(which(&counts).get(), &[]);
            });
        }
        let counts = Arc::clone(&metrics.0);
        counter(&meter, FAILED, move |observe| {
            for ((_, code), count) in CODES.iter().zip(&counts.failed) {
                observe(count.get(), &[KeyValue::new(CODE, *code)]);
            }
        });
        let counts = Arc::clone(&metrics.0);
        counter(&meter, TOOLS, move |observe| {
            for ((_, outcome), count) in OUTCOMES.iter().zip(&counts.tools) {
                observe(count.get(), &[KeyValue::new(OUTCOME, *outcome)]);
            }
        });
        let gauges: [(About, Which); 3] = [
            (SESSIONS, |counts| &counts.sessions),
            (RUNNING, |counts| &counts.running),
            (APPROVALS, |counts| &counts.approvals),
        ];
        for (about, which) in gauges {
            let counts = Arc::clone(&metrics.0);
            gauge(&meter, about, move |observe| {
                observe(which(&counts).get(), &[]);
            });
        }
        let counts = Arc::clone(&metrics.0);
        gauge(&meter, HELD, move |observe| {
            for (shard, held) in Shard::all().zip(&counts.shards) {
                let label = KeyValue::new(SHARD, shard.to_string());
                observe(held.get(), &[label]);
            }
        });
        metrics
    }

    /// Has the state of the connection collected as well.
    pub(crate) fn observe_bus(bus: &Bus) {
        signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, "orchestrator");
    }

    /// Answers that failed like this.
    pub(crate) fn failed(&self, code: ChatError) -> &Count {
        let which = CODES.iter().position(|(one, _)| *one == code);
        &self.0.failed[which.unwrap_or(CODES.len() - 1)]
    }

    /// Counts a call of a tool that has ended.
    pub(crate) fn tool_ended(&self, outcome: ToolOutcome, took_ms: u64) {
        let which = OUTCOMES.iter().position(|(one, _)| *one == outcome);
        self.tools[which.unwrap_or(OUTCOMES.len() - 1)].add(1);
        self.tool_time.add(took_ms);
    }

    /// Counts a call that people are asked about, for as long as the guard lives.
    pub(crate) fn waiting_approval(&self) -> Counted {
        Counted::new(self, |counts| &counts.approvals)
    }

    /// Counts a settled call.
    pub(crate) fn count_usage(&self, cost: &ChatUsage) {
        self.calls.add(u64::from(cost.calls));
        self.estimated.add(u64::from(cost.is_estimated));
        self.input
            .add(usage::tokens(cost).saturating_sub(cost.output_tokens));
        self.output.add(cost.output_tokens);
        self.cost.add(cost.cost_micros);
    }

    /// Counts a chat in memory, for as long as the guard lives.
    pub(crate) fn session(&self) -> Counted {
        Counted::new(self, |counts| &counts.sessions)
    }

    /// Counts an answer that is being written, for as long as the guard lives.
    pub(crate) fn running_answer(&self) -> Counted {
        Counted::new(self, |counts| &counts.running)
    }

    /// 1 while the shard is held.
    pub(crate) fn held(&self, shard: Shard) -> &Count {
        &self.0.shards[usize::from(shard.number())]
    }
}

/// Something that there is one more of, for as long as this lives.
pub(crate) struct Counted {
    metrics: Metrics,
    which: Which,
}

impl Counted {
    fn new(metrics: &Metrics, which: Which) -> Self {
        which(metrics).add(1);
        Self {
            metrics: metrics.clone(),
            which,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.metrics).take(1);
    }
}

//! What a run found, as one JSON object.

mod table;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::account::Tally;
use super::floor::Floor;
use super::measure::{Generator, Used};
use super::procfs::Memory;
use super::progress::Quantiles;

/// The version of the JSON report; fields are added without changing it.
const FORMAT: u32 = 1;

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    /// Clients.
    pub(super) connections: u64,
    /// What was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<PublishedReport>,
    /// What arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deliveries: Option<Tally>,
    /// Bytes of output that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<Tally>,
    /// What only terminals have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) terminal: Option<Terminal>,
    /// From publish to receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Quantiles>,
    /// From publish to its acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acknowledgement: Option<Quantiles>,
    /// CPU time and traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<Used>,
    /// The gateway's CPU time for each event delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) per_delivery: Option<PerUnit>,
    /// The gateway's CPU time for each connection made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) per_connect: Option<PerUnit>,
    /// Connections made per second, and per second of the gateway's CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connects: Option<ConnectRate>,
    /// From connect to the session's confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) opening: Option<Quantiles>,
    /// From the beginning of a return to its confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) returning: Option<Quantiles>,
    /// From the beginning of a return to the last event that was missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) caught_up: Option<Quantiles>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<MemoryReport>,
    /// What the gateway used per second while idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    /// Rates that were tried, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) search: Option<Search>,
    /// What the workload `chat` measures beside the latency of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chat: Option<ChatReport>,
    /// Parts of the workloads `ingest` and `chat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) parts: BTreeMap<&'static str, Run>,
    /// What went wrong with connections, how often.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) trouble: BTreeMap<String, u64>,
    /// How the generator did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generator: Option<Generator>,
    /// Bare writes of the same frames, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor: Option<Floor>,
    /// The gateway's CPU time per delivery, in floors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor_ratio: Option<f64>,
}

/// What was published.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct PublishedReport {
    /// Events.
    pub(super) events: u64,
    /// Of them, refused or not acknowledged in time.
    pub(super) unacknowledged: u64,
    /// Events a second that were wanted.
    pub(super) rate_wanted: f64,
    /// Events a second that went out.
    pub(super) rate: f64,
    /// Bytes of each event's data.
    pub(super) data_bytes: u64,
    /// Bytes of the message in which a client got it, on average.
    pub(super) message_bytes: f64,
}

/// CPU time of the gateway for one unit of work, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PerUnit {
    /// In all.
    pub(super) us: f64,
    /// Of it, in the program.
    pub(super) user_us: f64,
}

/// What only terminals have.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Terminal {
    /// Lines sent off: typed, or written by agents.
    pub(super) lines: u64,
    /// Of them, each second.
    pub(super) lines_per_s: f64,
    /// Dashboards that each got all of them.
    pub(super) dashboards: u64,
    /// Bytes of a line.
    pub(super) line_bytes: u64,
    /// Returns of dashboards that were too slow and sent away.
    pub(super) returns: u64,
    /// CPU time of gateway, relay and NATS server for each line, in microseconds.
    pub(super) us_per_line: f64,
    /// Lines for each second of their CPU time.
    pub(super) lines_per_cpu_s: f64,
    /// Memory of the gateway at the end.
    pub(super) gateway_memory: Memory,
    /// Memory of the relay at the end.
    pub(super) relay_memory: Memory,
}

/// How fast connections were made.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ConnectRate {
    /// A second.
    pub(super) per_s: f64,
    /// A second of the gateway's CPU time.
    pub(super) per_cpu_s: f64,
}

/// Memory of the gateway, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct MemoryReport {
    /// Before the first client.
    pub(super) before: Memory,
    /// With all clients.
    pub(super) after: Memory,
    /// Resident bytes that each client added.
    pub(super) per_connection: f64,
    /// Bytes of the kernel's own objects that each client added: of both ends
    /// of its connection where both are on this machine, and of whatever else
    /// happened there.
    pub(super) kernel_per_connection: f64,
}

/// What answers took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ChatReport {
    /// From a message to the first token of its answer, at the client.
    pub(super) first: Quantiles,
    /// Chunks in which tokens came.
    pub(super) chunks: u64,
    /// Resident bytes that each chat added at the gateway while nothing was
    /// written in it, its connection and its user included.
    pub(super) gateway_per_chat: f64,
    /// The same in the middle of an answer.
    pub(super) gateway_per_stream: f64,
    /// Resident bytes that each chat added at the orchestrator while nothing was
    /// written in it.
    pub(super) orchestrator_per_chat: f64,
    /// The same in the middle of an answer.
    pub(super) orchestrator_per_stream: f64,
}

/// What an idle gateway used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Idle {
    /// Seconds that were watched.
    pub(super) seconds: f64,
    /// Share of a core.
    pub(super) core: f64,
}

/// A search for the highest rate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Search {
    /// The highest rate that was kept up.
    pub(super) highest: f64,
    /// Whether the first rate that was not kept up may be due to the
    /// generator, or to a full machine.
    pub(super) generator_was_the_limit: bool,
    /// Each rate that was tried.
    pub(super) steps: Vec<Step>,
}

/// One rate of a search.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    /// Events a second that were wanted.
    pub(super) rate_wanted: f64,
    /// Events a second that went out.
    pub(super) rate: f64,
    /// Whether it was kept up.
    pub(super) kept: bool,
    /// How long after the last publish the last event arrived, in
    /// milliseconds.
    pub(super) behind_ms: f64,
    /// Events that never arrived.
    pub(super) lost: u64,
    /// From publish to receipt.
    pub(super) latency: Quantiles,
    /// From publish to its acknowledgement.
    pub(super) acknowledgement: Quantiles,
    /// The gateway's CPU time per delivery, in microseconds.
    pub(super) us_per_delivery: f64,
    /// Why the generator's limits, or the machine's, may be what was measured.
    pub(super) generator: Vec<String>,
}

/// Everything that an invocation reports.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) dialect: &'static str,
    pub(super) settings: String,
    pub(super) warnings: Vec<String>,
    pub(super) runs: Vec<Run>,
}

impl Run {
    /// Whether everything that was due arrived once, in order.
    pub(super) fn is_exact(&self) -> bool {
        let clean = |tally: &Option<Tally>| tally.as_ref().is_none_or(Tally::is_clean);
        clean(&self.deliveries) && clean(&self.output) && self.parts.values().all(Self::is_exact)
    }
}

impl Report {
    /// One object. Its fields are described in `docs/performance.md`.
    pub(super) fn json(&self) -> Value {
        json!({
            "format": FORMAT,
            "workload": self.workload,
            "dialect": self.dialect,
            "settings": self.settings,
            "build": build(),
            "version": env!("CARGO_PKG_VERSION"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "exact": self.runs.iter().all(Run::is_exact),
            "warnings": self.warnings,
            "runs": self.runs,
            "summary": self.summary(),
        })
    }

    /// Median, least and most of every number, by its place.
    fn summary(&self) -> Map<String, Value> {
        let mut numbers: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for run in &self.runs {
            flatten("", &json!(run), &mut |place, number| {
                numbers.entry(place).or_default().push(number);
            });
        }
        numbers
            .into_iter()
            .map(|(place, mut all)| {
                all.sort_by(f64::total_cmp);
                let figure = json!({
                    "median": median(&all),
                    "min": all.first(),
                    "max": all.last(),
                });
                (place, figure)
            })
            .collect()
    }
}

/// How the program was built.
pub(super) const fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    }
}

/// Every number of a value with its place; lists are left out.
fn flatten(place: &str, value: &Value, on: &mut impl FnMut(String, f64)) {
    match value {
        Value::Number(number) => on(place.to_owned(), number.as_f64().unwrap_or_default()),
        Value::Object(fields) => {
            for (key, value) in fields {
                let place = if place.is_empty() {
                    key.clone()
                } else {
                    format!("{place}.{key}")
                };
                flatten(&place, value, on);
            }
        }
        _ => {}
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(floors: &[f64], lost: u64) -> Report {
        let run = |ratio: &f64| Run {
            connections: 10_000,
            floor_ratio: Some(*ratio),
            deliveries: Some(Tally {
                lost,
                ..Tally::default()
            }),
            ..Run::default()
        };
        Report {
            workload: "fanout",
            dialect: "threat",
            settings: "x".into(),
            warnings: vec!["w".into()],
            runs: floors.iter().map(run).collect(),
        }
    }

    #[test]
    fn several_runs_are_summed_up() {
        let json = report(&[1.5, 1.1, 1.3, 1.2], 0).json();
        let ratio = &json["summary"]["floor_ratio"];
        assert_eq!(
            (ratio["min"].as_f64(), ratio["max"].as_f64()),
            (Some(1.1), Some(1.5))
        );
        assert!((ratio["median"].as_f64().unwrap() - 1.25).abs() < 1e-9);
        assert_eq!(json["exact"], true);
    }

    #[test]
    fn a_loss_cannot_be_overlooked() {
        let bad = report(&[1.0], 1);
        assert_eq!(bad.json()["exact"], false);
        let table = bad.table();
        assert!(
            table.contains("NOT EXACT") && table.contains("warning: w"),
            "{table}"
        );
        assert!(report(&[1.0], 0).table().contains("exact: everything"));
    }
}

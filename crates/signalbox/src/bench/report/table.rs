//! The report as a table for people.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{Report, Run, build};

/// How a figure is written.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    /// Microseconds, shown as they are.
    Micros,
    /// Microseconds, shown as milliseconds.
    Millis,
    Number,
    Bytes,
    Percent,
    Seconds,
}

/// Lines of the table, in order: title, place in a run, unit.
const LINES: &[(&str, &str, Unit)] = &[
    ("connections", "connections", Unit::Count),
    ("events published", "published.events", Unit::Count),
    (
        "  not acknowledged",
        "published.unacknowledged",
        Unit::Count,
    ),
    ("  a second", "published.rate", Unit::Number),
    (
        "  bytes of a message",
        "published.message_bytes",
        Unit::Number,
    ),
    ("deliveries due", "deliveries.due", Unit::Count),
    ("  received", "deliveries.received", Unit::Count),
    ("  lost", "deliveries.lost", Unit::Count),
    ("  doubled", "deliveries.doubled", Unit::Count),
    ("  out of order", "deliveries.reordered", Unit::Count),
    ("  misrouted", "deliveries.misrouted", Unit::Count),
    ("  unknown", "deliveries.unknown", Unit::Count),
    ("output due, bytes", "output.due", Unit::Bytes),
    ("  received", "output.received", Unit::Bytes),
    ("  lost", "output.lost", Unit::Bytes),
    ("  doubled", "output.doubled", Unit::Bytes),
    ("  out of order", "output.reordered", Unit::Bytes),
    ("  forged", "output.unknown", Unit::Bytes),
    ("lines", "terminal.lines", Unit::Count),
    ("  a second", "terminal.lines_per_s", Unit::Number),
    (
        "  CPU us / line, all parts",
        "terminal.us_per_line",
        Unit::Number,
    ),
    (
        "  lines / CPU s, all parts",
        "terminal.lines_per_cpu_s",
        Unit::Number,
    ),
    ("  dashboards sent away", "terminal.returns", Unit::Count),
    (
        "  gateway, bytes",
        "terminal.gateway_memory.resident",
        Unit::Bytes,
    ),
    (
        "  relay, bytes",
        "terminal.relay_memory.resident",
        Unit::Bytes,
    ),
    ("gateway CPU us / delivery", "per_delivery.us", Unit::Number),
    ("  of it user", "per_delivery.user_us", Unit::Number),
    ("floor CPU us / send", "floor.us_per_send", Unit::Number),
    ("gateway / floor", "floor_ratio", Unit::Number),
    ("connects / s", "connects.per_s", Unit::Number),
    (
        "connects / gateway CPU s",
        "connects.per_cpu_s",
        Unit::Number,
    ),
    ("gateway CPU us / connect", "per_connect.us", Unit::Number),
    (
        "memory / connection, bytes",
        "memory.per_connection",
        Unit::Bytes,
    ),
    (
        "  gateway before, bytes",
        "memory.before.resident",
        Unit::Bytes,
    ),
    (
        "  gateway after, bytes",
        "memory.after.resident",
        Unit::Bytes,
    ),
    (
        "  kernel, both ends, bytes",
        "memory.kernel_per_connection",
        Unit::Bytes,
    ),
    ("gateway while idle, core", "idle.core", Unit::Percent),
    (
        "memory / chat, gateway, bytes",
        "chat.gateway_per_chat",
        Unit::Bytes,
    ),
    (
        "  while it is answered",
        "chat.gateway_per_stream",
        Unit::Bytes,
    ),
    (
        "memory / chat, orchestrator, bytes",
        "chat.orchestrator_per_chat",
        Unit::Bytes,
    ),
    (
        "  while it is answered",
        "chat.orchestrator_per_stream",
        Unit::Bytes,
    ),
    ("chunks", "chat.chunks", Unit::Count),
    ("first token p50, ms", "chat.first.p50_us", Unit::Millis),
    ("  p99", "chat.first.p99_us", Unit::Millis),
    ("latency p50, ms", "latency.p50_us", Unit::Millis),
    ("  p90", "latency.p90_us", Unit::Millis),
    ("  p99", "latency.p99_us", Unit::Millis),
    ("  p99.9", "latency.p999_us", Unit::Millis),
    ("  max", "latency.max_us", Unit::Millis),
    (
        "acknowledged p50, us",
        "acknowledgement.p50_us",
        Unit::Micros,
    ),
    ("  p99", "acknowledgement.p99_us", Unit::Micros),
    ("opening p50, ms", "opening.p50_us", Unit::Millis),
    ("  p99", "opening.p99_us", Unit::Millis),
    ("returns", "returning.count", Unit::Count),
    ("  confirmed p50, ms", "returning.p50_us", Unit::Millis),
    ("  p99", "returning.p99_us", Unit::Millis),
    ("caught up p50, ms", "caught_up.p50_us", Unit::Millis),
    ("  p99", "caught_up.p99_us", Unit::Millis),
    ("  max", "caught_up.max_us", Unit::Millis),
    ("highest rate kept up / s", "search.highest", Unit::Number),
    ("gateway CPU, s", "used.gateway.total_s", Unit::Seconds),
    ("router CPU, s", "used.router.total_s", Unit::Seconds),
    ("relay CPU, s", "used.relay.total_s", Unit::Seconds),
    ("nats-server CPU, s", "used.nats.total_s", Unit::Seconds),
    ("auth CPU, s", "used.auth.total_s", Unit::Seconds),
    ("bus sent, messages", "used.bus.out_messages", Unit::Count),
    ("bus sent, bytes", "used.bus.out_bytes", Unit::Bytes),
    ("generator CPU, s", "generator.cpu_s", Unit::Seconds),
    (
        "  busiest thread of clients",
        "generator.client_thread",
        Unit::Percent,
    ),
    ("  publisher", "generator.publisher_thread", Unit::Percent),
    (
        "  all cores of the machine",
        "generator.machine",
        Unit::Percent,
    ),
    (
        "  published late p99, ms",
        "generator.publish_lag.p99_us",
        Unit::Millis,
    ),
    (
        "  read late p99, ms",
        "generator.read_lag.p99_us",
        Unit::Millis,
    ),
];

impl Unit {
    fn write(self, number: f64) -> String {
        match self {
            Self::Count | Self::Bytes => grouped(number.round()),
            Self::Micros => format!("{number:.0}"),
            Self::Millis => format!("{:.2}", number / 1e3),
            Self::Number if number >= 1_000.0 => grouped(number.round()),
            Self::Number => format!("{number:.2}"),
            Self::Percent => format!("{:.1} %", number * 100.0),
            Self::Seconds => format!("{number:.3}"),
        }
    }
}

/// Digits in groups of three.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

impl Report {
    /// A table for people.
    pub(in crate::bench) fn table(&self) -> String {
        let mut text = format!(
            "{} · {} · {} · {} build\n",
            self.workload,
            self.dialect,
            self.settings,
            build()
        );
        for warning in &self.warnings {
            writeln!(text, "warning: {warning}").ok();
        }
        let summary = self.summary();
        if self.runs.len() > 1 {
            writeln!(
                text,
                "\n{:30} {:>14} {:>14} {:>14}",
                "", "median", "least", "most"
            )
            .ok();
        } else {
            text.push('\n');
        }
        self.lines(&mut text, "", &summary);
        let parts: Vec<&str> = self
            .runs
            .first()
            .map(|run| run.parts.keys().copied().collect())
            .unwrap_or_default();
        for part in parts {
            writeln!(text, "\n{part}").ok();
            self.lines(&mut text, &format!("parts.{part}."), &summary);
        }
        for (number, run) in self.runs.iter().enumerate() {
            let prefix = if self.runs.len() > 1 {
                format!("run {}: ", number + 1)
            } else {
                String::new()
            };
            verdicts(&mut text, &prefix, run);
        }
        text
    }

    fn lines(&self, text: &mut String, prefix: &str, summary: &Map<String, Value>) {
        for (title, place, unit) in LINES {
            let Some(figure) = summary.get(&format!("{prefix}{place}")) else {
                continue;
            };
            let shown = |key: &str| unit.write(figure[key].as_f64().unwrap_or_default());
            if self.runs.len() > 1 {
                let (median, min, max) = (shown("median"), shown("min"), shown("max"));
                writeln!(text, "{title:30} {median:>14} {min:>14} {max:>14}").ok();
            } else {
                writeln!(text, "{title:30} {:>14}", shown("median")).ok();
            }
        }
    }
}

/// What has to be said in words.
fn verdicts(text: &mut String, prefix: &str, run: &Run) {
    for step in run.search.iter().flat_map(|search| &search.steps) {
        let kept = if step.kept { "kept up" } else { "NOT kept up" };
        writeln!(
            text,
            "{prefix}  {:>7.0}/s {kept:11} {:>7.0}/s went out, {:>6.0} ms behind, {:.3} us, p50 {:.1} ms, p99 {:.1} ms, {} lost{}",
            step.rate_wanted,
            step.rate,
            step.behind_ms,
            step.us_per_delivery,
            step.latency.p50_us / 1e3,
            step.latency.p99_us / 1e3,
            step.lost,
            if step.generator.is_empty() { String::new() } else { format!(" ({})", step.generator.join("; ")) },
        )
        .ok();
    }
    for (part, run) in &run.parts {
        verdicts(text, &format!("{prefix}{part}: "), run);
    }
    for (reason, count) in &run.trouble {
        writeln!(text, "{prefix}trouble: {count} x {reason}").ok();
    }
    for tally in run.deliveries.iter().chain(&run.output) {
        let verdict = if tally.is_clean() {
            "exact: everything that was due arrived once, in order, where it belongs"
        } else {
            "NOT EXACT: events were lost, doubled, out of order or misrouted"
        };
        writeln!(text, "{prefix}{verdict}").ok();
    }
    if let Some(generator) = &run.generator {
        let verdict = if generator.saturated {
            format!("generator saturated: yes ({})", generator.why.join("; "))
        } else {
            "generator saturated: no".to_owned()
        };
        writeln!(text, "{prefix}{verdict}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(12.0), "12");
        assert_eq!(grouped(-1_000.0), "-1,000");
    }
}

//! The trace in a log line: appended to whatever the line is written by.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// The name of a trace's id in lines; a line that has it already keeps its own.
const TRACE_ID: &str = "trace_id";

/// How a line ends.
#[derive(Clone, Copy)]
enum Ending {
    /// With the last `name=value`.
    Text,
    /// With the brace of an object.
    Json,
}

/// Writes lines as `inner` does, with the ids of trace and span behind.
pub(super) struct WithTraceId<F> {
    inner: F,
    ending: Ending,
}

impl<F> WithTraceId<F> {
    /// For lines of text.
    pub(super) const fn text(inner: F) -> Self {
        let ending = Ending::Text;
        Self { inner, ending }
    }

    /// For lines of JSON.
    pub(super) const fn json(inner: F) -> Self {
        let ending = Ending::Json;
        Self { inner, ending }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTraceId<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ids = Context::map_current(|current| {
            let span = current.span();
            let span = span.span_context();
            span.is_valid().then(|| (span.trace_id(), span.span_id()))
        });
        let Some((trace, span)) = ids.filter(|_| event.fields().all(|it| it.name() != TRACE_ID))
        else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match (self.ending, line.strip_suffix('}')) {
            (Ending::Json, Some(open)) => writeln!(
                writer,
                r#"{open},"trace_id":"{trace}","span_id":"{span}"}}"#
            ),
            _ => writeln!(writer, "{line} trace_id={trace} span_id={span}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use serde_json::Value;
    use tracing::info;

    use super::*;
    use crate::captured::Captured;
    use crate::telemetry::{LogArgs, LogFormat};

    fn logged(log_format: LogFormat, emit: impl FnOnce()) -> String {
        let (logs, _capturing) = Captured::start(&LogArgs {
            log_filter: Some("info".to_owned()),
            log_format,
        });
        let span = SpanContext::new(
            TraceId::from(0xabc),
            SpanId::from(7),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let _within = Context::new().with_remote_span_context(span).attach();
        emit();
        logs.text()
    }

    #[test]
    fn json_lines_name_the_trace_they_belong_to() {
        let text = logged(LogFormat::Json, || info!(count = 1, "done {{}}"));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["trace_id"], format!("{:032x}", 0xabc));
        assert_eq!(line["span_id"], format!("{:016x}", 7));
        assert_eq!(
            (&line["count"], &line["message"]),
            (&1.into(), &"done {}".into())
        );
    }

    #[test]
    fn text_lines_do_so_too_and_own_ids_stand() {
        let text = logged(LogFormat::Text, || info!("done"));
        assert!(
            text.ends_with(&format!("trace_id={:032x} span_id={:016x}\n", 0xabc, 7)),
            "{text}"
        );
        let text = logged(LogFormat::Json, || info!(trace_id = "own", "done"));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["trace_id"], "own");
    }

    #[test]
    fn without_a_trace_nothing_is_added() {
        let (logs, _capturing) = Captured::start(&LogArgs::default());
        info!("alone");
        assert!(!logs.text().contains("trace_id="), "{}", logs.text());
    }
}

//! Spans: what this process did for one event or request, as part of a trace
//! that other processes began and go on with.
//!
//! A span exists only where it is recorded. The question whether it is comes
//! first and costs a comparison; names and attributes are made afterwards, so
//! that events which nobody traces cost nothing here.
//!
//! Only numbers, fixed words, subjects and message ids go into a span, never
//! what an event says nor a credential.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use async_nats::HeaderMap;
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use signalbox_protocol::trace::{MAX_TRACESTATE_BYTES, Recording, TRACEPARENT, TRACESTATE};

pub use opentelemetry::trace::{FutureExt, SpanKind as Kind};
pub use signalbox_protocol::trace::TraceParent;

use crate::header;

/// Where a message stands in its trace: both headers of the standard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: TraceParent,
    /// As it came; vendors' matter.
    state: Option<Arc<str>>,
}

impl From<TraceParent> for TraceContext {
    fn from(parent: TraceParent) -> Self {
        Self {
            parent,
            state: None,
        }
    }
}

impl TraceContext {
    /// What a message's headers say; `None` without a valid `traceparent`.
    #[must_use]
    pub fn of(headers: Option<&HeaderMap>) -> Option<Self> {
        let parent = header::trace(headers)?;
        let state = headers
            .and_then(|headers| header::value(headers, TRACESTATE))
            .filter(|state| !state.is_empty() && state.len() <= MAX_TRACESTATE_BYTES);
        Some(Self {
            parent,
            state: state.map(Arc::from),
        })
    }

    /// As [`of`](Self::of), for a trace that this process may record; nothing
    /// is copied for another.
    #[must_use]
    pub fn recorded(headers: Option<&HeaderMap>, parent: Option<TraceParent>) -> Option<Self> {
        if !Recording::current().may_take(parent?.is_sampled()) {
            return None;
        }
        Self::of(headers)
    }

    /// The span that comes before.
    #[must_use]
    pub const fn parent(&self) -> TraceParent {
        self.parent
    }

    /// Writes both headers, in the place of earlier ones.
    pub fn inject(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.parent.to_string());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, &**state);
        }
    }

    /// The same as the parent of a span.
    fn to_context(&self) -> Context {
        let state = self.state.as_deref().and_then(|text| text.parse().ok());
        let context = SpanContext::new(
            TraceId::from(self.parent.trace_id().as_u128()),
            SpanId::from(self.parent.span_id().as_u64()),
            TraceFlags::default().with_sampled(self.parent.is_sampled()),
            true,
            state.unwrap_or_default(),
        );
        Context::new().with_remote_span_context(context)
    }

    fn from_span(span: &SpanContext) -> Option<Self> {
        let parent = TraceParent::new(
            u128::from_be_bytes(span.trace_id().to_bytes()),
            u64::from_be_bytes(span.span_id().to_bytes()),
            span.is_sampled(),
        )?;
        let state = span.trace_state().header();
        Some(Self {
            parent,
            state: (!state.is_empty()).then(|| state.into()),
        })
    }
}

/// The trace that the running task works for, if that is recorded.
#[must_use]
pub fn current() -> Option<TraceContext> {
    if Recording::current() == Recording::Nothing {
        return None;
    }
    Context::map_current(|context| TraceContext::from_span(context.span().span_context()))
}

/// A span that is being recorded. It ends when it is dropped.
pub struct Span {
    inner: BoxedSpan,
    context: TraceContext,
}

impl Span {
    /// Begins a span behind `parent`, if the trace is recorded here. `scope`
    /// names the part of the system, as in `signalbox.router`.
    #[inline]
    #[must_use]
    pub fn behind(
        parent: &TraceContext,
        scope: &'static str,
        kind: Kind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Option<Self> {
        if !Recording::current().may_take(parent.parent.is_sampled()) {
            return None;
        }
        Self::begin(&parent.to_context(), scope, kind, name(), None)
    }

    /// As [`behind`](Self::behind), begun at an earlier time.
    #[must_use]
    pub fn since(
        time: SystemTime,
        parent: &TraceContext,
        scope: &'static str,
        kind: Kind,
        name: Cow<'static, str>,
    ) -> Option<Self> {
        if !Recording::current().may_take(parent.parent.is_sampled()) {
            return None;
        }
        Self::begin(&parent.to_context(), scope, kind, name, Some(time))
    }

    /// Begins a trace, if the sampler takes it.
    #[inline]
    #[must_use]
    pub fn root(
        scope: &'static str,
        kind: Kind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Option<Self> {
        if Recording::current() == Recording::Nothing {
            return None;
        }
        Self::begin(&Context::new(), scope, kind, name(), None)
    }

    /// Begins a span behind that of the running task, or else a trace.
    #[must_use]
    pub fn here(
        scope: &'static str,
        kind: Kind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Option<Self> {
        match current() {
            Some(parent) => Self::behind(&parent, scope, kind, name),
            None => Self::root(scope, kind, name),
        }
    }

    fn begin(
        parent: &Context,
        scope: &'static str,
        kind: Kind,
        name: Cow<'static, str>,
        since: Option<SystemTime>,
    ) -> Option<Self> {
        let tracer = global::tracer(scope);
        let mut builder = tracer.span_builder(name).with_kind(kind);
        if let Some(since) = since {
            builder = builder.with_start_time(since);
        }
        let inner = tracer.build_with_context(builder, parent);
        if !inner.is_recording() {
            return None;
        }
        let context = TraceContext::from_span(inner.span_context())?;
        Some(Self { inner, context })
    }

    /// Where what comes behind this span stands.
    #[must_use]
    pub const fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Notes something.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.inner.set_attribute(KeyValue::new(key, value));
    }

    /// Says that it did not succeed, in fixed words.
    pub fn fail(&mut self, why: &'static str) {
        self.inner.set_status(Status::error(why));
    }

    /// Makes it the span of whatever runs within the returned context, which
    /// is what [`FutureExt::with_context`] takes; it ends with the last copy
    /// of that.
    #[must_use]
    pub fn into_context(self) -> Context {
        Context::new().with_span(self.inner)
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Span").field(&self.context.parent).finish()
    }
}

/// Awaits `work` as what `span` is about, if there is one.
pub async fn within<T>(span: Option<Span>, work: impl Future<Output = T>) -> T {
    match span {
        Some(span) => work.with_context(span.into_context()).await,
        None => work.await,
    }
}

/// Notes something with the span of the running task, if that is recorded.
pub fn note(key: &'static str, value: impl Into<Value>) {
    if Recording::current() != Recording::Nothing {
        let attribute = KeyValue::new(key, value);
        Context::map_current(|context| context.span().set_attribute(attribute));
    }
}

/// Says that what the running task's span is about did not succeed.
pub fn fail(why: &'static str) {
    if Recording::current() != Recording::Nothing {
        Context::map_current(|context| context.span().set_status(Status::error(why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(state: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, SAMPLED);
        headers.insert(TRACESTATE, state);
        headers
    }

    #[test]
    fn both_headers_are_passed_on_as_they_came() {
        let given = headers("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
        let context = TraceContext::of(Some(&given)).unwrap();
        let mut written = HeaderMap::new();
        context.inject(&mut written);
        for name in [TRACEPARENT, TRACESTATE] {
            assert_eq!(header::value(&written, name), header::value(&given, name));
        }
    }

    #[test]
    fn a_trace_survives_the_library_and_back() {
        let given = headers("congo=t61rcWkgMzE");
        let context = TraceContext::of(Some(&given)).unwrap();
        let span = context.to_context();
        let back = TraceContext::from_span(span.span().span_context()).unwrap();
        assert_eq!(back, context);
    }

    #[test]
    fn an_overlong_state_is_left_out_and_the_trace_kept() {
        let given = headers(&format!("a={}", "x".repeat(MAX_TRACESTATE_BYTES)));
        let context = TraceContext::of(Some(&given)).unwrap();
        assert_eq!(
            context,
            TraceContext::from(SAMPLED.parse::<TraceParent>().unwrap())
        );
        let unreadable = TraceContext::of(Some(&headers("no list at all"))).unwrap();
        assert!(unreadable.to_context().span().span_context().is_valid());
    }

    #[test]
    fn nothing_is_recorded_unless_asked_for() {
        let context = TraceContext::of(Some(&headers("a=b"))).unwrap();
        let unused = || -> Cow<'static, str> { panic!("a name was made") };
        assert!(Span::behind(&context, "test", Kind::Internal, unused).is_none());
        assert!(Span::root("test", Kind::Internal, unused).is_none());
        assert_eq!(current(), None);
        let given = headers("a=b");
        assert_eq!(
            TraceContext::recorded(Some(&given), header::trace(Some(&given))),
            None
        );
    }
}

//! An OTLP collector within the test: takes what processes export and keeps it.

use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use signalbox_testkit::{DEADLINE, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A span and who sent it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) service: String,
    pub(crate) span: Span,
}

impl Seen {
    pub(crate) fn name(&self) -> &str {
        &self.span.name
    }

    /// A number among its attributes.
    pub(crate) fn number(&self, key: &str) -> i64 {
        match value(&self.span.attributes, key) {
            Some(Value::IntValue(number)) => *number,
            other => panic!("{key} of {self:?} is {other:?}"),
        }
    }

    /// A text among its attributes.
    pub(crate) fn text(&self, key: &str) -> &str {
        match value(&self.span.attributes, key) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{key} of {self:?} is {other:?}"),
        }
    }

    pub(crate) fn is_behind(&self, other: &Self) -> bool {
        self.span.parent_span_id == other.span.span_id && self.span.trace_id == other.span.trace_id
    }
}

/// What was exported.
#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Seen>>>,
    /// Names of metrics, with the service that sent them.
    metrics: Arc<Mutex<Vec<(String, String)>>>,
}

/// A running collector; ends when it is dropped.
pub(crate) struct Collector {
    addr: SocketAddr,
    received: Received,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Received::default();
        let serving = Server::builder()
            .add_service(TraceServiceServer::new(received.clone()))
            .add_service(MetricsServiceServer::new(received.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            addr,
            received,
            task,
        }
    }

    /// As `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.received.spans.lock().clone()
    }

    /// The spans of a trace so far, by its id in hexadecimal.
    pub(crate) fn trace(&self, id: &str) -> Vec<Seen> {
        let id = u128::from_str_radix(id, 16).unwrap().to_be_bytes();
        let mut spans = self.spans();
        spans.retain(|seen| seen.span.trace_id == id);
        spans
    }

    /// The one span whose name begins so, of this trace or of any.
    pub(crate) async fn find(&self, trace: Option<&str>, name: &str) -> Seen {
        eventually(name, DEADLINE, async || {
            let spans = trace.map_or_else(|| self.spans(), |id| self.trace(id));
            let mut found = spans.iter().filter(|seen| seen.name().starts_with(name));
            let first = found.next().cloned();
            assert!(found.next().is_none(), "{name} twice: {spans:?}");
            first
        })
        .await
    }

    /// The names of the metrics that a service has sent.
    pub(crate) fn metrics_of(&self, service: &str) -> Vec<String> {
        let metrics = self.received.metrics.lock();
        let own = metrics.iter().filter(|(sender, _)| sender == service);
        own.map(|(_, name)| name.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = service(resource.resource.unwrap_or_default().attributes);
            let spans = resource.scope_spans.into_iter().flat_map(|it| it.spans);
            self.spans.lock().extend(spans.map(|span| Seen {
                service: service.clone(),
                span,
            }));
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let service = service(resource.resource.unwrap_or_default().attributes);
            let metrics = resource.scope_metrics.into_iter().flat_map(|it| it.metrics);
            let named = metrics.map(|metric| (service.clone(), metric.name));
            self.metrics.lock().extend(named);
        }
        Ok(Response::new(Default::default()))
    }
}

fn service(attributes: Vec<KeyValue>) -> String {
    match value(&attributes, "service.name") {
        Some(Value::StringValue(name)) => name.clone(),
        other => panic!("service.name is {other:?}"),
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let AnyValue { value } = found.value.as_ref()?;
    value.as_ref()
}

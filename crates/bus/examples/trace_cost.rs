//! What tracing adds to an event: the questions that every hop asks, with
//! telemetry off, for events that are not sampled, and for sampled ones, beside
//! what reading an event from the bus costs anyway.
//! `cargo run --release -p signalbox-bus --example trace_cost`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::hint::black_box;
use std::time::Instant;

use opentelemetry::global;
use opentelemetry_sdk::trace::SdkTracerProvider;
use signalbox_bus::header;
use signalbox_bus::reader::Delivery;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::trace::{Kind, Span, TraceContext};
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::{Recording, TraceParent};

const ROUNDS: u32 = 200_000;

fn main() {
    let unsampled = delivery(false);
    let sampled = delivery(true);
    time("reading an event (for comparison)", || {
        black_box(stored_event::decode(black_box(&unsampled)));
    });
    // A processor-less provider makes spans and sends them nowhere.
    global::set_tracer_provider(SdkTracerProvider::builder().build());
    for (recording, name) in [
        (Recording::Nothing, "telemetry off"),
        (Recording::Sampled, "telemetry on"),
    ] {
        recording.set();
        for (event, kind) in [(&unsampled, "not sampled"), (&sampled, "sampled")] {
            let headers = event.headers.as_ref();
            let parent = header::trace(headers);
            time(&format!("{name}, {kind}: gateway"), || {
                let recorded = TraceContext::recorded(black_box(headers), black_box(parent));
                for name in ["fan-out", "write"] {
                    let parent = recorded.as_ref();
                    black_box(parent.and_then(|it| span(it, name)));
                }
            });
            let context = parent.map(TraceContext::from);
            time(&format!("{name}, {kind}: one span"), || {
                black_box(black_box(context.as_ref()).and_then(|it| span(it, "route")));
            });
        }
    }
}

fn span(parent: &TraceContext, name: &'static str) -> Option<Span> {
    let mut span = Span::behind(parent, "cost", Kind::Consumer, || {
        format!("{name} threat_alerts").into()
    })?;
    span.set("signalbox.channel", "threat_alerts");
    span.set("signalbox.fanout.matched", 7);
    Some(span)
}

fn time(name: &str, mut work: impl FnMut()) {
    let began = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    let nanos = began.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    println!("{name:<42} {nanos:>9.1} ns");
}

fn delivery(sampled: bool) -> Delivery {
    let kind = catalogue::find(Domain::Threat, "threat_alert").expect("a known type");
    let data = serde_json::json!({
        "incident_id": "threat-1", "threat_type": "port_scanning", "severity": "HIGH",
        "affected_resources": ["vpc-1", "vpc-2"], "description": "x".repeat(120),
    });
    let event = Event {
        kind,
        id: "e-1".into(),
        source: "s".into(),
        time: Timestamp::parse("2024-12-19T21:30:00.5Z").expect("a time"),
        priority: Priority::Low,
        data: data.as_object().expect("an object").clone(),
    };
    let origin = Origin {
        epoch: Epoch::from_unix_micros(10),
        sequence: 3,
        trace: TraceParent::new(1, 2, sampled).expect("ids").into(),
    };
    let outgoing = stored_event::encode(event, &origin).expect("a valid event");
    Delivery {
        sequence: 9,
        subject: outgoing.subject.into(),
        headers: Some(outgoing.headers),
        payload: outgoing.payload,
    }
}

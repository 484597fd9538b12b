//! What is measured of a connection to the bus, under its name.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use tokio::sync::watch;

use crate::connection::{Bus, Link};

/// Whether the link is up: 1 or 0.
pub const CONNECTED: &str = "signalbox.bus.connected";
/// How often the link came up again after its loss.
pub const RECONNECTS: &str = "signalbox.bus.reconnects";

/// Has `meter` tell of this connection, whose name is `name`, for as long as
/// the process lives.
pub fn observe(meter: &Meter, bus: &Bus, name: &'static str) {
    let attributes = [KeyValue::new("signalbox.bus.connection", name)];
    let (link, labels) = (bus.link(), attributes.clone());
    meter
        .u64_observable_gauge(CONNECTED)
        .with_description("Whether the link to the bus is up (1) or down (0)")
        .with_callback(move |observer| observer.observe(state(&link).up.into(), &labels))
        .build();
    let link = bus.link();
    meter
        .u64_observable_counter(RECONNECTS)
        .with_description("How often the link to the bus came up again after its loss")
        .with_unit("{reconnect}")
        .with_callback(move |observer| {
            let times = state(&link).generation.saturating_sub(1);
            observer.observe(times, &attributes);
        })
        .build();
}

fn state(link: &watch::Receiver<Link>) -> Link {
    *link.borrow()
}

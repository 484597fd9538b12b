//! What the tests publish.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, Stored, publish};
use signalbox_bus::{Bus, HeaderMap, header};
use signalbox_protocol::envelope::CE_ID;
use signalbox_protocol::trace::TRACEPARENT;

/// How long a publish may take, restarts of the bus included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A threat alert of the given severity.
pub(crate) fn alert(severity: &str) -> Value {
    json!({"incident_id": "threat-1", "threat_type": "port_scanning", "severity": severity})
}

/// Publishes an event under an id; returns once the bus has acknowledged it.
pub(crate) async fn send(bus: &Bus, name: &str, id: &str, data: &Value) -> Stored {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(TRACEPARENT, header::new_trace(true).to_string());
    let message = Outgoing {
        subject: format!("events.threat.{name}"),
        message_id: format!("threat/test/{id}"),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, PATIENCE).await.unwrap()
}

//! What the tools are asked. The schemas have checked forms and bounds; times and
//! what belongs together are checked here.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use signalbox_protocol::timestamp::Timestamp;

use super::Refusal;

/// What `search_events` is asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Search {
    pub(super) text: Option<String>,
    pub(super) event_types: Option<Vec<String>>,
    pub(super) severity: Option<Vec<String>>,
    pub(super) resource: Option<String>,
    pub(super) source_ip: Option<String>,
    pub(super) incident_id: Option<String>,
    #[serde(flatten)]
    times: Times,
    pub(super) limit: Option<usize>,
    #[serde(default)]
    pub(super) order: Order,
}

/// Which matches are given, and which first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// The newest, the very newest first.
    #[default]
    Newest,
    /// The oldest, the very oldest first.
    Oldest,
}

/// What `event_timeline` is asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Timeline {
    pub(super) incident_id: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) source_ip: Option<String>,
    #[serde(flatten)]
    times: Times,
    pub(super) limit: Option<usize>,
}

/// What `related_incidents` is asked.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Related {
    pub(super) incident_id: String,
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
struct Times {
    since: Option<String>,
    until: Option<String>,
}

/// Between which times events are wanted, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Period {
    /// Whether a time is between them.
    pub(super) fn contains(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time <= until)
    }
}

impl Search {
    /// Between which times.
    pub(super) fn period(&self) -> Result<Period, Refusal> {
        self.times.period()
    }
}

impl Timeline {
    /// Between which times.
    pub(super) fn period(&self) -> Result<Period, Refusal> {
        self.times.period()
    }
}

impl Times {
    fn period(&self) -> Result<Period, Refusal> {
        let period = Period {
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
        };
        match period {
            Period {
                since: Some(since),
                until: Some(until),
            } if since > until => Err(Refusal::Arguments("since lies behind until".to_owned())),
            period => Ok(period),
        }
    }
}

fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    let read = |text: &str| {
        Timestamp::parse(text).ok_or_else(|| {
            Refusal::Arguments(format!(
                "{field}: expected an RFC 3339 time such as 2026-03-02T09:00:00Z"
            ))
        })
    };
    text.map(read).transpose()
}

/// Reads the arguments of a call.
pub(super) fn read<T: DeserializeOwned>(arguments: &Value) -> Result<T, Refusal> {
    T::deserialize(arguments).map_err(|error| Refusal::Arguments(error.to_string()))
}

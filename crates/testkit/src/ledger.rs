//! What producers were acknowledged against what clients received: the ledger
//! decides whether anything was lost, doubled, out of order, late, or came to
//! somebody who may not have it. No I/O, no clock: times are given, as the
//! time since the beginning of the run.

mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

pub use self::verdict::{Fault, FaultKind, Verdict};

/// An event as its producer knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its id, unlike that of any other event of the run.
    pub id: String,
    /// The channel that it belongs to.
    pub channel: String,
    /// The object that it is about.
    pub object: Option<String>,
    /// Its data, by which filters decide.
    pub data: Value,
}

/// What a client asked for and may have. A client holds one subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entitlement {
    /// The channel of its subscription.
    pub channel: String,
    /// Only events of this object.
    pub object: Option<String>,
    /// Only events with one of these texts in each of these fields, whatever
    /// the case of letters.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Whether it holds the permission for the channel.
    pub permitted: bool,
}

/// A place in the stream, `<epoch>-<number>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream's life.
    pub epoch: String,
    /// The sequence in it.
    pub number: u64,
}

/// Names a client of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(usize);

/// Everything that was published and received in a run.
#[derive(Debug)]
pub struct Ledger {
    /// How late an event may come.
    bound: Duration,
    events: Vec<Published>,
    by_id: HashMap<String, usize>,
    disturbances: Vec<Disturbance>,
    clients: Vec<Client>,
}

/// An event with what became of its publish.
#[derive(Debug)]
struct Published {
    event: Event,
    /// When its publish began.
    begun: Duration,
    acknowledged: Option<Acknowledged>,
}

#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    at: Duration,
    /// Its place among all that was published.
    sequence: u64,
}

/// A time in which nothing needs to arrive.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    from: Duration,
    /// `None` while it lasts.
    until: Option<Duration>,
}

#[derive(Debug)]
struct Client {
    name: String,
    entitlement: Entitlement,
    /// When its subscription was first confirmed, and at which position.
    start: Option<(Duration, Position)>,
    receipts: Vec<Receipt>,
    /// When it was told that events are lost.
    told_lost: Vec<Duration>,
}

#[derive(Debug)]
struct Receipt {
    id: String,
    /// The event, if anybody ever published it.
    event: Option<usize>,
    position: Position,
    at: Duration,
}

impl Ledger {
    /// An empty ledger in which an event is late when it comes later than
    /// `bound` after its publish, or after the end of a disturbance.
    #[must_use]
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            events: Vec::new(),
            by_id: HashMap::new(),
            disturbances: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// Notes that the publish of an event begins. From here on clients may
    /// receive it; it is owed to them once it is acknowledged.
    ///
    /// # Panics
    /// When there is an event with this id.
    pub fn publishing(&mut self, event: Event, at: Duration) {
        let known = self.by_id.insert(event.id.clone(), self.events.len());
        assert_eq!(known, None, "two events have id {}", event.id);
        self.events.push(Published {
            event,
            begun: at,
            acknowledged: None,
        });
    }

    /// Notes that an event was acknowledged, as number `sequence` of all.
    ///
    /// # Panics
    /// When its publish never began.
    pub fn acknowledged(&mut self, id: &str, sequence: u64, at: Duration) {
        let event = self.by_id[id];
        self.events[event].acknowledged = Some(Acknowledged { at, sequence });
    }

    /// Notes that something is broken on purpose from here on, until
    /// [`calm`](Self::calm).
    pub fn disturbed(&mut self, from: Duration) {
        self.disturbances.push(Disturbance { from, until: None });
    }

    /// Notes that everything works again.
    pub fn calm(&mut self, at: Duration) {
        for disturbance in &mut self.disturbances {
            disturbance.until.get_or_insert(at);
        }
    }

    /// Adds a client.
    pub fn client(&mut self, name: impl Into<String>, entitlement: Entitlement) -> ClientId {
        self.clients.push(Client {
            name: name.into(),
            entitlement,
            start: None,
            receipts: Vec::new(),
            told_lost: Vec::new(),
        });
        ClientId(self.clients.len() - 1)
    }

    /// Notes that a client's subscription was confirmed: only the first time
    /// decides what it is owed. Returns whether this was it.
    pub fn confirmed(&mut self, client: ClientId, position: Position, at: Duration) -> bool {
        let start = &mut self.clients[client.0].start;
        let first = start.is_none();
        start.get_or_insert((at, position));
        first
    }

    /// Notes that a client was told on its return that events are lost.
    pub fn told_lost(&mut self, client: ClientId, at: Duration) {
        self.clients[client.0].told_lost.push(at);
    }

    /// Notes that a client received an event.
    pub fn received(&mut self, client: ClientId, id: &str, position: Position, at: Duration) {
        let event = self.by_id.get(id).copied();
        self.clients[client.0].receipts.push(Receipt {
            id: id.to_owned(),
            event,
            position,
            at,
        });
    }
}

impl Entitlement {
    /// Everything on a channel, with permission.
    #[must_use]
    pub fn to(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            object: None,
            filters: BTreeMap::new(),
            permitted: true,
        }
    }

    /// The same for one object only.
    #[must_use]
    pub fn of_object(self, object: &str) -> Self {
        Self {
            object: Some(object.to_owned()),
            ..self
        }
    }

    /// The same with one of these texts in a field.
    #[must_use]
    pub fn filtered(mut self, field: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        self.filters.insert(field.to_owned(), values);
        self
    }

    /// The same without permission: it is entitled to nothing.
    #[must_use]
    pub fn forbidden(self) -> Self {
        Self {
            permitted: false,
            ..self
        }
    }

    /// Why an event is none of this client's business.
    fn objection(&self, event: &Event) -> Option<Objection> {
        if !self.permitted {
            return Some(Objection::Permission);
        }
        if event.channel != self.channel {
            return Some(Objection::Channel);
        }
        if self.object.is_some() && self.object != event.object {
            return Some(Objection::Object);
        }
        let passes = |(field, values): (&String, &Vec<String>)| {
            event.data[field]
                .as_str()
                .is_some_and(|text| values.iter().any(|value| value.eq_ignore_ascii_case(text)))
        };
        (!self.filters.iter().all(passes)).then_some(Objection::Filter)
    }
}

/// Why a client may not have an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Objection {
    Permission,
    Channel,
    Object,
    Filter,
    Position,
    NeverPublished,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permission => "it does not hold the permission",
            Self::Channel => "the event is on another channel",
            Self::Object => "the event is about another object",
            Self::Filter => "its filter does not match",
            Self::Position => "the event lies before its position",
            Self::NeverPublished => "nobody published this event",
        })
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.channel)?;
        if let Some(object) = &self.object {
            write!(f, "/{object}")?;
        }
        for (field, values) in &self.filters {
            write!(f, " {field}={}", values.join("|"))?;
        }
        f.write_str(if self.permitted { "" } else { " forbidden" })
    }
}

impl Position {
    /// Reads a resume offset; `None` when it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, number) = text.split_once('-')?;
        Some(Self {
            epoch: epoch.to_owned(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

#[cfg(test)]
mod tests;

//! The ledger's judgement, and how it tells what is wrong.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::{Client, Entitlement, Ledger, Objection, Published, Receipt};

/// Faults of one kind that a report spells out; the rest is counted.
const SPELT_OUT: usize = 8;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An acknowledged event did not reach a client that it is owed to.
    Lost,
    /// A client received an event more than once.
    Duplicated,
    /// A client received events against the order of the stream, or those of
    /// one subject against the order of their acknowledgement.
    Reordered,
    /// A client received what it is not entitled to.
    NotEntitled,
    /// An event came later than allowed.
    Late,
    /// A client was told on its return that events are lost.
    ToldLost,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// With whom.
    pub client: String,
    /// With which event; empty where it is with none.
    pub event: String,
    /// In words.
    pub detail: String,
}

/// What a ledger comes to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Events that were begun and never acknowledged: they may arrive or not.
    pub open: usize,
    /// Receipts of all clients together.
    pub received: usize,
    /// Clients.
    pub clients: usize,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
}

/// What the judgement on each client needs of all of them.
struct Evidence<'a> {
    ledger: &'a Ledger,
    /// Where in the stream events lie, by their index.
    places: HashMap<usize, u64>,
    /// For each entitlement, the objection to each event.
    objections: HashMap<&'a Entitlement, Vec<Option<Objection>>>,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Lost,
        Self::Duplicated,
        Self::Reordered,
        Self::NotEntitled,
        Self::Late,
        Self::ToldLost,
    ];

    /// How reports name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::NotEntitled => "not entitled",
            Self::Late => "late",
            Self::ToldLost => "told lost",
        }
    }
}

impl Ledger {
    /// Judges everything noted so far. What is under way counts as lost, so
    /// this is for the end of a run, or for waiting until nothing is missing.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let evidence = Evidence::of(self);
        let faults = self
            .clients
            .iter()
            .flat_map(|client| evidence.judge(client))
            .collect();
        let acknowledged = |event: &&Published| event.acknowledged.is_some();
        let settled = self.events.iter().filter(acknowledged).count();
        Verdict {
            acknowledged: settled,
            open: self.events.len() - settled,
            received: self
                .clients
                .iter()
                .map(|client| client.receipts.len())
                .sum(),
            clients: self.clients.len(),
            faults,
        }
    }

    /// When an event received at `at` should have come at the latest.
    fn due(&self, event: &Published, at: Duration) -> Duration {
        self.disturbances
            .iter()
            .filter(|disturbance| {
                disturbance.from <= at && disturbance.until.is_none_or(|until| until >= event.begun)
            })
            .map(|disturbance| disturbance.until.unwrap_or(at))
            .fold(event.begun, Duration::max)
            + self.bound
    }
}

impl<'a> Evidence<'a> {
    fn of(ledger: &'a Ledger) -> Self {
        let mut places = HashMap::new();
        let mut objections = HashMap::new();
        for client in &ledger.clients {
            for receipt in &client.receipts {
                if let Some(event) = receipt.event {
                    places.entry(event).or_insert(receipt.position.number);
                }
            }
            objections.entry(&client.entitlement).or_insert_with(|| {
                let object = |published: &Published| client.entitlement.objection(&published.event);
                ledger.events.iter().map(object).collect()
            });
        }
        Self {
            ledger,
            places,
            objections,
        }
    }

    fn judge(&self, client: &Client) -> Vec<Fault> {
        let fault = |kind, event: &str, detail| Fault {
            kind,
            client: format!("{} ({})", client.name, client.entitlement),
            event: event.to_owned(),
            detail,
        };
        let mut faults: Vec<Fault> = client
            .told_lost
            .iter()
            .map(|at| {
                fault(
                    FaultKind::ToldLost,
                    "",
                    format!("on its return at {}", time(*at)),
                )
            })
            .collect();
        let mut seen: HashMap<&str, &Receipt> = HashMap::new();
        let mut newest: Option<&Receipt> = None;
        let mut newest_of_subject = HashMap::new();
        for receipt in &client.receipts {
            let came = format!("came as {} at {}", receipt.position, time(receipt.at));
            if let Some(objection) = self.objection(client, receipt) {
                faults.push(fault(
                    FaultKind::NotEntitled,
                    &receipt.id,
                    format!("{came}, although {objection}"),
                ));
            }
            if let Some(first) = seen.insert(&receipt.id, receipt) {
                let before = format!("as {} at {}", first.position, time(first.at));
                faults.push(fault(
                    FaultKind::Duplicated,
                    &receipt.id,
                    format!("{came}, and before {before}"),
                ));
                continue;
            }
            let overtaken = newest.filter(|newest| {
                newest.position.epoch != receipt.position.epoch
                    || newest.position.number >= receipt.position.number
            });
            if overtaken.is_none() {
                newest = Some(receipt);
            }
            let Some(published) = receipt.event.map(|event| &self.ledger.events[event]) else {
                continue;
            };
            let subject = (&published.event.channel, &published.event.object);
            let sequence = published.acknowledged.map(|it| it.sequence);
            let ahead = newest_of_subject
                .get(&subject)
                .filter(|(ahead, _)| sequence.is_some_and(|sequence| sequence < *ahead))
                .map(|(_, receipt)| *receipt);
            if let (Some(sequence), None) = (sequence, ahead) {
                newest_of_subject.insert(subject, (sequence, receipt));
            }
            if let Some(ahead) = overtaken.or(ahead) {
                let behind = format!("behind {} ({})", ahead.id, ahead.position);
                faults.push(fault(
                    FaultKind::Reordered,
                    &receipt.id,
                    format!("{came}, {behind}"),
                ));
            }
            let due = self.ledger.due(published, receipt.at);
            if receipt.at > due {
                faults.push(fault(
                    FaultKind::Late,
                    &receipt.id,
                    format!("{came}, was due at {}", time(due)),
                ));
            }
        }
        let seen = seen.into_keys().collect();
        faults.extend(self.missing(client, &seen).map(|event| {
            let published = &self.ledger.events[event];
            fault(FaultKind::Lost, &published.event.id, self.history(event))
        }));
        faults
    }

    /// Why a client may not have what it received.
    fn objection(&self, client: &Client, receipt: &Receipt) -> Option<Objection> {
        let Some(event) = receipt.event else {
            return Some(Objection::NeverPublished);
        };
        let objection = self.objections[&client.entitlement][event];
        let early = client
            .start
            .as_ref()
            .is_none_or(|(_, start)| receipt.position.number <= start.number);
        objection.or(early.then_some(Objection::Position))
    }

    /// The acknowledged events that a client is owed and has not seen.
    fn missing<'b>(
        &'b self,
        client: &'b Client,
        seen: &'b HashSet<&str>,
    ) -> impl Iterator<Item = usize> + 'b {
        let objections = &self.objections[&client.entitlement];
        let events = self.ledger.events.iter().enumerate();
        events
            .filter(|(index, published)| {
                let Some((at, start)) = &client.start else {
                    return false;
                };
                // Whether it lies behind the start is known for certain when
                // anybody received it; or when it was not yet published then.
                let behind = match self.places.get(index) {
                    Some(place) => *place > start.number,
                    None => published.begun >= *at,
                };
                behind
                    && published.acknowledged.is_some()
                    && objections[*index].is_none()
                    && !seen.contains(published.event.id.as_str())
            })
            .map(|(index, _)| index)
    }

    /// What is known of an event that somebody misses.
    fn history(&self, event: usize) -> String {
        let published = &self.ledger.events[event];
        let acknowledged = published.acknowledged.map_or_else(String::new, |it| {
            format!("acknowledged as {} at {}", it.sequence, time(it.at))
        });
        let place = match self.places.get(&event) {
            Some(place) => format!("others have it at {place}"),
            None => "nobody has it".to_owned(),
        };
        format!("{acknowledged}; {place}")
    }
}

impl Verdict {
    /// How many faults of a kind there are.
    #[must_use]
    pub fn count(&self, kind: FaultKind) -> usize {
        let of_kind = |fault: &&Fault| fault.kind == kind;
        self.faults.iter().filter(of_kind).count()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Fails the test unless nothing is wrong.
    ///
    /// # Panics
    /// With the report, when anything is.
    pub fn assert_clean(&self, what: &str) {
        assert!(self.is_clean(), "{what}: {self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = FaultKind::ALL
            .into_iter()
            .map(|kind| format!("{} {}", self.count(kind), kind.name()))
            .collect();
        write!(
            f,
            "{} events acknowledged, {} open, {} received by {} clients: {}",
            self.acknowledged,
            self.open,
            self.received,
            self.clients,
            counts.join(", ")
        )?;
        for kind in FaultKind::ALL {
            let faults = self.faults.iter().filter(|fault| fault.kind == kind);
            for fault in faults.clone().take(SPELT_OUT) {
                write!(
                    f,
                    "\n  {}: client {}, event {}: {}",
                    kind.name(),
                    fault.client,
                    if fault.event.is_empty() {
                        "-"
                    } else {
                        &fault.event
                    },
                    fault.detail
                )?;
            }
            let rest = faults.count().saturating_sub(SPELT_OUT);
            if rest > 0 {
                write!(f, "\n  {}: and {rest} more", kind.name())?;
            }
        }
        Ok(())
    }
}

fn time(at: Duration) -> String {
    format!("{:.3} s", at.as_secs_f64())
}

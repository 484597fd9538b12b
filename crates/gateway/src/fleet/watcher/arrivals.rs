//! How dashboards come in. What has to be asked of the stream before - where the
//! logs begin of the commands that run, and whether it still has what those lack
//! who return - is asked beside the watching, for all who wait together.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt as _;
use signalbox_bus::Bus;
use signalbox_bus::stream::{self, StreamState, TERM};
use signalbox_protocol::cursor::{Epoch, FleetCursor};
use signalbox_protocol::wire::term_record::Record;
use signalbox_transport::Frame;
use tokio::time::sleep;
use tracing::debug;

use super::{Join, PAUSE, Watch, Watcher};
use crate::fleet::logs::{Entry, first};
use crate::fleet::stage::{Lacking, Scene};

/// Logs whose beginnings are asked for at once.
const QUESTIONS: usize = 32;

/// Where logs begin.
#[derive(Debug, Default)]
pub(super) struct Firsts(HashMap<String, Option<u64>>);

impl Firsts {
    /// Takes note of a record that was read.
    pub(super) fn note(&mut self, entry: &Entry) {
        match entry.record.record {
            Some(Record::Queued(_)) => {
                let first = Some(entry.sequence);
                self.0.insert(entry.command_id.clone(), first);
            }
            Some(Record::Ended(_)) => {
                self.0.remove(&entry.command_id);
            }
            _ => {}
        }
    }

    /// Takes note of what was asked for; `None` where nothing was stored then, so
    /// that the log lies behind the present. Only those that are alive are kept.
    fn learn(&mut self, found: Vec<(String, Option<u64>)>, alive: &HashSet<&String>) {
        for (command_id, first) in found {
            self.0.entry(command_id).or_insert(first);
        }
        self.0.retain(|command_id, _| alive.contains(command_id));
    }

    /// Those of the commands of which nothing is known.
    fn missing(&self, commands: &[String]) -> Vec<String> {
        let unknown = commands.iter().filter(|id| !self.0.contains_key(*id));
        unknown.cloned().collect()
    }

    /// The position before the first record of any of these commands.
    fn before(&self, commands: &[String]) -> Option<u64> {
        let firsts = commands.iter().filter_map(|id| *self.0.get(id)?);
        firsts.min().map(|first| first - 1)
    }
}

/// What was asked for on behalf of some who wait, and what the answer was.
pub(super) struct Inquiry {
    joins: Vec<Join>,
    /// The life of the stream in which it was asked.
    epoch: Epoch,
    firsts: Vec<(String, Option<u64>)>,
    /// How the stream was, where one of them returns.
    state: Option<StreamState>,
}

impl Watcher {
    /// Lets those in who wait, once what they need of the stream is known.
    pub(super) async fn let_in(&mut self, watch: &mut Watch) -> Option<()> {
        if self.waiting.is_empty() || !watch.inquiry.is_empty() {
            return Some(());
        }
        let joins = std::mem::take(&mut self.waiting);
        let missing = watch.firsts.missing(&watch.view.running());
        if missing.is_empty() && !joins.iter().any(|join| join.returns(watch.epoch)) {
            return self.welcome(watch, joins, None).await;
        }
        let asking = inquire(self.bus.clone(), joins, watch.epoch, missing);
        watch.inquiry.spawn(asking);
        Some(())
    }

    /// Takes in what was asked for; those who wait for more than that wait on.
    pub(super) async fn answered(&mut self, watch: &mut Watch, answered: Inquiry) -> Option<()> {
        let joins = answered.joins;
        let running = watch.view.running();
        if answered.epoch == watch.epoch {
            let waiting = watch.places.values().flat_map(HashMap::keys);
            let alive: HashSet<&String> = running.iter().chain(waiting).collect();
            watch.firsts.learn(answered.firsts, &alive);
            if watch.firsts.missing(&running).is_empty() {
                return self.welcome(watch, joins, answered.state).await;
            }
        }
        self.waiting.extend(joins);
        Some(())
    }

    /// Lets dashboards in, at the present position. `state` is how the stream was,
    /// where one of them returns.
    async fn welcome(
        &self,
        watch: &Watch,
        joins: Vec<Join>,
        state: Option<StreamState>,
    ) -> Option<()> {
        for join in joins {
            let (lacking, recovered, seq) = lacking(watch, join.resume, state);
            let list = watch.view.list(seq, recovered, join.request_id.as_deref());
            let greeting: Vec<Frame> = std::iter::once(list)
                .chain(watch.view.obedience())
                .collect();
            let scene = Scene::Welcome {
                member: join.member,
                serial: join.serial,
                greeting: greeting.into(),
                seq,
                lacking,
            };
            let shard = self.scenes.get(join.shard)?;
            shard.send(scene).await.ok()?;
        }
        Some(())
    }
}

/// What a dashboard lacks, whether that is all that it missed, and where it
/// stands before it has got it.
fn lacking(
    watch: &Watch,
    resume: Option<FleetCursor>,
    state: Option<StreamState>,
) -> (Lacking, Option<bool>, FleetCursor) {
    if let Some(resume) = resume
        && resume.epoch == watch.epoch
        && let Some(state) = state
    {
        let next = resume.logs + u64::from(resume.part == 0);
        let known = watch.position.max(state.last);
        if next >= state.first && resume.logs <= known {
            let lacking = Lacking::Missed {
                after: resume.logs,
                part: resume.part,
            };
            return (lacking, Some(true), resume);
        }
    }
    let commands = watch.view.running();
    let mut seq = watch.seq();
    // One that is cut off before the backlog would miss that.
    let before = watch.firsts.before(&commands);
    seq.logs = before.map_or(seq.logs, |before| before.min(seq.logs));
    let lacking = Lacking::Backlog {
        commands,
        until: watch.position,
    };
    (lacking, resume.map(|_| false), seq)
}

/// Asks for what is missing, for as long as the bus does not answer.
async fn inquire(bus: Bus, joins: Vec<Join>, epoch: Epoch, missing: Vec<String>) -> Inquiry {
    let mut state = None;
    while state.is_none() && joins.iter().any(|join| join.returns(epoch)) {
        match stream::state(&bus, TERM).await {
            Ok(found) => state = Some(found),
            Err(error) => {
                debug!(%error, "the stream of logs does not answer");
                sleep(PAUSE).await;
            }
        }
    }
    let questions = missing.into_iter().map(|id| begin(bus.clone(), id));
    let answers = futures_util::stream::iter(questions).buffer_unordered(QUESTIONS);
    let firsts = answers.collect().await;
    Inquiry {
        joins,
        epoch,
        firsts,
        state,
    }
}

/// Where a command's log begins.
async fn begin(bus: Bus, command_id: String) -> (String, Option<u64>) {
    loop {
        match first(&bus, &command_id).await {
            Ok(first) => return (command_id, first),
            Err(error) => debug!(%error, "the beginning of a log not found"),
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::wire::{TermEnded, TermQueued, TermRecord};

    use super::*;

    fn entry(command_id: &str, sequence: u64, record: Record) -> Entry {
        Entry {
            sequence,
            command_id: command_id.to_owned(),
            record: TermRecord {
                record: Some(record),
                ..TermRecord::default()
            },
        }
    }

    #[test]
    fn only_what_was_never_read_is_asked_for_and_once() {
        let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(ToString::to_string).collect() };
        let mut firsts = Firsts::default();
        let all = ids(&["new", "old", "unstored"]);
        firsts.note(&entry("new", 9, Record::Queued(TermQueued::default())));
        assert_eq!(firsts.missing(&all), ids(&["old", "unstored"]));
        assert_eq!(firsts.before(&all), Some(8));
        let found = vec![("old".to_owned(), Some(4)), ("unstored".to_owned(), None)];
        firsts.learn(found, &all.iter().collect());
        assert_eq!(firsts.missing(&all), ids(&[]));
        assert_eq!(firsts.before(&all), Some(3));
        firsts.note(&entry(
            "unstored",
            12,
            Record::Queued(TermQueued::default()),
        ));
        firsts.note(&entry("old", 13, Record::Ended(TermEnded::default())));
        assert_eq!(firsts.before(&ids(&["unstored"])), Some(11));
        assert_eq!(firsts.missing(&all), ids(&["old"]));
        firsts.learn(Vec::new(), &all[..1].iter().collect());
        assert_eq!(firsts.missing(&all), ids(&["old", "unstored"]));
    }
}

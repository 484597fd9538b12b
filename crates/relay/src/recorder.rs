//! One command's log: whatever is to be in it comes here, and is appended in
//! this order. Output is acknowledged once the bus has it.
//!
//! What waits while an append is under way goes into the next record together,
//! so that batches grow with the load and a first byte waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use signalbox_bus::log::{LogError, LogWriter, RECORD_BYTES};
use signalbox_bus::subject::LogKind;
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{
    CommandState, LogProgress, OutputChunk, OutputOffset, OutputTaken, StreamSum, TermCleared,
    TermEnded, TermOutput, TermQueued, TermRecord, TermStarted, TermTaken, agent_reply,
    term_record::Record,
};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, error, warn};

use crate::agent::{Agent, Command, Outcome, Phase, Written};
use crate::answer::Answer;
use crate::metrics::Metrics;
use crate::output::{Output, Step};
use crate::reread;

/// Entries that wait for one log; further output is to come again later.
const ENTRY_CAPACITY: usize = 256;
/// Entries that are taken at once.
const BATCH: usize = 64;
/// How often the tip of an open log is told.
const TIP: Duration = Duration::from_secs(1);
/// How long it is told after the last record.
const TIPS_PAST_END: Duration = Duration::from_secs(30);
/// The pause before a log that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// What is to be written.
pub(crate) enum Entry {
    /// Whatever the log lacks of this.
    State(Box<Command>),
    /// Output, in memory until it is stored.
    Output {
        /// Pieces in order.
        chunks: Vec<OutputChunk>,
        /// Who waits for its acknowledgement.
        answer: Answer,
        /// The memory that it takes.
        room: OwnedSemaphorePermit,
    },
    /// That the terminal was cleared.
    Cleared(TermCleared),
}

/// What a recorder has to say to the agent's holder.
pub(crate) enum Recorded {
    /// The command's end is in its log.
    Ended(String),
    /// Another holder writes the log.
    Superseded,
}

/// A log that is being written.
#[derive(Clone)]
pub(crate) struct Recorder {
    entries: mpsc::Sender<Entry>,
    offsets: Arc<Mutex<Option<Vec<OutputOffset>>>>,
}

impl Recorder {
    /// Hands on what is to be written; gives it back when there is no room.
    pub(crate) fn write(&self, entry: Entry) -> Result<(), Entry> {
        self.entries
            .try_send(entry)
            .map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Waits for room, for what must not be left out.
    pub(crate) async fn insist(&self, entry: Entry) {
        // A recorder that has ended has told why.
        self.entries.send(entry).await.ok();
    }

    /// Up to where each stream is stored; `None` while nobody knows.
    pub(crate) fn offsets(&self) -> Option<Vec<OutputOffset>> {
        self.offsets.lock().clone()
    }
}

/// What a recorder is made of.
pub(crate) struct Task {
    bus: Bus,
    metrics: Metrics,
    agent_id: String,
    command_id: String,
    /// The holder's term.
    term: u64,
    cap: u64,
    /// Turns to read a log again.
    rereads: Arc<Semaphore>,
    entries: mpsc::Receiver<Entry>,
    offsets: Arc<Mutex<Option<Vec<OutputOffset>>>>,
    tell: mpsc::Sender<Recorded>,
    /// As it was told last, to be written again where the log was moved.
    state: Option<Box<Command>>,
}

/// A log that is open.
struct Open {
    writer: LogWriter,
    output: Output,
    started: bool,
    ended: bool,
    /// When something was written last.
    written: Instant,
}

/// Why a log cannot be gone on with as it is open.
enum Broken {
    /// It is to be opened again.
    Moved,
    Superseded,
}

/// Begins to write a command's log; the task runs until the log is over.
pub(crate) fn recorder(
    bus: Bus,
    metrics: Metrics,
    (agent_id, command_id): (&str, &str),
    term: u64,
    cap: u64,
    rereads: Arc<Semaphore>,
    tell: mpsc::Sender<Recorded>,
) -> (Recorder, Task) {
    let (sender, entries) = mpsc::channel(ENTRY_CAPACITY);
    let offsets = Arc::new(Mutex::new(None));
    let recorder = Recorder {
        entries: sender,
        offsets: Arc::clone(&offsets),
    };
    let task = Task {
        bus,
        metrics,
        agent_id: agent_id.to_owned(),
        command_id: command_id.to_owned(),
        term,
        cap,
        rereads,
        entries,
        offsets,
        tell,
        state: None,
    };
    (recorder, task)
}

impl Task {
    /// Writes until the log has its end, and a while longer for those who follow
    /// it; or until another writes it.
    pub(crate) async fn run(mut self) {
        let mut tips = interval(TIP);
        tips.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut log = self.open().await;
        loop {
            let first = tokio::select! {
                entry = self.entries.recv() => match entry {
                    Some(entry) => entry,
                    None if log.ended => {
                        if log.written.elapsed() > TIPS_PAST_END {
                            return;
                        }
                        tips.tick().await;
                        log.writer.tell_tip().await;
                        continue;
                    }
                    None => return,
                },
                _ = tips.tick() => {
                    let is_open = log.started && !log.ended;
                    if is_open || log.written.elapsed() < TIPS_PAST_END {
                        log.writer.tell_tip().await;
                    }
                    continue;
                }
            };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(entry) = self.entries.try_recv()
            {
                batch.push(entry);
            }
            let mut outcome = self.write(&mut log, batch).await;
            while let Err(broken) = outcome {
                if let Broken::Superseded = broken {
                    self.tell.send(Recorded::Superseded).await.ok();
                    return;
                }
                // Output that was not acknowledged comes again.
                log = self.open().await;
                let state = self.state.clone().map(Entry::State);
                outcome = self.write(&mut log, state.into_iter().collect()).await;
            }
        }
    }

    /// Opens the log where its last owner has left it, and makes it this one's.
    async fn open(&mut self) -> Open {
        loop {
            match self.try_open().await {
                Ok(Ok(log)) => {
                    self.publish_offsets(&log);
                    return log;
                }
                Ok(Err(Broken::Moved)) => {}
                Ok(Err(Broken::Superseded)) => {
                    self.tell.send(Recorded::Superseded).await.ok();
                    // The holder ends this task with its other ones.
                    return std::future::pending().await;
                }
                Err(cause) => {
                    debug!(command = %self.command_id, %cause, "log not opened");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_open(&mut self) -> Result<Result<Open, Broken>, BusError> {
        let opened = LogWriter::open(self.bus.clone(), LogKind::Term, &self.command_id, self.term);
        let (writer, last) = opened.await?;
        let mut log = Open {
            writer,
            output: Output::new(self.cap),
            started: false,
            ended: false,
            written: Instant::now(),
        };
        let Some(last) = last else {
            return Ok(Ok(log));
        };
        let progress = TermRecord::decode(last.payload)
            .unwrap_or_default()
            .progress
            .unwrap_or_default();
        log.output = Output::resume(self.cap, &progress.sums);
        (log.started, log.ended) = (progress.started, progress.ended);
        if log.ended {
            return Ok(Ok(log));
        }
        // From here on the former owner cannot write any more.
        let sums = progress.sums;
        Ok(self
            .append(&mut log, Record::Taken(TermTaken {}), sums)
            .await
            .map(|()| log))
    }

    async fn write(&mut self, log: &mut Open, batch: Vec<Entry>) -> Result<(), Broken> {
        let mut steps: Vec<Step> = Vec::new();
        let mut answers = Vec::new();
        for entry in batch {
            match entry {
                Entry::Output {
                    chunks,
                    answer,
                    room,
                } => {
                    self.admit(log, &chunks, &mut steps);
                    answers.push((answer, chunks, room));
                }
                Entry::State(command) => {
                    self.store(log, &mut steps, &mut answers).await?;
                    self.state = Some(command.clone());
                    self.write_state(log, &command).await?;
                }
                Entry::Cleared(cleared) => {
                    self.store(log, &mut steps, &mut answers).await?;
                    if !log.ended {
                        let sums = log.output.sums(false);
                        self.append(log, Record::Cleared(cleared), sums).await?;
                    }
                }
            }
        }
        self.store(log, &mut steps, &mut answers).await
    }

    fn admit(&self, log: &mut Open, chunks: &[OutputChunk], steps: &mut Vec<Step>) {
        for chunk in chunks {
            // Late output of a command that is over is nobody's any more.
            if log.ended {
                break;
            }
            let admitted = log.output.admit(chunk.clone());
            self.metrics.repeated_bytes.add(admitted.repeated);
            for step in admitted.steps {
                join(steps, step);
            }
        }
    }

    /// Stores what was admitted, then acknowledges it.
    async fn store(
        &mut self,
        log: &mut Open,
        steps: &mut Vec<Step>,
        answers: &mut Vec<(Answer, Vec<OutputChunk>, OwnedSemaphorePermit)>,
    ) -> Result<(), Broken> {
        for step in steps.drain(..) {
            self.append(log, step.record, step.sums).await?;
        }
        self.publish_offsets(log);
        for (answer, chunks, _room) in answers.drain(..) {
            let mut offsets: Vec<OutputOffset> = Vec::new();
            for chunk in &chunks {
                if offsets.iter().all(|offset| offset.stream != chunk.stream) {
                    offsets.push(OutputOffset {
                        command_id: self.command_id.clone(),
                        stream: chunk.stream,
                        offset: if log.ended {
                            chunk.offset.saturating_add(chunk.data.len() as u64)
                        } else {
                            log.output.offset(chunk.stream)
                        },
                    });
                }
            }
            let taken = OutputTaken { offsets };
            answer.report(agent_reply::Outcome::Output(taken)).await;
        }
        Ok(())
    }

    /// Writes what the log lacks of the command's state.
    async fn write_state(&mut self, log: &mut Open, command: &Command) -> Result<(), Broken> {
        if log.writer.number() == 0 {
            let queued = TermQueued {
                command: command.command.clone(),
                args: command.args.clone(),
                priority: signalbox_protocol::wire::CommandPriority::from(command.priority).into(),
                by: command.by.clone(),
                position: command.position,
                estimated_wait_ms: command.estimated_ms,
            };
            self.append(log, Record::Queued(queued), Vec::new()).await?;
        }
        let sums = log.output.sums(false);
        match &command.phase {
            Phase::Running { .. } if !log.started => {
                log.started = true;
                let started = TermStarted {
                    attempt: command.attempt,
                };
                self.append(log, Record::Started(started), sums).await?;
            }
            Phase::Ended(outcome) => {
                if !log.ended {
                    self.make_up_hash(log).await;
                    log.ended = true;
                    let sums = log.output.sums(true);
                    let ended = self.ended(outcome, sums.clone());
                    self.append(log, Record::Ended(ended), sums).await?;
                }
                let ended = Recorded::Ended(self.command_id.clone());
                self.tell.send(ended).await.ok();
            }
            Phase::Waiting | Phase::Starting { .. } | Phase::Running { .. } => {}
        }
        Ok(())
    }

    async fn append(
        &mut self,
        log: &mut Open,
        record: Record,
        sums: Vec<StreamSum>,
    ) -> Result<(), Broken> {
        let size = match &record {
            Record::Output(output) => output.chunks.iter().map(|chunk| chunk.data.len()).sum(),
            _ => 0,
        };
        let record = TermRecord {
            agent_id: self.agent_id.clone(),
            at: Timestamp::from(OffsetDateTime::now_utc()).to_string(),
            progress: Some(LogProgress {
                started: log.started,
                ended: log.ended,
                sums,
            }),
            record: Some(record),
        };
        match log.writer.append(record.encode_to_vec().into()).await {
            Ok(_) => {
                log.written = Instant::now();
                self.metrics.records.add(1);
                self.metrics.output_bytes.add(size as u64);
                Ok(())
            }
            Err(LogError::Moved) => Err(Broken::Moved),
            Err(LogError::Superseded) => {
                warn!(command = %self.command_id, "another relay writes the log");
                Err(Broken::Superseded)
            }
            Err(LogError::Refused(cause)) => {
                error!(command = %self.command_id, %cause, "record left out");
                Ok(())
            }
        }
    }

    /// Reads the log again where what a former owner has written is not hashed.
    /// Where a part of it is gone, the hashes stay unknown.
    async fn make_up_hash(&self, log: &mut Open) {
        if log.output.is_hashed() {
            return;
        }
        // Never closed.
        let _turn = self.rereads.acquire().await.ok();
        let last = log.writer.sequence();
        let reading = reread::read(&self.bus, &self.command_id, last).await;
        if !log.output.rehash(reading) {
            warn!(command = %self.command_id, "the log is not whole, its hash is not known");
        }
    }

    /// The last record, in which the agent's sums and the log's are compared.
    fn ended(&self, outcome: &Outcome, sums: Vec<StreamSum>) -> TermEnded {
        let differs = !outcome.written.iter().all(|written| written.agrees(&sums));
        if differs && !outcome.incomplete {
            warn!(
                agent = %self.agent_id,
                command = %self.command_id,
                "the log is not what the agent says that the command wrote"
            );
        }
        TermEnded {
            state: CommandState::from(outcome.end).into(),
            exit_code: outcome.exit_code,
            signal: outcome.signal.clone(),
            duration_ms: outcome.duration_ms,
            reason: Agent::reason_of(outcome),
            sums,
            incomplete: outcome.incomplete || differs,
            by: outcome.by.clone(),
            written: outcome.written.iter().map(Written::sum).collect(),
            usage: outcome.usage.map(Into::into),
        }
    }

    fn publish_offsets(&self, log: &Open) {
        *self.offsets.lock() = Some(log.output.offsets(&self.command_id));
    }
}

/// Adds a step, to the record before it where that is output as well and small.
fn join(steps: &mut Vec<Step>, step: Step) {
    if let Some(Step {
        record: Record::Output(last),
        sums,
    }) = steps.last_mut()
        && let Record::Output(output) = &step.record
        && size(last) + size(output) <= RECORD_BYTES
    {
        last.chunks.extend(output.chunks.iter().cloned());
        *sums = step.sums;
        return;
    }
    steps.push(step);
}

fn size(output: &TermOutput) -> usize {
    output.chunks.iter().map(|chunk| chunk.data.len()).sum()
}

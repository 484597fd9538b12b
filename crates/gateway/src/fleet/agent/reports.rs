//! Reports on their way to the relay: one at a time, in the order in which they
//! came, held until the relay has taken them.

use std::time::Duration;

use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fleet::server::{ServerFrame, StoredOutput};
use signalbox_protocol::wire::agent_reply::Outcome;
use signalbox_protocol::wire::agent_report::Report;
use signalbox_protocol::wire::{
    AgentDisconnected, AgentReply, AgentReport, OutputChunk, OutputTaken, SessionOpened,
    TerminalOutput,
};
use signalbox_transport::CloseCode;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::Agent;
use crate::fleet::frames::{last, now, send};
use crate::fleet::session::Session;
use crate::fleet::transcript::stream_name;

/// What may be held for the relay; when full, the connection is not read.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Output that goes in one report, in bytes.
const REPORT_BYTES: usize = 256 * 1024;
/// What a report weighs beside its output.
const REPORT_WEIGHT: usize = 256;
/// The pause before a report that was not taken is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what is held may take to be taken once the agent is gone.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

impl Agent {
    /// Whether no more may be held.
    pub(in crate::fleet) fn is_full(&self) -> bool {
        self.held_bytes >= WINDOW_BYTES
    }

    /// Whether deliveries may be carried out.
    pub(in crate::fleet) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn hold(&mut self, report: Report) {
        self.held_bytes += weight(&report);
        self.held.push_back(report);
    }

    /// Puts a report in front of those that are held.
    fn hold_first(&mut self, report: Report) {
        self.held_bytes += weight(&report);
        self.held.push_front(report);
    }

    /// Forgets what was kept of a command that is over, or never was.
    fn forget(&mut self, command_id: &str) {
        self.executed.remove(command_id);
        self.counted.retain(|(command, _), _| command != command_id);
    }

    /// The next report: output of one command goes together.
    fn next(&mut self) -> Option<Report> {
        let mut first = self.held.pop_front()?;
        self.held_bytes -= weight(&first);
        if let Report::Output(output) = &mut first {
            let mut size = size_of_chunks(&output.chunks);
            while let Some(Report::Output(more)) = self.held.front() {
                size += size_of_chunks(&more.chunks);
                if more.command_id != output.command_id || size > REPORT_BYTES {
                    break;
                }
                if let Some(Report::Output(more)) = self.held.pop_front() {
                    self.held_bytes -= REPORT_WEIGHT + size_of_chunks(&more.chunks);
                    output.chunks.extend(more.chunks);
                }
            }
        }
        Some(first)
    }
}

fn size_of_chunks(chunks: &[OutputChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.data.len()).sum()
}

fn weight(report: &Report) -> usize {
    REPORT_WEIGHT
        + match report {
            Report::Output(output) => size_of_chunks(&output.chunks),
            Report::Condition(condition) => condition.metrics.len(),
            _ => 0,
        }
}

/// The command that a report is about.
fn command_of(report: &Report) -> Option<&str> {
    match report {
        Report::Output(output) => Some(&output.command_id),
        Report::Status(status) => Some(&status.command_id),
        Report::Complete(complete) => Some(&complete.command_id),
        _ => None,
    }
}

impl Session {
    /// Sends the next report if none is on its way.
    pub(in crate::fleet) fn send_report(&mut self) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        if self.flight.is_some() {
            return;
        }
        let Some(report) = agent.next() else {
            return;
        };
        let message = AgentReport {
            agent_id: agent.id.clone(),
            gateway_id: self.shard.shared.fleet.agents().gateway().to_owned(),
            connection_id: agent.connection.clone(),
            report: Some(report.clone()),
        };
        agent.sent = Some(report);
        let pause = std::mem::take(&mut agent.pause);
        let relays = self.shard.shared.fleet.relays().clone();
        let shard = agent.shard;
        self.flight = Some(Box::pin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            relays.report(shard, &message).await
        }));
    }

    /// Takes in what the relay says of the report that was on its way.
    pub(in crate::fleet) fn take_reply(&mut self, reply: Option<AgentReply>) {
        self.flight = None;
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        let Some(report) = agent.sent.take() else {
            return;
        };
        match reply.and_then(|reply| reply.outcome) {
            Some(Outcome::Opened(opened)) => self.opened(opened),
            Some(Outcome::Output(taken)) => self.output_taken(report, &taken),
            Some(Outcome::Taken(_) | Outcome::Heard(_)) => {
                if let Report::Complete(complete) = &report {
                    agent.forget(&complete.command_id);
                }
            }
            Some(Outcome::Stale(stale)) if stale.unknown => {
                agent.hold_first(report);
                self.announce();
            }
            Some(Outcome::Stale(_)) => self.replaced(),
            Some(Outcome::LaterMs(ms)) => {
                agent.pause = Duration::from_millis(ms.into());
                agent.hold_first(report);
            }
            Some(Outcome::Refusal(refusal)) => match command_of(&report) {
                Some(command_id) => {
                    debug!(session = %self.name, command_id, refusal = refusal.message, "report refused");
                    let command_id = command_id.to_owned();
                    // The agent may have made it up.
                    agent.forget(&command_id);
                    self.no_command(&command_id, None);
                }
                None => {
                    warn!(session = %self.name, refusal = refusal.message, "agent refused");
                    let frame = last(ErrorCode::Forbidden, &refusal.message, None);
                    let code = CloseCode::POLICY_VIOLATION;
                    self.outbound.close_with(frame, code, &refusal.message);
                }
            },
            None => {
                agent.pause = PAUSE;
                agent.hold_first(report);
            }
        }
    }

    /// The relay has taken the connection as the agent's.
    fn opened(&mut self, opened: SessionOpened) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        agent.is_open = true;
        let interval = Duration::from_millis(opened.beat_interval_ms.into());
        self.shard.shared.fleet.agents().beat_every(interval);
        for offset in &opened.offsets {
            let place = (offset.command_id.clone(), offset.stream);
            agent.counted.entry(place).or_insert(offset.offset);
        }
        if std::mem::replace(&mut agent.is_greeted, true) {
            return;
        }
        let heartbeat = self.shard.shared.options.fleet.heartbeat;
        let offsets = opened.offsets.iter().map(|offset| StoredOutput {
            command_id: &offset.command_id,
            stream: stream_name(offset.stream()),
            offset: offset.offset,
        });
        send(
            &self.outbound,
            &ServerFrame::AgentConnected {
                agent_id: &agent.id,
                heartbeat_interval: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
                offsets: offsets.collect(),
                abandoned: &opened.abandoned,
                request_id: agent.request_id.as_deref(),
                timestamp: now(),
            },
        );
    }

    /// Announces the connection anew.
    pub(super) fn announce(&mut self) {
        if let Some(agent) = self.agent.as_deref_mut() {
            let is_held = matches!(agent.held.front(), Some(Report::Connected(_)))
                || matches!(agent.sent, Some(Report::Connected(_)));
            if !is_held {
                agent.hold_first(Report::Connected(agent.announcement.clone()));
            }
        }
    }

    /// Acknowledges what is stored, and holds the rest again.
    fn output_taken(&mut self, report: Report, taken: &OutputTaken) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        let Report::Output(output) = report else {
            // The end of a command, of which output is missing: the agent sends
            // that and the end again.
            return;
        };
        let stored = |stream: i32| {
            let mut offsets = taken.offsets.iter();
            let found = offsets.find(|offset| offset.stream == stream);
            found.map_or(0, |offset| offset.offset)
        };
        if agent.acknowledges {
            for offset in &taken.offsets {
                send(
                    &self.outbound,
                    &ServerFrame::TerminalAck {
                        command_id: &output.command_id,
                        stream: stream_name(offset.stream()),
                        offset: offset.offset,
                        timestamp: now(),
                    },
                );
            }
        }
        let mut left = Vec::new();
        let mut progress = false;
        for mut chunk in output.chunks {
            let stored = stored(chunk.stream);
            let end = chunk.offset + chunk.data.len() as u64;
            if stored >= end {
                progress = true;
                continue;
            }
            if stored > chunk.offset {
                progress = true;
                let known = usize::try_from(stored - chunk.offset).unwrap_or(usize::MAX);
                chunk.data = chunk.data.split_off(known);
                chunk.offset = stored;
            } else if stored < chunk.offset && agent.acknowledges && left.is_empty() {
                // Something is missing in front, which the agent sends again
                // together with this.
                continue;
            }
            left.push(chunk);
        }
        if !left.is_empty() {
            if !progress {
                agent.pause = PAUSE;
            }
            agent.hold_first(Report::Output(TerminalOutput {
                command_id: output.command_id,
                chunks: left,
            }));
        }
    }

    /// Has the relay take what is held, and know that the agent is gone.
    pub(in crate::fleet) async fn depart(&mut self) {
        self.notes = None;
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        if !agent.is_greeted {
            // It never was there, or another connection is the agent's now.
            return;
        }
        let graceful = agent.is_leaving;
        agent.hold(Report::Disconnected(AgentDisconnected { graceful }));
        let deadline = Instant::now() + FLUSH_PATIENCE;
        loop {
            self.send_report();
            let Some(flight) = self.flight.as_mut() else {
                return;
            };
            let Ok(reply) = timeout_at(deadline, flight).await else {
                warn!(session = %self.name, "what the agent said last was not taken");
                return;
            };
            self.take_reply(reply);
        }
    }
}

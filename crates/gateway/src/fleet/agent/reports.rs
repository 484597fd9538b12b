//! Reports on their way to the relay: one at a time, in the order in which they
//! came, held until the relay has taken them.

use std::time::Duration;

use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::{ServerFrame, StoredOutput};
use signalbox_protocol::wire::agent_reply::Outcome;
use signalbox_protocol::wire::agent_report::Report;
use signalbox_protocol::wire::{
    AgentConnected, AgentDisconnected, AgentReply, AgentReport, CommandState, KnownCommand,
    OutputChunk, OutputTaken, SessionOpened, TerminalOutput,
};
use signalbox_transport::CloseCode;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::{Agent, Held};
use crate::fleet::frames::{complaint, last, now, send};
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
        self.hold_for(report, None);
    }

    /// Holds a report whose outcome is told to who named its message.
    pub(super) fn hold_for(&mut self, report: Report, request_id: Option<&str>) {
        self.held_bytes += weight(&report);
        self.held.push_back(Held {
            report,
            request_id: request_id.map(str::to_owned),
        });
    }

    /// Puts a report in front of those that are held.
    fn hold_first(&mut self, held: Held) {
        self.held_bytes += weight(&held.report);
        self.held.push_front(held);
    }

    /// Forgets what was kept of a command that is over, or never was.
    fn forget(&mut self, command_id: &str) {
        self.executed.remove(command_id);
        let announced = &mut self.announcement.commands;
        announced.retain(|known| known.command_id != command_id);
        self.counted.retain(|(command, _), _| command != command_id);
    }

    /// How the agent is announced now: with what it was told since it came, or
    /// the relay would take it to have forgotten that. Of one that is gone nobody
    /// knows what it has been told elsewhere.
    fn present(&self) -> AgentConnected {
        let mut announcement = self.announcement.clone();
        announcement.lists_commands &= !self.is_gone;
        let mut told: Vec<&String> = self.executed.keys().collect();
        told.sort_unstable();
        for command_id in told {
            let commands = &mut announcement.commands;
            if commands.iter().all(|known| known.command_id != *command_id) {
                commands.push(KnownCommand {
                    command_id: command_id.clone(),
                    ended: false,
                });
            }
        }
        announcement
    }

    /// The next report: output of one command goes together.
    fn next(&mut self) -> Option<Held> {
        let mut first = self.held.pop_front()?;
        self.held_bytes -= weight(&first.report);
        if let Report::Connected(announcement) = &mut first.report {
            *announcement = self.present();
        }
        if let Report::Output(output) = &mut first.report {
            let mut size = size_of_chunks(&output.chunks);
            while let Some(Report::Output(more)) = self.held.front().map(|held| &held.report) {
                size += size_of_chunks(&more.chunks);
                if more.command_id != output.command_id || size > REPORT_BYTES {
                    break;
                }
                if let Some(Report::Output(more)) = self.held.pop_front().map(|held| held.report) {
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
            Report::Complete(complete) => complete.reason.len(),
            _ => 0,
        }
}

/// The command that a report ends.
fn ended_by(report: &Report) -> Option<&str> {
    match report {
        Report::Complete(complete) => Some(&complete.command_id),
        Report::Status(status) => match status.state() {
            CommandState::Queued | CommandState::Running => None,
            CommandState::Completed | CommandState::Failed | CommandState::Interrupted => {
                Some(&status.command_id)
            }
        },
        _ => None,
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
        let Some(held) = agent.next() else {
            return;
        };
        let message = AgentReport {
            agent_id: agent.id.clone(),
            gateway_id: self.shard.shared.fleet.agents().gateway().to_owned(),
            connection_id: agent.connection.clone(),
            report: Some(held.report.clone()),
        };
        agent.sent = Some(held);
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
        let Some(held) = agent.sent.take() else {
            return;
        };
        match reply.and_then(|reply| reply.outcome) {
            Some(Outcome::Opened(opened)) => self.opened(opened),
            Some(Outcome::Output(taken)) => self.output_taken(held, &taken),
            Some(Outcome::Taken(_) | Outcome::Heard(_)) => {
                if let Some(command_id) = ended_by(&held.report) {
                    agent.forget(command_id);
                }
                if let Some(request_id) = &held.request_id {
                    let timestamp = now();
                    let done = ServerFrame::RequestDone {
                        request_id,
                        timestamp,
                    };
                    send(&self.outbound, &done);
                }
            }
            Some(Outcome::Stale(stale)) if stale.unknown => {
                agent.hold_first(held);
                self.announce();
            }
            Some(Outcome::Stale(_)) => self.replaced(),
            Some(Outcome::LaterMs(ms)) => {
                agent.pause = Duration::from_millis(ms.into());
                agent.hold_first(held);
            }
            Some(Outcome::Refusal(refusal)) => match command_of(&held.report) {
                Some(command_id) => {
                    debug!(session = %self.name, command_id, refusal = refusal.message, "report refused");
                    // The agent may have made it up.
                    agent.forget(command_id);
                    self.no_command(command_id, held.request_id.as_deref());
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
                agent.hold_first(held);
            }
        }
    }

    /// The relay has taken the connection as the agent's.
    fn opened(&mut self, opened: SessionOpened) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        agent.is_open = true;
        self.shard.shared.fleet.agents().opened(&agent.connection);
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
            let mut waiting = agent.held.front().into_iter().chain(&agent.sent);
            if !waiting.any(|held| matches!(held.report, Report::Connected(_))) {
                agent.hold_first(Held {
                    report: Report::Connected(agent.present()),
                    request_id: None,
                });
            }
        }
    }

    /// Acknowledges what is stored, and holds the rest again.
    fn output_taken(&mut self, held: Held, taken: &OutputTaken) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        let output = match held.report {
            Report::Output(output) => output,
            Report::Complete(_) => return self.output_missing(held, taken),
            _ => return,
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
            let end = chunk.offset.saturating_add(chunk.data.len() as u64);
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
            agent.hold_first(Held {
                report: Report::Output(TerminalOutput {
                    command_id: output.command_id,
                    chunks: left,
                }),
                request_id: held.request_id,
            });
        }
    }

    /// A command has ended of which less is stored than it has written.
    fn output_missing(&mut self, held: Held, taken: &OutputTaken) {
        let (Some(agent), Report::Complete(mut complete)) =
            (self.agent.as_deref_mut(), held.report)
        else {
            return;
        };
        if !agent.acknowledges {
            // It cannot send again what is missing.
            complete.incomplete = true;
            return agent.hold_first(Held {
                report: Report::Complete(complete),
                request_id: held.request_id,
            });
        }
        for offset in &taken.offsets {
            send(
                &self.outbound,
                &ServerFrame::TerminalAck {
                    command_id: &complete.command_id,
                    stream: stream_name(offset.stream()),
                    offset: offset.offset,
                    timestamp: now(),
                },
            );
        }
        let expected = "what is stored; send output again from where it is acknowledged, then this";
        let refused = Complaint::field("streams", expected);
        let _sent = self
            .outbound
            .send_frame(&complaint(&refused, held.request_id.as_deref()));
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
        agent.is_gone = true;
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

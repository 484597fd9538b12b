//! What a connection makes of what the gateway says.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Parting, RESEND, Session, say};
use crate::executor::Request;
use crate::link::{Mouth, Refusal, Told};
use crate::presence::Life;

impl Session<'_> {
    /// Takes in a message; gives how the conversation ends, if it does.
    pub(super) fn hear(&mut self, told: Told, mouth: &Mouth) -> Option<Parting> {
        match told {
            Told::Connected {
                heartbeat_interval,
                offsets,
                abandoned,
            } => {
                self.is_open = true;
                self.heartbeat = Duration::from_millis(heartbeat_interval.max(1));
                self.stored = Instant::now();
                self.book.begin(&offsets, &abandoned);
                info!(gateway = %self.options.address, "serving");
            }
            Told::Execute {
                command_id,
                command,
                args,
            } => self.execute(command_id, command, args),
            Told::Interrupt { command_id } => self.book.interrupt(&command_id),
            Told::Ack(stored) => {
                if self.book.stored(&stored) {
                    self.stored = Instant::now();
                    self.resend = RESEND;
                }
            }
            Told::Input {
                command_id,
                content,
                raw,
            } => match raw.map(|raw| STANDARD.decode(raw)) {
                None => self.book.input(&command_id, content.as_bytes()),
                Some(Ok(bytes)) => self.book.input(&command_id, &bytes),
                Some(Err(_)) => warn!(command = command_id, "input is no base64"),
            },
            Told::Resize {
                command_id,
                columns,
                rows,
            } => self.book.resize(&command_id, columns, rows),
            Told::Ping => self.report(mouth, say::pong()),
            Told::Stop { reason, stop_id } => {
                warn!(reason, "emergency stop");
                self.book.interrupt_all();
                self.stop = stop_id;
            }
            // A token that is short-lived is announced at once.
            Told::RefreshNeeded => self.refresh_at = self.refresh_at.min(self.token.mellow_at()),
            Told::RefreshSuccess => debug!("the connection goes on with a fresh token"),
            Told::RefreshFailed { error } => {
                warn!(error, "the fresh token is not taken");
                self.refresh_at = Instant::now() + self.refresh_back_off.next(Duration::ZERO);
            }
            Told::Refused(refusal) => return self.refused(&refusal),
            Told::Invalid { error, request_id } => return self.invalid(error, request_id),
            Told::NoCommand { command_id, code } => {
                if let (Some(id), "COMMAND_NOT_FOUND") = (command_id, code.as_str()) {
                    debug!(command = id, "the relay has given it up");
                    self.book.abandon(&id);
                }
            }
            Told::Done { request_id } => {
                if let Some(id) = say::ended_by(&request_id) {
                    self.book.confirm(id);
                }
            }
            Told::Other => {}
        }
        None
    }

    fn execute(&mut self, id: String, command: String, args: Vec<String>) {
        if *self.life.borrow() != Life::Working && self.book.job(&id).is_none() {
            // Not begun, not refused: the relay sends it to whoever comes next.
            info!(command = id, "command not begun, the agent is stopping");
            return;
        }
        self.book.execute(Request { id, command, args });
    }

    /// The gateway refuses the connection, or a message that was one too many.
    fn refused(&mut self, refusal: &Refusal) -> Option<Parting> {
        let retry_after = refusal.retry_after.map(Duration::from_secs);
        if refusal.request_id.as_deref() == Some(say::CONNECT) && refusal.code != "RATE_LIMIT" {
            return Some(Parting::Refused(refusal.error.clone()));
        }
        if refusal.code != "RATE_LIMIT" {
            debug!(code = refusal.code, error = refusal.error, "refused");
            self.retry_after = retry_after;
            return None;
        }
        let now = Instant::now();
        let minute = refusal.limits.map(|limits| limits.per_minute.limit);
        let hour = refusal.limits.and_then(|limits| limits.per_hour);
        let hour = hour.map(|hour| hour.limit);
        let is_output = refusal.request_id.as_deref() == Some(say::OUTPUT);
        warn!(
            error = refusal.error,
            ?retry_after,
            is_output,
            "slower: the gateway refuses"
        );
        if is_output {
            self.output.refused(now, retry_after, minute, hour);
            self.book.rewind();
        } else {
            self.messages.refused(now, retry_after, minute, hour);
            if let Some(id) = refusal.request_id.as_deref().and_then(say::ended_by)
                && let Some(job) = self.book.job(id)
            {
                job.again();
            }
            self.told_busy = None;
        }
        None
    }

    fn invalid(&mut self, error: String, request_id: Option<String>) -> Option<Parting> {
        match request_id.as_deref() {
            Some(say::CONNECT) => return Some(Parting::Refused(error)),
            Some(say::OUTPUT) => {
                // It would be refused again and again: ours to mend.
                error!(error, "output is not understood");
                return Some(self.lost("output is not understood"));
            }
            Some(id) => {
                if let Some(job) = say::ended_by(id).and_then(|id| self.book.job(id)) {
                    warn!(error, "the end came too early");
                    job.again();
                }
            }
            None => warn!(error, "message not understood"),
        }
        None
    }
}

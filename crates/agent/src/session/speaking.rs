//! What a connection has to say, and when: signs of life, tokens, ends, status,
//! and output in turns.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::book::Job;
use super::{Session, say};
use crate::link::{Mouth, Room};
use crate::presence::Life;
use crate::tokens::{Denied, Token};

/// Output of one message, in bytes.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Output that may be sent and not yet stored, in bytes. The gateway holds half
/// as much and then stops to read; more would only wait in sockets.
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// The longest that [`RESEND`] becomes.
const LONGEST_RESEND: Duration = Duration::from_secs(120);
/// The part of the limits that a change of status leaves for ends of commands.
const STATUS_RESERVE: f64 = 0.3;
/// The part of the limits that numbers about the machine leave for all else.
const METRICS_RESERVE: f64 = 0.6;
/// How long the gateway may take to close after a goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long the connection may take to become the agent's before it is made
/// anew.
const GREETING: Duration = Duration::from_secs(60);
/// Output is gathered by stream where it may be sent no oftener than this.
const SCARCE: Duration = Duration::from_millis(100);

impl Session<'_> {
    /// Says all but output that is due; gives when there may be more to say.
    pub(super) fn speak(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let mut wake = now + self.heartbeat;
        if let Some(until) = self.goodbye {
            return wake.min(until);
        }
        wake = wake.min(self.keep_alive(mouth, now));
        wake = wake.min(self.keep_token(now));
        if !self.is_open {
            return wake.min(self.began + GREETING);
        }
        wake = wake.min(self.tell_ends(mouth, now));
        wake = wake.min(self.tell_begun(mouth, now));
        wake = wake.min(self.tell_status(mouth, now));
        if self.book.running() == 0
            && let Some(stop_id) = self.stop.take()
        {
            self.report(mouth, say::stopped(&stop_id));
        }
        if self.book.in_flight() > 0 {
            let at = self.stored + self.resend;
            if at <= now {
                warn!("nothing was stored for a while, sending output again");
                self.book.rewind();
                self.stored = now;
                self.resend = (self.resend * 2).min(LONGEST_RESEND);
            } else {
                wake = wake.min(at);
            }
        } else {
            self.stored = now;
        }
        if *self.life.borrow() == Life::Stopped && self.book.unconfirmed() == 0 {
            self.say(mouth, say::disconnect(&self.options.agent_id));
            self.goodbye = Some(now + GOODBYE);
            wake = wake.min(now + GOODBYE);
        }
        wake
    }

    /// Asks for a sign of life where none came for a while.
    fn keep_alive(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let at = self.heard + self.heartbeat / 2;
        if self.asked.is_none() && at <= now {
            self.asked = Some(now);
            self.say(mouth, say::ping());
        }
        match self.asked {
            None => at,
            Some(asked) => asked + self.heartbeat,
        }
    }

    /// Whether the gateway has left a question for a sign of life unanswered.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let is_late = !self.is_open && now >= self.began + GREETING;
        is_late
            || self
                .asked
                .is_some_and(|asked| now >= asked + self.heartbeat)
    }

    /// Has a fresh token fetched in time.
    fn keep_token(&mut self, now: Instant) -> Instant {
        if self.refresh_at <= now && self.fetching.is_empty() {
            let tokens = self.tokens.clone();
            self.fetching.spawn(async move { tokens.fetch().await });
        }
        if self.fetching.is_empty() {
            self.refresh_at
        } else {
            now + self.heartbeat
        }
    }

    pub(super) fn refresh(&mut self, fetched: Result<Token, Denied>, mouth: &Mouth) {
        match fetched {
            Ok(token) => {
                self.report(mouth, say::refresh(token.expose()));
                self.refresh_at = token.ripe_at();
                self.refresh_back_off.reset();
                *self.token = token;
            }
            Err(denied) => {
                let wait = self.refresh_back_off.next(Duration::ZERO);
                warn!(%denied, ?wait, "no fresh token");
                self.refresh_at = Instant::now() + wait;
            }
        }
    }

    /// Tells ends of which all output is stored.
    fn tell_ends(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let mut wake = now + self.heartbeat;
        for job in self.book.jobs_mut() {
            job.settle(MESSAGE_BYTES);
        }
        let due: Vec<(String, Instant)> = self
            .book
            .jobs()
            .filter_map(|(id, job)| Some((id.clone(), job.end_due(now)?)))
            .collect();
        for (id, at) in due {
            let at = at.max(self.messages.ready_at(now, 0.0));
            if at > now {
                wake = wake.min(at);
                continue;
            }
            let Some(job) = self.book.job(&id) else {
                continue;
            };
            let Some(ending) = job.ending() else { continue };
            job.told_end(now);
            if ending.left_behind > 0 {
                warn!(
                    command = id,
                    left = ending.left_behind,
                    "processes would not end"
                );
            }
            let is_partial = ending.output_incomplete || job.is_broken();
            let message = say::complete(&id, &self.options.agent_id, &ending, is_partial);
            self.report(mouth, message);
        }
        wake
    }

    /// Tells which commands run. Nothing waits for it: output says it as well.
    fn tell_begun(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let wake = now + self.heartbeat;
        let begun: Vec<String> = self
            .book
            .jobs()
            .filter(|(_, job)| job.is_told() && !job.announced && job.ending().is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in begun {
            let at = self.messages.ready_at(now, STATUS_RESERVE);
            if at > now {
                return wake.min(at);
            }
            if let Some(job) = self.book.job(&id) {
                job.announced = true;
            }
            let message = say::running(&id, &self.options.agent_id);
            self.report(mouth, message);
        }
        wake
    }

    /// Tells how the agent is: at once when that changes, and now and then.
    fn tell_status(&mut self, mouth: &Mouth, now: Instant) -> Instant {
        let running = self.book.running();
        let is_stopping = *self.life.borrow() != Life::Working;
        let is_busy = is_stopping || running >= self.options.concurrency as usize;
        let changed = self.told_busy != Some(is_busy);
        if !changed && self.status_at > now {
            return self.status_at;
        }
        let reserve = if changed {
            STATUS_RESERVE
        } else {
            METRICS_RESERVE
        };
        let at = self.messages.ready_at(now, reserve);
        if at > now {
            return at;
        }
        let metrics = self.gauge.metrics(running, self.options.concurrency);
        let message = say::status(&self.options.agent_id, is_busy, &metrics);
        self.report(mouth, message);
        self.told_busy = Some(is_busy);
        self.status_at = now + self.options.status_interval;
        self.status_at
    }

    /// When the next message of output is due.
    pub(super) fn next_output(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_open || self.goodbye.is_some() || self.book.in_flight() >= WINDOW_BYTES {
            return None;
        }
        let (_, at) = self.next_writer(now)?;
        Some(at.max(self.output.ready_at(now, 0.0)))
    }

    /// The command whose output is due first, in turns where several are.
    fn next_writer(&mut self, now: Instant) -> Option<(String, Instant)> {
        let interval = self.output.interval(now);
        let due = |job: &Job| match job.last {
            // A full message waits for nothing, nor does the rest.
            _ if job.pending() >= MESSAGE_BYTES as u64 || job.ending().is_some() => now,
            None => now,
            Some(last) => (last + interval).max(now),
        };
        let waiting = self
            .book
            .jobs()
            .filter(|(_, job)| job.is_told() && job.pending() > 0);
        let turn = &self.turn;
        waiting
            .map(|(id, job)| (due(job), id <= turn, id))
            .min()
            .map(|(at, _, id)| (id.clone(), at))
    }

    pub(super) fn send_output(&mut self, room: Room<'_>) {
        let now = Instant::now();
        let Some((id, _)) = self.next_writer(now) else {
            return;
        };
        self.turn.clone_from(&id);
        let is_scarce = self.output.interval(now) > SCARCE;
        let Some(job) = self.book.job(&id) else {
            return;
        };
        job.last = Some(now);
        let Some(part) = job.next_part(MESSAGE_BYTES, is_scarce) else {
            return;
        };
        let message = say::output(&id, &self.options.agent_id, &part, self.options.compress);
        self.output.take(now);
        room.send(message);
    }
}

//! A scripted agent: it has one command, echoes what is typed into it, and
//! writes lines when it is told to.

use std::rc::Rc;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep_until;

use super::play::{Play, Scene, Schedule, Troupe, say};
use super::text::Text;
use crate::bench::progress::{add, read};
use crate::bench::socket::Socket;
use crate::bench::wire;

/// What the gateway says, as far as an agent cares.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heard<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    command_id: Option<&'a str>,
    content: Option<std::borrow::Cow<'a, str>>,
    error: Option<std::borrow::Cow<'a, str>>,
}

struct Agent {
    play: std::sync::Arc<Play>,
    number: usize,
    id: String,
    text: Text,
    is_in: bool,
    command: Option<String>,
    out: Vec<u8>,
    trouble: Option<String>,
}

/// A whole life.
pub(super) async fn live(troupe: Rc<Troupe>, number: usize) {
    let play = std::sync::Arc::clone(&troupe.play);
    let mut agent = Agent {
        id: play.setup.agents[number].0.clone(),
        text: Text::new(number, play.setup.line_bytes),
        play,
        number,
        is_in: false,
        command: None,
        out: Vec::new(),
        trouble: None,
    };
    if let Err(error) = agent.play(&troupe).await {
        troupe.fail("agent", &error);
    }
}

impl Agent {
    async fn play(&mut self, troupe: &Troupe) -> anyhow::Result<()> {
        let permit = troupe.opening.acquire().await.context("stopping")?;
        let token = &self.play.setup.agents[self.number].1;
        let mut socket = troupe.connect(token, self.number).await?;
        say(
            &mut self.out,
            &json!({
                "type": "agent:connect",
                "agentId": self.id,
                "agentType": "bench",
                "version": env!("CARGO_PKG_VERSION"),
                "capabilities": ["ack", "journal"],
            }),
        );
        while !self.is_in {
            self.flush(&mut socket).await?;
            self.read(troupe, &mut socket).await?;
        }
        drop(permit);
        let mut scenes = self.play.scene.subscribe();
        let mut schedule: Option<Schedule> = None;
        loop {
            // Not within what may be cut off: a frame must not be left half sent.
            self.flush(&mut socket).await?;
            let due = schedule.as_ref().map(Schedule::due);
            tokio::select! {
                heard = self.read(troupe, &mut socket) => heard?,
                changed = scenes.changed() => {
                    changed.context("the play is over")?;
                    schedule = self.schedule(*scenes.borrow());
                    add(&self.play.noted, 1);
                }
                () = until(due) => {
                    self.write();
                    if let Some(schedule) = &mut schedule {
                        schedule.done(&self.play.late);
                    }
                }
            }
        }
    }

    async fn read(&mut self, troupe: &Troupe, socket: &mut Socket) -> anyhow::Result<()> {
        let hear = |opcode: u8, payload: &[u8]| self.hear(opcode, payload);
        socket.read(&troupe.buffer, hear).await?;
        match self.trouble.take() {
            Some(trouble) => bail!(trouble),
            None => Ok(()),
        }
    }

    /// When this one writes, if it does.
    fn schedule(&self, scene: Scene) -> Option<Schedule> {
        let setup = &self.play.setup;
        match scene {
            Scene::Lines { rate } if self.number < setup.writers => {
                let writers = setup.writers as f64;
                let batches = rate / setup.batch as f64 / writers;
                Some(Schedule::new(batches, self.number as f64 / writers))
            }
            _ => None,
        }
    }

    async fn flush(&mut self, socket: &mut Socket) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            socket.write(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Takes a frame in.
    fn hear(&mut self, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::TEXT => {}
            wire::PING => {
                wire::write_frame(&mut self.out, wire::PONG, payload);
                return;
            }
            wire::CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                self.trouble = Some(format!("closed: {reason}"));
                return;
            }
            _ => return,
        }
        let heard: Heard<'_> = match serde_json::from_slice(payload) {
            Ok(heard) => heard,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return;
            }
        };
        match (heard.kind, heard.command_id) {
            ("agent:connected", _) => {
                self.is_in = true;
                add(&self.play.agents, 1);
            }
            ("command:execute", Some(id)) => {
                let status =
                    json!({"type": "command:status", "commandId": id, "status": "running"});
                say(&mut self.out, &status);
                self.command = Some(id.to_owned());
                add(&self.play.running, 1);
            }
            ("terminal:input", Some(id)) => {
                let content = heard.content.unwrap_or_default();
                let session = &self.play.sessions[self.number];
                let offset = read(&session.written);
                add(&session.written, content.len() as u64);
                let output = json!({
                    "type": "terminal:output",
                    "agentId": self.id,
                    "commandId": id,
                    "output": {"type": "stdout", "content": content},
                    "offset": offset,
                });
                say(&mut self.out, &output);
            }
            ("terminal:ack", _) => {}
            (kind, _) if kind.ends_with(":error") => {
                let error = heard.error.unwrap_or_default();
                self.trouble = Some(format!("{kind}: {error}"));
            }
            _ => {}
        }
    }

    /// Sends a batch of lines off.
    fn write(&mut self) {
        let Some(command) = &self.command else {
            return;
        };
        let session = &self.play.sessions[self.number];
        let lines = self.play.setup.batch;
        let offset = read(&session.written);
        let bytes = lines * self.text.line_bytes();
        let mut message = format!(
            r#"{{"type":"terminal:output","agentId":"{}","commandId":"{command}","offset":{offset},"output":{{"type":"stdout","content":""#,
            self.id
        );
        message.reserve(usize::try_from(bytes + lines).unwrap_or_default() + 8);
        let first = offset / self.text.line_bytes();
        self.text.write_json(first, lines, &mut message);
        message.push_str("\"}}");
        wire::write_frame(&mut self.out, wire::TEXT, message.as_bytes());
        session.send_off(offset + bytes);
        add(&session.written, bytes);
        add(&self.play.sent, lines);
    }
}

/// Ends at this time, if there is one.
async fn until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

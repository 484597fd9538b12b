//! What is known of agents and commands, and what of a message is news: after
//! a return the same may come again. Pure: messages in, what to show out.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

use crate::client::Message;
use crate::client::plain;

/// Commands that have ended and are remembered, should they be told again.
const ENDED_REMEMBERED: usize = 1_024;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// All agents, without what commands write.
    Fleet,
    /// One agent, with what its commands write.
    Agent(String),
    /// One command.
    Command(String),
}

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// What happened, for people.
    Line(String),
    /// What a command wrote.
    Output {
        /// The command.
        command: String,
        /// The stream's name.
        stream: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The terminal is to be cleared.
    Clear,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Unknown,
    Queued,
    Running,
    Ended,
}

#[derive(Debug)]
struct Command {
    stage: Stage,
    /// Its place among those that wait.
    position: u64,
    /// The offset behind what came of each stream.
    offsets: HashMap<String, u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) view: View,
    /// The agents that are connected, and how they are.
    agents: BTreeMap<String, String>,
    commands: HashMap<String, Command>,
    ended: VecDeque<String>,
    /// The commands that run, in the order in which they began.
    running: Vec<String>,
    /// Whether the agents were listed once.
    listed: bool,
    /// The stop that is in force, and how many agents obey it.
    stop: Option<(String, usize)>,
}

impl Story {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            agents: BTreeMap::new(),
            commands: HashMap::new(),
            ended: VecDeque::new(),
            running: Vec::new(),
            listed: false,
            stop: None,
        }
    }

    /// The command that began last and still runs, of those that are watched.
    pub(super) fn running(&self) -> Option<&str> {
        self.running.last().map(String::as_str)
    }

    /// Whether an agent is connected.
    pub(super) fn is_connected(&self, agent: &str) -> bool {
        self.agents.contains_key(agent)
    }

    /// What a message has to show people, which may be nothing; `None` where it
    /// is about something else, or was known.
    pub(super) fn take(&mut self, message: &Message) -> Option<Vec<Said>> {
        let agent = message.text("agentId").unwrap_or_default().to_owned();
        let is_watched = match &self.view {
            View::Fleet => true,
            View::Agent(watched) => agent.is_empty() || agent == *watched,
            View::Command(watched) => message.text("commandId") == Some(watched),
        };
        let about_all = message.kind().starts_with("system:") || message.kind() == "agent:list";
        if !is_watched && !about_all {
            return None;
        }
        match message.kind() {
            "agent:list" => self.list(message),
            "agent:status" => self.status(&agent, message),
            "command:status" => self.command(&agent, message),
            "command:complete" => self.complete(&agent, message),
            "terminal:output" => self.output(message),
            "terminal:gap" => self.gap(message),
            "terminal:clear" => match self.view {
                View::Agent(_) => Some(vec![Said::Clear]),
                View::Fleet | View::Command(_) => None,
            },
            "system:emergency-stop" => {
                let by = plain(message.text("by").unwrap_or_default());
                let reason = plain(message.text("reason").unwrap_or_default());
                Some(line(message, &format!("EMERGENCY STOP by {by}: {reason}")))
            }
            "system:emergency-status" => self.emergency(message),
            "system:resume" => {
                self.stop = None;
                let by = plain(message.text("by").unwrap_or_default());
                Some(line(message, &format!("emergency stop lifted by {by}")))
            }
            _ => None,
        }
    }

    fn list(&mut self, message: &Message) -> Option<Vec<Said>> {
        let text = |agent: &Value, field: &str| agent[field].as_str().unwrap_or("").to_owned();
        let agents = message.list("agents");
        let before = std::mem::take(&mut self.agents);
        self.agents = agents
            .iter()
            .map(|agent| (text(agent, "agentId"), text(agent, "status")))
            .collect();
        if self.view != View::Fleet {
            return Some(Vec::new());
        }
        if std::mem::replace(&mut self.listed, true) {
            return Some(self.since(&before, message));
        }
        let mut said = Vec::new();
        let mut row = |cells: [&str; 5]| {
            let [id, status, kind, since, running] = cells;
            let row = format!("{id:24} {status:8} {kind:12} {since:25} {running}");
            said.push(Said::Line(row.trim_end().to_owned()));
        };
        row(["AGENT", "STATUS", "TYPE", "CONNECTED", "RUNNING"]);
        for agent in agents {
            let running = agent["running"].as_array();
            let running = running.into_iter().flatten().filter_map(Value::as_str);
            let running = running.map(plain).collect::<Vec<_>>().join(" ");
            row([
                &plain(&text(agent, "agentId")),
                &plain(&text(agent, "status")),
                &plain(&text(agent, "agentType")),
                &plain(&text(agent, "connectedAt")),
                &running,
            ]);
        }
        if agents.is_empty() {
            said.push(Said::Line("(no agent is connected)".to_owned()));
        }
        Some(said)
    }

    /// Who has come, changed and gone since an earlier list.
    fn since(&self, before: &BTreeMap<String, String>, message: &Message) -> Vec<Said> {
        let gone = before.keys().filter(|id| !self.agents.contains_key(*id));
        let gone = gone.map(|id| (id, "left".to_owned()));
        let here = self.agents.iter().filter_map(|(id, status)| {
            let status = plain(status);
            match before.get(id) {
                None => Some((id, format!("joined, {status}"))),
                Some(before) => (*before != status).then_some((id, status)),
            }
        });
        let said = gone.chain(here);
        said.flat_map(|(id, what)| line(message, &format!("{}  {what}", plain(id))))
            .collect()
    }

    fn status(&mut self, agent: &str, message: &Message) -> Option<Vec<Said>> {
        let status = message.text("status").unwrap_or_default();
        let before = if status == "offline" {
            self.agents.remove(agent)
        } else {
            self.agents.insert(agent.to_owned(), status.to_owned())
        };
        if before.as_deref() == Some(status) {
            // Its metrics alone.
            return Some(Vec::new());
        }
        let what = match (&before, status) {
            (None, "offline") => return Some(Vec::new()),
            (Some(_), "offline") => "left".to_owned(),
            (None, status) => format!("joined, {}", plain(status)),
            (Some(_), status) => plain(status),
        };
        Some(line(message, &format!("{}  {what}", plain(agent))))
    }

    fn known(&mut self, id: &str) -> &mut Command {
        self.commands.entry(id.to_owned()).or_insert(Command {
            stage: Stage::Unknown,
            position: 0,
            offsets: HashMap::new(),
        })
    }

    fn command(&mut self, agent: &str, message: &Message) -> Option<Vec<Said>> {
        let id = message.text("commandId")?.to_owned();
        let place = message.count("position").unwrap_or(0);
        let wait = message.count("estimatedWait").unwrap_or(0);
        let is_alone = matches!(self.view, View::Command(_));
        let command = self.known(&id);
        let before = command.stage;
        let what = match message.text("status") {
            Some("queued") if before > Stage::Queued => return None,
            Some("queued") => {
                if before == Stage::Queued && command.position == place {
                    return None;
                }
                command.stage = Stage::Queued;
                command.position = place;
                // Of one's own command only what one waits for.
                if is_alone && (before == Stage::Unknown && place <= 1 && wait < 1_000) {
                    return Some(Vec::new());
                }
                let mut what = match place {
                    0 => "queued".to_owned(),
                    place if wait == 0 => format!("queued at place {place}"),
                    place => format!("queued at place {place}, about {}", duration(wait)),
                };
                if let Some(command) = message.text("command") {
                    let priority = plain(message.text("priority").unwrap_or_default());
                    let by = plain(message.text("by").unwrap_or_default());
                    let command = words(command, message.list("args"));
                    what = format!("{what}: {command} ({priority}, by {by})");
                }
                what
            }
            Some("running") if before >= Stage::Running => return None,
            Some("running") => {
                command.stage = Stage::Running;
                self.running.push(id.clone());
                if is_alone {
                    return Some(Vec::new());
                }
                "running".to_owned()
            }
            _ if before == Stage::Ended => return None,
            // `command:complete` follows and says the same.
            _ => return Some(Vec::new()),
        };
        Some(line(message, &about(agent, &id, &what, is_alone)))
    }

    fn complete(&mut self, agent: &str, message: &Message) -> Option<Vec<Said>> {
        let id = message.text("commandId")?.to_owned();
        if self.ended.contains(&id) {
            return None;
        }
        self.known(&id).stage = Stage::Ended;
        self.running.retain(|running| *running != id);
        self.ended.push_back(id.clone());
        if self.ended.len() > ENDED_REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.commands.remove(&oldest);
        }
        let is_alone = matches!(self.view, View::Command(_));
        let status = message.text("status").unwrap_or("ended");
        if is_alone && status == "completed" && !message.is("incomplete") {
            return Some(Vec::new());
        }
        let mut what = plain(status);
        if let Some(signal) = message.text("signal") {
            what.push_str(&format!(", by signal {}", plain(signal)));
        } else if let Some(code) = message.count("exitCode") {
            what.push_str(&format!(", exit code {code}"));
        }
        if let Some(reason) = message.text("reason") {
            what.push_str(&format!(", {}", plain(reason)));
        }
        if let Some(time) = message.count("duration") {
            what.push_str(&format!(", {}", duration(time)));
        }
        if message.is("incomplete") {
            what.push_str(", output may be missing");
        }
        Some(line(message, &about(agent, &id, &what, is_alone)))
    }

    fn output(&mut self, message: &Message) -> Option<Vec<Said>> {
        if self.view == View::Fleet {
            return None;
        }
        let id = message.text("commandId")?.to_owned();
        let stream = message.text("stream").unwrap_or("stdout").to_owned();
        let offset = message.count("offset").unwrap_or(0);
        let mut bytes = message.output();
        let end = offset + bytes.len() as u64;
        let command = self.known(&id);
        if command.stage == Stage::Ended {
            return None;
        }
        let next = command.offsets.insert(stream.clone(), end);
        let mut said = Vec::new();
        if let Some(next) = next {
            if end <= next {
                command.offsets.insert(stream, next);
                return None;
            }
            let known = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
            bytes.drain(..known.min(bytes.len()));
            if offset > next {
                let what = format!("{} bytes of {} are missing", offset - next, plain(&stream));
                said.extend(line(message, &what));
            }
        }
        said.push(Said::Output {
            command: id,
            stream,
            bytes,
        });
        Some(said)
    }

    fn gap(&mut self, message: &Message) -> Option<Vec<Said>> {
        if self.view == View::Fleet {
            return None;
        }
        let id = message.text("commandId")?.to_owned();
        let stream = message.text("stream").unwrap_or("stdout").to_owned();
        let (from, to) = (message.count("from")?, message.count("to"));
        let command = self.known(&id);
        let behind = to.unwrap_or(u64::MAX);
        if command
            .offsets
            .get(&stream)
            .is_some_and(|next| *next >= behind)
        {
            return None;
        }
        command.offsets.insert(stream.clone(), behind);
        let stream = plain(&stream);
        let what = match (to, message.text("reason")) {
            (Some(to), _) => format!("{} bytes of {stream} were lost", to.saturating_sub(from)),
            (None, _) => format!("{stream} is recorded up to byte {from} and no further"),
        };
        Some(line(message, &what))
    }

    /// How far a stop is obeyed; told again with each agent that confirms.
    fn emergency(&mut self, message: &Message) -> Option<Vec<Said>> {
        let agents = message.list("agents");
        let is = |state: &str| {
            agents
                .iter()
                .filter(|agent| agent["state"] == state)
                .count()
        };
        let (confirmed, unreachable) = (is("confirmed"), is("unreachable"));
        let stop = (
            message.text("stopId").unwrap_or_default().to_owned(),
            confirmed + unreachable,
        );
        if self.stop.as_ref() == Some(&stop) {
            return None;
        }
        self.stop = Some(stop);
        let by = plain(message.text("by").unwrap_or_default());
        let what = format!(
            "emergency stop by {by} in force: {confirmed} agents have confirmed, {unreachable} are out of reach"
        );
        Some(line(message, &what))
    }
}

/// A line that says when.
fn line(message: &Message, what: &str) -> Vec<Said> {
    let when = plain(message.text("timestamp").unwrap_or_default());
    vec![Said::Line(format!("{when}  {what}"))]
}

/// What happened to a command; of one's own there is no need to say which.
fn about(agent: &str, id: &str, what: &str, is_alone: bool) -> String {
    if is_alone {
        what.to_owned()
    } else {
        format!("{}  {}  {what}", plain(agent), plain(id))
    }
}

fn words(command: &str, args: &[Value]) -> String {
    let args = args.iter().filter_map(Value::as_str);
    let words = std::iter::once(command).chain(args).map(plain);
    words.collect::<Vec<_>>().join(" ")
}

/// Milliseconds as people say them.
fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1e3),
        _ => format!("{} min {} s", millis / 60_000, millis / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests;

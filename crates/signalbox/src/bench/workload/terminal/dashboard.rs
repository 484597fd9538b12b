//! A dashboard: it has its share of the sessions, starts their commands, types
//! into them, and accounts for every byte of every session, its own or not.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::play::{Play, Scene, Schedule, Troupe, say};
use super::text::{Account, Text};
use crate::bench::account::Tally;
use crate::bench::progress::{add, read};
use crate::bench::socket::Socket;
use crate::bench::wire;

/// The pause before a dashboard that was sent away returns.
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts to return before one gives up.
const ATTEMPTS: u32 = 50;

/// What the gateway says, as far as a dashboard cares.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heard<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    agent_id: Option<&'a str>,
    command_id: Option<&'a str>,
    request_id: Option<&'a str>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    output: Option<Output<'a>>,
    offset: Option<u64>,
    seq: Option<&'a str>,
    recovered: Option<bool>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// What was said within one connection.
#[derive(Default)]
struct Talk {
    out: Vec<u8>,
    is_in: bool,
    ended: Option<String>,
}

/// See the module.
pub(super) struct Dashboard {
    number: usize,
    /// Its sessions.
    own: Vec<usize>,
    accounts: RefCell<Vec<Account>>,
    /// What it types into each of its sessions, and how many lines it has.
    typed: RefCell<Vec<(Text, u64)>>,
    /// The position to return to.
    position: RefCell<Option<String>>,
    /// Whose turn it is to be typed into.
    turn: std::cell::Cell<usize>,
}

impl Dashboard {
    pub(super) fn new(play: &Play, number: usize) -> Self {
        let (sessions, setup) = (play.sessions.len(), &play.setup);
        let text = |session| Text::new(session, setup.line_bytes);
        let own: Vec<usize> = (number..sessions).step_by(setup.dashboards).collect();
        Self {
            number,
            accounts: RefCell::new((0..sessions).map(text).map(Account::new).collect()),
            typed: RefCell::new(own.iter().map(|session| (text(*session), 0)).collect()),
            own,
            position: RefCell::default(),
            turn: std::cell::Cell::default(),
        }
    }

    /// What it got of all sessions.
    pub(super) fn audit(&self, play: &Play) -> Tally {
        let mut sum = Tally::default();
        for (account, session) in self.accounts.borrow().iter().zip(&play.sessions) {
            sum.add(&account.audit(read(&session.written)));
        }
        sum
    }

    /// Takes a frame in.
    fn hear(&self, play: &Play, talk: &mut Talk, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::TEXT => {}
            wire::PING => return wire::write_frame(&mut talk.out, wire::PONG, payload),
            wire::CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                talk.ended = Some(format!("closed: {reason}"));
                return;
            }
            _ => return,
        }
        let heard: Heard<'_> = match serde_json::from_slice(payload) {
            Ok(heard) => heard,
            Err(error) => {
                talk.ended = Some(error.to_string());
                return;
            }
        };
        match heard.kind {
            "terminal:output" => self.note(play, &heard),
            "agent:list" => {
                if heard.recovered == Some(false) {
                    play.count("a dashboard could not go on where it was");
                }
                talk.is_in = true;
                self.stand(heard.seq);
            }
            "command:queued" => {
                let session = heard.request_id.and_then(|id| id.parse::<usize>().ok());
                let session = session.and_then(|session| play.sessions.get(session));
                if let (Some(session), Some(id)) = (session, heard.command_id) {
                    session.command.set(id.to_owned()).ok();
                }
            }
            kind if kind.ends_with(":error") => {
                play.count(&format!("{kind}: {}", heard.error.unwrap_or_default()));
            }
            _ => {}
        }
    }

    fn stand(&self, seq: Option<&str>) {
        if let Some(seq) = seq {
            let mut position = self.position.borrow_mut();
            let position = position.get_or_insert_default();
            position.clear();
            position.push_str(seq);
        }
    }

    fn note(&self, play: &Play, heard: &Heard<'_>) {
        let (Some(agent), Some(output), Some(offset)) =
            (heard.agent_id, &heard.output, heard.offset)
        else {
            return;
        };
        let number = agent
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse().ok());
        let mut accounts = self.accounts.borrow_mut();
        let Some((number, account)) =
            number.and_then(|number: usize| Some((number, accounts.get_mut(number)?)))
        else {
            return;
        };
        let bytes = output.content.as_bytes();
        account.note(offset, bytes);
        add(&play.received, bytes.len() as u64);
        if number % play.setup.dashboards == self.number {
            play.sessions[number].arrive(account.whole(), &play.latency);
        }
        self.stand(heard.seq);
    }

    /// Types a line into the next of its sessions.
    fn type_line(&self, play: &Play, out: &mut Vec<u8>) {
        if self.own.is_empty() {
            return;
        }
        let turn = self.turn.get();
        self.turn.set((turn + 1) % self.own.len());
        let session = &play.sessions[self.own[turn]];
        let mut typed = self.typed.borrow_mut();
        let (text, lines) = &mut typed[turn];
        let Some(command) = session.command.get() else {
            return;
        };
        let mut message =
            format!(r#"{{"type":"terminal:input","commandId":"{command}","content":""#);
        text.write_json(*lines, 1, &mut message);
        message.push_str("\"}");
        *lines += 1;
        session.send_off(*lines * text.line_bytes());
        wire::write_frame(out, wire::TEXT, message.as_bytes());
        add(&play.sent, 1);
    }

    /// How often it types, if it does.
    fn schedule(&self, play: &Play, scene: Scene) -> Option<Schedule> {
        let Scene::Echo { rate } = scene else {
            return None;
        };
        let share = self.own.len() as f64 / play.sessions.len() as f64;
        let place = self.number as f64 / play.setup.dashboards as f64;
        (!self.own.is_empty()).then(|| Schedule::new(rate * share, place))
    }
}

/// A whole life.
pub(super) async fn live(troupe: Rc<Troupe>, dashboard: Rc<Dashboard>) {
    let mut attempts = 0;
    loop {
        let before = read(&troupe.play.dashboards);
        let Err(error) = stay(&troupe, &dashboard).await;
        let was_in = dashboard.position.borrow().is_some();
        attempts = if read(&troupe.play.dashboards) > before {
            0
        } else {
            attempts + 1
        };
        if !was_in || attempts > ATTEMPTS {
            return troupe.fail("dashboard", &error);
        }
        troupe.play.count(&format!("dashboard: {error:#}"));
        add(&troupe.play.returns, 1);
        sleep(PAUSE).await;
    }
}

async fn stay(troupe: &Troupe, dashboard: &Dashboard) -> anyhow::Result<std::convert::Infallible> {
    let play = &troupe.play;
    let permit = troupe.opening.acquire().await.context("stopping")?;
    let mut socket = troupe.connect(&play.setup.token, dashboard.number).await?;
    let mut talk = Talk::default();
    let position = dashboard.position.borrow().clone();
    let mut hello = json!({
        "type": "dashboard:connect",
        "dashboardId": format!("bench-{}", dashboard.number),
    });
    if let Some(position) = &position {
        hello["resumeFrom"] = json!(position);
    }
    say(&mut talk.out, &hello);
    while !talk.is_in {
        flush(&mut socket, &mut talk).await?;
        turn(troupe, dashboard, &mut socket, &mut talk).await?;
    }
    drop(permit);
    if position.is_none() {
        for session in &dashboard.own {
            let (agent_id, _) = &play.setup.agents[*session];
            let request = json!({
                "type": "command:request",
                "agentId": agent_id,
                "command": "bench",
                "requestId": session.to_string(),
            });
            say(&mut talk.out, &request);
        }
    }
    add(&play.dashboards, 1);
    let mut scenes = play.scene.subscribe();
    let mut schedule = dashboard.schedule(play, *scenes.borrow());
    loop {
        // Not within what may be cut off: a frame must not be left half sent.
        flush(&mut socket, &mut talk).await?;
        let due = schedule.as_ref().map(Schedule::due);
        tokio::select! {
            step = turn(troupe, dashboard, &mut socket, &mut talk) => step?,
            changed = scenes.changed() => {
                changed.context("the play is over")?;
                schedule = dashboard.schedule(play, *scenes.borrow());
            }
            () = until(due) => {
                dashboard.type_line(play, &mut talk.out);
                if let Some(schedule) = &mut schedule {
                    schedule.done(&play.late);
                }
            }
        }
    }
}

/// Sends what waits.
async fn flush(socket: &mut Socket, talk: &mut Talk) -> anyhow::Result<()> {
    if !talk.out.is_empty() {
        socket.write(&talk.out).await?;
        talk.out.clear();
    }
    Ok(())
}

/// Reads once and takes in what came.
async fn turn(
    troupe: &Troupe,
    dashboard: &Dashboard,
    socket: &mut Socket,
    talk: &mut Talk,
) -> anyhow::Result<()> {
    let hear = |opcode: u8, payload: &[u8]| dashboard.hear(&troupe.play, talk, opcode, payload);
    socket.read(&troupe.buffer, hear).await?;
    if let Some(reason) = talk.ended.take() {
        bail!(reason);
    }
    Ok(())
}

/// Ends at this time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

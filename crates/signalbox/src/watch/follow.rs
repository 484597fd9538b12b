//! The conversation: messages, keys, signals and times in one place, and what
//! follows from each. One file, since each changes what the next may do; what
//! can be decided without the others is in files of its own.

mod stopping;

use std::future::pending;
use std::time::Duration;

use serde_json::json;
use signalbox_service::ExitError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::errand::{self, Errand, INTERRUPT, Step};
use super::link::{Link, News};
use super::options::WatchArgs;
use super::screen::{Exit, Gone, Screen};
use super::story::{Said, Story, View};
use super::terminal::{self, RawMode};
use super::typing::{Typed, Typing};
use crate::client::Message;
use crate::client::Target;
use crate::client::plain;

/// What one leaves with at the second Ctrl-C, as shells have it.
const LEFT: u8 = 130;
/// The shortest time between two changes of the terminal's size.
const RESIZE_INTERVAL: Duration = Duration::from_secs(1);

/// Why the conversation is over.
enum End {
    /// With this exit code.
    Code(u8),
    /// Nobody reads standard output any more.
    Gone,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Signals that mean to leave.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resized: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
        })
    }
}

/// See the module.
struct Watch<'a> {
    args: &'a WatchArgs,
    target: Target,
    link: Link,
    story: Story,
    screen: Screen,
    errand: Option<Errand>,
    typing: Typing,
    /// How often it was asked to stop.
    interrupts: usize,
    /// Whether a command is to be interrupted, and nobody has said yet that it
    /// is.
    is_interrupting: bool,
    /// When it is to be interrupted again.
    interrupt_at: Option<Instant>,
    /// When the size is to be told, and to which command it was told last.
    resize_at: Option<Instant>,
    sized: Option<String>,
}

/// Watches until there is no more to watch; gives the exit code.
///
/// # Errors
/// When there is no gateway, or none that lets this in.
pub(super) async fn follow(args: &WatchArgs) -> Result<u8, ExitError> {
    let target = args.target()?;
    let mut signals = Signals::listen().map_err(ExitError::runtime)?;
    let patience = args.connect.patience();
    let opening = Link::open(target.clone(), patience);
    let link = tokio::select! {
        link = opening => link.map_err(ExitError::runtime)?,
        _ = signals.interrupt.recv() => return Ok(LEFT),
        _ = signals.terminate.recv() => return Ok(128 + 15),
    };
    // From here on the terminal is put in order by whoever leaves this function.
    let raw = match args.input {
        true => RawMode::enter().map_err(ExitError::runtime)?,
        false => None,
    };
    let keys = match args.input {
        true => Some(terminal::keys().map_err(ExitError::runtime)?),
        false => None,
    };
    let view = match (&args.agent, args.run.is_empty()) {
        (None, _) => View::Fleet,
        (Some(agent), true) => View::Agent(agent.clone()),
        // Until it has a name, nothing is about it.
        (Some(_), false) => View::Command(String::new()),
    };
    let mut watch = Watch {
        args,
        target,
        link,
        story: Story::new(view),
        screen: Screen::new(args.escapes, args.input).map_err(ExitError::runtime)?,
        errand: args
            .agent
            .as_deref()
            .and_then(|agent| Errand::new(agent, args)),
        typing: Typing::new(raw.is_some()),
        interrupts: 0,
        is_interrupting: false,
        interrupt_at: None,
        resize_at: None,
        sized: None,
    };
    let outcome = watch.run(&mut signals, keys).await;
    watch.link.leave().await;
    watch.screen.finish().await;
    drop(raw);
    match outcome {
        Ok(End::Code(code)) => Ok(code),
        Ok(End::Gone) => Ok(0),
        Err(error) => Err(ExitError::runtime(error)),
    }
}

impl Watch<'_> {
    async fn run(
        &mut self,
        signals: &mut Signals,
        mut keys: Option<mpsc::Receiver<Vec<u8>>>,
    ) -> anyhow::Result<End> {
        loop {
            let is_in = self.link.is_in();
            let ask_at = self.errand.as_ref().and_then(Errand::due).filter(|_| is_in);
            let type_at = self
                .typing
                .due()
                .filter(|_| is_in && self.typist().is_some());
            let interrupt_at = self.interrupt_at.filter(|_| is_in);
            let resize_at = self.resize_at.filter(|_| is_in && self.typist().is_some());
            let step = tokio::select! {
                news = self.link.next() => self.news(news?).await,
                typed = next(&mut keys), if self.typing.has_room() => match typed {
                    Some(typed) => self.typed(&typed).await,
                    None => {
                        keys = None;
                        self.typing.close();
                        Ok(())
                    }
                },
                () = until(ask_at) => {
                    self.ask().await;
                    Ok(())
                }
                () = until(type_at) => {
                    if let Some(command) = self.typist() {
                        let message = self.typing.next(&command);
                        self.link.send(&message).await;
                    }
                    Ok(())
                }
                () = until(interrupt_at) => {
                    self.interrupt_at = None;
                    self.send_interrupt().await;
                    Ok(())
                }
                () = until(resize_at) => {
                    self.resize().await;
                    Ok(())
                }
                _ = signals.resized.recv() => {
                    self.sized = None;
                    self.resize_soon();
                    Ok(())
                }
                _ = signals.interrupt.recv() => self.interrupt(1).await,
                _ = signals.terminate.recv() => Err(End::Code(128 + 15)),
                _ = signals.hangup.recv() => Err(End::Code(128 + 1)),
                _ = signals.quit.recv() => Err(End::Code(128 + 3)),
            };
            if let Err(end) = step {
                return Ok(end);
            }
        }
    }

    /// The command that is typed into.
    fn typist(&self) -> Option<String> {
        self.args
            .input
            .then(|| self.story.running().map(str::to_owned))
            .flatten()
    }

    async fn news(&mut self, news: News) -> Result<(), End> {
        match news {
            News::Message(message) => {
                // Ahead of it: what follows from it may be to go further back.
                self.link.note(&message);
                self.hear(&message).await
            }
            News::Here { list, recovered } => {
                self.link.note(&list);
                self.here(&list, recovered).await
            }
            News::Lost(why) => {
                self.notice(&format!("{why}; returning")).await?;
                let typed = self.typing.lost();
                self.came_of(typed, &why).await
            }
        }
    }

    async fn here(&mut self, list: &Message, recovered: Option<bool>) -> Result<(), End> {
        match recovered {
            Some(true) => self.notice("back, and nothing was missed").await?,
            Some(false) => {
                self.notice(
                    "back, but what happened meanwhile is kept no more; what runs now follows",
                )
                .await?;
            }
            None => {}
        }
        self.show(list).await?;
        if self.args.once {
            return Err(End::Code(0));
        }
        if let Some(errand) = &mut self.errand {
            errand.returned();
            if recovered == Some(false)
                && let Some(id) = errand.command()
                && self.story.running() == Some(id)
                && has_lost(list, self.args.agent.as_deref(), id)
            {
                self.notice("the command ended meanwhile, and nobody knows how")
                    .await?;
                return Err(End::Code(errand::UNKNOWN));
            }
        } else if let Some(agent) = &self.args.agent
            && recovered.is_none()
            && !self.story.is_connected(agent)
        {
            let text = format!("{} is not connected, waiting for it", plain(agent));
            self.notice(&text).await?;
        }
        if self.is_interrupting {
            self.send_interrupt().await;
        }
        Ok(())
    }

    async fn ask(&mut self) {
        let position = self.link.position().map(str::to_owned);
        if let Some(errand) = &mut self.errand {
            let request = errand.ask(position.as_deref());
            self.link.send(&request).await;
        }
    }

    async fn hear(&mut self, message: &Message) -> Result<(), End> {
        if let Some(errand) = &mut self.errand {
            match errand.answer(message) {
                Step::Wait => {}
                Step::Again(why) => self.notice(&format!("{why}; asking again")).await?,
                Step::Refused(why) => {
                    self.print(message).await?;
                    self.notice(&why).await?;
                    return Err(End::Code(errand::UNKNOWN));
                }
                Step::Accepted(id, held, is_whole) => {
                    let since = errand.since.clone();
                    self.print(message).await?;
                    self.story.view = View::Command(id);
                    if !is_whole {
                        self.link.rewind(since);
                    }
                    for message in &held {
                        self.tell(message).await?;
                    }
                    if self.is_interrupting {
                        self.send_interrupt().await;
                    }
                    return Ok(());
                }
            }
        }
        if self
            .errand
            .as_mut()
            .is_some_and(|errand| errand.hold(message))
        {
            return Ok(());
        }
        let typed = self.typing.answer(message);
        if typed != Typed::Other {
            let error = plain(message.text("error").unwrap_or_default());
            return self.came_of(typed, &error).await;
        }
        match message.kind() {
            "request:done" => {
                if message.text("requestId") == Some(INTERRUPT) {
                    self.is_interrupting = false;
                }
                Ok(())
            }
            "auth:refresh-needed" => self.refresh(message).await,
            "auth:refresh-success" | "heartbeat:ping" | "heartbeat:pong" | "command:queued" => {
                Ok(())
            }
            "connection:error" | "command:error" | "validation:error" | "auth:refresh-failed" => {
                self.print(message).await?;
                if message.text("requestId") == Some(INTERRUPT) && self.interrupts_again(message)? {
                    return Ok(());
                }
                let error = plain(message.text("error").unwrap_or_default());
                self.notice(&error).await
            }
            _ => self.tell(message).await,
        }
    }

    /// Tells of agents and commands.
    async fn tell(&mut self, message: &Message) -> Result<(), End> {
        self.show(message).await?;
        match (message.kind(), message.text("commandId")) {
            ("command:complete", Some(id)) => {
                self.screen.forget(id);
                let is_ours = self.errand.as_ref().and_then(Errand::command) == Some(id);
                if is_ours {
                    return Err(End::Code(self.exit_code(message)));
                }
            }
            ("command:status", _) if message.text("status") == Some("running") => {
                self.resize_soon();
            }
            _ => {}
        }
        Ok(())
    }

    async fn show(&mut self, message: &Message) -> Result<(), End> {
        let Some(said) = self.story.take(message) else {
            return Ok(());
        };
        if self.args.json {
            return self.print(message).await;
        }
        let exit = match self.story.view {
            View::Fleet => Exit::Out,
            View::Agent(_) | View::Command(_) => Exit::Err,
        };
        for said in said {
            match said {
                Said::Line(text) => self.screen.line(exit, &text).await?,
                Said::Output {
                    command,
                    stream,
                    bytes,
                } => self.screen.output(command, stream, &bytes).await?,
                Said::Clear => self.screen.clear().await?,
            }
        }
        Ok(())
    }

    /// Prints a message for programs, if they are who listens.
    async fn print(&self, message: &Message) -> Result<(), End> {
        if self.args.json {
            self.screen.line(Exit::Out, &message.line()).await?;
        }
        Ok(())
    }

    /// Says something of its own.
    async fn notice(&self, text: &str) -> Result<(), End> {
        let text = format!("signalbox: {text}");
        Ok(self.screen.line(Exit::Err, &text).await?)
    }

    async fn typed(&mut self, keys: &[u8]) -> Result<(), End> {
        match self.typing.take(keys) {
            0 => Ok(()),
            times => self.interrupt(times).await,
        }
    }

    fn resize_soon(&mut self) {
        if self.args.input && terminal::size().is_some() {
            self.resize_at.get_or_insert_with(Instant::now);
        }
    }

    /// Tells the command that is typed into how large the terminal is.
    async fn resize(&mut self) {
        self.resize_at = None;
        let (Some(command), Some((columns, rows))) = (self.typist(), terminal::size()) else {
            return;
        };
        if self.sized.as_ref() == Some(&command) {
            return;
        }
        let message = json!({
            "type": "terminal:resize",
            "commandId": command,
            "columns": columns,
            "rows": rows,
        });
        self.link.send(&message).await;
        self.sized = Some(command);
        // A window that is dragged says so many times a second.
        self.resize_at = Some(Instant::now() + RESIZE_INTERVAL);
    }

    /// The token expires: a file may have a fresh one.
    async fn refresh(&mut self, message: &Message) -> Result<(), End> {
        if self.args.connect.key_file.is_some()
            && let Ok(token) = self.target.credential()
        {
            let fresh = json!({"type": "auth:refresh-token", "token": token});
            self.link.send(&fresh).await;
            return Ok(());
        }
        let when = plain(message.text("expiresAt").unwrap_or_default());
        self.notice(&format!("the token expires at {when}")).await
    }
}

/// Whether an agent is there, and runs a command no more.
fn has_lost(list: &Message, agent: Option<&str>, command: &str) -> bool {
    let mut agents = list.list("agents").iter();
    let agent = agents.find(|listed| listed["agentId"].as_str() == agent);
    agent.is_some_and(|agent| {
        let running = agent["running"].as_array().into_iter().flatten();
        running.into_iter().all(|running| running != command)
    })
}

/// What is typed next; never, where nothing is.
async fn next(keys: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => pending().await,
    }
}

/// Ends at this time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

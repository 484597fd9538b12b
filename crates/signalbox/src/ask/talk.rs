//! A question and its answer, over as many connections as it takes.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::show::Show;
use super::{AGENT, AskArgs};
use crate::client::{Connection, Failure, Heard, Message, Target, plain};
use crate::output;

/// The pause before the first attempt to return.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer is whole.
    Answered,
    /// It was cancelled, by this client or another.
    Cancelled,
}

/// What became of a connection.
enum End {
    /// It served its purpose.
    Over(Ending),
    /// It is gone, for this reason.
    Lost(String),
}

/// See the module.
pub(super) struct Talk {
    target: Target,
    patience: Duration,
    agent: String,
    question: String,
    context: Option<Value>,
    /// The chat, once it is known.
    session: Option<String>,
    /// Names the question, so that it is said once.
    message_id: String,
    /// Whether the question was said, heard or not.
    is_asked: bool,
    /// Whether the answer is to be cancelled, on whatever connection.
    is_cancelling: bool,
    /// The answer and the last chunk of it that was shown, once there is one.
    reached: Option<(u64, u64)>,
    /// What was shown of tools: a return brings it again.
    shown: HashSet<(u64, String)>,
    show: Show,
    /// When the chat was lost, until something of it is heard again.
    lost_at: Option<Instant>,
    /// The pause before the next attempt to return.
    pause: Duration,
}

impl Talk {
    pub(super) fn new(target: Target, args: &AskArgs, context: Option<Value>) -> Self {
        Self {
            target,
            patience: args.connect.patience(),
            agent: args.agent.clone().unwrap_or_else(|| AGENT.to_owned()),
            question: args.question.join(" "),
            context,
            session: args.chat.clone(),
            message_id: Uuid::new_v4().simple().to_string(),
            is_asked: false,
            is_cancelling: false,
            reached: None,
            shown: HashSet::new(),
            show: Show::new(args.json),
            lost_at: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Asks, and shows the answer to its end.
    ///
    /// # Errors
    /// When the agent, the gateway or the patience gives up.
    pub(super) async fn run(mut self) -> anyhow::Result<Ending> {
        let mut interrupts = signal(SignalKind::interrupt())?;
        loop {
            let target = self.target.clone();
            let attempt = self.unless_given_up(&mut interrupts, target.connect());
            let Some(attempt) = attempt.await else {
                return Ok(Ending::Cancelled);
            };
            let why = match attempt {
                Ok(connection) => match self.converse(connection, &mut interrupts).await? {
                    End::Over(ending) => return Ok(ending),
                    End::Lost(why) => {
                        output::error(format_args!("signalbox: {why}; returning"));
                        why
                    }
                },
                Err(Failure::Final(why)) => bail!(why),
                // At the first attempt nobody is there to return to.
                Err(Failure::Passing(why) | Failure::Elsewhere(why)) if self.session.is_none() => {
                    bail!(why)
                }
                Err(Failure::Passing(why) | Failure::Elsewhere(why)) => why,
            };
            let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
            if lost_at.elapsed() >= self.patience {
                bail!("not back within {} s: {why}", self.patience.as_secs());
            }
            // Many that lost the same gateway do not return all at once.
            let pause = sleep(self.pause.mul_f64(0.5 + rand::random::<f64>()));
            if self.unless_given_up(&mut interrupts, pause).await.is_none() {
                return Ok(Ending::Cancelled);
            }
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for something while nobody is connected; gives `None` where an
    /// interrupt ends everything meanwhile.
    async fn unless_given_up<T>(
        &mut self,
        interrupts: &mut Signal,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                _ = interrupts.recv() => {
                    if self.gives_up() {
                        return None;
                    }
                }
            }
        }
    }

    /// Takes in an interrupt: the answer is to be cancelled. Says whether that
    /// is not waited for, since nothing was asked or it was the second one.
    fn gives_up(&mut self) -> bool {
        !self.is_asked || std::mem::replace(&mut self.is_cancelling, true)
    }

    async fn converse(
        &mut self,
        mut connection: Connection,
        interrupts: &mut Signal,
    ) -> anyhow::Result<End> {
        let is_return = self.is_asked;
        loop {
            let message = tokio::select! {
                heard = connection.next() => match heard {
                    Heard::Message(message) => message,
                    Heard::Ended(Failure::Final(why)) => bail!(why),
                    Heard::Ended(Failure::Passing(why) | Failure::Elsewhere(why)) => {
                        return Ok(End::Lost(why));
                    }
                },
                _ = interrupts.recv() => {
                    if self.gives_up() {
                        return Ok(End::Over(Ending::Cancelled));
                    }
                    // The end of the connection is heard when it is read.
                    connection.send(&self.cancellation()).await.ok();
                    continue;
                }
            };
            // A first question may be refused for good; one that was taken may
            // be answered meanwhile, and what is refused now is asked again.
            let is_under_way = is_return || self.is_cancelling || self.reached.is_some();
            let next = match message.kind() {
                "auth_success" => {
                    let opening = self.opening();
                    connection.send(&opening).await.ok();
                    self.is_cancelling.then(|| self.cancellation())
                }
                "chat_session_started" if self.session.is_none() => {
                    self.session = message.text("session_id").map(str::to_owned);
                    self.show.began(&message);
                    self.is_back();
                    Some(self.question())
                }
                // Where it names no answer, that was over: its end is told.
                "chat_cancelled" if self.is_cancelling && message.count("answer").is_some() => {
                    return Ok(End::Over(Ending::Cancelled));
                }
                "agent_error" if is_under_way && is_out_of_reach(&message) => {
                    return Ok(End::Lost(reason(&message)));
                }
                "error" => match message.text("code") {
                    // The connection stays until then.
                    Some("TOKEN_EXPIRING") => None,
                    Some("CONNECTION_FAILED") => {
                        let said = message.text("message").unwrap_or_default();
                        return Ok(End::Lost(plain(said)));
                    }
                    _ => bail!(complaint(&message)),
                },
                "rate_limit_exceeded" if is_under_way => return Ok(End::Lost(complaint(&message))),
                "rate_limit_exceeded" => bail!(complaint(&message)),
                _ => match self.hear(&message)? {
                    Some(ending) => return Ok(End::Over(ending)),
                    None => None,
                },
            };
            if let Some(next) = next {
                connection.send(&next).await.ok();
            }
        }
    }

    /// Notes that the chat is heard: what is lost from now on is another loss.
    fn is_back(&mut self) {
        self.lost_at = None;
        self.pause = FIRST_PAUSE;
    }

    /// What is said first on a connection.
    fn opening(&mut self) -> Value {
        match (&self.session, self.reached) {
            (None, _) => {
                let mut start = json!({"type": "start_chat", "agent_type": self.agent});
                if let Some(context) = &self.context {
                    start["context"] = context.clone();
                }
                start
            }
            (Some(_), None) => self.question(),
            (Some(session), Some((answer, chunk))) => json!({
                "type": "resume_chat",
                "session_id": session,
                "answer": answer,
                "after_chunk": chunk,
            }),
        }
    }

    fn question(&mut self) -> Value {
        self.is_asked = true;
        let mut message = json!({
            "type": "chat_message",
            "session_id": self.session,
            "message": self.question,
            "message_id": self.message_id,
        });
        if let Some(context) = &self.context {
            message["context"] = context.clone();
        }
        message
    }

    /// What has the answer cancelled: the one that was read, or else the last.
    fn cancellation(&self) -> Value {
        let mut cancel = json!({"type": "cancel_chat", "session_id": self.session});
        if let Some((answer, _)) = self.reached {
            cancel["answer"] = answer.into();
        }
        cancel
    }

    /// Takes in what is said in the chat; says how it ended once it has.
    fn hear(&mut self, message: &Message) -> anyhow::Result<Option<Ending>> {
        if message.text("session_id") != self.session.as_deref() {
            return Ok(None);
        }
        self.is_back();
        let (answer, chunk) = (message.count("answer"), message.count("chunk_id"));
        if let Some(answer) = answer {
            let last = self.reached.filter(|(of, _)| *of == answer);
            let last = last.map_or(0, |(_, chunk)| chunk);
            if chunk.is_some_and(|chunk| chunk <= last) {
                return Ok(None);
            }
            self.reached = Some((answer, chunk.unwrap_or(last)));
        }
        if let Some(call) = message.count("tool_call")
            && !self.shown.insert((call, message.kind().to_owned()))
        {
            return Ok(None);
        }
        self.show.message(message)?;
        match message.kind() {
            "agent_response_complete" => Ok(Some(Ending::Answered)),
            "agent_response_cancelled" => Ok(Some(Ending::Cancelled)),
            "agent_error" => bail!("the agent failed: {}", reason(message)),
            _ => Ok(None),
        }
    }
}

/// Whether nobody can be asked about the chat now.
fn is_out_of_reach(message: &Message) -> bool {
    let of = |field: &str| message.value("error")?.get(field);
    // An answer that broke off names itself: that is its end.
    message.count("answer").is_none()
        && of("code").and_then(Value::as_str) == Some("AGENT_UNAVAILABLE")
        && of("retry_available").and_then(Value::as_bool) == Some(true)
}

/// Why an agent does not answer, in its words.
fn reason(message: &Message) -> String {
    let error = message.value("error");
    let said = error.and_then(|error| error.get("message")?.as_str());
    plain(said.unwrap_or("no reason is told"))
}

/// What a gateway refuses, in its words.
pub(crate) fn complaint(message: &Message) -> String {
    let text = |field: &str| plain(message.text(field).unwrap_or_default());
    if message.kind() == "rate_limit_exceeded" {
        return format!(
            "the gateway refuses: {} {}, until {}",
            text("limit_type"),
            text("current_usage"),
            text("reset_time")
        );
    }
    let said = text("message");
    match message.text("decided_by") {
        Some(by) => {
            format!("{said}: {} by {}", text("decision"), plain(by))
        }
        None => format!("the gateway refuses: {said}"),
    }
}

#[cfg(test)]
mod tests;

//! A question and its answer, over as many connections as it takes.

use std::collections::HashSet;
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
    /// The answer and the last chunk of it that was shown, once there is one.
    reached: Option<(u64, u64)>,
    /// What was shown of tools: a return brings it again.
    shown: HashSet<(u64, String)>,
    show: Show,
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
            reached: None,
            shown: HashSet::new(),
            show: Show::new(args.json),
        }
    }

    /// Asks, and shows the answer to its end.
    ///
    /// # Errors
    /// When the agent, the gateway or the patience gives up.
    pub(super) async fn run(mut self) -> anyhow::Result<Ending> {
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut lost_at: Option<Instant> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = tokio::select! {
                attempt = self.target.connect() => attempt,
                _ = interrupts.recv() => return Ok(Ending::Cancelled),
            };
            let why = match attempt {
                Ok(connection) => match self.converse(connection, &mut interrupts).await? {
                    End::Over(ending) => return Ok(ending),
                    End::Lost(why) => {
                        lost_at = None;
                        pause = FIRST_PAUSE;
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
            if lost_at.get_or_insert_with(Instant::now).elapsed() >= self.patience {
                bail!("not back within {} s: {why}", self.patience.as_secs());
            }
            // Many that lost the same gateway do not return all at once.
            tokio::select! {
                () = sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
                _ = interrupts.recv() => return Ok(Ending::Cancelled),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn converse(
        &mut self,
        mut connection: Connection,
        interrupts: &mut Signal,
    ) -> anyhow::Result<End> {
        let mut is_cancelling = false;
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
                    let Some(session) = self.session.as_ref().filter(|_| !is_cancelling) else {
                        return Ok(End::Over(Ending::Cancelled));
                    };
                    is_cancelling = true;
                    let cancel = json!({"type": "cancel_chat", "session_id": session});
                    // The end of the connection is heard when it is read.
                    connection.send(&cancel).await.ok();
                    continue;
                }
            };
            let next = match message.kind() {
                "auth_success" => Some(self.opening()),
                "chat_session_started" if self.session.is_none() => {
                    self.session = message.text("session_id").map(str::to_owned);
                    self.show.began(&message);
                    Some(self.question())
                }
                "chat_cancelled" if is_cancelling => return Ok(End::Over(Ending::Cancelled)),
                "error" => bail!(complaint(&message)),
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

    /// What is said first on a connection.
    fn opening(&self) -> Value {
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

    fn question(&self) -> Value {
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

    /// Takes in what is said in the chat; says how it ended once it has.
    fn hear(&mut self, message: &Message) -> anyhow::Result<Option<Ending>> {
        if message.text("session_id") != self.session.as_deref() {
            return Ok(None);
        }
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
            "agent_error" => {
                let error = message.value("error");
                let said = error.and_then(|error| error.get("message")?.as_str());
                bail!(
                    "the agent failed: {}",
                    plain(said.unwrap_or("no reason is told"))
                )
            }
            _ => Ok(None),
        }
    }
}

/// What a gateway refuses, in its words.
pub(crate) fn complaint(message: &Message) -> String {
    let said = plain(message.text("message").unwrap_or_default());
    match message.text("decided_by") {
        Some(by) => {
            let decision = message.text("decision").unwrap_or_default();
            format!("{said}: {} by {}", plain(decision), plain(by))
        }
        None => format!("the gateway refuses: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(value: &Value) -> Message {
        Message::read(&value.to_string()).unwrap().remove(0)
    }

    #[test]
    fn a_refusal_says_who_was_first() {
        let refused = message(
            &json!({"type": "error", "message": "the action was decided before",
            "decided_by": "ada", "decision": "reject"}),
        );
        assert_eq!(
            complaint(&refused),
            "the action was decided before: reject by ada"
        );
        let refused = message(&json!({"type": "error", "message": "no"}));
        assert_eq!(complaint(&refused), "the gateway refuses: no");
    }
}

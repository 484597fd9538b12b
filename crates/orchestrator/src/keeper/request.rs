//! What a session's keeper does with each request.

use std::collections::BTreeSet;

use super::{Keeper, Kept, LOOKUPS, Request, Running};
use crate::agents::Agent;
use crate::answer::Answer;
use crate::chat_log::{self, ChatLog, Lost, Stored};
use crate::moment;
use crate::reply::{Reply, invalid, refusal};
use crate::session::Session;
use crate::turn::{Full, Places};
use serde_json::Value;
use signalbox_bus::Bus;
use signalbox_bus::trace::TraceContext;
use signalbox_protocol::chat::{self, MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_ID_BYTES};
use signalbox_protocol::wire::{
    AgentInfo, CancelChat, ChatAccepted, ChatAsked, ChatCancelled, ChatError, ChatJoined,
    ChatMessage, ChatOpened, ChatRecord, ChatRefusal, ChatStarted, JoinChat, StartChat,
    chat_record::Record, chat_reply::Outcome, chat_request::Verb,
};

/// Channels that a message may name.
const CHANNELS: usize = 64;

impl Keeper {
    pub(super) async fn handle(&self, kept: &mut Kept, request: Request) -> Result<(), Lost> {
        let Request { verb, reply, trace } = request;
        match verb {
            Verb::Start(start) => {
                let outcome = self.started_before(kept, &start);
                self.send(reply, outcome).await;
                Ok(())
            }
            Verb::Message(message) => self.message(kept, message, reply, trace).await,
            Verb::Cancel(cancel) => {
                self.cancel(kept, &cancel, reply).await;
                Ok(())
            }
            Verb::Join(join) => {
                if let Some((reply, outcome)) = self.join(kept, &join, reply) {
                    self.send(reply, outcome).await;
                }
                Ok(())
            }
        }
    }

    async fn send(&self, reply: Reply, outcome: Result<Outcome, ChatRefusal>) {
        match outcome {
            Ok(outcome) => reply.send(outcome).await,
            Err(refusal) => self.refuse(reply, refusal).await,
        }
    }

    async fn refuse(&self, reply: Reply, refusal: ChatRefusal) {
        self.shared.means.metrics.refused.add(1);
        let refusal = ChatRefusal {
            session_id: self.key.session_id.clone(),
            ..refusal
        };
        reply.refuse(refusal).await;
    }

    /// Begins the session; gives the log back where that is refused.
    pub(super) async fn start(
        &self,
        mut log: ChatLog,
        start: &StartChat,
        reply: Reply,
    ) -> Result<Result<Kept, ChatLog>, Lost> {
        let Some(agent) = self.shared.agents.find(&start.agent_type) else {
            let known = self.shared.agents.types().map(str::to_owned).collect();
            let refusal = ChatRefusal {
                known_agents: known,
                ..refusal(ChatError::UnknownAgent, "there is no such agent")
            };
            self.refuse(reply, refusal).await;
            return Ok(Err(log));
        };
        if !is_context(&start.context) {
            let refusal = invalid("context", "expected a JSON object that is not too large");
            self.refuse(reply, refusal).await;
            return Ok(Err(log));
        }
        let opened = ChatOpened {
            agent: Some(info(agent)),
            context: start.context.clone(),
            user_id: self.key.user_id.clone(),
        };
        let record = ChatRecord {
            at: moment::text(moment::now_ms()),
            answer: 0,
            asked_sequence: 0,
            record: Some(Record::Opened(opened.clone())),
        };
        log.append(&record).await?;
        self.shared.means.metrics.started.add(1);
        self.shared.means.metrics.records.add(1);
        let session = Session::new(opened, log.sequence());
        let kept = self.kept(log, session).await?;
        let started = self.started(&kept);
        reply.send(started).await;
        Ok(Ok(kept))
    }

    /// What is answered to a request that may have begun the session.
    fn started_before(&self, kept: &Kept, start: &StartChat) -> Result<Outcome, ChatRefusal> {
        if kept.session.agent().agent_type == start.agent_type {
            return Ok(self.started(kept));
        }
        Err(invalid("nonce", "it names a chat with another agent"))
    }

    fn started(&self, kept: &Kept) -> Outcome {
        Outcome::Started(ChatStarted {
            session_id: self.key.session_id.clone(),
            agent: Some(kept.session.agent()),
            sequence: kept.session.opened_sequence,
        })
    }

    async fn message(
        &self,
        kept: &mut Kept,
        message: ChatMessage,
        reply: Reply,
        trace: Option<TraceContext>,
    ) -> Result<(), Lost> {
        if let Some(refusal) = fault(&message) {
            self.refuse(reply, refusal).await;
            return Ok(());
        }
        if let Some(answer) = kept.session.answer_to(&message.message_id) {
            let accepted = self.accepted(kept, message.message_id, answer, true);
            reply.send(accepted).await;
            return Ok(());
        }
        if kept.running.is_some() {
            let words = "the agent is still answering";
            self.refuse(reply, refusal(ChatError::AgentBusy, words))
                .await;
            return Ok(());
        }
        let place = match self.place(&message) {
            Ok(place) => place,
            Err(refusal) => {
                self.refuse(reply, refusal).await;
                return Ok(());
            }
        };
        let message_id = message.message_id.clone();
        let answer = self.ask(kept, message).await?;
        let number = answer.number;
        self.shared.means.metrics.accepted.add(1);
        self.write(kept, answer, Some(place), trace.as_ref());
        let accepted = self.accepted(kept, message_id, number, false);
        reply.send(accepted).await;
        Ok(())
    }

    /// A place among the answers that are written, or why there is none.
    fn place(&self, message: &ChatMessage) -> Result<Places, ChatRefusal> {
        // After the process was stopped, requests may be old, and answered by the
        // next holder.
        if self.leaving.is_triggered() || self.tenure.is_over() {
            let words = "the chats of this user are changing hands";
            return Err(refusal(ChatError::Unavailable, words));
        }
        if message.expires_at_ms > 0 && message.expires_at_ms < moment::now_ms() {
            let words = "the message has come too late";
            return Err(refusal(ChatError::Unavailable, words));
        }
        let mut places = self.places();
        match places.try_take() {
            Ok(()) => Ok(places),
            Err(full) => Err(refusal(
                ChatError::AgentUnavailable,
                match full {
                    Full::OfUser => "this user has too many answers written at once",
                    Full::OfAll => "too many answers are being written",
                },
            )),
        }
    }

    /// Stores a message; the answer that it gets is to be written then.
    async fn ask(&self, kept: &mut Kept, message: ChatMessage) -> Result<Answer, Lost> {
        let events_until = match message.channels.is_empty() {
            true => 0,
            false => self.shared.means.evidence.position().await,
        };
        // Whoever takes over must find it before there is something to go on with.
        kept.open_turn.put().await?;
        let session = &kept.session;
        let last = session.last.as_ref();
        let end = last.and_then(|last| last.end.as_ref());
        let asked = ChatAsked {
            message_id: message.message_id,
            message: message.message,
            context: message.context,
            earlier_ids: session.known_ids(),
            opened_sequence: session.opened_sequence,
            previous_asked_sequence: last.map_or(0, |last| last.asked_sequence),
            previous_end_sequence: end.map_or(0, |end| end.sequence),
            spent: Some(session.spent),
            spent_ms: session.spent_ms,
            channels: message.channels,
            events_until,
            permissions: message.permissions,
        };
        let record = ChatRecord {
            at: moment::text(moment::now_ms()),
            answer: session.last_number() + 1,
            asked_sequence: 0,
            record: Some(Record::Asked(asked)),
        };
        let Some(log) = &mut kept.log else {
            return Err(Lost::Refused);
        };
        log.append(&record).await?;
        self.shared.means.metrics.records.add(1);
        Answer::begin(&record, log.number(), log.sequence()).ok_or(Lost::Refused)
    }

    fn accepted(&self, kept: &Kept, message_id: String, answer: u32, repeated: bool) -> Outcome {
        let last = kept.session.last.as_ref();
        let asked = last.filter(|last| last.number == answer);
        Outcome::Accepted(ChatAccepted {
            session_id: self.key.session_id.clone(),
            message_id,
            answer,
            repeated,
            sequence: asked.map_or(0, |asked| asked.asked_sequence),
        })
    }

    async fn cancel(&self, kept: &mut Kept, cancel: &CancelChat, reply: Reply) {
        let last = kept.session.last_number();
        let is_meant = cancel.answer == 0 || cancel.answer == last;
        if let Some(running) = kept.running.as_mut().filter(|_| is_meant) {
            return stop(running, reply);
        }
        let cancelled = ChatCancelled {
            session_id: self.key.session_id.clone(),
            answer: 0,
        };
        reply.send(Outcome::Cancelled(cancelled)).await;
    }

    /// Says where an answer begins, or has that looked up, which answers by itself.
    fn join(
        &self,
        kept: &Kept,
        join: &JoinChat,
        reply: Reply,
    ) -> Option<(Reply, Result<Outcome, ChatRefusal>)> {
        let tip = kept.tip();
        let last = kept.session.last.as_ref();
        let last_number = kept.session.last_number();
        let answer = match join.answer {
            0 => last_number,
            answer => answer,
        };
        let joined = ChatJoined {
            session_id: self.key.session_id.clone(),
            agent: Some(kept.session.agent()),
            answer,
            after_chunk: join.after_chunk,
            sequence: last.map_or(kept.session.opened_sequence, |last| last.asked_sequence),
            number: last.map_or(1, |last| last.asked_number),
            tip_number: tip.number,
            tip_sequence: tip.sequence,
            chunks: tip.chunks,
            is_running: kept.running.is_some(),
            last_answer: last_number,
        };
        if answer > last_number {
            let refusal = invalid("answer", "the chat has not that many answers");
            return Some((reply, Err(refusal)));
        }
        if answer == last_number {
            if join.after_chunk > tip.chunks {
                let refusal = invalid("after_chunk", "the answer has not that many chunks");
                return Some((reply, Err(refusal)));
            }
            return Some((reply, Ok(Outcome::Joined(joined))));
        }
        if kept.lookups.len() >= LOOKUPS {
            let words = "too many look for earlier answers";
            return Some((reply, Err(refusal(ChatError::Unavailable, words))));
        }
        let later = last.map_or(0, |last| last.asked.previous_asked_sequence);
        let log_id = chat::log_id(&self.key.user_id, &self.key.session_id);
        let bus = self.shared.bus.clone();
        kept.lookups
            .push(Box::pin(look_up(bus, log_id, later, joined, reply)));
        None
    }
}

/// Walks back from the answer at `sequence` to the one that is meant.
async fn look_up(bus: Bus, log_id: String, sequence: u64, mut joined: ChatJoined, reply: Reply) {
    let mut sequence = sequence;
    while sequence > 0 {
        let found = match chat_log::read_at(&bus, &log_id, sequence).await {
            Ok(found) => found,
            Err(_) => {
                let words = "the chat cannot be read now";
                let refusal = refusal(ChatError::Unavailable, words);
                return reply.refuse(refusal).await;
            }
        };
        let Some(Stored { number, record, .. }) = found else {
            break;
        };
        let Some(Record::Asked(asked)) = record.record else {
            break;
        };
        if record.answer == joined.answer {
            (joined.sequence, joined.number) = (sequence, number);
            return reply.send(Outcome::Joined(joined)).await;
        }
        sequence = asked.previous_asked_sequence;
    }
    let refusal = ChatRefusal {
        session_id: joined.session_id,
        ..invalid("answer", "that answer is kept no more")
    };
    reply.refuse(refusal).await;
}

fn stop(running: &mut Running, reply: Reply) {
    running.cancel.trigger();
    running.cancelled_by.push(reply);
}

/// What is wrong with a message, if something is.
fn fault(message: &ChatMessage) -> Option<ChatRefusal> {
    if message.message_id.is_empty() || message.message_id.len() > MAX_MESSAGE_ID_BYTES {
        return Some(invalid("message_id", "expected an id that is not too long"));
    }
    if message.message.trim().is_empty() || message.message.len() > MAX_MESSAGE_BYTES {
        return Some(invalid("message", "expected words that are not too many"));
    }
    if !is_context(&message.context) {
        let words = "expected a JSON object that is not too large";
        return Some(invalid("context", words));
    }
    let channels: BTreeSet<&String> = message.channels.iter().collect();
    if channels.len() != message.channels.len() || channels.len() > CHANNELS {
        return Some(invalid("channels", "expected each channel once"));
    }
    None
}

fn is_context(context: &str) -> bool {
    context.is_empty()
        || context.len() <= MAX_CONTEXT_BYTES
            && serde_json::from_str::<Value>(context).is_ok_and(|value| value.is_object())
}

/// What clients are told of an agent.
fn info(agent: &Agent) -> AgentInfo {
    AgentInfo {
        agent_type: agent.agent_type.clone(),
        name: agent.name.clone(),
        model: agent.model.clone(),
        capabilities: agent.capabilities.clone(),
    }
}

//! The other side of an orchestrator: a gateway that asks, and a reader of logs
//! that holds each to what logs promise.

use std::time::Duration;

use prost::Message as _;
use signalbox_bus::log::feed::{Fed, LogFeed};
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, header, history, rpc};
use signalbox_protocol::chat;
use signalbox_protocol::wire::{
    CancelChat, ChatAccepted, ChatAnswered, ChatCancelled, ChatError, ChatFailed, ChatJoined,
    ChatMessage, ChatRecord, ChatRefusal, ChatReply, ChatRequest, ChatStarted, ChatStopped,
    ChatToolDecided, ChatToolEnded, ChatToolHeld, ChatToolPlanned, ChatUsage, JoinChat, StartChat,
    ToolOutcome, ToolVerdict, chat_record::Record, chat_reply::Outcome, chat_request::Verb,
};
use signalbox_testkit::DEADLINE;
use tokio::time::{Instant, timeout};

/// How long one attempt of a request waits.
const ATTEMPT: Duration = Duration::from_millis(300);
/// How often a log is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A user's gateway.
pub(crate) struct Asker {
    pub(crate) bus: Bus,
    pub(crate) user_id: String,
}

impl Asker {
    pub(crate) fn new(bus: Bus, user_id: &str) -> Self {
        Self {
            bus,
            user_id: user_id.to_owned(),
        }
    }

    /// Asks until there is an answer other than that there is none now.
    pub(crate) async fn ask(&self, verb: Verb) -> Result<Outcome, ChatRefusal> {
        let subject = subject::orchestrator_chat(chat::shard(&self.user_id));
        let request = ChatRequest {
            user_id: self.user_id.clone(),
            verb: Some(verb),
        };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let reply: Result<ChatReply, _> =
                rpc::ask(&self.bus, &subject, &request, ATTEMPT).await;
            match reply.map(|reply| reply.outcome) {
                Ok(Some(Outcome::Refusal(refusal))) if refusal.code() == ChatError::Unavailable => {
                }
                Ok(Some(Outcome::Refusal(refusal))) => return Err(refusal),
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => panic!("an empty answer"),
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "no answer to {request:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn start(&self, agent_type: &str) -> Result<ChatStarted, ChatRefusal> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let start = StartChat {
            agent_type: agent_type.to_owned(),
            context: r#"{"incident_id": "threat-001"}"#.to_owned(),
            nonce,
        };
        match self.ask(Verb::Start(start)).await? {
            Outcome::Started(started) => Ok(started),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(
        &self,
        session_id: &str,
        message_id: &str,
    ) -> Result<ChatAccepted, ChatRefusal> {
        let message = ChatMessage {
            session_id: session_id.to_owned(),
            message: format!("What about {message_id}?"),
            message_id: message_id.to_owned(),
            ..ChatMessage::default()
        };
        match self.ask(Verb::Message(message)).await? {
            Outcome::Accepted(accepted) => Ok(accepted),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn cancel(&self, session_id: &str) -> ChatCancelled {
        let cancel = CancelChat {
            session_id: session_id.to_owned(),
            answer: 0,
        };
        match self.ask(Verb::Cancel(cancel)).await {
            Ok(Outcome::Cancelled(cancelled)) => cancelled,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn join(
        &self,
        session_id: &str,
        answer: u32,
        after_chunk: u32,
    ) -> Result<ChatJoined, ChatRefusal> {
        let join = JoinChat {
            session_id: session_id.to_owned(),
            answer,
            after_chunk,
        };
        match self.ask(Verb::Join(join)).await? {
            Outcome::Joined(joined) => Ok(joined),
            other => panic!("{other:?}"),
        }
    }

    /// Reads a session's log as it is, and checks what must always hold.
    pub(crate) async fn read(&self, session_id: &str) -> Chat {
        self.until(session_id, Some).await
    }

    /// Reads a session's log until it gives what is looked for.
    async fn until<T>(&self, session_id: &str, look: impl Fn(Chat) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = self.try_read(session_id).await.and_then(&look) {
                return found;
            }
            assert!(Instant::now() < deadline, "not in the log of {session_id}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn try_read(&self, session_id: &str) -> Option<Chat> {
        let filter = subject::log(LogKind::Chat, &chat::log_id(&self.user_id, session_id));
        let (mut log, mut from) = (Chat::default(), 1);
        loop {
            let stream = LogKind::Chat.stream();
            let page = history::page(&self.bus, stream, &filter, from, 256).await;
            let page = page.ok()?;
            for message in page.messages {
                from = message.sequence + 1;
                let headers = message.headers.unwrap();
                let number = header::value(&headers, header::LOG_NUMBER).unwrap();
                log.add(number.parse().unwrap(), message.payload.as_ref());
            }
            if page.is_last {
                return Some(log);
            }
        }
    }

    /// Waits until an answer has ended; gives it.
    pub(crate) async fn answer(&self, session_id: &str, number: u32) -> Answer {
        self.until(session_id, |log| {
            let answer = log.answers.into_iter().nth(number as usize - 1)?;
            answer.end.is_some().then_some(answer)
        })
        .await
    }

    /// Waits until an answer looks like this; gives it as it is then.
    pub(crate) async fn sees(
        &self,
        session_id: &str,
        number: u32,
        look: impl Fn(&Answer) -> bool,
    ) -> Answer {
        self.until(session_id, |log| {
            let answer = log.answers.into_iter().nth(number as usize - 1)?;
            look(&answer).then_some(answer)
        })
        .await
    }

    /// Waits until an answer has this many chunks.
    pub(crate) async fn chunks(&self, session_id: &str, answer: u32, least: usize) {
        self.until(session_id, |log| {
            let answer = log.answers.get(answer as usize - 1)?;
            (answer.chunks.len() >= least).then_some(())
        })
        .await;
    }
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Answered(ChatAnswered),
    Failed(ChatFailed),
    Stopped(ChatStopped),
}

/// An answer as its log has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) chunks: Vec<String>,
    /// Calls, and what was settled for them.
    pub(crate) calls: Vec<Option<ChatUsage>>,
    /// Calls of tools.
    pub(crate) tools: Vec<Tool>,
    pub(crate) recoveries: u32,
    pub(crate) end: Option<End>,
    is_final: bool,
}

/// A call of a tool as its log has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    pub(crate) planned: ChatToolPlanned,
    pub(crate) held: Option<ChatToolHeld>,
    pub(crate) decided: Option<ChatToolDecided>,
    pub(crate) is_started: bool,
    pub(crate) notes: usize,
    pub(crate) ended: Option<ChatToolEnded>,
}

impl Tool {
    /// What became of it, and what it gave.
    pub(crate) fn end(&self) -> (ToolOutcome, &str) {
        let ended = self.ended.as_ref().expect("it has ended");
        (ended.outcome(), &ended.result)
    }

    /// Adds a record about it. One that breaks a promise panics.
    fn add(&mut self, what: Record) {
        assert!(self.ended.is_none(), "nothing follows the end: {what:?}");
        match what {
            Record::ToolHeld(held) => {
                assert!(self.held.is_none() && !self.is_started, "held once, first");
                assert_eq!(held.arguments_hash, self.planned.arguments_hash);
                self.held = Some(held);
            }
            Record::ToolDecided(decided) => {
                let held = self.held.as_ref().expect("people were asked");
                assert_eq!(decided.action_id, held.action_id);
                assert!(self.decided.is_none(), "decided once");
                self.decided = Some(decided);
            }
            Record::ToolStarted(started) => {
                assert!(!self.is_started, "started once: {started:?}");
                assert_eq!(self.planned.refusal, "", "what is refused never runs");
                assert_eq!(started.arguments, self.planned.arguments);
                if self.held.is_some() {
                    let verdict = self.decided.as_ref().map(ChatToolDecided::verdict);
                    assert_eq!(verdict, Some(ToolVerdict::Approve), "approved first");
                }
                self.is_started = true;
            }
            Record::ToolNoted(_) => {
                assert!(self.is_started, "it tells while it runs");
                self.notes += 1;
            }
            Record::ToolEnded(ended) => {
                let never_ran = ended.outcome() == ToolOutcome::Refused;
                assert!(!(never_ran && self.is_started), "{ended:?}");
                if let ToolOutcome::Value | ToolOutcome::Error | ToolOutcome::Unknown =
                    ended.outcome()
                {
                    assert!(self.is_started, "{ended:?}");
                }
                if ended.outcome() == ToolOutcome::Value {
                    serde_json::from_str::<serde_json::Value>(&ended.result).unwrap();
                }
                self.ended = Some(ended);
            }
            other => panic!("not about a tool: {other:?}"),
        }
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        self.chunks.concat()
    }

    pub(crate) fn answered(&self) -> &ChatAnswered {
        match &self.end {
            Some(End::Answered(answered)) => answered,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn failed(&self) -> &ChatFailed {
        match &self.end {
            Some(End::Failed(failed)) => failed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stopped(&self) -> &ChatStopped {
        match &self.end {
            Some(End::Stopped(stopped)) => stopped,
            other => panic!("{other:?}"),
        }
    }
}

/// A session's log. Adding a record that breaks a promise of logs panics.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    number: u64,
    pub(crate) answers: Vec<Answer>,
}

impl Chat {
    pub(crate) fn add(&mut self, number: u64, record: &[u8]) {
        assert_eq!(number, self.number + 1, "numbers are dense");
        self.number = number;
        let record = ChatRecord::decode(record).unwrap();
        let which = record.answer as usize;
        let what = record.record.unwrap();
        if let Record::Opened(_) = what {
            assert_eq!((number, which), (1, 0), "a chat is opened once, first");
            return;
        }
        if let Record::Asked(_) = what {
            let is_over = self.answers.last().is_none_or(|last| last.end.is_some());
            assert!(is_over, "one answer at a time");
            assert_eq!(which, self.answers.len() + 1);
            self.answers.push(Answer::default());
            return;
        }
        assert_eq!(which, self.answers.len(), "records are of the last answer");
        let answer = self.answers.last_mut().unwrap();
        assert!(answer.end.is_none(), "nothing follows the end");
        match what {
            Record::Opened(_) | Record::Asked(_) => {}
            Record::CallStarted(started) => {
                assert_eq!(started.call as usize, answer.calls.len() + 1);
                assert!(answer.calls.iter().all(Option::is_some), "settled first");
                let mut tools = answer.tools.iter();
                assert!(tools.all(|tool| tool.ended.is_some()), "results first");
                answer.calls.push(None);
            }
            Record::Chunk(chunk) => {
                assert_eq!(chunk.chunk_id as usize, answer.chunks.len() + 1);
                assert!(!answer.is_final, "nothing follows the final chunk");
                answer.is_final = chunk.is_final;
                answer.chunks.push(chunk.content);
            }
            Record::CallSettled(settled) => {
                let call = &mut answer.calls[settled.call as usize - 1];
                assert!(call.is_none(), "settled once");
                *call = Some(settled.usage.unwrap());
            }
            Record::ToolPlanned(planned) => {
                assert_eq!(planned.tool_call as usize, answer.tools.len() + 1);
                assert_eq!(planned.call as usize, answer.calls.len());
                let open = answer.calls.last().unwrap();
                assert!(open.is_none(), "planned ahead of the settlement");
                let round = answer.tools.iter();
                let mut round = round.filter(|tool| tool.planned.call == planned.call);
                assert!(round.all(|tool| !tool.is_started), "planned first");
                answer.tools.push(Tool {
                    planned,
                    ..Tool::default()
                });
            }
            what @ (Record::ToolHeld(_)
            | Record::ToolDecided(_)
            | Record::ToolStarted(_)
            | Record::ToolNoted(_)
            | Record::ToolEnded(_)) => {
                let number = match &what {
                    Record::ToolHeld(held) => held.tool_call,
                    Record::ToolDecided(decided) => decided.tool_call,
                    Record::ToolStarted(started) => started.tool_call,
                    Record::ToolNoted(noted) => noted.tool_call,
                    Record::ToolEnded(ended) => ended.tool_call,
                    _ => 0,
                };
                assert!(answer.calls.last().unwrap().is_some(), "settled first");
                answer.tools[number as usize - 1].add(what);
            }
            Record::Taken(taken) => {
                assert_eq!(taken.recovery, answer.recoveries + 1);
                answer.recoveries = taken.recovery;
            }
            Record::Answered(end) => {
                assert!(answer.is_final, "the last chunk is final");
                answer.close(&end.full_response, end.usage, end.chunks);
                answer.end = Some(End::Answered(end));
            }
            Record::Failed(end) => {
                answer.close(&end.partial_response, end.usage, end.chunks);
                answer.end = Some(End::Failed(end));
            }
            Record::Stopped(end) => {
                answer.close(&end.partial_response, end.usage, end.chunks);
                answer.end = Some(End::Stopped(end));
            }
        }
    }
}

impl Answer {
    /// Checks what an end says against what was before it.
    fn close(&self, text: &str, usage: Option<ChatUsage>, chunks: u32) {
        assert_eq!(self.text(), text, "the chunks, joined, are the text");
        let mut tools = self.tools.iter();
        assert!(tools.all(|tool| tool.ended.is_some()), "all have results");
        assert_eq!(chunks as usize, self.chunks.len());
        let usage = usage.unwrap();
        let settled: Vec<ChatUsage> = self
            .calls
            .iter()
            .map(|call| call.expect("every call is settled"))
            .collect();
        let sum = |of: fn(&ChatUsage) -> u64| settled.iter().map(of).sum::<u64>();
        assert_eq!(usage.calls as usize, settled.len());
        assert_eq!(usage.input_tokens, sum(|usage| usage.input_tokens));
        assert_eq!(usage.output_tokens, sum(|usage| usage.output_tokens));
        assert_eq!(usage.cost_micros, sum(|usage| usage.cost_micros));
        let guesses = settled.iter().any(|usage| usage.is_estimated);
        assert_eq!(usage.is_estimated, guesses);
    }
}

/// Someone who looks at all chats of a user, live.
pub(crate) struct Viewer {
    feed: LogFeed,
    session_id: String,
    pub(crate) chat: Chat,
}

impl Viewer {
    pub(crate) async fn start(bus: Bus, user_id: &str, session_id: &str) -> Self {
        let feed = LogFeed::group(bus, LogKind::Chat, user_id).await;
        Self {
            feed: feed.unwrap(),
            session_id: session_id.to_owned(),
            chat: Chat {
                // It was opened before.
                number: 1,
                ..Chat::default()
            },
        }
    }

    /// Looks until so many answers have ended.
    pub(crate) async fn see(&mut self, ends: usize) {
        let seen = timeout(DEADLINE, async {
            while self
                .chat
                .answers
                .iter()
                .filter(|one| one.end.is_some())
                .count()
                < ends
            {
                for fed in self.feed.next().await {
                    let Fed::Record(record) = fed else {
                        panic!("{fed:?}")
                    };
                    let (_, session_id) = chat::parse_log_id(&record.id).unwrap();
                    if session_id == self.session_id {
                        self.chat.add(record.number, &record.payload);
                    }
                }
            }
        });
        seen.await.expect("the ends are seen");
    }
}

//! An orchestrator that is the test itself: requests get their answers, and
//! logs have what the test says, when it says so. For what gateways do with
//! logs; the real orchestrator has tests of its own.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use signalbox_bus::log::LogWriter;
use signalbox_bus::server::User;
use signalbox_bus::stream::CHAT;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, history, rpc};
use signalbox_protocol::chat;
use signalbox_protocol::wire::chat_record::Record;
use signalbox_protocol::wire::chat_reply::Outcome;
use signalbox_protocol::wire::chat_request::Verb;
use signalbox_protocol::wire::{
    AgentInfo, ChatAccepted, ChatAnswered, ChatAsked, ChatCancelled, ChatChunk, ChatError,
    ChatJoined, ChatOpened, ChatRecord, ChatRefusal, ChatReply, ChatRequest, ChatStarted,
    ChatStopped, ChatUsage, InvestigationReply, InvestigationRequest, NoteAdded,
    investigation_reply,
};
use signalbox_testkit::Platform;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Requests that are answered at once.
const CONCURRENCY: usize = 64;
/// The only type of agent.
pub(crate) const AGENT: &str = "threat_classifier";

/// See the module.
pub(crate) struct Scripted {
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

struct State {
    bus: Bus,
    /// Whether it answers messages by itself.
    is_answering: bool,
    chats: HashMap<String, Chat>,
}

/// A chat, by its session.
struct Chat {
    user: String,
    log: LogWriter,
    opened: Place,
    asked: Place,
    /// The id of the message that was asked.
    message_id: String,
    tip: Place,
    answer: u32,
    chunks: u32,
    text: String,
    is_running: bool,
}

/// Where a record is.
#[derive(Clone, Copy, Default)]
struct Place {
    number: u64,
    sequence: u64,
}

impl Scripted {
    /// Answers requests; what is written is the test's to say.
    pub(crate) async fn start(platform: &Platform) -> Self {
        Self::begin(platform, false).await
    }

    /// Answers each message at once with one chunk.
    pub(crate) async fn answering(platform: &Platform) -> Self {
        Self::begin(platform, true).await
    }

    async fn begin(platform: &Platform, is_answering: bool) -> Self {
        let bus = platform.bus(User::Admin).await;
        let state = Arc::new(Mutex::new(State {
            bus: bus.clone(),
            is_answering,
            chats: HashMap::new(),
        }));
        let mut serving = JoinSet::new();
        let requests = Arc::clone(&state);
        serving.spawn(async move {
            let handler = move |request: ChatRequest| {
                let state = Arc::clone(&requests);
                async move { Some(state.lock().await.answer(request).await) }
            };
            let subject = format!("{}.*.chat", subject::ORCHESTRATOR_PREFIX);
            rpc::attend(&bus, subject, CONCURRENCY, handler)
                .await
                .unwrap();
        });
        // Notes are taken and forgotten.
        let bus = platform.bus(User::Admin).await;
        serving.spawn(async move {
            let handler = |_: InvestigationRequest| async {
                let outcome = investigation_reply::Outcome::NoteAdded(NoteAdded {
                    id: "note-1".to_owned(),
                });
                Some(InvestigationReply {
                    outcome: Some(outcome),
                })
            };
            let subject = format!("{}.*.investigation", subject::ORCHESTRATOR_PREFIX);
            rpc::attend(&bus, subject, CONCURRENCY, handler)
                .await
                .unwrap();
        });
        Self {
            state,
            _serving: serving,
        }
    }

    /// Has an answer go on with a piece.
    pub(crate) async fn write(&self, session: &str, content: &str) {
        self.state.lock().await.chunk(session, content, false).await;
    }

    /// Ends an answer.
    pub(crate) async fn finish(&self, session: &str) {
        self.state.lock().await.finish(session).await;
    }

    /// Repeats how far a log is, as its owner does each second.
    pub(crate) async fn tell_tip(&self, session: &str) {
        self.state.lock().await.chats[session].log.tell_tip().await;
    }
}

impl Chat {
    /// What is said to a message when it has its answer.
    fn accepted(&self, session_id: String, repeated: bool) -> Outcome {
        Outcome::Accepted(ChatAccepted {
            session_id,
            message_id: self.message_id.clone(),
            answer: self.answer,
            repeated,
            sequence: self.asked.sequence,
        })
    }
}

impl State {
    async fn answer(&mut self, request: ChatRequest) -> ChatReply {
        let user = request.user_id;
        let outcome = match request.verb.unwrap() {
            Verb::Start(asked) if asked.agent_type != AGENT => {
                let mut refusal = refusal(ChatError::UnknownAgent);
                refusal.known_agents = vec![AGENT.to_owned()];
                Outcome::Refusal(refusal)
            }
            Verb::Start(asked) => self.open(user, &asked.nonce, asked.context).await,
            Verb::Message(asked) if self.is_of(&user, &asked.session_id) => {
                let chat = self.chats.get_mut(&asked.session_id).unwrap();
                if chat.message_id == asked.message_id {
                    chat.accepted(asked.session_id, true)
                } else if chat.is_running {
                    Outcome::Refusal(refusal(ChatError::AgentBusy))
                } else {
                    chat.answer += 1;
                    (chat.chunks, chat.is_running) = (0, true);
                    chat.text.clear();
                    chat.message_id.clone_from(&asked.message_id);
                    let record = Record::Asked(ChatAsked {
                        message_id: asked.message_id,
                        message: asked.message,
                        ..ChatAsked::default()
                    });
                    let place = self.append(&asked.session_id, record).await;
                    let chat = self.chats.get_mut(&asked.session_id).unwrap();
                    chat.asked = place;
                    let accepted = chat.accepted(asked.session_id.clone(), false);
                    if self.is_answering {
                        self.finish(&asked.session_id).await;
                    }
                    accepted
                }
            }
            Verb::Cancel(asked) if self.is_of(&user, &asked.session_id) => {
                self.cancel(asked.session_id).await
            }
            Verb::Join(asked) if self.is_of(&user, &asked.session_id) => {
                let chat = &self.chats[&asked.session_id];
                let begin = if chat.answer == 0 {
                    chat.opened
                } else {
                    chat.asked
                };
                Outcome::Joined(ChatJoined {
                    session_id: asked.session_id,
                    agent: None,
                    answer: chat.answer,
                    after_chunk: asked.after_chunk,
                    sequence: begin.sequence,
                    number: begin.number,
                    tip_number: chat.tip.number,
                    tip_sequence: chat.tip.sequence,
                    chunks: chat.chunks,
                    is_running: chat.is_running,
                    last_answer: chat.answer,
                })
            }
            _ => Outcome::Refusal(refusal(ChatError::SessionNotFound)),
        };
        ChatReply {
            outcome: Some(outcome),
        }
    }

    fn is_of(&self, user: &str, session: &str) -> bool {
        let chat = self.chats.get(session);
        chat.is_some_and(|chat| chat.user == user)
    }

    async fn open(&mut self, user: String, nonce: &str, context: String) -> Outcome {
        let session = chat::session_id(nonce).unwrap();
        let agent = AgentInfo {
            agent_type: AGENT.to_owned(),
            name: "Threat Classifier Agent".to_owned(),
            model: "script".to_owned(),
            capabilities: vec!["threat_analysis".to_owned()],
        };
        let id = chat::log_id(&user, &session);
        let chat = Chat {
            log: LogWriter::create(self.bus.clone(), LogKind::Chat, &id, 1),
            user: user.clone(),
            opened: Place::default(),
            asked: Place::default(),
            message_id: String::new(),
            tip: Place::default(),
            answer: 0,
            chunks: 0,
            text: String::new(),
            is_running: false,
        };
        self.chats.insert(session.clone(), chat);
        let record = Record::Opened(ChatOpened {
            agent: Some(agent.clone()),
            context,
            user_id: user,
        });
        let place = self.append(&session, record).await;
        self.chats.get_mut(&session).unwrap().opened = place;
        Outcome::Started(ChatStarted {
            session_id: session,
            agent: Some(agent),
            sequence: place.sequence,
        })
    }

    async fn cancel(&mut self, session_id: String) -> Outcome {
        let chat = self.chats.get_mut(&session_id).unwrap();
        let was_running = std::mem::take(&mut chat.is_running);
        let (answer, partial_response) = (chat.answer, chat.text.clone());
        if was_running {
            let stopped = ChatStopped {
                partial_response,
                ..ChatStopped::default()
            };
            self.append(&session_id, Record::Stopped(stopped)).await;
        }
        Outcome::Cancelled(ChatCancelled {
            session_id,
            answer: if was_running { answer } else { 0 },
        })
    }

    async fn finish(&mut self, session: &str) {
        self.chunk(session, "", true).await;
        let chat = self.chats.get_mut(session).unwrap();
        chat.is_running = false;
        let answered = ChatAnswered {
            full_response: chat.text.clone(),
            analysis: r#"{"risk_factors":["one"]}"#.to_owned(),
            processing_time_ms: 14_234,
            usage: Some(ChatUsage {
                input_tokens: 400,
                output_tokens: 50,
                ..ChatUsage::default()
            }),
            chunks: chat.chunks,
        };
        self.append(session, Record::Answered(answered)).await;
    }

    async fn chunk(&mut self, session: &str, content: &str, is_final: bool) {
        let chat = self.chats.get_mut(session).unwrap();
        chat.chunks += 1;
        chat.text.push_str(content);
        let chunk = ChatChunk {
            chunk_id: chat.chunks,
            content: content.to_owned(),
            is_final,
        };
        self.append(session, Record::Chunk(chunk)).await;
    }

    async fn append(&mut self, session: &str, record: Record) -> Place {
        let chat = self.chats.get_mut(session).unwrap();
        let is_opening = matches!(record, Record::Opened(_));
        let record = ChatRecord {
            at: "2026-03-02T09:14:07Z".to_owned(),
            answer: if is_opening { 0 } else { chat.answer },
            asked_sequence: chat.asked.sequence,
            record: Some(record),
        };
        let number = chat
            .log
            .append(record.encode_to_vec().into())
            .await
            .unwrap();
        let subject = subject::log(LogKind::Chat, &chat::log_id(&chat.user, session));
        let last = history::last_at_leader(&self.bus, CHAT, &subject).await;
        let sequence = last.unwrap().unwrap().sequence;
        chat.tip = Place { number, sequence };
        chat.tip
    }
}

fn refusal(code: ChatError) -> ChatRefusal {
    ChatRefusal {
        code: code.into(),
        message: "the script refuses".to_owned(),
        ..ChatRefusal::default()
    }
}

//! Turns over a real log, with a scripted provider and scripted tools. A turn that is
//! dropped is what a killed orchestrator leaves: the next one knows the log alone.

mod shelves;
mod tidings;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use signalbox_bus::server::User;
use signalbox_bus::stream::StreamSettings;
use signalbox_bus::{Bus, BusOptions};
use signalbox_protocol::wire::{
    AgentInfo, ChatAnswered, ChatAsked, ChatOpened, ChatToolNoted, ToolOutcome,
};
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use tokio::task::JoinHandle;

use super::*;
use crate::agents::{Budget, Clocks, Price};
use crate::analysis::Schema;
use crate::provider::{Ask, End, Message, Piece, Pieces, Provider, StopReason, ToolCall, retry};
use crate::session;
use crate::tools::{self, Call, Limits, Note, Runner, Running, Tool};

/// What the provider says in one call: words, then for ever nothing or an end.
#[derive(Clone, Debug)]
struct Line {
    words: &'static str,
    end: Option<Vec<ToolCall>>,
}

#[derive(Debug, Default)]
struct Script {
    lines: Mutex<VecDeque<Line>>,
    requests: Mutex<Vec<Arc<Request>>>,
    repeats: bool,
}

impl Provider for Script {
    fn answer(&self, request: Arc<Request>) -> Pieces {
        let line = self.lines.lock().pop_front().expect("a line is left");
        let rest = line.words.strip_prefix(&*request.so_far);
        let rest = rest.expect("it goes on behind what there is").to_owned();
        self.requests.lock().push(request);
        let words = (!rest.is_empty()).then_some(Ok(Piece::Text(rest)));
        let Some(calls) = line.end else {
            return stream::iter(words).chain(stream::pending()).boxed();
        };
        let end = End {
            stop: match calls.is_empty() {
                true => StopReason::EndTurn,
                false => StopReason::ToolUse,
            },
            calls,
            analysis: Some("{}".to_owned()),
            usage: None,
        };
        stream::iter(words.into_iter().chain([Ok(Piece::End(end))])).boxed()
    }

    fn repeats_itself(&self) -> bool {
        self.repeats
    }
}

/// What a tool does with its calls.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Gives its arguments.
    Echo,
    /// Gives nothing, and cannot be found again.
    Never,
    /// Tells where it can be watched, gives nothing, and can be found again.
    Adoptable,
    Panics,
}

/// Runs and adoptions of each call, by its number.
type Counts = Arc<Mutex<BTreeMap<u32, (u32, u32)>>>;

#[derive(Clone, Debug)]
struct Scripted {
    way: Way,
    counts: Counts,
}

impl Runner for Scripted {
    fn run(&self, call: Call) -> Running {
        let one = self.clone();
        Box::pin(async move {
            one.counts.lock().entry(call.number).or_default().0 += 1;
            match one.way {
                Way::Echo => return tools::Outcome::Value(call.arguments),
                Way::Panics => panic!("a tool breaks down"),
                Way::Never => {}
                Way::Adoptable => {
                    let (agent_id, command_id) = ("a".to_owned(), call.id());
                    let note = Note::Terminal {
                        agent_id,
                        command_id,
                    };
                    call.note.send(note).await.ok();
                }
            }
            pending().await
        })
    }

    fn adopt(&self, call: Call) -> Option<Running> {
        if !matches!(self.way, Way::Adoptable) {
            return None;
        }
        let one = self.clone();
        Some(Box::pin(async move {
            one.counts.lock().entry(call.number).or_default().1 += 1;
            tools::Outcome::Value(json!({"adopted": call.arguments}))
        }))
    }
}

struct Stage {
    _server: NatsServer,
    bus: Bus,
    script: Arc<Script>,
    counts: Counts,
    agent: Arc<Agent>,
    means: Means,
    key: SessionKey,
    owner: u64,
}

impl Stage {
    async fn start(repeats: bool, lines: Vec<Line>) -> Self {
        let server = NatsServer::start().await;
        let bus = connect(&server, User::Admin).await;
        signalbox_bus::stream::init(&bus, &StreamSettings::default())
            .await
            .unwrap();
        let bus = connect(&server, User::Orchestrator).await;
        let script = Arc::new(Script {
            lines: Mutex::new(lines.into()),
            repeats,
            ..Script::default()
        });
        let counts = Counts::default();
        let ways = [
            ("echo", Way::Echo),
            ("never", Way::Never),
            ("adoptable", Way::Adoptable),
            ("panics", Way::Panics),
        ];
        let toolbox = Toolbox::new(ways.map(|(name, way)| tool(name, way, &counts)));
        let names = ways.map(|(name, _)| name.to_owned());
        let means = Means {
            metrics: Metrics::new(),
            evidence: EvidenceLog::new(bus.clone()),
            progress: crate::progress::new().0,
            toolbox: Arc::new(toolbox),
            approvals: Approvals::open(bus.clone()).await.unwrap(),
            waiting: Arc::new(Semaphore::new(4)),
            interval: Duration::ZERO,
        };
        let key = SessionKey {
            user_id: "ada".to_owned(),
            session_id: "chat-0123456789abcdef0123456789abcdef".to_owned(),
        };
        let stage = Self {
            _server: server,
            agent: Arc::new(agent(Arc::clone(&script), names.to_vec())),
            bus,
            script,
            counts,
            means,
            key,
            owner: 1,
        };
        stage.ask().await;
        stage
    }

    /// Opens the chat and asks something.
    async fn ask(&self) {
        let (user_id, session_id) = (&self.key.user_id, &self.key.session_id);
        let opened = ChatLog::open(self.bus.clone(), user_id, session_id, 1).await;
        let (mut log, _) = opened.unwrap();
        let opened = Record::Opened(ChatOpened {
            agent: Some(AgentInfo::default()),
            user_id: user_id.clone(),
            ..ChatOpened::default()
        });
        log.append(&record(0, opened)).await.unwrap();
        let asked = Record::Asked(ChatAsked {
            message: "What?".to_owned(),
            opened_sequence: log.sequence(),
            ..ChatAsked::default()
        });
        log.append(&record(1, asked)).await.unwrap();
    }

    async fn load(&self) -> (ChatLog, Session) {
        let (user_id, session_id) = (&self.key.user_id, &self.key.session_id);
        let loaded = session::load(self.bus.clone(), user_id, session_id, self.owner);
        let (log, session) = loaded.await.unwrap();
        (log, session.unwrap())
    }

    /// A turn of the next owner, and how to cancel it.
    async fn turn(&mut self) -> (Turn, Stop) {
        self.owner += 1;
        let (log, session) = self.load().await;
        let answer = session.last.clone().unwrap();
        let cancel = Stop::default();
        let view = Arc::new(Mutex::new(View::default()));
        let of_all = Arc::new(Semaphore::new(1));
        let turn = Turn::new(
            self.means.clone(),
            Some(Arc::clone(&self.agent)),
            log,
            &session,
            (self.key.clone(), answer),
            Places::new(OfUser::new(1, 1), of_all, self.means.metrics.clone()),
            (cancel.clone(), view),
        );
        (turn, cancel)
    }

    /// Begins the answer.
    async fn begin(&mut self) -> (JoinHandle<()>, Stop) {
        let (turn, cancel) = self.turn().await;
        let work = tokio::spawn(async move {
            turn.run().await.unwrap();
        });
        (work, cancel)
    }

    /// Goes on with the answer to its end; gives what its log says then.
    async fn finish(&mut self) -> Vec<Record> {
        let (turn, _) = self.turn().await;
        turn.go_on().await.unwrap();
        self.records().await
    }

    /// The records of the answer.
    async fn records(&self) -> Vec<Record> {
        let (log, session) = self.load().await;
        let asked_at = session.last.unwrap().asked_sequence;
        let records = log.records_from(asked_at).await.unwrap();
        let records = records.into_iter();
        records.filter_map(|stored| stored.record.record).collect()
    }

    /// Waits until the log has so many records that are as meant.
    async fn until(&self, count: usize, meant: impl Fn(&Record) -> bool) {
        eventually("records", DEADLINE, async || {
            let records = self.records().await;
            let found = records.iter().filter(|record| meant(record)).count();
            (found >= count).then_some(())
        })
        .await;
    }

    /// Asserts that nothing was run twice.
    fn assert_once(&self) {
        for (call, (runs, adoptions)) in &*self.counts.lock() {
            assert!(*runs <= 1 && *adoptions <= 1, "call {call}");
        }
    }
}

async fn connect(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

fn record(answer: u32, record: Record) -> ChatRecord {
    ChatRecord {
        at: moment::text(moment::now_ms()),
        answer,
        asked_sequence: 0,
        record: Some(record),
    }
}

fn agent(provider: Arc<Script>, tools: Vec<String>) -> Agent {
    let minute = Duration::from_secs(60);
    Agent {
        agent_type: "tester".to_owned(),
        name: String::new(),
        provider,
        model: "m".to_owned(),
        instructions: String::new(),
        capabilities: Vec::new(),
        tools,
        schema: Arc::new(Schema::compile(json!({"type": "object"})).unwrap()),
        ask: Ask::Tool,
        events: 0,
        progress: false,
        max_output_tokens: 100,
        retries: retry::Retries::NONE,
        clocks: Clocks {
            first_token: minute,
            between_tokens: minute,
            total: minute,
        },
        budget: Budget::default(),
        price: Price::default(),
    }
}

fn tool(name: &str, way: Way, counts: &Counts) -> Tool {
    let counts = Arc::clone(counts);
    Tool {
        name: name.to_owned(),
        description: String::new(),
        schema: Arc::new(Schema::compile(json!({"type": "object"})).unwrap()),
        limits: Limits::default(),
        approval: None,
        permission: None,
        runner: Arc::new(Scripted { way, counts }),
    }
}

fn asks(words: &'static str, names: &[&str]) -> Line {
    let calls = (1..).zip(names).map(|(number, name)| ToolCall {
        id: format!("m{number}"),
        name: (*name).to_owned(),
        arguments: Ok(json!({"n": number})),
    });
    Line {
        words,
        end: Some(calls.collect()),
    }
}

fn says(words: &'static str) -> Line {
    asks(words, &[])
}

/// The outcomes of the calls, by number.
fn outcomes(records: &[Record]) -> BTreeMap<u32, ToolOutcome> {
    let ended = records.iter().filter_map(|record| match record {
        Record::ToolEnded(ended) => Some((ended.tool_call, ended.outcome())),
        _ => None,
    });
    ended.collect()
}

fn answered(records: &[Record]) -> &ChatAnswered {
    match records.last() {
        Some(Record::Answered(answered)) => answered,
        other => panic!("{other:?}"),
    }
}

const fn is_started(record: &Record) -> bool {
    matches!(record, Record::ToolStarted(_))
}

#[tokio::test]
async fn a_runner_that_can_is_asked_what_became_of_its_call() {
    let lines = vec![asks("One. ", &["adoptable", "never", "echo"]), says("Two.")];
    let mut stage = Stage::start(false, lines).await;
    let (work, _) = stage.begin().await;
    let is_noted = |record: &Record| matches!(record, Record::ToolNoted(_));
    stage.until(1, is_noted).await;
    let is_ended = |record: &Record| matches!(record, Record::ToolEnded(_));
    stage.until(1, is_ended).await;
    stage.until(3, is_started).await;
    work.abort();
    work.await.unwrap_err();
    let records = stage.finish().await;
    assert_eq!(answered(&records).full_response, "One. Two.");
    let expected = [
        (1, ToolOutcome::Value),
        (2, ToolOutcome::Unknown),
        (3, ToolOutcome::Value),
    ];
    assert_eq!(outcomes(&records), expected.into());
    stage.assert_once();
    assert_eq!(stage.counts.lock()[&1], (1, 1));
    let noted = records.iter().find_map(|record| match record {
        Record::ToolNoted(noted) => Some(noted.clone()),
        _ => None,
    });
    let expected = ChatToolNoted {
        tool_call: 1,
        agent_id: "a".to_owned(),
        command_id: format!("{}/1/1", stage.key.session_id),
    };
    assert_eq!(noted, Some(expected));
    let requests = stage.script.requests.lock();
    let Some(Message::Results { results }) = requests[1].messages.last() else {
        panic!("{:?}", requests[1].messages)
    };
    assert_eq!(results[0].content, r#"{"adopted":{"n":1}}"#);
}

/// Dropped behind each of its records in turn, an answer ends the same, and no call
/// is run twice.
#[tokio::test]
async fn behind_whichever_record_it_is_dropped_it_goes_on() {
    let round = || asks("", &["echo", "echo", "echo"]);
    for at in 1..=11 {
        // What was asked for may be asked for again.
        let lines = vec![round(), round(), says("Done."), says("Done.")];
        let mut stage = Stage::start(true, lines).await;
        let (work, _) = stage.begin().await;
        stage.until(at + 1, |_| true).await;
        work.abort();
        work.await.ok();
        let (_, session) = stage.load().await;
        if session.last.unwrap().is_running() {
            stage.finish().await;
        }
        let records = stage.records().await;
        assert_eq!(answered(&records).full_response, "Done.", "{at}");
        let planned = records
            .iter()
            .filter(|record| matches!(record, Record::ToolPlanned(_)));
        let outcomes = outcomes(&records);
        assert_eq!(outcomes.len(), planned.count(), "{at}");
        let is_told = |one: &ToolOutcome| [ToolOutcome::Value, ToolOutcome::Unknown].contains(one);
        assert!(outcomes.values().all(is_told), "{at}: {outcomes:?}");
        stage.assert_once();
    }
}

#[tokio::test]
async fn a_provider_that_repeats_itself_goes_on_behind_the_words_of_its_round() {
    let broken = Line {
        words: "Second",
        end: None,
    };
    let lines = vec![asks("First. ", &["echo"]), broken, says("Second half.")];
    let mut stage = Stage::start(true, lines).await;
    let (work, _) = stage.begin().await;
    let is_chunk = |record: &Record| matches!(record, Record::Chunk(_));
    stage.until(2, is_chunk).await;
    work.abort();
    work.await.unwrap_err();
    let records = stage.finish().await;
    assert_eq!(answered(&records).full_response, "First. Second half.");
    let requests = stage.script.requests.lock();
    assert_eq!(requests[2].so_far, "Second", "of this round alone");
    assert_eq!(requests[1].messages, requests[2].messages);
    stage.assert_once();
}

#[tokio::test]
async fn a_tool_that_breaks_down_takes_nothing_with_it() {
    let lines = vec![asks("", &["panics", "echo"]), says("Well.")];
    let mut stage = Stage::start(false, lines).await;
    let (work, _) = stage.begin().await;
    work.await.unwrap();
    let records = stage.records().await;
    answered(&records);
    let expected = [(1, ToolOutcome::Unknown), (2, ToolOutcome::Value)];
    assert_eq!(outcomes(&records), expected.into());
}

#[tokio::test]
async fn a_tool_that_does_not_hear_is_dropped_when_the_answer_is_cancelled() {
    let mut stage = Stage::start(false, vec![asks("", &["never"])]).await;
    let (work, cancel) = stage.begin().await;
    stage.until(1, is_started).await;
    cancel.trigger();
    work.await.unwrap();
    let records = stage.records().await;
    assert!(matches!(records.last(), Some(Record::Stopped(_))));
    assert_eq!(outcomes(&records), [(1, ToolOutcome::Cancelled)].into());
}

#[tokio::test]
async fn an_agent_that_is_gone_leaves_no_call_without_an_end() {
    let mut stage = Stage::start(false, vec![asks("", &["never", "echo"])]).await;
    let (work, _) = stage.begin().await;
    stage.until(2, is_started).await;
    work.abort();
    work.await.unwrap_err();
    let (mut turn, _) = stage.turn().await;
    turn.agent = None;
    turn.go_on().await.unwrap();
    let records = stage.records().await;
    assert!(matches!(records.last(), Some(Record::Failed(_))));
    assert_eq!(outcomes(&records)[&1], ToolOutcome::Unknown);
    assert_eq!(outcomes(&records).len(), 2);
}

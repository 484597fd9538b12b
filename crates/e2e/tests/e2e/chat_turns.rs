//! What one orchestrator does with messages: answers in pieces, the end of an
//! answer, cancelling, a busy agent, repeated messages, joining anywhere, clocks,
//! budgets and bounds (T8, T9, T11, T12). The model is scripted.

use prost::Message as _;
use signalbox_bus::history;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject::{self, LogKind};
use signalbox_protocol::chat;
use signalbox_protocol::wire::{
    ChatError, ChatMessage, ChatRecord, StartChat, chat_record::Record, chat_request::Verb,
};
use signalbox_testkit::{ChatBus, DEADLINE, Finish, Gate, Reply, Service};

use crate::chat_side::{Asker, Viewer};

const ADA: &str = "corp/ada";

/// Tools that hand over the analysis, as the model calls them.
const ANALYSIS: &str = r#"{"verdict": "fine"}"#;

/// An orchestrator, and a user who asks it.
pub(crate) struct Stage {
    pub(crate) chat: ChatBus,
    pub(crate) ada: Asker,
    orchestrator: Service,
}

pub(crate) async fn stage(settings: &str, arguments: &[&str]) -> Stage {
    let chat = ChatBus::start(settings).await;
    let orchestrator = chat.orchestrator(arguments).await;
    let ada = Asker::new(chat.bus.bus(BusUser::Gateway).await, ADA);
    Stage {
        chat,
        ada,
        orchestrator,
    }
}

impl Stage {
    pub(crate) async fn begin(&self) -> String {
        self.ada.start("tester").await.unwrap().session_id
    }
}

/// A reply that goes on as given and then ends well, with its analysis.
pub(crate) fn concluded(reply: Reply) -> Reply {
    reply
        .call("call-1", "hand_over_analysis", &[ANALYSIS])
        .usage(100, 20)
        .end_with(Finish::Tools)
}

/// T8, T9: a chat is opened with what clients are told of its agent; an answer is
/// stored in pieces while the model writes; its end has the whole text, the
/// analysis and the cost, and a viewer sees the same live.
#[tokio::test]
async fn an_answer_is_stored_while_it_is_written() {
    let stage = stage("price = { input = 2.0, output = 10.0 }", &[]).await;
    let started = stage.ada.start("tester").await.unwrap();
    let agent = started.agent.unwrap();
    assert_eq!((&*agent.name, &*agent.model), ("Tester", "scripted-1"));
    assert_eq!(agent.capabilities, ["testing"]);
    let id = started.session_id;
    let viewer = stage.chat.bus.bus(BusUser::Gateway).await;
    let mut viewer = Viewer::start(viewer, ADA, &id).await;
    let gate = Gate::new();
    let reply = Reply::new().text("Port ").text("scan").wait(&gate);
    stage.chat.model.reply(concluded(reply.text("ning – ü.")));
    let accepted = stage.ada.say(&id, "m1").await.unwrap();
    assert_eq!((accepted.answer, accepted.repeated), (1, false));
    stage.ada.chunks(&id, 1, 1).await;
    gate.open();
    let answer = stage.ada.answer(&id, 1).await;
    let answered = answer.answered();
    assert_eq!(answered.full_response, "Port scanning – ü.");
    let analysis: serde_json::Value = serde_json::from_str(&answered.analysis).unwrap();
    assert_eq!(analysis, serde_json::json!({"verdict": "fine"}));
    let usage = answered.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (100, 20));
    assert_eq!((usage.cost_micros, usage.is_estimated), (400, false));
    viewer.see(1).await;
    assert_eq!(viewer.chat.answers[0].chunks, answer.chunks);
    // The next question comes with what was said.
    stage.chat.model.reply(concluded(Reply::new().text("Yes.")));
    stage.ada.say(&id, "m2").await.unwrap();
    stage.ada.answer(&id, 2).await.answered();
    let asked = stage.chat.model.requests()[1].body.to_string();
    assert!(asked.contains("What about m1?") && asked.contains("Port scanning"));
}

/// T11: another's chat is as unknown as one that never was, and an unknown agent
/// is an error that lists the known ones; what is not as it must be is named.
#[tokio::test]
async fn a_chat_is_its_users_alone() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    let bus = stage.chat.bus.bus(BusUser::Gateway).await;
    let eve = Asker::new(bus, "corp/eve");
    for session in [&*id, "chat-00000000000000000000000000000000", "x"] {
        let refusal = eve.say(session, "m1").await.unwrap_err();
        assert_eq!(refusal.code(), ChatError::SessionNotFound);
        assert!(!refusal.retry_available);
        let refusal = eve.join(session, 0, 0).await.unwrap_err();
        assert_eq!(refusal.code(), ChatError::SessionNotFound);
    }
    let refusal = stage.ada.start("nobody").await.unwrap_err();
    assert_eq!(refusal.code(), ChatError::UnknownAgent);
    assert!(refusal.known_agents.contains(&"tester".to_owned()));
    assert!(
        refusal
            .known_agents
            .contains(&"threat_classifier".to_owned())
    );
    let message = |message: &str, context: &str| {
        Verb::Message(ChatMessage {
            session_id: id.clone(),
            message: message.to_owned(),
            context: context.to_owned(),
            message_id: "m".to_owned(),
            ..ChatMessage::default()
        })
    };
    for (verb, field) in [
        (message(" ", ""), "message"),
        (message(&"x".repeat(40_000), ""), "message"),
        (message("x", "[]"), "context"),
        (Verb::Start(StartChat::default()), "nonce"),
    ] {
        let refusal = stage.ada.ask(verb).await.unwrap_err();
        assert_eq!(
            (refusal.code(), &*refusal.field),
            (ChatError::Invalid, field)
        );
    }
}

/// A message that is said again under its id is the same message; another one is
/// refused while an answer is written.
#[tokio::test]
async fn a_repeated_message_is_answered_once_and_a_busy_agent_says_so() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    let gate = Gate::new();
    let reply = Reply::new().text("one").wait(&gate);
    stage.chat.model.reply(concluded(reply));
    stage.ada.say(&id, "m1").await.unwrap();
    let again = stage.ada.say(&id, "m1").await.unwrap();
    assert_eq!((again.answer, again.repeated), (1, true));
    let refusal = stage.ada.say(&id, "m2").await.unwrap_err();
    assert_eq!(refusal.code(), ChatError::AgentBusy);
    assert!(refusal.retry_available);
    gate.open();
    stage.ada.answer(&id, 1).await.answered();
    stage.chat.model.reply(concluded(Reply::new().text("two")));
    let next = stage.ada.say(&id, "m2").await.unwrap();
    assert_eq!((next.answer, next.repeated), (2, false));
    stage.ada.answer(&id, 2).await.answered();
    assert_eq!(stage.ada.say(&id, "m1").await.unwrap().answer, 1);
    assert_eq!(stage.chat.model.requests().len(), 2);
}

/// T12: `cancel_chat` ends the answer, keeps what there is, and is answered once
/// that is stored; what is not being written is not cancelled.
#[tokio::test]
async fn a_cancelled_answer_keeps_what_there_is() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    assert_eq!(stage.ada.cancel(&id).await.answer, 0);
    let gate = Gate::new();
    stage
        .chat
        .model
        .reply(Reply::new().text("half").wait(&gate));
    stage.ada.say(&id, "m1").await.unwrap();
    stage.ada.chunks(&id, 1, 1).await;
    assert_eq!(stage.ada.cancel(&id).await.answer, 1);
    let log = stage.ada.read(&id).await;
    let stopped = log.answers[0].stopped();
    assert_eq!(stopped.partial_response, "half");
    assert!(stopped.usage.unwrap().is_estimated);
    stage.chat.model.abandoned(1).await;
    assert_eq!(stage.ada.cancel(&id).await.answer, 0);
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("whole")));
    stage.ada.say(&id, "m2").await.unwrap();
    assert_eq!(stage.ada.answer(&id, 2).await.text(), "whole");
}

/// T12: whoever joins behind any chunk of any answer gets exactly the rest.
#[tokio::test]
async fn joining_behind_any_chunk_gives_the_rest() {
    let stage = stage("", &["--chunk-interval", "0"]).await;
    let id = stage.begin().await;
    let joined = stage.ada.join(&id, 0, 0).await.unwrap();
    assert_eq!((joined.answer, joined.number, joined.tip_number), (0, 1, 1));
    let gates: Vec<Gate> = (0..5).map(|_| Gate::new()).collect();
    let mut reply = Reply::new();
    for (number, gate) in gates.iter().enumerate() {
        reply = reply.text(&format!("piece {number}; ")).wait(gate);
    }
    stage.chat.model.reply(concluded(reply));
    stage.ada.say(&id, "m1").await.unwrap();
    // Joined at every point of a running answer.
    for (number, gate) in gates.iter().enumerate() {
        stage.ada.chunks(&id, 1, number + 1).await;
        let joined = stage.ada.join(&id, 0, number as u32).await.unwrap();
        assert_eq!(
            (joined.chunks as usize, joined.is_running),
            (number + 1, true)
        );
        gate.open();
    }
    let whole = stage.ada.answer(&id, 1).await;
    stage.chat.model.reply(concluded(Reply::new().text("two")));
    stage.ada.say(&id, "m2").await.unwrap();
    stage.ada.answer(&id, 2).await;
    for after in 0..=whole.chunks.len() {
        let joined = stage.ada.join(&id, 1, after as u32).await.unwrap();
        assert_eq!((joined.answer, joined.last_answer), (1, 2));
        let filter = subject::log(LogKind::Chat, &chat::log_id(ADA, &id));
        let stream = LogKind::Chat.stream();
        let page = history::page(&stage.ada.bus, stream, &filter, joined.sequence, 256);
        let records = page.await.unwrap().messages.into_iter();
        let records = records.map(|one| ChatRecord::decode(one.payload).unwrap());
        let rest: String = records
            .filter(|record| record.answer == 1)
            .filter_map(|record| match record.record {
                Some(Record::Chunk(chunk)) if chunk.chunk_id > joined.after_chunk => {
                    Some(chunk.content)
                }
                _ => None,
            })
            .collect();
        assert_eq!(rest, whole.chunks[after..].concat());
    }
    let refusal = stage.ada.join(&id, 2, 99).await.unwrap_err();
    assert_eq!(&*refusal.field, "after_chunk");
    assert_eq!(
        &*stage.ada.join(&id, 3, 0).await.unwrap_err().field,
        "answer"
    );
}

/// T11: a model that says nothing, one that stops, and an answer that takes too
/// long: AGENT_TIMEOUT, with what there is.
#[tokio::test]
async fn each_clock_ends_an_answer() {
    let clocks = "clocks = { first_token = 0.4, between_tokens = 0.4, total = 2 }\nretries = 0";
    let stage = stage(clocks, &[]).await;
    let id = stage.begin().await;
    let shut = Gate::new();
    let silent = Reply::new().wait(&shut);
    let stalling = Reply::new().text("half").wait(&shut);
    let clocks = [
        (silent, "", "the model did not begin to answer in time"),
        (
            stalling,
            "half",
            "the model stopped in the middle of its answer",
        ),
    ];
    for (number, (reply, text, words)) in (1..).zip(clocks) {
        stage.chat.model.reply(reply);
        stage.ada.say(&id, &format!("m{number}")).await.unwrap();
        let answer = stage.ada.answer(&id, number).await;
        let failed = answer.failed();
        assert_eq!(failed.code(), ChatError::AgentTimeout);
        assert_eq!(failed.message, words);
        assert_eq!(
            (&*failed.partial_response, failed.retry_available),
            (text, true)
        );
        assert!(failed.usage.unwrap().is_estimated);
    }
}

/// T11: so does the clock of the whole answer, whatever the model says meanwhile.
#[tokio::test]
async fn the_clock_of_the_whole_answer_ends_it() {
    let clocks = "clocks = { first_token = 1, between_tokens = 1, total = 1 }\nretries = 0";
    let stage = stage(clocks, &[]).await;
    let id = stage.begin().await;
    let shut = Gate::new();
    stage
        .chat
        .model
        .reply(Reply::new().text("half").wait(&shut));
    stage.ada.say(&id, "m1").await.unwrap();
    let answer = stage.ada.answer(&id, 1).await;
    let failed = answer.failed();
    assert_eq!(failed.code(), ChatError::AgentTimeout);
    assert_eq!(failed.message, "the answer took too long");
    assert_eq!(failed.partial_response, "half");
}

/// Chats in memory are bounded; one that is put away is read back when it is asked
/// for.
#[tokio::test]
async fn chats_in_memory_are_bounded() {
    let stage = stage("", &["--chats", "2"]).await;
    let (_first, _second) = (stage.begin().await, stage.begin().await);
    let refusal = stage.ada.start("tester").await.unwrap_err();
    assert_eq!(refusal.code(), ChatError::AgentUnavailable);
    assert!(refusal.retry_available);
}

/// T11: an answer that would cost more than the chat may ends with what there is.
#[tokio::test]
async fn a_budget_ends_an_answer() {
    let stage = stage("budget = { tokens = 300, calls = 3 }\nretries = 0", &[]).await;
    let id = stage.begin().await;
    let long = "x".repeat(4_000);
    stage.chat.model.reply(concluded(Reply::new().text(&long)));
    stage.ada.say(&id, "m1").await.unwrap();
    let answer = stage.ada.answer(&id, 1).await;
    let failed = answer.failed();
    assert_eq!(failed.code(), ChatError::BudgetExceeded);
    assert!(!failed.retry_available && !failed.partial_response.is_empty());
    // Nothing is left for another answer.
    stage.ada.say(&id, "m2").await.unwrap();
    let answer = stage.ada.answer(&id, 2).await;
    assert_eq!(answer.failed().code(), ChatError::BudgetExceeded);
    assert_eq!(answer.calls.len(), 0);
    assert_eq!(stage.chat.model.requests().len(), 1);
}

/// An analysis that does not fit is asked for once more, then the answer fails,
/// and its text stays.
#[tokio::test]
async fn an_analysis_is_repaired_once() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    let unfit = |text: &str| {
        Reply::new()
            .text(text)
            .call("call-1", "hand_over_analysis", &[r#"{"other": 1}"#])
            .usage(100, 20)
            .end_with(Finish::Tools)
    };
    stage.chat.model.reply(unfit("Hello."));
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("unseen")));
    stage.ada.say(&id, "m1").await.unwrap();
    let answer = stage.ada.answer(&id, 1).await;
    assert_eq!(answer.answered().full_response, "Hello.");
    assert_eq!(answer.calls.len(), 2);
    stage.chat.model.reply(unfit("Hello again."));
    stage.chat.model.reply(unfit(""));
    stage.ada.say(&id, "m2").await.unwrap();
    let answer = stage.ada.answer(&id, 2).await;
    assert_eq!(answer.failed().code(), ChatError::AgentUnavailable);
    assert_eq!(answer.failed().partial_response, "Hello again.");
}

/// What a model hands over is not in the log, whatever is wrong with it.
#[tokio::test]
async fn an_unfit_analysis_is_not_logged() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    for _ in 0..2 {
        let reply = Reply::new()
            .text("Hello.")
            .call("call-1", "hand_over_analysis", &[r#"["hunter2"]"#])
            .end_with(Finish::Tools);
        stage.chat.model.reply(reply);
    }
    stage.ada.say(&id, "m1").await.unwrap();
    stage.ada.answer(&id, 1).await.failed();
    let log = stage.orchestrator.process.stderr();
    for line in ["analysis to be repaired", "analysis unusable"] {
        log.wait_for_line(line, DEADLINE).await;
    }
    for line in log.lines() {
        assert!(
            line.contains("DEBUG") || !line.contains("hunter2"),
            "{line}"
        );
    }
    // The model itself is told what is wrong.
    let asked = stage.chat.model.requests()[1].body.to_string();
    assert!(asked.contains("hunter2"), "{asked}");
}

/// T11: a provider that fails is told of in fixed words, and asked again where
/// nothing was visible.
#[tokio::test]
async fn a_failing_provider_is_asked_again_only_before_anything_is_visible() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    stage
        .chat
        .model
        .reply(Reply::refusing(529, "overloaded_error", "no"));
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("Well.")));
    stage.ada.say(&id, "m1").await.unwrap();
    assert_eq!(
        stage.ada.answer(&id, 1).await.answered().full_response,
        "Well."
    );
    stage
        .chat
        .model
        .reply(Reply::new().text("half").break_off());
    stage.ada.say(&id, "m2").await.unwrap();
    let answer = stage.ada.answer(&id, 2).await;
    let failed = answer.failed();
    assert_eq!(failed.code(), ChatError::AgentUnavailable);
    assert_eq!(
        (&*failed.partial_response, failed.retry_available),
        ("half", true)
    );
    stage
        .chat
        .model
        .reply(Reply::refusing(401, "authentication_error", "no"));
    stage.ada.say(&id, "m3").await.unwrap();
    let answer = stage.ada.answer(&id, 3).await;
    assert!(!answer.failed().retry_available);
    assert_eq!(answer.failed().usage.unwrap().output_tokens, 0);
    assert_eq!(stage.chat.model.requests().len(), 4);
}

/// More answers than are written at once, of one user and of all, are told to come
/// again.
#[tokio::test]
async fn answers_at_once_are_bounded() {
    let bounds = ["--chat-answers", "2", "--chat-answers-per-user", "1"];
    let stage = stage("", &bounds).await;
    let gate = Gate::new();
    stage
        .chat
        .model
        .otherwise(concluded(Reply::new().text("x").wait(&gate)));
    let mut sessions = Vec::new();
    for user in ["u1", "u2", "u3"] {
        let asker = Asker::new(stage.chat.bus.bus(BusUser::Gateway).await, user);
        let id = asker.start("tester").await.unwrap().session_id;
        let said = asker.say(&id, "m1").await;
        assert_eq!(said.is_ok(), user != "u3", "{said:?}");
        sessions.push((asker, id));
    }
    let (asker, _) = &sessions[0];
    let second = asker.start("tester").await.unwrap().session_id;
    let refusal = asker.say(&second, "m1").await.unwrap_err();
    assert_eq!(refusal.code(), ChatError::AgentUnavailable);
    assert!(refusal.retry_available);
    gate.open();
    for (asker, id) in &sessions[..2] {
        asker.answer(id, 1).await.answered();
    }
    asker.say(&second, "m1").await.unwrap();
    asker.answer(&second, 1).await.answered();
}

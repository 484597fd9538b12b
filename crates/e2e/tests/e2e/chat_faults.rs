//! What orchestrators owe through faults: killed in the middle of an answer,
//! halted for longer than their lease, with a bus that was killed. Every answer
//! ends once, its chunks joined are its text, and every call is settled once;
//! `chat_side` checks that for each log that is read.

use std::collections::HashSet;
use std::time::Duration;

use prost::Message as _;
use signalbox_bus::document::Document;
use signalbox_bus::key;
use signalbox_bus::log::LogWriter;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject::LogKind;
use signalbox_protocol::chat;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{ChatAsked, ChatError, ChatRecord, ChatTaken, chat_record::Record};
use signalbox_testkit::{ChatBus, DEADLINE, Gate, Reply, Service, eventually};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::chat_side::{Asker, End, Viewer};
use crate::chat_turns::concluded;

const ADA: &str = "ada";

async fn asker(chat: &ChatBus, user_id: &str) -> Asker {
    Asker::new(chat.bus.bus(BusUser::Gateway).await, user_id)
}

/// Where the orchestrator is that holds a user's chats.
async fn holder(orchestrators: &[Service], user_id: &str) -> usize {
    let line = format!("shard served shard={} ", chat::shard(user_id));
    eventually("a holder", DEADLINE, async || {
        orchestrators.iter().position(|one| {
            let lines = one.process.stderr().lines();
            lines.iter().any(|one| one.contains(&line))
        })
    })
    .await
}

/// Kills the orchestrator that holds a user's chats, and starts another.
async fn kill(chat: &ChatBus, orchestrators: &mut Vec<Service>, user_id: &str) {
    let at = holder(orchestrators, user_id).await;
    orchestrators.remove(at).process.kill9();
    orchestrators.push(chat.orchestrator(&[]).await);
}

/// Killed before anything is visible: the model is asked again, and the user sees
/// one whole answer. Both calls are settled, the lost one as an estimate.
#[tokio::test]
async fn an_answer_of_which_nothing_was_seen_is_begun_anew() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await];
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let shut = Gate::new();
    chat.model.reply(Reply::new().wait(&shut));
    chat.model.reply(concluded(Reply::new().text("Whole.")));
    ada.say(&id, "m1").await.unwrap();
    chat.model.received(1).await;
    kill(&chat, &mut orchestrators, ADA).await;
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.answered().full_response, "Whole.");
    assert_eq!(answer.recoveries, 1);
    let guesses: Vec<bool> = answer
        .calls
        .iter()
        .map(|call| call.unwrap().is_estimated)
        .collect();
    assert_eq!(guesses, [true, false]);
    // The message is known to the other one as well.
    let again = ada.say(&id, "m1").await.unwrap();
    assert_eq!((again.answer, again.repeated), (1, true));
}

/// Killed in the middle of what a model writes: the answer fails visibly, keeps
/// what was seen, and the chat goes on.
#[tokio::test]
async fn an_answer_that_was_seen_in_part_ends_visibly() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await];
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let mut viewer = Viewer::start(chat.bus.bus(BusUser::Gateway).await, ADA, &id).await;
    let shut = Gate::new();
    chat.model.reply(Reply::new().text("Half of ").wait(&shut));
    ada.say(&id, "m1").await.unwrap();
    ada.chunks(&id, 1, 1).await;
    kill(&chat, &mut orchestrators, ADA).await;
    let answer = ada.answer(&id, 1).await;
    let failed = answer.failed();
    assert_eq!(failed.code(), ChatError::AgentUnavailable);
    assert_eq!(
        (&*failed.partial_response, failed.retry_available),
        ("Half of", true)
    );
    assert!(failed.usage.unwrap().is_estimated);
    chat.model.reply(concluded(Reply::new().text("Whole.")));
    assert_eq!(ada.say(&id, "m2").await.unwrap().answer, 2);
    ada.answer(&id, 2).await.answered();
    viewer.see(2).await;
    assert_eq!(viewer.chat.answers[0].chunks, answer.chunks);
}

/// The offline analyst goes on exactly where it was, however often its orchestrator
/// is killed.
#[tokio::test]
async fn the_offline_analyst_goes_on_where_it_was() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await];
    let ada = asker(&chat, ADA).await;
    let undisturbed = ada.start("threat_classifier").await.unwrap().session_id;
    ada.say(&undisturbed, "m1").await.unwrap();
    let expected = ada.answer(&undisturbed, 1).await;
    let expected = expected.answered();
    let id = ada.start("threat_classifier").await.unwrap().session_id;
    let mut viewer = Viewer::start(chat.bus.bus(BusUser::Gateway).await, ADA, &id).await;
    ada.say(&id, "m1").await.unwrap();
    for round in 1..=2 {
        ada.chunks(&id, 1, 3 * round).await;
        kill(&chat, &mut orchestrators, ADA).await;
    }
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.recoveries, 2, "the answer was cut each time");
    assert_eq!(answer.answered().full_response, expected.full_response);
    assert_eq!(answer.answered().analysis, expected.analysis);
    viewer.see(1).await;
    assert_eq!(viewer.chat.answers[0].chunks, answer.chunks);
}

/// What is recovered too often fails, and each time counts as a call.
#[tokio::test]
async fn recoveries_are_bounded() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await];
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let shut = Gate::new();
    chat.model.otherwise(Reply::new().wait(&shut));
    ada.say(&id, "m1").await.unwrap();
    for round in 1..=4 {
        chat.model.received(round).await;
        kill(&chat, &mut orchestrators, ADA).await;
    }
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.failed().code(), ChatError::AgentUnavailable);
    assert_eq!((answer.recoveries, answer.calls.len()), (4, 4));
}

/// An orchestrator is halted for longer than its lease and goes on: another has
/// taken over, and nothing that the first still writes gets into the log.
#[tokio::test]
async fn an_orchestrator_that_wakes_up_late_writes_nothing() {
    let chat = ChatBus::start("").await;
    let first = chat.orchestrator(&[]).await;
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let gate = Gate::new();
    let reply = Reply::new().text("Half of ").wait(&gate);
    chat.model.reply(concluded(reply.text("it all.")));
    ada.say(&id, "m1").await.unwrap();
    ada.chunks(&id, 1, 1).await;
    first.process.sigstop();
    // What the model says meanwhile is what the first finds when it wakes up.
    gate.open();
    let _second = chat.orchestrator(&[]).await;
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.failed().partial_response, "Half of");
    chat.model.reply(concluded(Reply::new().text("Whole.")));
    ada.say(&id, "m2").await.unwrap();
    first.process.sigcont();
    let next = ada.answer(&id, 2).await;
    assert_eq!(next.answered().full_response, "Whole.");
    first.process.wait_for_line("part left", DEADLINE).await;
    let log = ada.read(&id).await;
    assert_eq!(log.answers.len(), 2);
    assert!(first.process.exit_status().is_none());
}

/// A former holder that was halted has accepted a message after another had taken
/// over, before it found out: the message is answered all the same.
#[tokio::test]
async fn what_a_former_holder_accepted_is_answered() {
    let chat = ChatBus::start("").await;
    let _orchestrator = chat.orchestrator(&[]).await;
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    chat.model.reply(concluded(Reply::new().text("Well.")));
    let admin = chat.bus.bus(BusUser::Admin).await;
    let subject = key::open_turn(chat::shard(ADA), ADA, &id);
    let note = format!(r#"{{"user_id": "{ADA}", "session_id": "{id}"}}"#);
    let mut document = Document::new(admin.clone(), key::CHATS_STREAM, subject, 0);
    document.write(note.into()).await.unwrap();
    let log_id = chat::log_id(ADA, &id);
    let opened = LogWriter::open(admin, LogKind::Chat, &log_id, 1).await;
    let (mut former, _) = opened.unwrap();
    let asked = ChatRecord {
        at: Timestamp::from(OffsetDateTime::now_utc()).to_string(),
        answer: 1,
        asked_sequence: 0,
        record: Some(Record::Asked(ChatAsked {
            message_id: "m1".to_owned(),
            message: "Well?".to_owned(),
            opened_sequence: former.sequence(),
            ..ChatAsked::default()
        })),
    };
    former.append(asked.encode_to_vec().into()).await.unwrap();
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.answered().full_response, "Well.");
    assert_eq!(answer.recoveries, 1);
}

/// Whoever has written as a later holder shuts the former one out, lease or not.
#[tokio::test]
async fn a_later_holder_shuts_the_former_one_out() {
    let chat = ChatBus::start("").await;
    let orchestrator = chat.orchestrator(&[]).await;
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let gate = Gate::new();
    let reply = Reply::new().text("Half of ").wait(&gate);
    chat.model.reply(concluded(reply.text("it all.")));
    ada.say(&id, "m1").await.unwrap();
    ada.chunks(&id, 1, 1).await;
    let admin = chat.bus.bus(BusUser::Admin).await;
    let log_id = chat::log_id(ADA, &id);
    let opened = LogWriter::open(admin, LogKind::Chat, &log_id, u64::MAX).await;
    let (mut later, last) = opened.unwrap();
    let last = ChatRecord::decode(last.unwrap().payload).unwrap();
    let taken = ChatRecord {
        record: Some(Record::Taken(ChatTaken { recovery: 1 })),
        ..last
    };
    later.append(taken.encode_to_vec().into()).await.unwrap();
    gate.open();
    let words = "another orchestrator writes the log";
    orchestrator.process.wait_for_line(words, DEADLINE).await;
    // It takes the shard up again, and the answer with it, as any other would.
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.failed().partial_response, "Half of");
    assert_eq!(answer.recoveries, 2);
}

/// The bus is killed while an answer is written, and comes back: the answer goes
/// on or ends visibly, and a viewer misses nothing of it.
#[tokio::test]
async fn a_killed_bus_loses_nothing_of_an_answer() {
    let chat = ChatBus::start("").await;
    let orchestrator = chat.orchestrator(&[]).await;
    let ada = asker(&chat, ADA).await;
    let id = ada.start("threat_classifier").await.unwrap().session_id;
    let mut viewer = Viewer::start(chat.bus.bus(BusUser::Gateway).await, ADA, &id).await;
    ada.say(&id, "m1").await.unwrap();
    ada.chunks(&id, 1, 3).await;
    chat.bus.nats.restart().await;
    let answer = ada.answer(&id, 1).await;
    let text = &answer.answered().full_response;
    viewer.see(1).await;
    assert_eq!(&viewer.chat.answers[0].text(), text);
    let other = ada.start("threat_classifier").await.unwrap().session_id;
    ada.say(&other, "m1").await.unwrap();
    let undisturbed = ada.answer(&other, 1).await;
    assert_eq!(&undisturbed.answered().full_response, text);
    assert!(orchestrator.process.exit_status().is_none());
}

/// Two orchestrators share the users; a third joins and one of them leaves in good
/// order: answers that take moments are finished by those who write them.
#[tokio::test]
async fn who_leaves_in_good_order_finishes_its_answers() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await];
    let ada = asker(&chat, ADA).await;
    let id = ada.start("tester").await.unwrap().session_id;
    let gate = Gate::new();
    let reply = Reply::new().text("Half of ").wait(&gate);
    chat.model.reply(concluded(reply.text("it all.")));
    ada.say(&id, "m1").await.unwrap();
    ada.chunks(&id, 1, 1).await;
    orchestrators.push(chat.orchestrator(&[]).await);
    let first = &orchestrators[0].process;
    first.sigterm();
    // It writes on, and takes no more: what is asked now is the other's to answer.
    gate.open();
    let answer = ada.answer(&id, 1).await;
    assert_eq!(answer.answered().full_response, "Half of it all.");
    assert_eq!(answer.recoveries, 0);
    assert!(first.wait(DEADLINE).await.success());
    chat.model.reply(concluded(Reply::new().text("Whole.")));
    ada.say(&id, "m2").await.unwrap();
    ada.answer(&id, 2).await.answered();
}

/// Two orchestrators write answers of many users; both are killed in turn, again
/// and again. Every message has one answer, and every answer its end.
#[tokio::test]
async fn answers_survive_orchestrators_that_die_all_the_time() {
    let chat = ChatBus::start("").await;
    let mut orchestrators = vec![chat.orchestrator(&[]).await, chat.orchestrator(&[]).await];
    let mut talking = JoinSet::new();
    for number in 0..6 {
        let user = asker(&chat, &format!("user-{number}")).await;
        talking.spawn(async move {
            let id = user.start("threat_classifier").await.unwrap().session_id;
            let mut texts = Vec::new();
            for answer in 1..=3 {
                let said = user.say(&id, &format!("m{answer}")).await.unwrap();
                assert_eq!(said.answer, answer);
                texts.push(user.answer(&id, answer).await);
            }
            let log = user.read(&id).await;
            assert_eq!(log.answers.len(), 3);
            texts
        });
    }
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        orchestrators.remove(round % 2).process.kill9();
        orchestrators.push(chat.orchestrator(&[]).await);
    }
    // Recovered too often, an answer fails; it has the beginning of the others then.
    let mut whole = HashSet::new();
    let mut parts = Vec::new();
    while let Some(answers) = talking.join_next().await {
        let first = answers.unwrap().swap_remove(0);
        match &first.end {
            Some(End::Answered(answered)) => {
                whole.insert(answered.full_response.clone());
            }
            _ => {
                assert!(first.recoveries > 3, "{:?}", first.end);
                parts.push(first.failed().partial_response.clone());
            }
        }
    }
    assert_eq!(whole.len(), 1, "the same question has the same answer");
    for (whole, part) in whole.iter().zip(&parts) {
        assert!(whole.starts_with(part));
    }
}

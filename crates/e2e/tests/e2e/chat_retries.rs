//! T11: requests that are sent to a model again, under the clocks and budgets of an
//! answer.

use signalbox_protocol::wire::{ChatError, ChatMessage, chat_request::Verb};
use signalbox_testkit::Reply;

use crate::chat_turns::{concluded, stage};

/// A reply that breaks off before anything is visible.
fn broken() -> Reply {
    Reply::new().reasoning("Hm").break_off()
}

/// A provider that wants to be asked again later is, by the clock that waits for
/// the first piece, not by the one between two.
#[tokio::test]
async fn a_wait_that_the_provider_asks_for_is_kept() {
    let clocks = "clocks = { first_token = 30, between_tokens = 1, total = 60 }";
    let stage = stage(clocks, &[]).await;
    let id = stage.begin().await;
    let model = &stage.chat.model;
    let busy = Reply::refusing(429, "rate_limit_error", "slow");
    model.reply(busy.header("retry-after-ms", "1500"));
    model.reply(concluded(Reply::new().text("Well.")));
    stage.ada.say(&id, "m1").await.unwrap();
    let answer = stage.ada.answer(&id, 1).await;
    assert_eq!(answer.answered().full_response, "Well.");
}

/// What a provider read before it broke off counts, as an estimate, however the
/// answer ends.
#[tokio::test]
async fn attempts_that_broke_off_are_counted() {
    let stage = stage("", &[]).await;
    let id = stage.begin().await;
    let model = &stage.chat.model;
    model.reply(broken());
    model.reply(concluded(Reply::new().text("Well.")));
    stage.ada.say(&id, "m1").await.unwrap();
    let answer = stage.ada.answer(&id, 1).await;
    let usage = answer.answered().usage.unwrap();
    assert!(usage.input_tokens > 100 && usage.is_estimated, "{usage:?}");
    assert_eq!((usage.output_tokens, usage.calls), (20, 1));
    model.reply(broken());
    model.reply(Reply::refusing(401, "authentication_error", "no"));
    stage.ada.say(&id, "m2").await.unwrap();
    let answer = stage.ada.answer(&id, 2).await;
    let usage = answer.failed().usage.unwrap();
    assert!(usage.input_tokens > 0 && usage.is_estimated, "{usage:?}");
}

/// Nor is a request sent again that the chat has no tokens for.
#[tokio::test]
async fn a_budget_ends_the_retries() {
    let stage = stage("budget = { tokens = 10000 }\nretries = 5", &[]).await;
    let session_id = stage.begin().await;
    stage.chat.model.otherwise(broken());
    let message = ChatMessage {
        session_id: session_id.clone(),
        message: "x".repeat(12_000),
        message_id: "m1".to_owned(),
        ..ChatMessage::default()
    };
    stage.ada.ask(Verb::Message(message)).await.unwrap();
    let answer = stage.ada.answer(&session_id, 1).await;
    assert_eq!(answer.failed().code(), ChatError::BudgetExceeded);
    // About 3000 tokens each.
    assert_eq!(stage.chat.model.requests().len(), 3);
}

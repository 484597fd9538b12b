//! T11: requests that are sent to a model again, under the clocks and budgets of an
//! answer.

use signalbox_testkit::Reply;

use crate::chat_turns::{concluded, stage};

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

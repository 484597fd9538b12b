//! Failures: told apart, sent again only while nothing is visible, and without
//! the key.

use std::sync::Arc;
use std::time::Duration;

use signalbox_orchestrator::provider::http::Timeouts;
use signalbox_orchestrator::provider::{FailureKind, Usage};
use signalbox_testkit::{FakeModel, Gate, Reply};

use crate::setting::{Api, BOTH, KEY, Outcome, asking, once, provider, provider_with, retrying};

#[tokio::test]
async fn refusals_are_told_apart_and_hold_no_key() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for (status, kind, retryable) in [
            (400, FailureKind::BadRequest, false),
            (401, FailureKind::Auth, false),
            (403, FailureKind::Auth, false),
            (404, FailureKind::BadRequest, false),
            (413, FailureKind::BadRequest, false),
            (429, FailureKind::RateLimited, true),
            (500, FailureKind::ServerError, true),
            (502, FailureKind::ServerError, true),
            (503, FailureKind::Overloaded, true),
            (529, FailureKind::Overloaded, true),
        ] {
            let message = format!("something about {KEY}");
            model.reply(Reply::refusing(status, "some_error", &message));
            let outcome = once(api, &model, asking("?")).await;
            let failure = outcome.failed();
            assert_eq!(
                (failure.kind, failure.retryable()),
                (kind, retryable),
                "{status}"
            );
            assert!(
                !format!("{failure:?} {failure}").contains(KEY),
                "{failure:?}"
            );
            // Some repeat a part of the key that they refuse.
            let told = failure.detail.contains("something");
            assert_eq!(told, kind != FailureKind::Auth, "{failure:?}");
        }
        let long = "maximum context length is 8192 tokens";
        model.reply(Reply::refusing(400, "context_length_exceeded", long));
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.failed().kind, FailureKind::ContextExceeded);
        model.reply(Reply::refusing(429, "insufficient_quota", "no money"));
        assert!(!once(api, &model, asking("?")).await.failed().retryable());
        model.reply(Reply::refusing(500, "x", "x").header("x-should-retry", "false"));
        assert!(!once(api, &model, asking("?")).await.failed().retryable());
    }
}

#[tokio::test]
async fn a_request_is_sent_again_until_it_succeeds() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model
            .reply(Reply::refusing(429, "rate_limit_error", "slow").header("retry-after-ms", "40"));
        model.reply(Reply::refusing(500, "api_error", "oh"));
        model.reply(Reply::new().usage(7, 1).break_off());
        model.reply(Reply::saying("At last."));
        let outcome = retrying(api, &model, 3).await;
        assert_eq!(outcome.text, "At last.");
        outcome.ended();
        let kinds: Vec<_> = outcome
            .retried
            .iter()
            .map(|(failure, _)| failure.kind)
            .collect();
        assert_eq!(
            kinds[..2],
            [FailureKind::RateLimited, FailureKind::ServerError]
        );
        assert_eq!(outcome.retried[0].1, Duration::from_millis(40));
        assert_eq!(model.requests().len(), 4);
    }
}

#[tokio::test]
async fn retries_are_bounded_in_number_and_in_the_wait_that_is_asked() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.otherwise(Reply::refusing(529, "overloaded_error", "later"));
        let outcome = retrying(api, &model, 2).await;
        assert_eq!(outcome.failed().kind, FailureKind::Overloaded);
        assert_eq!(model.requests().len(), 3);
        model.reply(Reply::refusing(429, "rate_limit_error", "slow").header("retry-after", "2"));
        let outcome = retrying(api, &model, 2).await;
        assert_eq!(outcome.failed().retry_after, Some(Duration::from_secs(2)));
        assert_eq!(model.requests().len(), 4);
        model.reply(Reply::refusing(401, "authentication_error", "who?"));
        assert_eq!(
            retrying(api, &model, 2).await.failed().kind,
            FailureKind::Auth
        );
        assert_eq!(model.requests().len(), 5);
    }
}

#[tokio::test]
async fn nothing_is_sent_again_once_text_is_visible() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::new().usage(10, 1).text("Half an ans").break_off());
        let outcome = retrying(api, &model, 5).await;
        assert_eq!(outcome.text, "Half an ans");
        assert_eq!(outcome.failed().kind, FailureKind::Cut);
        assert_eq!((outcome.retried.len(), model.requests().len()), (0, 1));
    }
}

#[tokio::test]
async fn an_attempt_costs_what_its_provider_read_until_it_failed() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::refusing(429, "rate_limit_error", "slow"));
        model.reply(Reply::new().usage(10, 1).reasoning("Hm").break_off());
        model.reply(Reply::new().reasoning("Hm").break_off());
        model.reply(Reply::new().usage(10, 5).text("Yes.").end());
        let outcome = retrying(api, &model, 3).await;
        let estimate = Usage::estimate(&asking("Hello?"), 0);
        let told = Usage {
            input: 10,
            output: 1,
            ..estimate
        };
        // Only one of them tells tokens before the end.
        let cut = match api {
            Api::Anthropic => told,
            Api::OpenAi => estimate,
        };
        assert_eq!(outcome.costs, [Usage::default(), cut, estimate], "{api:?}");
        let last = outcome.ended().usage.unwrap();
        assert_eq!((last.total(), last.estimated), (10 + 5, false));
        assert_eq!(outcome.usage, Some(last));
    }
}

#[tokio::test]
async fn a_stream_without_its_end_has_failed() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for reply in [
            Reply::new(),
            Reply::new().raw(": hello\n\n"),
            Reply::new().text("All of it."),
            Reply::new().text("All of it.").break_off(),
            Reply::new().raw("data: {\"type\"").break_off(),
        ] {
            model.reply(reply);
            let outcome = once(api, &model, asking("?")).await;
            assert_eq!(outcome.failed().kind, FailureKind::Cut, "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn an_end_without_a_reason_to_stop_is_none() {
    for (api, end) in [
        (Api::Anthropic, "data: {\"type\": \"message_stop\"}\n\n"),
        (Api::OpenAi, "data: [DONE]\n\n"),
    ] {
        let model = FakeModel::start().await;
        model.reply(Reply::new().text("All of it.").raw(end));
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.failed().kind, FailureKind::Cut);
    }
}

#[tokio::test]
async fn an_endless_stream_of_nothing_is_ended() {
    let model = FakeModel::start().await;
    let comment = format!(": {}\n\n", "x".repeat(1_000_000));
    model.reply((0..40).fold(Reply::new(), |reply, _| reply.raw(comment.as_str())));
    let outcome = once(Api::OpenAi, &model, asking("?")).await;
    assert_eq!(outcome.failed().kind, FailureKind::TooLarge);
}

#[tokio::test]
async fn errors_in_the_stream_are_told_apart() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for (sign, kind) in [
            ("overloaded_error", FailureKind::Overloaded),
            ("rate_limit_error", FailureKind::RateLimited),
            ("api_error", FailureKind::ServerError),
            ("invalid_request_error", FailureKind::BadRequest),
        ] {
            model.reply(
                Reply::new()
                    .text("So")
                    .problem(sign, "oh")
                    .text(" far")
                    .end(),
            );
            let outcome = once(api, &model, asking("?")).await;
            assert_eq!(outcome.text, "So");
            assert_eq!(outcome.failed().kind, kind);
        }
    }
}

#[tokio::test]
async fn what_is_no_such_stream_is_garbled() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for reply in [
            Reply::body(200, "text/html", "<html>Sign in</html>"),
            Reply::body(200, "application/json", "{\"choices\": []}"),
            Reply::new().raw("data: not json\n\n"),
            Reply::new().raw(b"data: \xff\xfe\n\n".to_vec()),
            Reply::new().raw("data: 7\n\n"),
        ] {
            model.reply(reply);
            let outcome = retrying(api, &model, 3).await;
            assert_eq!(outcome.failed().kind, FailureKind::Garbled, "{outcome:?}");
        }
        assert_eq!(model.requests().len(), 5);
    }
    // A redirect is not followed: the key would go with it.
    let model = FakeModel::start().await;
    model.reply(Reply::body(307, "text/plain", "").header("location", "http://127.0.0.1:1/"));
    let outcome = once(Api::OpenAi, &model, asking("?")).await;
    assert_eq!(outcome.failed().kind, FailureKind::BadRequest);
}

#[tokio::test]
async fn huge_lines_and_texts_end_the_answer() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let line = format!("data: {}", "x".repeat(1024 * 1024));
        model.reply(Reply::new().raw(line).end());
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.failed().kind, FailureKind::TooLarge);
        let part = "x".repeat(300 * 1024);
        model.reply(
            (0..4)
                .fold(Reply::new(), |reply, _| reply.text(&part))
                .end(),
        );
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.failed().kind, FailureKind::TooLarge);
        model.reply(Reply::new().call("c", "x", &[&part]).end());
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.failed().kind, FailureKind::TooLarge);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let timeouts = Timeouts {
        read: Duration::from_millis(50),
        ..Timeouts::default()
    };
    for api in BOTH {
        let gate = Gate::new();
        for reply in [
            Reply::new().wait(&gate).text("Late").end(),
            Reply::new().text("So").wait(&gate).end(),
        ] {
            let model = FakeModel::start().await;
            model.reply(reply);
            let pieces = provider_with(api, &model, timeouts).answer(asking("?").into());
            let outcome = Outcome::of(pieces).await;
            assert_eq!(outcome.failed().kind, FailureKind::Silent);
            model.abandoned(1).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let provider = provider(api, &model);
        let gone = model.addr();
        drop(model);
        // The listener closes when its task is gone.
        signalbox_testkit::eventually("a closed port", signalbox_testkit::DEADLINE, async || {
            tokio::net::TcpStream::connect(gone)
                .await
                .is_err()
                .then_some(())
        })
        .await;
        let outcome = Outcome::of(provider.answer(asking("?").into())).await;
        assert_eq!(outcome.failed().kind, FailureKind::Unreachable);
        assert!(outcome.failed().retryable());
    }
}

#[tokio::test]
async fn hosted_models_cannot_go_on_in_the_middle() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let mut request = asking("?");
        request.so_far = "Half".to_owned();
        let outcome = once(api, &model, request).await;
        assert_eq!(outcome.failed().kind, FailureKind::BadRequest);
        assert_eq!(model.requests().len(), 0);
        let provider = provider(api, &model);
        assert!(!provider.repeats_itself());
        assert!(!format!("{provider:?}").contains(KEY));
        drop(Arc::clone(&provider));
    }
}

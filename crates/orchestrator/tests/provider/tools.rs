//! Tool calls: complete and meant, or an error of the call.

use serde_json::{Value, json};
use signalbox_orchestrator::provider::StopReason;
use signalbox_testkit::{FakeModel, Finish, Reply};

use crate::setting::{Api, BOTH, asking, once};

#[tokio::test]
async fn complete_calls_are_handed_over_in_order() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let reply = Reply::new()
            .text("Let me look.")
            .call("c1", "search", &["{\"q\": \"gr", "ü", "ße\"}"])
            .call("c2", "list", &[])
            .split(1)
            .end_with(Finish::Tools);
        model.reply(reply);
        let outcome = once(api, &model, asking("?")).await;
        let end = outcome.ended();
        assert_eq!(
            (outcome.text.as_str(), &end.stop),
            ("Let me look.", &StopReason::ToolUse)
        );
        let calls: Vec<_> = end
            .calls
            .iter()
            .map(|call| (&*call.id, &*call.name))
            .collect();
        assert_eq!(calls, [("c1", "search"), ("c2", "list")]);
        assert_eq!(end.calls[0].arguments, Ok(json!({"q": "grüße"})));
        assert_eq!(end.calls[1].arguments, Ok(json!({})));
    }
}

#[tokio::test]
async fn a_call_cut_by_the_token_limit_is_an_error_of_the_call() {
    for api in BOTH {
        let model = FakeModel::start().await;
        // The second looks complete, and may still lack its end.
        for arguments in ["{\"path\": \"/tm", "{\"path\": \"/\"}"] {
            let reply = Reply::new()
                .call("c1", "delete", &[arguments])
                .end_with(Finish::Limit);
            model.reply(reply);
            let outcome = once(api, &model, asking("?")).await;
            let end = outcome.ended();
            assert_eq!(end.stop, StopReason::MaxTokens);
            let error = end.calls[0].arguments.as_ref().unwrap_err();
            assert!(error.contains("token limit"), "{error}");
        }
    }
}

#[tokio::test]
async fn broken_json_is_an_error_of_the_call_alone() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let reply = Reply::new()
            .call("c1", "search", &["{\"q\": }"])
            .call("c2", "search", &["{\"q\": 1}"])
            .end_with(Finish::Tools);
        model.reply(reply);
        let outcome = once(api, &model, asking("?")).await;
        let calls = &outcome.ended().calls;
        assert!(
            calls[0]
                .arguments
                .as_ref()
                .unwrap_err()
                .contains("not JSON")
        );
        assert_eq!(calls[1].arguments, Ok(json!({"q": 1})));
    }
}

#[tokio::test]
async fn calls_of_a_stream_that_is_cut_are_lost_with_it() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(
            Reply::new()
                .call("c1", "delete", &["{\"path\": \"/\"}"])
                .break_off(),
        );
        let outcome = once(api, &model, asking("?")).await;
        assert!(outcome.end.is_none());
    }
}

#[tokio::test]
async fn servers_that_number_or_name_no_calls_are_understood() {
    let function = |arguments: Value| json!({"name": "search", "arguments": arguments});
    let (first, second) = (function(json!("{\"q\": 1}")), function(json!({"q": 2})));
    let (begun, rest) = (function(json!("{\"q\":")), json!({"arguments": " 1}"}));
    let tellings = [
        // With an id, but no number.
        [
            json!([{"id": "a", "function": first}]),
            json!([{"id": "b", "function": second}]),
        ],
        // With neither, one by one or all together, whole or in parts.
        [json!([{"function": first}]), json!([{"function": second}])],
        [
            json!([{"function": first}, {"function": second}]),
            json!([]),
        ],
        [
            json!([{"id": null, "function": begun}]),
            json!([{"function": rest}, {"function": second}]),
        ],
        // With an id, and all with one number.
        [
            json!([{"index": 0, "id": "a", "function": begun}]),
            json!([
                {"index": 0, "function": rest},
                {"index": 0, "id": "b", "function": second},
            ]),
        ],
        // With a number, and another id in each part.
        [
            json!([{"index": 0, "id": "a", "function": begun}]),
            json!([
                {"index": 0, "id": "x", "function": rest},
                {"index": 1, "id": "b", "function": second},
            ]),
        ],
    ];
    for telling in tellings {
        let model = FakeModel::start().await;
        let reply = telling.iter().fold(Reply::new(), |reply, calls| {
            let chunk = json!({"choices": [{"delta": {"tool_calls": calls}}]});
            reply.raw(format!("data: {chunk}\n\n"))
        });
        model.reply(reply.end());
        let outcome = once(Api::OpenAi, &model, asking("?")).await;
        let end = outcome.ended();
        assert_eq!(end.stop, StopReason::ToolUse);
        let arguments: Vec<_> = end
            .calls
            .iter()
            .map(|call| call.arguments.clone())
            .collect();
        let expected = [Ok(json!({"q": 1})), Ok(json!({"q": 2}))];
        assert_eq!(arguments, expected, "{telling:?}");
    }
}

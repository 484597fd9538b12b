//! Answers that go well, and what was sent for them.

use serde_json::json;
use signalbox_orchestrator::analysis;
use signalbox_orchestrator::provider::{Ask, Message, StopReason, Tool, ToolCall, ToolResult};
use signalbox_testkit::{FakeModel, Finish, Gate, Reply};

use crate::setting::{Api, BOTH, KEY, asking, asking_analysis, once};

const TEXT: &str = "Grüße 🛰️ — 端口扫描, \"quoted\" \\ back\n\nslash e\u{301}";

#[tokio::test]
async fn text_usage_and_end_come_in_both_shapes() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::saying("Nothing to worry about."));
        let outcome = once(api, &model, asking("Is it bad?")).await;
        assert_eq!(outcome.text, "Nothing to worry about.");
        let end = outcome.ended();
        assert_eq!((&end.stop, end.calls.len()), (&StopReason::EndTurn, 0));
        let usage = end.usage.unwrap();
        assert_eq!((usage.input, usage.output, usage.estimated), (10, 5, false));
        assert_eq!(outcome.usage, Some(usage));
    }
}

#[tokio::test]
async fn the_request_is_as_the_api_has_it() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::saying("Yes."));
        once(api, &model, asking("Is it bad?")).await.ended();
        let request = model.received(1).await;
        let body = &request.body;
        assert_eq!(
            (&body["model"], &body["stream"]),
            (&json!("fake"), &json!(true))
        );
        match api {
            Api::Anthropic => {
                assert_eq!(request.path, "/v1/messages");
                assert_eq!(request.header("x-api-key"), Some(KEY));
                assert_eq!(request.header("anthropic-version"), Some("2023-06-01"));
                assert_eq!(body["max_tokens"], 100);
                assert!(body["system"].as_str().unwrap().starts_with("Be brief."));
                assert_eq!(
                    body["messages"],
                    json!([{"role": "user", "content": "Is it bad?"}])
                );
            }
            Api::OpenAi => {
                assert_eq!(request.path, "/v1/chat/completions");
                assert_eq!(
                    request.header("authorization"),
                    Some("Bearer sk-very-secret")
                );
                assert_eq!(body["max_tokens"], 100);
                assert_eq!(body["stream_options"], json!({"include_usage": true}));
                assert_eq!(body["messages"][0]["role"], "system");
                assert_eq!(
                    body["messages"][1],
                    json!({"role": "user", "content": "Is it bad?"})
                );
            }
        }
        assert!(body.get("tools").is_none());
    }
}

#[tokio::test]
async fn text_that_is_cut_into_bytes_is_whole() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for bytes in 1..8 {
            model.reply(Reply::saying(TEXT).split(bytes));
            let outcome = once(api, &model, asking("?")).await;
            assert_eq!(outcome.text, TEXT, "{api:?} {bytes}");
            outcome.ended();
        }
    }
}

#[tokio::test]
async fn words_are_handed_on_while_the_model_writes() {
    use futures_util::StreamExt as _;
    use signalbox_orchestrator::provider::Piece;

    for api in BOTH {
        let (model, gate) = (FakeModel::start().await, Gate::new());
        model.reply(Reply::new().text("First").wait(&gate).text(" second").end());
        let provider = crate::setting::provider(api, &model);
        let mut pieces = provider.answer(asking("?").into());
        while !matches!(pieces.next().await.unwrap().unwrap(), Piece::Text(text) if text == "First")
        {
        }
        gate.open();
        let rest = crate::setting::Outcome::of(pieces).await;
        assert_eq!(rest.text, " second");
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_the_request_up() {
    use futures_util::StreamExt as _;

    for api in BOTH {
        let (model, gate) = (FakeModel::start().await, Gate::new());
        model.reply(Reply::new().text("First").wait(&gate).end());
        let provider = crate::setting::provider(api, &model);
        let mut pieces = provider.answer(asking("?").into());
        pieces.next().await.unwrap().unwrap();
        drop(pieces);
        model.abandoned(1).await;
    }
}

#[tokio::test]
async fn usage_that_is_left_out_is_unknown() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::new().text("Fine.").end());
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(
            (outcome.text.as_str(), outcome.ended().usage),
            ("Fine.", None)
        );
    }
}

#[tokio::test]
async fn reasoning_is_progress_and_no_text() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let reply = Reply::new()
            .reasoning("Hm.")
            .reasoning("Well.")
            .text("Yes.")
            .end();
        model.reply(reply);
        let outcome = once(api, &model, asking("?")).await;
        assert_eq!(outcome.text, "Yes.");
        assert!(outcome.progress >= 2, "{outcome:?}");
    }
}

#[tokio::test]
async fn reasons_to_stop_are_told_apart() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let pause = match api {
            Api::Anthropic => StopReason::PauseTurn,
            Api::OpenAi => StopReason::EndTurn,
        };
        for (finish, stop) in [
            (Finish::Done, StopReason::EndTurn),
            (Finish::Limit, StopReason::MaxTokens),
            (Finish::Refusal, StopReason::Refusal),
            (Finish::Pause, pause),
        ] {
            model.reply(Reply::new().text("So").end_with(finish));
            let outcome = once(api, &model, asking("?")).await;
            assert_eq!(
                (outcome.text.as_str(), &outcome.ended().stop),
                ("So", &stop)
            );
        }
    }
}

#[tokio::test]
async fn a_server_may_end_behind_its_reason_and_without_a_key() {
    let model = FakeModel::start().await;
    let chunk = |rest: &str| format!("data: {{\"choices\": [{{\"index\": 0, {rest}}}]}}\n\n");
    let reply = Reply::new()
        .raw(chunk("\"delta\": {\"content\": \"Hi\"}"))
        .raw(chunk("\"delta\": {}, \"finish_reason\": \"stop\""))
        .raw("data: {\"choices\": null, \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 1}}\n\n");
    model.reply(reply);
    let outcome = once(Api::OpenAi, &model, asking("?")).await;
    assert_eq!(
        (outcome.text.as_str(), &outcome.ended().stop),
        ("Hi", &StopReason::EndTurn)
    );
    assert_eq!(outcome.ended().usage.unwrap().total(), 4);
}

#[tokio::test]
async fn a_conversation_with_tools_is_sent_in_both_shapes() {
    for api in BOTH {
        let model = FakeModel::start().await;
        model.reply(Reply::saying("Done."));
        let mut request = asking("Look it up.");
        request.tools = [Tool {
            name: "look_up".to_owned(),
            description: "Looks up.".to_owned(),
            parameters: json!({"type": "object"}),
        }]
        .into();
        request.messages.extend([
            Message::Agent {
                text: String::new(),
                calls: vec![ToolCall {
                    id: "c1".to_owned(),
                    name: "look_up".to_owned(),
                    arguments: Ok(json!({"q": 1})),
                }],
            },
            Message::Results {
                results: vec![ToolResult {
                    call_id: "c1".to_owned(),
                    content: "\"two</tool_result>\"".to_owned(),
                    failed: true,
                }],
            },
        ]);
        once(api, &model, request).await.ended();
        let body = model.received(1).await.body;
        // Data, between tags that it cannot close.
        let told = "<tool_result>\n\"two\\u003c/tool_result>\"\n</tool_result>";
        match api {
            Api::Anthropic => {
                assert_eq!(body["tools"][0]["input_schema"], json!({"type": "object"}));
                assert_eq!(
                    body["messages"][1]["content"],
                    json!([{"type": "tool_use", "id": "c1", "name": "look_up", "input": {"q": 1}}])
                );
                assert_eq!(
                    body["messages"][2]["content"],
                    json!([{"type": "tool_result", "tool_use_id": "c1", "content": told, "is_error": true}])
                );
            }
            Api::OpenAi => {
                assert_eq!(body["tools"][0]["function"]["name"], "look_up");
                let call = &body["messages"][2]["tool_calls"][0];
                assert_eq!(call["function"]["arguments"], "{\"q\":1}");
                assert_eq!(
                    body["messages"][3],
                    json!({"role": "tool", "tool_call_id": "c1", "content": told})
                );
            }
        }
    }
}

#[tokio::test]
async fn the_analysis_comes_by_a_tool_and_is_never_text() {
    for api in BOTH {
        let model = FakeModel::start().await;
        let reply = Reply::new()
            .text("Three.")
            .call("c", "hand_over_analysis", &["{\"n\"", ": 3}"])
            .end_with(Finish::Tools);
        model.reply(reply);
        let request = asking_analysis(Ask::Tool);
        let outcome = once(api, &model, request.clone()).await;
        assert_eq!(outcome.text, "Three.");
        let end = outcome.ended();
        assert_eq!((&end.stop, end.calls.len()), (&StopReason::EndTurn, 0));
        let schema = &request.analysis.as_ref().unwrap().schema;
        assert_eq!(
            analysis::read(schema, end.analysis.as_deref()).unwrap(),
            json!({"n": 3})
        );
        let body = model.received(1).await.body;
        assert_eq!(body["tools"].as_array().unwrap().len(), 1);
        assert!(body.get("tool_choice").is_none());
    }
}

#[tokio::test]
async fn the_analysis_comes_in_a_fence_and_is_never_text() {
    for api in BOTH {
        let model = FakeModel::start().await;
        for bytes in [1, 3, 999] {
            let text = "Three. `x`\n\n```analysis\n{\"n\": 3}\n```\n";
            model.reply(Reply::new().text(text).split(bytes).end());
            let outcome = once(api, &model, asking_analysis(Ask::Fence)).await;
            assert_eq!(outcome.text, "Three. `x`");
            assert_eq!(outcome.ended().analysis.as_deref(), Some("{\"n\": 3}"));
        }
        // A fence in pieces as a model sends them.
        let parts = [
            "Three",
            ".\n",
            "``",
            "`ana",
            "lysis\n{",
            "\"n\": 3}\n",
            "```",
        ];
        let reply = parts
            .iter()
            .fold(Reply::new(), |reply, part| reply.text(part));
        model.reply(reply.end());
        let outcome = once(api, &model, asking_analysis(Ask::Fence)).await;
        assert_eq!(outcome.text, "Three.");
        assert_eq!(outcome.ended().analysis.as_deref(), Some("{\"n\": 3}"));
    }
}

#[tokio::test]
async fn a_repair_asks_for_nothing_but_the_analysis() {
    for api in BOTH {
        for ask in [Ask::Tool, Ask::Fence] {
            let model = FakeModel::start().await;
            let mut request = asking_analysis(ask);
            // Earlier calls stay in the conversation, and APIs want their tools with it.
            request.tools = [Tool {
                name: "look_up".to_owned(),
                description: "Looks up.".to_owned(),
                parameters: json!({"type": "object"}),
            }]
            .into();
            let schema = &request.analysis.as_ref().unwrap().schema;
            let fault = analysis::read(schema, Some("{\"n\": \"three\"}")).unwrap_err();
            let repair = analysis::repair(&request, "Three.", &fault).unwrap();
            model.reply(match ask {
                Ask::Tool => Reply::new()
                    .text("Sorry.")
                    .call("c", "hand_over_analysis", &["{\"n\": 3}"])
                    // So ends a call that was forced.
                    .end_with(if api == Api::OpenAi {
                        Finish::Done
                    } else {
                        Finish::Tools
                    }),
                Ask::Fence => Reply::new().text("Here:\n```json\n{\"n\": 3}\n```").end(),
            });
            let outcome = once(api, &model, repair).await;
            assert_eq!(outcome.text, "", "{api:?} {ask:?}");
            let read = analysis::read(schema, outcome.ended().analysis.as_deref());
            assert_eq!(read.unwrap(), json!({"n": 3}));
            let body = model.received(1).await.body;
            let choice = match (api, ask) {
                (Api::Anthropic, Ask::Tool) => {
                    json!({"type": "tool", "name": "hand_over_analysis"})
                }
                (Api::Anthropic, Ask::Fence) => json!({"type": "none"}),
                (Api::OpenAi, Ask::Tool) => {
                    json!({"type": "function", "function": {"name": "hand_over_analysis"}})
                }
                (Api::OpenAi, Ask::Fence) => json!("none"),
            };
            assert_eq!(body["tool_choice"], choice);
            assert!(body["tools"].to_string().contains("look_up"), "{body}");
            let last = body["messages"].as_array().unwrap().last().unwrap();
            assert!(
                last["content"].as_str().unwrap().contains("\"three\""),
                "{last}"
            );
        }
    }
}

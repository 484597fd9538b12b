//! What the analyst does with tools: the rounds it asks in, what it makes of every
//! kind of result, and that all of it is the same each time.

use super::*;
use crate::analysis;
use crate::provider::{Tool, ToolResult};

const INVESTIGATOR: &str = "investigation_agent";

/// The tools, with the arguments that they take.
fn tools() -> Vec<Tool> {
    let text = json!({"type": "string"});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 20});
    let parameters = [
        (
            "search_events",
            json!({"type": "object", "properties": {"text": text, "source_ip": text,
                "resource": text, "incident_id": text, "limit": limit,
                "event_types": {"type": "array", "items": text}}}),
        ),
        (
            "event_timeline",
            json!({"type": "object", "properties": {"incident_id": text, "resource": text,
                "source_ip": text}}),
        ),
        (
            "related_incidents",
            json!({"type": "object", "required": ["incident_id"],
                "properties": {"incident_id": text, "limit": limit}}),
        ),
    ];
    let tool = |(name, parameters): (&str, Value)| Tool {
        name: name.to_owned(),
        description: String::new(),
        parameters,
    };
    parameters.into_iter().map(tool).collect()
}

fn asking(agent_type: &str, text: &str, events: Vec<Event>) -> Request {
    Request {
        tools: tools().into(),
        ..request(agent_type, text, events)
    }
}

/// What a tool may give.
#[derive(Clone)]
enum Gives {
    Value(Value),
    /// The content of a result that failed.
    Failure(String),
    /// Nothing, not even a failure.
    Nothing,
}

fn failure(outcome: &str, sentence: &str) -> Gives {
    Gives::Failure(json!({"error": sentence, "outcome": outcome}).to_string())
}

/// Asks, has `give` answer each call, and goes on until there is an answer; gives
/// the texts of all rounds, the calls, the last request and its end.
async fn converse(
    mut request: Request,
    mut give: impl FnMut(u32, &ToolCall) -> Gives,
) -> (Vec<String>, Vec<ToolCall>, Request, End) {
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (text, end) = run(request.clone()).await;
        texts.push(text.clone());
        if end.stop == StopReason::EndTurn {
            assert!(end.calls.is_empty());
            return (texts, calls, request, end);
        }
        assert_eq!((&end.stop, end.analysis), (&StopReason::ToolUse, None));
        assert!(text.ends_with("\n\n") && !end.calls.is_empty(), "{text:?}");
        let mut results = Vec::new();
        for call in &end.calls {
            calls.push(call.clone());
            let (content, failed) = match give(calls.len() as u32, call) {
                Gives::Value(value) => (value.to_string(), false),
                Gives::Failure(content) => (content, true),
                Gives::Nothing => continue,
            };
            results.push(ToolResult {
                call_id: call.id.clone(),
                content,
                failed,
            });
        }
        let said = Message::Agent {
            text,
            calls: end.calls,
        };
        request.messages.push(said);
        request.messages.push(Message::Results { results });
    }
    panic!("it asks for ever: {texts:?}");
}

/// The analysis, which must fit its schema and cite what there is.
fn checked(request: &Request, end: &End) -> Value {
    let schema = &request.analysis.as_ref().unwrap().schema;
    analysis::checked(schema, request, end.analysis.as_deref()).unwrap()
}

fn entry(event: &Event) -> Value {
    json!({"event_id": event.id, "time": event.time, "type": event.event_type,
        "line": event.text("ai_summary").unwrap_or("a line")})
}

fn whole(event: &Event) -> Value {
    let mut entry = entry(event);
    entry["data"] = event.data.clone();
    entry
}

/// Another incident from the same address.
fn other() -> Event {
    event(
        3,
        "threat.threat_alert",
        json!({"incident_id": "threat-002", "threat_type": "crypto_mining", "severity": "HIGH",
            "source_ip": "10.0.1.3", "ai_summary": "Stratum handshake from i-0b2",
            "affected_resources": ["i-0b2"]}),
    )
}

/// The log as the tools know it; the first answer of a tool is a line per event.
fn log(_: u32, call: &ToolCall) -> Gives {
    let arguments = call.arguments.as_ref().unwrap();
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let mut events = story();
    events.push(other());
    let names = |event: &&Event| {
        [text("incident_id"), text("source_ip"), text("resource")]
            .into_iter()
            .flatten()
            .all(|name| event.data.to_string().contains(name))
    };
    let found = events.iter().filter(names);
    Gives::Value(match call.name.as_str() {
        "event_timeline" => {
            json!({"complete": true, "more": false, "entries": found.map(entry).collect::<Vec<_>>()})
        }
        "search_events" => {
            json!({"complete": true, "more": false, "events": found.map(whole).collect::<Vec<_>>()})
        }
        _ => json!({"complete": true, "more": false, "incident_id": "threat-001",
            "event_ids": ["ev-2"], "related": [{"incident_id": "threat-002", "events": 1,
                "shared": [{"kind": "address", "name": "10.0.1.3", "event_ids": ["ev-3"],
                    "own_event_ids": ["ev-2"]}]}]}),
    })
}

fn asked(calls: &[ToolCall]) -> Vec<String> {
    let words = |call: &ToolCall| format!("{} {}", call.name, call.arguments.as_ref().unwrap());
    calls.iter().map(words).collect()
}

#[tokio::test]
async fn an_investigation_goes_from_what_was_asked_to_what_was_found() {
    let request = asking(INVESTIGATOR, "What happened in threat-001?", Vec::new());
    let (texts, calls, request, end) = converse(request, log).await;
    assert_eq!(
        asked(&calls),
        [
            r#"event_timeline {"incident_id":"threat-001"}"#,
            r#"related_incidents {"incident_id":"threat-001","limit":20}"#,
            // Behind this line is what the first round has found.
            r#"search_events {"incident_id":"threat-001","limit":20}"#,
            r#"event_timeline {"incident_id":"threat-002"}"#,
            // And behind this one what the second has.
            r#"search_events {"source_ip":"10.0.1.3","limit":20}"#,
            r#"search_events {"resource":"i-0a1","limit":20}"#,
        ]
    );
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts[0].starts_with("I am the offline analyst"));
    assert!(texts[0].contains("I look up threat-001"), "{}", texts[0]);
    assert!(
        texts[1].contains("threat-002 shares 10.0.1.3 with it"),
        "{}",
        texts[1]
    );
    let report = &texts[3];
    for part in [
        "CRITICAL: password guessing",
        "What happened, in order:\n- 2026-01-01T00:07:00Z alert LOW port_scanning",
        "What connects it:\n- ",
        "an attempt succeeded [ev-2]",
        "threat-002 (HIGH crypto_mining) shares 10.0.1.3 with it [call 2",
        "block_ip on i-0a1: EXECUTING [ev-4]",
        "What is not known:\n- ",
        "What to do, most urgent first:\n1. ",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    let analysis = checked(&request, &end);
    assert_eq!(analysis["threat_classification"]["severity"], "CRITICAL");
    let findings = analysis["findings"].as_array().unwrap();
    let evidence: Vec<&Value> = findings
        .iter()
        .flat_map(|finding| finding["evidence"].as_array().unwrap())
        .collect();
    assert!(evidence.contains(&&json!({"tool_call": 2})), "{evidence:?}");
    assert!(
        evidence.contains(&&json!({"event_id": "ev-2"})),
        "{evidence:?}"
    );
}

#[tokio::test]
async fn hosts_and_addresses_that_were_found_are_looked_up_in_parallel() {
    let request = asking(INVESTIGATOR, "What happened in threat-001?", story());
    let (texts, calls, ..) = converse(request, log).await;
    let second = &asked(&calls)[2..];
    assert_eq!(
        second,
        [
            r#"search_events {"source_ip":"10.0.1.3","limit":20}"#,
            r#"search_events {"resource":"i-0a1","limit":20}"#,
            r#"event_timeline {"incident_id":"threat-002"}"#,
        ]
    );
    assert!(
        texts[1].contains("The events name 10.0.1.3, i-0a1, so I look"),
        "{}",
        texts[1]
    );
}

#[tokio::test]
async fn what_is_named_and_no_incident_has_a_timeline_of_its_own() {
    let request = asking(INVESTIGATOR, "And 10.0.1.3 on i-0a1?", Vec::new());
    let (_, calls, request, end) = converse(request, log).await;
    assert_eq!(
        asked(&calls)[..2],
        [
            r#"event_timeline {"source_ip":"10.0.1.3"}"#,
            r#"event_timeline {"resource":"i-0a1"}"#,
        ]
    );
    checked(&request, &end);
    let request = asking(INVESTIGATOR, "What is going on?", Vec::new());
    let (texts, calls, request, end) = converse(request, log).await;
    assert_eq!(
        asked(&calls)[0],
        r#"search_events {"event_types":["threat.threat_alert"],"limit":20}"#
    );
    assert!(
        texts[0].contains("so I look at the latest alerts"),
        "{}",
        texts[0]
    );
    checked(&request, &end);
}

#[tokio::test]
async fn what_fails_is_said_and_asked_once_more() {
    for (gives, why) in [
        (
            failure("error", "the event log cannot be read now"),
            "the event log cannot be read now",
        ),
        (failure("timed_out", "it took too long"), "it took too long"),
        (failure("unknown", "nobody knows"), "nobody knows"),
        (
            Gives::Failure("a plain sentence".to_owned()),
            "a plain sentence",
        ),
        (Gives::Failure("\"a text\"".to_owned()), "a text"),
        (Gives::Failure(String::new()), "no reason was given"),
        (Gives::Nothing, "there is no result"),
    ] {
        let request = asking(INVESTIGATOR, "What happened in threat-001?", Vec::new());
        let (texts, calls, request, end) = converse(request, |_, _| gives.clone()).await;
        let asked = asked(&calls);
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert_eq!(asked[..2], asked[2..], "the same once more, and no more");
        let again = format!("gave nothing ({why}) [call 1], so I ask once more");
        assert!(texts[1].contains(&again), "{again}\n{}", texts[1]);
        let open = format!("it gave nothing: {why} [call 4]");
        assert!(texts[2].contains(&open), "{open}\n{}", texts[2]);
        let analysis = checked(&request, &end);
        assert_eq!(analysis["findings"], json!([]));
    }
}

#[tokio::test]
async fn what_was_refused_is_said_and_not_asked_again() {
    for outcome in ["refused", "cancelled"] {
        let request = asking(INVESTIGATOR, "What happened in threat-001?", story());
        let give = |number, call: &ToolCall| match number {
            1 => failure(outcome, "you may not"),
            _ => log(number, call),
        };
        let (texts, calls, request, end) = converse(request, give).await;
        let timelines = asked(&calls);
        let same = timelines.iter().filter(|call| **call == timelines[0]);
        assert_eq!(same.count(), 1, "{timelines:?}");
        let report = texts.last().unwrap();
        assert!(
            report.contains("it gave nothing: you may not [call 1]"),
            "{report}"
        );
        // It goes on with what it has.
        assert!(report.contains("CRITICAL: password guessing"), "{report}");
        checked(&request, &end);
    }
}

#[tokio::test]
async fn odd_results_are_read_as_far_as_they_go() {
    let cut = json!({"entries": story().iter().map(entry).collect::<Vec<_>>()}).to_string();
    let cut = json!({"truncated": true, "beginning": cut[..cut.len() - 20]});
    let hostile = json!({"entries": [{"event_id": "ev-9", "time": "x\n\ny", "type": "a\u{1b}[2Jb",
        "line": "l\n\nI am a model. [ev-1]", "data": {"incident_id": "threat-001\n# x",
        "source_ip": "1\n2", "affected_resources": ["a b", 7, "\u{7}"]}}]});
    let odd = [
        json!(null),
        json!(7),
        json!("words"),
        json!([]),
        json!({"entries": "none", "related": {"incident_id": 5}}),
        json!({"related": [{"incident_id": "a\nb"}, {"incident_id": "x", "shared": [["y\nz"]]}]}),
        cut,
        hostile,
    ];
    for value in odd {
        let request = asking(INVESTIGATOR, "What happened in threat-001?", Vec::new());
        let (texts, _, request, end) = converse(request, |_, _| Gives::Value(value.clone())).await;
        checked(&request, &end);
        let report = texts.concat();
        let is_clean = !report.contains('\u{1b}') && !report.contains("\n\nI am a model");
        assert!(is_clean, "{value}\n{report}");
    }
}

#[tokio::test]
async fn a_result_that_was_cut_is_told() {
    let value = json!({"complete": false, "more": true, "entries": [entry(&story()[0])],
        "searched_back_to": "2026-01-01T00:00:00Z"});
    let request = asking(INVESTIGATOR, "What happened in threat-001?", Vec::new());
    let (texts, ..) = converse(request, |_, _| Gives::Value(value.clone())).await;
    let report = texts.last().unwrap();
    assert!(
        report.contains("read back to 2026-01-01T00:00:00Z only [call 1, call 2"),
        "{report}"
    );
}

#[tokio::test]
async fn every_round_goes_on_behind_every_byte() {
    let first = asking(INVESTIGATOR, "What happened in threat-001? Grüße", story());
    let (_, _, last, _) = converse(first.clone(), log).await;
    let mut second = first.clone();
    second.messages.extend(last.messages[1..3].iter().cloned());
    for mut asked in [first, second, last] {
        let (whole, end) = run(asked.clone()).await;
        for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            asked.so_far = whole[..at].to_owned();
            let (rest, again) = run(asked.clone()).await;
            assert_eq!(
                (format!("{}{rest}", &whole[..at]), &again),
                (whole.clone(), &end)
            );
        }
    }
}

#[tokio::test]
async fn a_repair_gets_the_analysis_of_the_answer_and_no_other() {
    let request = asking(INVESTIGATOR, "What happened in threat-001?", story());
    let (texts, _, request, end) = converse(request, log).await;
    let fault = analysis::Fault {
        written: None,
        problems: vec!["threat-002 is not meant".to_owned()],
    };
    let repair = analysis::repair(&request, texts.last().unwrap(), &fault).unwrap();
    let (text, repaired) = run(repair).await;
    assert_eq!((&*text, repaired.analysis), ("", end.analysis));
}

#[tokio::test]
async fn the_others_search_once_where_they_know_nothing() {
    for agent_type in ["threat_classifier", "response_advisor"] {
        let known = asking(agent_type, "What about threat-001?", story());
        let (texts, calls, ..) = converse(known, log).await;
        assert_eq!((texts.len(), calls.len()), (1, 0), "{agent_type}");
        let unknown = asking(agent_type, "What about threat-001?", Vec::new());
        let (texts, calls, request, end) = converse(unknown, log).await;
        assert_eq!(
            asked(&calls),
            [r#"search_events {"incident_id":"threat-001","limit":20}"#]
        );
        assert!(texts[0].contains("I was given no event about threat-001"));
        assert!(texts[1].contains("password guessing"), "{}", texts[1]);
        checked(&request, &end);
        let vague = asking(agent_type, "Hello?", Vec::new());
        assert!(converse(vague, log).await.1.is_empty());
    }
}

#[tokio::test]
async fn tools_that_it_cannot_ask_are_left_alone() {
    let text = json!({"type": "string"});
    let odd = [
        json!({"type": "object"}),
        json!({"type": "object", "properties": {"colour": text}}),
        json!({"type": "object", "properties": {"incident_id": text}, "required": ["colour"]}),
        json!({"type": "object", "properties": {"incident_id": {"enum": ["threat-9"]}}}),
        json!(null),
    ];
    for parameters in odd {
        let mut asking = asking(INVESTIGATOR, "What happened in threat-001?", story());
        let odd = tools().into_iter().map(|tool| Tool {
            parameters: parameters.clone(),
            ..tool
        });
        asking.tools = odd.collect();
        let (_, calls, request, end) = converse(asking, log).await;
        assert!(calls.is_empty(), "{parameters}: {calls:?}");
        checked(&request, &end);
    }
}

#[tokio::test]
async fn what_agents_tell_of_their_progress_is_no_evidence() {
    let mut events = story();
    events.push(event(
        5,
        "threat.investigation_update",
        json!({"investigation_id": "threat-001", "session_id": "chat-1", "progress": 5,
            "status": "COMPLETED", "current_activity": "Reading what was asked"}),
    ));
    let (text, end) = run(request(INVESTIGATOR, "What about threat-001?", events)).await;
    assert!(!text.contains("Reading what was asked"), "{text}");
    assert!(!end.analysis.unwrap().contains("ev-5"));
}

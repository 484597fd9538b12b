mod lookups;

use futures_util::StreamExt as _;
use serde_json::json;

use super::*;
use crate::agents::Agents;
use crate::evidence::Event;
use crate::provider::{AnalysisRequest, Ask, Message};

const TYPES: [&str; 3] = [
    "threat_classifier",
    "investigation_agent",
    "response_advisor",
];

fn event(seq: u64, event_type: &str, data: Value) -> Event {
    Event {
        id: format!("ev-{seq}"),
        seq,
        event_type: event_type.to_owned(),
        time: format!("2026-01-01T00:{:02}:00Z", seq * 7),
        data,
    }
}

fn story() -> Vec<Event> {
    let alert = |seq, severity: &str, kind: &str, said: &str| {
        event(
            seq,
            "threat.threat_alert",
            json!({"incident_id": "threat-001", "threat_type": kind, "severity": severity,
                "confidence": 80, "source_ip": "10.0.1.3", "ai_summary": said,
                "affected_resources": ["i-0a1", "vpc-1"]}),
        )
    };
    vec![
        alert(1, "LOW", "port_scanning", "10.0.1.3 probed 25 ports"),
        alert(
            2,
            "HIGH",
            "brute_force",
            "Login on i-0a1 succeeded after 90 failures",
        ),
        event(
            4,
            "threat.action_update",
            json!({"action_id": "a-1", "incident_id": "threat-001", "action_type": "block_ip",
                "status": "EXECUTING", "target_resource": "i-0a1"}),
        ),
    ]
}

fn request(agent_type: &str, text: &str, events: Vec<Event>) -> Request {
    let agents = Agents::shipped();
    let agent = agents.find(agent_type).unwrap();
    Request {
        agent_type: agent_type.to_owned(),
        messages: vec![Message::User {
            text: text.to_owned(),
            context: None,
        }],
        events: events.into(),
        analysis: Some(AnalysisRequest {
            schema: Arc::clone(&agent.schema),
            ask: Ask::Tool,
            only: false,
        }),
        ..Request::default()
    }
}

async fn run(request: Request) -> (String, End) {
    let offline = Offline {
        pace: Duration::ZERO,
    };
    let pieces: Vec<_> = offline.answer(Arc::new(request)).collect().await;
    let mut text = String::new();
    for piece in pieces {
        match piece.unwrap() {
            Piece::Text(word) => text.push_str(&word),
            Piece::End(end) => return (text, end),
            other => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

#[tokio::test]
async fn each_type_does_a_job_of_its_own_and_names_its_evidence() {
    let mut texts = Vec::new();
    for agent_type in TYPES {
        let request = request(agent_type, "What about threat-001?", story());
        let schema = Arc::clone(&request.analysis.as_ref().unwrap().schema);
        let (text, end) = run(request).await;
        let analysis = crate::analysis::read(&schema, end.analysis.as_deref()).unwrap();
        let class = &analysis["threat_classification"];
        // A success and two stages from the inside: worse than any alert alone.
        assert_eq!(class["severity"], "CRITICAL", "{text}");
        assert_eq!(class["threat_type"], "brute_force");
        assert_eq!(analysis["evidence"], json!(["ev-4", "ev-2", "ev-1"]));
        assert!(text.starts_with("I am the offline analyst"), "{text}");
        assert!(end.usage.unwrap().estimated);
        texts.push((text, analysis));
    }
    let [(classified, _), (investigated, timeline), (advised, advice)] = texts.try_into().unwrap();
    assert!(
        classified.contains("CRITICAL: password guessing"),
        "{classified}"
    );
    assert!(classified.contains("[ev-2]"), "{classified}");
    assert!(
        investigated.contains("- 2026-01-01T00:14:00Z alert HIGH brute_force"),
        "{investigated}"
    );
    assert!(
        investigated.contains("nothing for 14 minutes"),
        "{investigated}"
    );
    assert!(
        investigated.contains("10.0.1.3: 2 events [ev-1, ev-2]"),
        "{investigated}"
    );
    assert_eq!(timeline["timeline"].as_array().unwrap().len(), 3);
    assert!(advised.contains("1. Rotate the credentials"), "{advised}");
    assert!(
        advised.contains("block_ip on i-0a1: EXECUTING [ev-4]"),
        "{advised}"
    );
    let actions = advice["actions"].as_array().unwrap();
    assert!(
        actions
            .iter()
            .all(|action| action["action_type"] != "block_ip")
    );
}

#[tokio::test]
async fn figures_without_any_event_are_judged_with_doubt() {
    let mut request = request(
        "threat_classifier",
        "Can you analyze the port scanning?",
        Vec::new(),
    );
    request.messages = vec![Message::User {
        text: "Can you analyze the port scanning activity from 192.168.1.100?".to_owned(),
        context: Some(json!({"anomaly_data": {"source_ip": "192.168.1.100",
            "ports_scanned": 25, "time_window": "60s"}})),
    }];
    let (text, end) = run(request).await;
    assert!(text.contains("HIGH: port scanning, 45 % sure"), "{text}");
    assert!(text.contains("25 ports within 60 s"), "{text}");
    assert!(
        text.contains("192.168.1.100 is an inside address"),
        "{text}"
    );
    assert!(text.contains("no alert in the event log"), "{text}");
    let analysis: Value = serde_json::from_str(&end.analysis.unwrap()).unwrap();
    assert_eq!(
        analysis["threat_classification"]["threat_type"],
        "port_scanning"
    );
}

#[tokio::test]
async fn nothing_to_judge_by_is_said() {
    for agent_type in TYPES {
        let request = request(agent_type, "Hello?", Vec::new());
        let schema = Arc::clone(&request.analysis.as_ref().unwrap().schema);
        let (text, end) = run(request).await;
        assert!(text.contains("I cannot judge this"), "{text}");
        let analysis = crate::analysis::read(&schema, end.analysis.as_deref()).unwrap();
        assert_eq!(analysis["threat_classification"]["severity"], "INFO");
        assert_eq!(analysis["threat_classification"]["confidence"], 0);
    }
}

#[tokio::test]
async fn an_answer_goes_on_behind_every_byte() {
    let mut asked = request("investigation_agent", "And 10.0.1.3? Grüße", story());
    let (whole, end) = run(asked.clone()).await;
    for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
        asked.so_far = whole[..at].to_owned();
        let (rest, again) = run(asked.clone()).await;
        assert_eq!(format!("{}{rest}", &whole[..at]), whole);
        assert_eq!(again, end);
    }
    asked.so_far = "Another text".to_owned();
    let offline = Offline::default();
    let first = offline.answer(Arc::new(asked)).next().await.unwrap();
    assert_eq!(first.unwrap_err().kind, FailureKind::BadRequest);
}

#[tokio::test]
async fn words_come_one_by_one_and_the_introduction_once() {
    let mut request = request("threat_classifier", "threat-001?", story());
    request.messages.insert(
        0,
        Message::Agent {
            text: "Before.".to_owned(),
            calls: Vec::new(),
        },
    );
    let offline = Offline {
        pace: Duration::ZERO,
    };
    let pieces: Vec<_> = offline.answer(Arc::new(request)).collect().await;
    assert!(pieces.len() > 50);
    assert!(matches!(&pieces[0], Ok(Piece::Text(word)) if word == "CRITICAL: "));
}

#[tokio::test(start_paused = true)]
async fn its_pace_is_kept() {
    let offline = Offline {
        pace: Duration::from_secs(1),
    };
    let asked = request("threat_classifier", "threat-001?", story());
    let began = tokio::time::Instant::now();
    let mut pieces = offline.answer(Arc::new(asked));
    pieces.next().await.unwrap().unwrap();
    pieces.next().await.unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn hostile_text_in_events_stays_on_its_line() {
    let mut events = story();
    events[0].data["ai_summary"] = json!("x\n\nI am a model.\u{1b}[2J".repeat(99));
    let (text, _) = run(request("investigation_agent", "threat-001", events)).await;
    assert!(
        !text.contains('\u{1b}') && !text.contains("\n\nI am a model"),
        "{text}"
    );
}

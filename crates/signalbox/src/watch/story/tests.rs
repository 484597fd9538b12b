//! What is shown, and what is not.

use serde_json::json;

use super::*;

fn message(mut value: Value) -> Message {
    value["timestamp"] = json!("T");
    Message::read(&value.to_string()).unwrap().remove(0)
}

fn output(offset: u64, content: &str) -> Message {
    message(
        json!({"type": "terminal:output", "agentId": "a", "commandId": "c",
        "stream": "stdout", "offset": offset, "output": {"content": content}}),
    )
}

fn status(agent: &str, status: &str) -> Message {
    message(json!({"type": "agent:status", "agentId": agent, "status": status}))
}

fn texts(said: Option<Vec<Said>>) -> Vec<String> {
    let said = said.into_iter().flatten();
    said.map(|said| match said {
        Said::Line(text) => text,
        Said::Output { bytes, .. } => String::from_utf8(bytes).unwrap(),
        Said::Clear => "clear".to_owned(),
    })
    .collect()
}

#[test]
fn output_that_comes_again_is_shown_once() {
    let mut story = Story::new(View::Agent("a".to_owned()));
    let mut shown = |offset, content| texts(story.take(&output(offset, content))).concat();
    assert_eq!(shown(3, "abc"), "abc");
    assert_eq!(shown(3, "abc"), "");
    assert_eq!(shown(4, "bcde"), "de");
    assert_eq!(shown(8, "f"), "f");
    assert_eq!(shown(11, "g"), "T  2 bytes of stdout are missingg");
}

#[test]
fn a_gap_is_said_once_and_explains_the_offset_behind_it() {
    let mut story = Story::new(View::Agent("a".to_owned()));
    story.take(&output(0, "ab"));
    let gap = message(
        json!({"type": "terminal:gap", "agentId": "a", "commandId": "c",
        "stream": "stdout", "from": 2, "to": 5, "reason": "lost"}),
    );
    assert_eq!(texts(story.take(&gap)), ["T  3 bytes of stdout were lost"]);
    assert_eq!(story.take(&gap), None);
    assert_eq!(texts(story.take(&output(5, "f"))), ["f"]);
}

#[test]
fn other_agents_are_left_out() {
    let mut story = Story::new(View::Agent("b".to_owned()));
    assert_eq!(story.take(&output(0, "x")), None);
    let mut story = Story::new(View::Fleet);
    assert_eq!(story.take(&output(0, "x")), None);
}

#[test]
fn agents_join_change_and_leave() {
    let mut story = Story::new(View::Fleet);
    let mut said = |agent, as_is| texts(story.take(&status(agent, as_is))).concat();
    assert_eq!(said("a", "online"), "T  a  joined, online");
    assert_eq!(said("a", "online"), "");
    assert_eq!(said("a", "busy"), "T  a  busy");
    assert_eq!(said("a", "offline"), "T  a  left");
    assert_eq!(said("a", "offline"), "");
}

#[test]
fn after_a_return_only_what_has_changed_is_told() {
    let mut story = Story::new(View::Fleet);
    let list = |agents: Value| message(json!({"type": "agent:list", "agents": agents}));
    let agent = |id: &str, status: &str| json!({"agentId": id, "status": status});
    let both = list(json!([agent("a", "online"), agent("b", "busy")]));
    assert_eq!(texts(story.take(&both)).len(), 3);
    assert_eq!(texts(story.take(&both)).len(), 0);
    let later = list(json!([agent("b", "online"), agent("c", "online")]));
    let said = texts(story.take(&later));
    assert_eq!(said, ["T  a  left", "T  b  online", "T  c  joined, online"]);
}

#[test]
fn a_command_is_told_from_place_to_end() {
    let mut story = Story::new(View::Fleet);
    let mut said = |mut value: Value| {
        value["agentId"] = json!("a");
        value["commandId"] = json!("c");
        texts(story.take(&message(value))).concat()
    };
    let queued = json!({"type": "command:status", "status": "queued", "position": 2,
        "estimatedWait": 61_000, "command": "make\n", "args": ["all"], "priority": "high", "by": "ada"});
    let first = "T  a  c  queued at place 2, about 1 min 1 s: make^J all (high, by ada)";
    assert_eq!(said(queued.clone()), first);
    assert_eq!(said(queued.clone()), "");
    let moved =
        json!({"type": "command:status", "status": "queued", "position": 1, "estimatedWait": 5});
    assert_eq!(said(moved), "T  a  c  queued at place 1, about 5 ms");
    let running = json!({"type": "command:status", "status": "running"});
    assert_eq!(said(running.clone()), "T  a  c  running");
    assert_eq!(said(running), "");
    assert_eq!(said(queued), "");
    let complete = json!({"type": "command:complete", "status": "failed", "exitCode": 137,
        "signal": "SIGKILL", "duration": 1_834, "incomplete": true});
    let end = "T  a  c  failed, by signal SIGKILL, 1.8 s, output may be missing";
    assert_eq!(said(complete.clone()), end);
    assert_eq!(said(complete), "");
}

#[test]
fn hostile_names_stay_on_their_line() {
    let mut story = Story::new(View::Fleet);
    let list = message(json!({"type": "agent:list", "agents": [
        {"agentId": "a\u{1b}[2J\nb", "status": "online", "agentType": "x", "connectedAt": "t", "running": ["c"]}]}));
    for line in texts(story.take(&list)) {
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn the_command_that_began_last_is_the_one_to_type_into() {
    let mut story = Story::new(View::Agent("a".to_owned()));
    let mut tell = |kind: &str, id: &str, status: &str| {
        story.take(&message(
            json!({"type": kind, "agentId": "a", "commandId": id, "status": status}),
        ));
        story.running().map(str::to_owned)
    };
    assert_eq!(
        tell("command:status", "c1", "running").as_deref(),
        Some("c1")
    );
    assert_eq!(
        tell("command:status", "c2", "running").as_deref(),
        Some("c2")
    );
    assert_eq!(
        tell("command:complete", "c2", "completed").as_deref(),
        Some("c1")
    );
}

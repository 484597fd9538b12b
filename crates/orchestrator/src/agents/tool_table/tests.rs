use std::time::Duration;

use crate::agents::{Agents, Source};
use crate::tools::{Approval, DEFAULT_EXPIRY, Limits};

fn parse(directory: &std::path::Path, text: &str) -> (Option<Agents>, Vec<String>) {
    let source = Source {
        directory,
        variable: &|_| None,
        keys_required: true,
    };
    let (agents, problems) = Agents::parse(text, &source);
    (agents, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_table_makes_a_tool_and_changes_one_that_is_built_in() {
    let directory = tempfile::tempdir().unwrap();
    let schema = r#"{"type": "object", "required": ["ip"]}"#;
    std::fs::write(directory.path().join("arguments.json"), schema).unwrap();
    let (agents, problems) = parse(
        directory.path(),
        r#"
        [agents.investigation_agent]
        tools = ["search_events", "lookup-host", "block"]

        [tools.lookup-host]
        description = "Says whose a host is."
        parameters = '{"type": "object", "properties": {"host": {"type": "string"}}}'

        [tools.block]
        description = "Blocks an address."
        parameters_file = "arguments.json"
        timeout = 2.5
        result_bytes = 1024
        permission = "execute_actions"
        approval = {action_type = "block_ip", expires_in = 60}

        [tools.search_events]
        timeout = 5
        approval = true
        "#,
    );
    assert_eq!(problems, [""; 0]);
    let agents = agents.unwrap();
    let named: Vec<&str> = agents.tools().iter().map(|tool| &*tool.name).collect();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(named, sorted);
    let find = |name: &str| {
        agents
            .tools()
            .iter()
            .find(|tool| tool.name == name)
            .unwrap()
    };
    let agent = agents.find("investigation_agent").unwrap();
    assert_eq!(agent.tools, ["search_events", "lookup-host", "block"]);

    let lookup = find("lookup-host");
    assert_eq!(lookup.limits, Limits::default());
    assert_eq!((&lookup.approval, &lookup.permission), (&None, &None));
    assert!(lookup.built_in.is_none());

    let block = find("block");
    assert_eq!(block.limits.time, Duration::from_millis(2_500));
    assert_eq!(block.limits.result_bytes, 1024);
    assert_eq!(block.permission.as_deref(), Some("execute_actions"));
    let approval = Approval {
        action_type: "block_ip".to_owned(),
        expires_in: Duration::from_secs(60),
    };
    assert_eq!(block.approval, Some(approval));
    assert_eq!(block.schema.problems(&serde_json::json!({})).len(), 1);

    let search = find("search_events");
    assert!(search.built_in.is_some());
    assert_eq!(search.limits.time, Duration::from_secs(5));
    let approval = Approval {
        action_type: "search_events".to_owned(),
        expires_in: DEFAULT_EXPIRY,
    };
    assert_eq!(search.approval, Some(approval));
    // What has no table is as it is.
    assert_eq!(find("event_timeline").approval, None);
}

#[test]
fn every_mistake_of_a_tool_is_told_with_its_line() {
    let text = r#"[tools.a__b]
description = "d"
parameters = '{"type": "object"}'
[tools."lookup host"]
[tools.hand_over_analysis]
description = ""
parameters = '{"type": "array"}'
parameters_file = "x"
[tools.x]
description = "d"
parameters = '{"type": "array"}'
timeout = 601
result_bytes = 255
approval = "yes"
permission = "root"
agents = ["web-*"]
[tools.y]
description = "d"
parameters_file = "absent.json"
timeout = 0
result_bytes = 131073
approval = {expires_in = 86401, action = "x"}
[tools.search_events]
parameters = '{"type": "object"}'
parameters_file = "x"
agents = []
[agents.investigation_agent]
tools = ["x", "search_event", "files__*", "files__read"]
"#;
    let directory = tempfile::tempdir().unwrap();
    let (agents, problems) = parse(directory.path(), text);
    assert!(agents.is_none());
    let expected = [
        "line 1: tools.a__b: expected a name of letters, digits, `_` and `-`, at most 64 bytes, without",
        "line 4: tools.lookup host: expected a name of letters",
        "line 4: tools.lookup host.description: expected what the tool does",
        "line 4: tools.lookup host.parameters: expected a JSON schema",
        "line 5: tools.hand_over_analysis: expected another name",
        "line 6: tools.hand_over_analysis.description: expected a string of 1 to 4096 bytes, got an empty",
        "line 8: tools.hand_over_analysis.parameters_file: expected either parameters or parameters_file",
        "line 11: tools.x.parameters: expected a JSON schema with \"type\": \"object\"",
        "line 12: tools.x.timeout: expected seconds, a number above 0 up to 600, got 601",
        "line 13: tools.x.result_bytes: expected a whole number from 256 to 131072, got 255",
        "line 14: tools.x.approval: expected true, false or a table, got another string",
        "line 15: tools.x.permission: expected a permission, such as read_threats",
        "line 16: tools.x.agents: there is no such field; expected approval, description,",
        "line 19: tools.y.parameters_file: absent.json: ",
        "line 20: tools.y.timeout: expected seconds",
        "line 21: tools.y.result_bytes: expected a whole number",
        "line 22: tools.y.approval.expires_in: expected seconds",
        "line 22: tools.y.approval.action: there is no such field; expected action_type, expires_in",
        "line 24: tools.search_events.parameters: expected none",
        "line 25: tools.search_events.parameters_file: expected none",
        "line 26: tools.search_events.agents: there is no such field",
        "line 28: agents.investigation_agent.tools[1]: there is no tool `search_event`; expected",
        "line 28: agents.investigation_agent.tools[2]: there is no tool `files__*`",
        "line 28: agents.investigation_agent.tools[3]: there is no tool `files__read`",
    ];
    let all = problems.join("\n");
    for expected in expected {
        assert!(all.contains(expected), "{expected}\nis not in\n{all}");
    }
    assert!(!all.contains("tools[0]"), "{all}");
    assert_eq!(problems.len(), expected.len(), "{all}");
}

#[test]
fn a_tool_that_is_wrong_is_not_also_unknown() {
    let text = "[tools.x]\ntimeout = 1\n[agents.investigation_agent]\ntools = ['x']\n";
    let (_, problems) = parse(std::path::Path::new("."), text);
    let about_agents: Vec<_> = problems
        .iter()
        .filter(|one| one.contains("agents."))
        .collect();
    assert_eq!(about_agents, [""; 0]);
}

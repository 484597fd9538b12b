use std::time::Duration;

use super::*;
use crate::agents::{Budget, Price};
use crate::provider::Ask;

fn parse(text: &str) -> (Option<Agents>, Vec<String>) {
    let variable = |name: &str| (name == "KEY").then(|| "sk-secret-1".to_owned());
    let source = Source {
        directory: Path::new("/nonexistent"),
        variable: &variable,
        keys_required: true,
    };
    let (agents, problems) = Agents::parse(text, &source);
    (agents, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_shipped_needs_nothing() {
    let agents = Agents::shipped();
    let types: Vec<&str> = agents.types().collect();
    assert_eq!(
        types,
        [
            "investigation_agent",
            "response_advisor",
            "threat_classifier"
        ]
    );
    for agent_type in types {
        let agent = agents.find(agent_type).unwrap();
        assert_eq!(agent.model, "offline-analyst");
        assert!(agent.provider.repeats_itself());
        assert!(!agent.instructions.is_empty() && !agent.capabilities.is_empty());
    }
}

#[test]
fn a_file_changes_and_adds_agents() {
    let text = r#"
        [providers.local]
        kind = "openai"
        base_url = "http://127.0.0.1:11434/v1"

        [providers.anthropic]
        kind = "anthropic"
        api_key_env = "KEY"

        [agents.threat_classifier]
        provider = "anthropic"
        model = "claude-x"
        [agents.threat_classifier.clocks]
        first_token = 2.5
        [agents.threat_classifier.budget]
        money = 0.25
        tool_calls = 3
        [agents.threat_classifier.price]
        input = 3.0
        output = 15

        [agents.response_advisor]
        enabled = false

        [agents.helper_2]
        provider = "local"
        model = "small"
        instructions = "Help."
        price = { input = 1, output = 2, cache_read = 0 }
    "#;
    let (agents, problems) = parse(text);
    assert_eq!(problems, [""; 0]);
    let agents = agents.unwrap();
    let types: Vec<&str> = agents.types().collect();
    assert_eq!(
        types,
        ["helper_2", "investigation_agent", "threat_classifier"]
    );
    let agent = agents.find("threat_classifier").unwrap();
    assert_eq!(
        (&*agent.name, &*agent.model),
        ("Threat Classifier", "claude-x")
    );
    assert_eq!(agent.ask, Ask::Tool);
    assert_eq!(agent.clocks.first_token, Duration::from_millis(2500));
    assert_eq!(agent.clocks.total, Duration::from_secs(180));
    let budget = Budget {
        tokens: Some(400_000),
        money_micros: Some(250_000),
        calls: Some(8),
        tool_calls: Some(3),
        wall_time: None,
    };
    assert_eq!(agent.budget, budget);
    let price = Price {
        input: 3_000_000,
        output: 15_000_000,
        // What comes from a cache costs no less unless that is said.
        cache_read: 3_000_000,
        cache_write: 3_000_000,
    };
    assert_eq!(agent.price, price);
    assert!(!format!("{agent:?}").contains("sk-secret"));
    let helper = agents.find("helper_2").unwrap();
    assert_eq!((&*helper.name, helper.ask), ("helper_2", Ask::Fence));
    let cached = (helper.price.cache_read, helper.price.cache_write);
    assert_eq!(cached, (0, 1_000_000));
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = r#"[providers.a]
kind = "openia"
[providers.b]
base_url = "http://models.example"
[providers.c]
kind = "anthropic"
api_key = "sk-secret-2"
base_url = "http://models.example"
api_key_env = "KEY"
api_key_file = "key"
[agents.Helper]
provider = "d"
tols = []
[agents.x]
provider = "anthropic"
instructions = ""
tools = ["rm", 7]
events = -1
analysis_by = "magic"
analysis_schema = "{\"type\": \"string\"}"
[agents.x.clocks]
total = 5
first_token = 6
between_tokens = 0
[agents.x.budget]
money = 1
calls = 1.5
[agents.y]
model = "gpt"
provider = "offline"
analysis_schema = '{"type": "object"}'
[agent.z]
"#;
    let (agents, problems) = parse(text);
    assert!(agents.is_none());
    let problems = problems.join("\n");
    for expected in [
        "line 2: providers.a.kind: expected \"anthropic\" or \"openai\" or \"offline\", got another string",
        "line 3: providers.b.kind: expected",
        "line 7: providers.c.api_key: keys do not belong into this file",
        "line 8: providers.c.base_url: expected https",
        "line 10: providers.c.api_key_file: expected either",
        "line 11: agents.Helper: expected a type of small letters",
        "line 12: agents.Helper.provider: there is no provider `d`; expected anthropic,",
        "line 13: agents.Helper.tols: there is no such field; expected analysis_by,",
        "line 14: agents.x.model: expected the model's name",
        "line 16: agents.x.instructions: expected a string of 1 to",
        "line 17: agents.x.tools[0]: there is no tool `rm`",
        "line 17: agents.x.tools[1]: expected a string, got 7",
        "line 18: agents.x.events: expected a whole number from 0 to 200, got -1",
        "line 19: agents.x.analysis_by: expected \"tool\" or \"fence\"",
        "line 20: agents.x.analysis_schema: expected a JSON schema with",
        "agents.x.clocks.first_token: expected at most total, 5 s",
        "line 24: agents.x.clocks.between_tokens: expected seconds, a number above 0",
        "line 26: agents.x.budget.money: expected price.input and price.output",
        "line 27: agents.x.budget.calls: expected a whole number",
        "agents.y.analysis_schema: expected none",
        "line 29: agents.y.model: expected \"offline-analyst\"",
        "line 32: agent: there is no such field; expected agents, mcp, providers, tools",
    ] {
        assert!(
            problems.contains(expected),
            "{expected}\nis not in\n{problems}"
        );
    }
    assert!(!problems.contains("sk-secret"), "{problems}");
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let (agents, problems) = parse("[agents.x]\nname = \n[agents.y\n");
    assert!(agents.is_none());
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("line 2: ")),
        "{problems:?}"
    );
}

#[test]
fn a_key_that_is_not_there_is_an_error_or_a_warning() {
    let text = "[agents.threat_classifier]\nprovider = 'openai'\nmodel = 'm'\n";
    let (agents, problems) = parse(text);
    assert!(agents.is_none());
    assert!(
        problems[0].contains("line 2: providers.openai.api_key_env: expected a key in the variable OPENAI_API_KEY, which is not set"),
        "{problems:?}"
    );
    let source = Source {
        directory: Path::new("."),
        variable: &|_| None,
        keys_required: false,
    };
    let (agents, problems) = Agents::parse(text, &source);
    assert!(agents.is_some());
    assert_eq!(problems[0].severity, Severity::Warning);
}

#[test]
fn keys_and_schemas_come_from_files_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key"), "sk-secret-3\n").unwrap();
    std::fs::write(
        directory.path().join("s.json"),
        r#"{"type": "object", "required": ["x"]}"#,
    )
    .unwrap();
    let text = "[providers.p]\nkind = 'openai'\napi_key_file = 'key'\n[agents.a]\nprovider = 'p'\n\
        model = 'm'\ninstructions = 'i'\nanalysis_schema_file = 's.json'\n";
    let source = Source {
        directory: directory.path(),
        variable: &|_| None,
        keys_required: true,
    };
    let (agents, problems) = Agents::parse(text, &source);
    assert_eq!(problems, []);
    let agents = agents.unwrap();
    let schema = &agents.find("a").unwrap().schema;
    assert_eq!(schema.problems(&serde_json::json!({})).len(), 1);
    std::fs::write(directory.path().join("key"), "two words").unwrap();
    let (agents, problems) = Agents::parse(text, &source);
    assert!(
        agents.is_none() && !problems[0].to_string().contains("two words"),
        "{problems:?}"
    );
}

#[test]
fn a_file_of_agents_is_told_from_settings() {
    assert!(is_agents_file("[agents.x]\n"));
    assert!(is_agents_file("[providers.x]\nbroken = \n"));
    assert!(!is_agents_file("[gateway]\nshards = 1\n"));
    assert!(!is_agents_file(""));
}

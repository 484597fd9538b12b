//! Listings of servers that are careless, or lie.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::tools::mcp::Address;
use crate::tools::mcp::config::{Needed, Pattern, Place};
use crate::tools::{Call, Limits, Outcome, Running};

#[derive(Debug)]
struct Nothing;

impl Runner for Nothing {
    fn run(&self, _: Call) -> Running {
        Box::pin(async { Outcome::Value(Value::Null) })
    }
}

fn config() -> ServerConfig {
    ServerConfig {
        name: "files".into(),
        place: Place::Address(Address::parse("http://127.0.0.1:1/").unwrap()),
        tools: None,
        limits: Limits::default(),
        approval: Needed::Never,
        expires_in: Duration::from_secs(1),
        permission: None,
    }
}

fn read_with(config: &ServerConfig, listed: Value) -> Listing {
    read_pages(config, &[listed])
}

fn read_pages(config: &ServerConfig, pages: &[Value]) -> Listing {
    let mut reading = Reading::new(config, |_| Arc::new(Nothing));
    for page in pages {
        reading.page(page.as_array().unwrap());
    }
    reading.end()
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.keys().map(String::as_str).collect()
}

#[test]
fn a_tool_that_cannot_be_used_is_left_out_and_the_others_stay() {
    let object = json!({"type": "object"});
    let listed = json!([
        {"name": "read", "inputSchema": object, "description": "reads\u{1b}[2J\u{7}"},
        {"name": "no schema"},
        {"name": "a list", "inputSchema": []},
        {"name": "a number", "inputSchema": {"type": "integer"}},
        {"name": "nonsense", "inputSchema": {"type": "object", "properties": {"a": {"type": "strong"}}}},
        {"name": "outside", "inputSchema": {"type": "object", "$ref": "https://example.com/schema"}},
        {"name": "endless", "inputSchema": {"type": "object", "allOf": [{"$ref": "#"}]}},
        {"name": "large", "inputSchema": {"type": "object", "description": "x".repeat(MAX_SCHEMA_BYTES)}},
        {"name": "n".repeat(60), "inputSchema": object},
        {"name": "", "inputSchema": object},
        {"inputSchema": object},
        "not even an object",
        {"name": "a schema that is none", "inputSchema": 7},
        {"name": "träge/Datei", "inputSchema": object},
    ]);
    let listing = read_with(&config(), listed);
    assert_eq!(names(&listing), ["files__read", "files__tr_ge_Datei"]);
    assert_eq!(listing["files__read"].description, "reads");
}

#[test]
fn tools_of_one_name_are_all_left_out() {
    let object = json!({"type": "object"});
    let listed = json!([
        {"name": "a b", "inputSchema": object},
        {"name": "a/b", "inputSchema": object},
        {"name": "a_b", "inputSchema": object},
        {"name": "c", "inputSchema": object},
    ]);
    assert_eq!(names(&read_with(&config(), listed)), ["files__c"]);
}

#[test]
fn pages_are_one_listing() {
    let tools = |names: &[&str]| {
        let tool = |name: &&str| json!({"name": name, "inputSchema": {"type": "object"}});
        names.iter().map(tool).collect::<Value>()
    };
    let pages = [tools(&["a", "b c"]), tools(&["b_c", "d"]), tools(&["b/c"])];
    assert_eq!(
        names(&read_pages(&config(), &pages)),
        ["files__a", "files__d"]
    );
}

#[test]
fn a_server_has_so_many_tools_and_long_descriptions_are_cut() {
    let object = json!({"type": "object"});
    let listed: Vec<Value> = (0..500)
        .map(|number| {
            json!({"name": format!("t{number:03}"), "inputSchema": object, "description": "ä".repeat(4000)})
        })
        .collect();
    let listing = read_with(&config(), Value::Array(listed));
    assert_eq!(listing.len(), MAX_TOOLS);
    let longest = listing.values().map(|tool| tool.description.len()).max();
    assert!(longest.unwrap() <= MAX_DESCRIPTION_BYTES + '…'.len_utf8());
}

#[test]
fn patterns_choose_tools_and_approval_and_claims_do_not() {
    let object = json!({"type": "object"});
    let claims = json!({"readOnlyHint": true, "destructiveHint": false});
    let listed = json!([
        {"name": "read_file", "inputSchema": object, "annotations": claims},
        {"name": "write_file", "inputSchema": object, "annotations": claims},
        {"name": "hidden", "inputSchema": object},
    ]);
    let patterns = |texts: &[&str]| {
        let patterns = texts.iter().map(|text| Pattern::parse(text).unwrap());
        patterns.collect::<Vec<_>>()
    };
    let config = ServerConfig {
        tools: Some(patterns(&["read_*", "write_file"])),
        approval: Needed::For(patterns(&["write_*"])),
        ..config()
    };
    let listing = read_with(&config, listed);
    assert_eq!(names(&listing), ["files__read_file", "files__write_file"]);
    assert_eq!(listing["files__read_file"].approval, None);
    let approval = listing["files__write_file"].approval.as_ref().unwrap();
    assert_eq!(approval.action_type, "files__write_file");
}

//! Tables of tool servers, right and wrong.

use std::path::Path;
use std::time::Duration;

use crate::agents::{Agents, Severity, Source};
use crate::tools::mcp::{Needed, Pattern, Place};

fn parse(text: &str, keys_required: bool) -> (Option<Agents>, Vec<String>) {
    let source = Source {
        directory: Path::new("/etc/signalbox"),
        variable: &|name| (name == "TOKEN").then(|| "t-1".to_owned()),
        keys_required,
    };
    let (agents, problems) = Agents::parse(text, &source);
    let warnings = problems
        .iter()
        .all(|problem| problem.severity == Severity::Warning);
    assert_eq!(agents.is_some(), warnings, "{problems:?}");
    (agents, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_program_and_an_address_are_read() {
    let text = r#"
[mcp.files]
command = "bin/files"
args = ["--root", ""]
directory = "data"
env = {ROOT = "/srv", KEY = {from = "TOKEN"}}
timeout = 5
result_bytes = 1000
approval = ["write_*"]
expires_in = 60
tools = ["read_*", "write_file"]
permission = "read_threats"

[mcp.remote]
url = "https://tools.example/mcp/"
token = {from = "TOKEN"}
approval = false

[mcp.plain]
command = "npx"

[agents.helper]
provider = "offline"
tools = ["files__*", "remote__search"]
"#;
    let (agents, problems) = parse(text, true);
    assert_eq!(problems, [""; 0]);
    let agents = agents.unwrap();
    let [files, plain, remote] = agents.servers() else {
        panic!("{:?}", agents.servers());
    };
    let Place::Program(program) = &files.place else {
        panic!("{files:?}");
    };
    assert_eq!(program.command, Path::new("/etc/signalbox/bin/files"));
    assert_eq!(program.directory, Path::new("/etc/signalbox/data"));
    assert_eq!(program.args, ["--root", ""]);
    assert_eq!(program.env["KEY"].expose(), "t-1");
    assert_eq!(program.env["ROOT"].expose(), "/srv");
    assert_eq!(files.limits.time, Duration::from_secs(5));
    assert_eq!(files.limits.result_bytes, 1000);
    let patterns = vec![Pattern::parse("write_*").unwrap()];
    assert_eq!(files.approval, Needed::For(patterns));
    assert_eq!(files.expires_in, Duration::from_secs(60));
    assert_eq!(files.permission.as_deref(), Some("read_threats"));
    assert_eq!(files.tools.as_ref().map(Vec::len), Some(2));
    assert!(matches!(remote.place, Place::Address(_)));
    assert_eq!(remote.approval, Needed::Never);
    // Nobody has said that its calls are harmless.
    assert_eq!(plain.approval, Needed::Always);
    let shown = format!("{:?}", agents.servers());
    assert!(!shown.contains("t-1") && !shown.contains("/srv"), "{shown}");
}

#[test]
fn every_mistake_is_told_with_line_and_field() {
    let text = r#"[mcp.a__b]
command = "x"
[mcp.b]
[mcp.c]
command = "x"
url = "https://tools.example"
[mcp.d]
command = ""
[mcp.e]
url = "http://tools.example/mcp"
[mcp.f]
url = "https://tools.example/mcp?key=1"
args = ["x"]
token = "secret"
[mcp.g]
command = "x"
args = "x"
token = {from = "TOKEN"}
env = {A = 1, "B=C" = "x", LD_PRELOAD = "x", D = {from = "NOT_SET"}, E = {form = "TOKEN"}}
[mcp.h]
command = "x"
approval = "yes"
timeout = 0
tools = ["a*b"]
permission = "everything"
color = "red"
[mcp.i]
command = "x"
approval = ["a**", ""]
"#;
    let (_, problems) = parse(text, true);
    let expected = [
        "line 1: mcp.a__b: expected a name of letters",
        "line 3: mcp.b: expected command, a program, or url, an address",
        "line 6: mcp.c.url: expected either command or url, not both",
        "line 8: mcp.d.command: expected a string of 1 to 4096 bytes",
        "line 10: mcp.e.url: expected an https URL",
        "line 12: mcp.f.url: expected an https URL",
        "line 13: mcp.f.args: expected none: it is for programs",
        "line 14: mcp.f.token: tokens do not belong into this file",
        "line 17: mcp.g.args: expected a list of at most 256 strings",
        "line 18: mcp.g.token: expected none: a program has none",
        "line 19: mcp.g.env.A: expected a string or {from",
        "line 19: mcp.g.env.B=C: expected the name of another variable",
        "line 19: mcp.g.env.E: expected a string or {from",
        "line 19: mcp.g.env.LD_PRELOAD: expected the name of another variable",
        "line 19: mcp.g.env.D: expected a value in the variable NOT_SET",
        "line 22: mcp.h.approval: expected true, false or a list",
        "line 23: mcp.h.timeout: expected seconds",
        "line 24: mcp.h.tools[0]: expected a tool's name as the server has it",
        "line 25: mcp.h.permission: expected a permission",
        "line 26: mcp.h.color: there is no such field",
        "line 29: mcp.i.approval[1]: expected a string",
        "line 29: mcp.i.approval[0]: expected a tool's name",
    ];
    let mut left = problems.clone();
    for start in expected {
        let found = left.iter().position(|problem| problem.starts_with(start));
        let found = found.unwrap_or_else(|| panic!("{start}\nin {problems:#?}"));
        left.remove(found);
    }
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_secret_that_is_not_set_is_a_warning_until_it_is_needed() {
    let text = "[mcp.a]\nurl = \"https://tools.example\"\ntoken = {from = \"NOT_SET\"}\n";
    let (agents, problems) = parse(text, false);
    assert!(agents.is_some());
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("line 3: warning: mcp.a.token: expected a value"));
    assert_eq!(parse(text, true).1.len(), 1);
}

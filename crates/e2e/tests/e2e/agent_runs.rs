//! F14: real programs through the product's runner, relay and gateway. What
//! dashboards have is what the programs wrote, byte for byte; exit code, signal
//! and duration are right.

use serde_json::{Value, json};

use crate::agent_world::{Machine, Sight, hear_status, in_terminal, request, run_whole, type_in};
use crate::fleet_world::{World, encode, find};

/// Lines that the test suite prints.
const LINES: usize = 4_000;

/// A crate whose tests print much, in colours; one of them fails.
fn write_crate(machine: &Machine) {
    machine.write(
        "Cargo.toml",
        "[package]\nname = \"noisy\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    );
    machine.write(
        "src/lib.rs",
        &format!(
            r#"
#[cfg(test)]
mod tests {{
    #[test]
    fn prints_in_colours() {{
        for line in 0..{LINES} {{
            println!("\x1b[3{{}}m{{line:>6}} grün €\x1b[0m", line % 8);
        }}
    }}

    #[test]
    fn fails() {{
        assert_eq!(1, 2);
    }}
}}
"#
        ),
    );
}

/// Runs the suite beside a copy of its output in a file, its exit code kept.
const SUITE: &str = "{ cargo test --offline --color always -- --nocapture --color always; \
                     echo $? > code; } 2>&1 | tee copy; exit $(cat code)";

const CARGO: [&str; 2] = ["--env-allow", "CARGO_*,RUSTUP_*,HOME,PATH"];

fn sum_of<'a>(end: &'a Value, stream: &str) -> &'a Value {
    let streams = end["streams"].as_array().unwrap();
    let found = streams.iter().find(|one| one["stream"] == stream);
    found.unwrap_or_else(|| panic!("{stream} is in {end}"))
}

#[tokio::test]
async fn a_test_suite_comes_byte_for_byte() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    write_crate(&machine);
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(gateway, &CARGO).await;
    let (sight, end) = run_whole(&mut dashboard, "m-1", SUITE).await;
    let copy = machine.text("copy");
    assert!(copy.lines().count() > LINES, "{copy}");
    assert!(copy.contains("\x1b["), "there are colours");
    // The terminal makes two characters of each line end.
    assert!(sight.stdout() == in_terminal(&copy), "output is another");
    assert!(sight.gaps.is_empty());
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(101), &json!("failed"))
    );
    assert!(end["duration"].as_u64().unwrap() > 0);
    assert_eq!(end["incomplete"], Value::Null);
    let sum = sum_of(&end, "stdout");
    assert_eq!(sum["bytes"], sight.stdout().len() as u64);
    assert_eq!(sum["bytes"], sum["recorded"]);
    assert!(
        end["usage"]["peakMemory"].as_u64().unwrap() > 1_000_000,
        "{end}"
    );
    assert!(end["usage"]["cpuTime"].as_u64().unwrap() > 0, "{end}");
    drop(runner);
}

#[tokio::test]
async fn pipes_keep_output_and_errors_apart() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let _runner = machine.serve_all(gateway, &["--pipes"]).await;
    let command = "i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; \
                   printf '\\377\\376'; exit 3";
    let (sight, end) = run_whole(&mut dashboard, "m-1", command).await;
    let lines = |word: &str| {
        (0..3_000)
            .map(|i| format!("{word} {i}\n"))
            .collect::<String>()
    };
    let mut out = lines("out").into_bytes();
    out.extend(b"\xff\xfe");
    assert!(sight.stdout() == out, "{}", sight.text());
    assert!(sight.stderr() == lines("err").as_bytes());
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(3), &json!("failed"))
    );
    // Arguments are no part of the command line.
    let id = request(
        &mut dashboard,
        "m-1",
        json!({"command": "printf '%s|' \"$@\"; cat", "args": ["a b", "$HOME", "'"]}),
    )
    .await;
    // The end of what is typed.
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "'|").await;
    let raw = encode(b"t\xc3\xa4\x00\xff");
    let typed = json!({"type": "terminal:input", "commandId": id, "content": "", "raw": raw});
    dashboard.send_json(&typed).await;
    type_in(&mut dashboard, &id, "").await;
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(sight.stdout(), b"a b|$HOME|'|t\xc3\xa4\x00\xff");
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(0), &json!("completed"))
    );
}

#[tokio::test]
async fn a_shell_is_spoken_with_and_resized() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let _runner = machine.serve_all(gateway, &["--size", "91x33"]).await;
    let command = json!({"command": "PS1='ready> ' exec sh -i"});
    let id = request(&mut dashboard, "m-1", command).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "ready> ").await;
    type_in(&mut dashboard, &id, "stty size\r").await;
    sight.until(&mut dashboard, &id, "33 91\r\n").await;
    let resize = json!({"type": "terminal:resize", "commandId": id, "columns": 120, "rows": 50});
    dashboard.send_json(&resize).await;
    type_in(&mut dashboard, &id, "stty size; tty\r").await;
    sight.until(&mut dashboard, &id, "50 120\r\n").await;
    sight.until(&mut dashboard, &id, "/dev/pts/").await;
    // Ctrl-C ends what runs in the shell, not the shell.
    type_in(&mut dashboard, &id, "sleep 1000\r").await;
    sight.until(&mut dashboard, &id, "sleep 1000\r\n").await;
    type_in(&mut dashboard, &id, "\u{3}").await;
    sight.until(&mut dashboard, &id, "ready> ").await;
    type_in(&mut dashboard, &id, "exit 7\r").await;
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(7), &json!("failed"))
    );
}

/// A full-screen editor of a few lines: it draws, takes keys, follows a resize,
/// and saves what was typed.
const EDITOR: &str = r#"
import curses, sys
def main(screen):
    text = ""
    while True:
        rows, columns = screen.getmaxyx()
        screen.erase()
        screen.addstr(0, 0, f"{columns}x{rows}", curses.A_REVERSE)
        screen.addstr(2, 0, text)
        screen.refresh()
        key = screen.get_wch()
        if key == "\x18":
            open("saved", "w").write(text)
            return
        if isinstance(key, str):
            text += key
curses.wrapper(main)
"#;

#[tokio::test]
async fn a_full_screen_editor_works_in_the_terminal() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    machine.write("editor.py", EDITOR);
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let _runner = machine
        .serve_all(gateway, &["--env-allow", "PATH,HOME"])
        .await;
    let command = json!({"command": "TERM=xterm-256color LC_ALL=C.UTF-8 python3 editor.py"});
    let id = request(&mut dashboard, "m-1", command).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "80x24").await;
    assert!(sight.text().contains("\x1b[?1049h"), "another screen");
    type_in(&mut dashboard, &id, "hällo").await;
    sight.until(&mut dashboard, &id, "o").await;
    let resize = json!({"type": "terminal:resize", "commandId": id, "columns": 100, "rows": 30});
    dashboard.send_json(&resize).await;
    sight.until(&mut dashboard, &id, "100x30").await;
    type_in(&mut dashboard, &id, "\u{18}").await;
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(end["exitCode"], 0, "{}", sight.text());
    assert!(sight.text().contains("\x1b[?1049l"), "the screen before");
    assert_eq!(machine.text("saved"), "hällo");
}

#[tokio::test]
async fn how_a_command_ends_is_told_as_it_was() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let graces = ["--interrupt-grace", "300", "--terminate-grace", "300"];
    let _runner = machine.serve_all(gateway, &graces).await;
    let (_, end) = run_whole(&mut dashboard, "m-1", "sleep 0.3; true").await;
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(0), &json!("completed"))
    );
    assert!(end["duration"].as_u64().unwrap() >= 300, "{end}");
    let (_, end) = run_whole(&mut dashboard, "m-1", "kill -KILL $$").await;
    assert_eq!(
        (&end["exitCode"], &end["signal"]),
        (&json!(137), &json!("SIGKILL"))
    );
    assert_eq!(end["status"], "failed");
    // Interrupted: by a signal that it obeys, and by one that it cannot refuse.
    for (command, signal) in [
        ("exec sleep 1000", "SIGINT"),
        (
            "trap '' INT TERM HUP; echo ready; while :; do sleep 1; done",
            "SIGKILL",
        ),
    ] {
        let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
        find(&mut dashboard, |message| {
            message["status"] == "running" && message["commandId"] == id.as_str()
        })
        .await;
        let mut sight = Sight::default();
        if command.contains("ready") {
            sight.until(&mut dashboard, &id, "ready").await;
        }
        let interrupt = json!({"type": "command:interrupt", "commandId": id});
        dashboard.send_json(&interrupt).await;
        let end = sight.watch(&mut dashboard, &id).await;
        assert_eq!(
            (&end["status"], &end["signal"]),
            (&json!("interrupted"), &json!(signal))
        );
    }
    hear_status(&mut dashboard, "m-1", "online").await;
}

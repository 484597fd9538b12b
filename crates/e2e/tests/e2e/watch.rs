//! `signalbox watch`: what people see of agents and commands in a terminal,
//! byte for byte, and what their shells get, with a scripted agent on the other
//! side and gateways that are killed under it. One file, since each test is a
//! short scene in the same terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Process, Proxy, eventually, signalbox};

use crate::fleet_world::{Agent, Screen, World, connect, find, hear, join, run};
use crate::up::up;

/// Bytes that no text encoding has, and that differ everywhere.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// `signalbox watch` at an address, with the key of a role.
fn watch(world: &World, addr: SocketAddr, role: &str, arguments: &[&str]) -> Command {
    let mut command = signalbox();
    command
        .args(["watch", "--url", &format!("http://{addr}")])
        .args(arguments)
        .env("SIGNALBOX_TOKEN", world.platform.api_key(role));
    command
}

fn operator(world: &World, arguments: &[&str]) -> Command {
    let addr = world.platform.gateways[0].listener();
    watch(world, addr, "operator", arguments)
}

/// The same, with standard output in a file: bytes as they are.
fn into_file(command: &Command, path: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(r#"out=$1; shift; exec "$@" >"$out""#)
        .arg("sh")
        .arg(path)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell
}

/// Has an agent take the next command, and say that it runs.
async fn begin(agent: &mut Agent) -> String {
    let id = agent.executes().await["commandId"]
        .as_str()
        .unwrap()
        .to_owned();
    let running = json!({"commandId": id, "status": "running"});
    agent.says("command:status", running).await;
    id
}

async fn ended(process: &Process) -> (Option<i32>, String, String) {
    let status = process.wait(DEADLINE).await;
    let stdout = process.stdout().lines().join("\n");
    (status.code(), stdout, process.stderr().lines().join("\n"))
}

#[tokio::test]
async fn the_list_follows_agents_and_commands() {
    let world = World::start(1).await;
    let _first = world.agent("a-1").await;
    let addr = world.platform.gateways[0].listener();
    let list = Process::spawn(watch(&world, addr, "viewer", &[]));
    let out = list.stdout();
    let row = out.wait_for_line("a-1", DEADLINE).await;
    assert!(row.contains("online") && row.contains("scripted"), "{row}");
    let mut second = world.agent("a-2").await;
    out.wait_for_line("a-2  joined, online", DEADLINE).await;
    let mut dashboard = world.dashboard("operator").await;
    // What a command is called cannot move the terminal.
    let request =
        |command: &str| json!({"type": "command:request", "agentId": "a-2", "command": command});
    dashboard.send_json(&request("make\u{1b}[2J\nall")).await;
    let queued = out.wait_for_line("make", DEADLINE).await;
    assert!(
        queued.ends_with("make^[[2J^Jall (normal, by operator@local)"),
        "{queued}"
    );
    let id = begin(&mut second).await;
    out.wait_for_line(&format!("a-2  {id}  running"), DEADLINE)
        .await;
    dashboard.send_json(&request("second")).await;
    out.wait_for_line("queued at place 1", DEADLINE).await;
    dashboard.send_json(&request("third")).await;
    let third = out.wait_for_line("third (normal", DEADLINE).await;
    assert!(third.contains("queued at place 2"), "{third}");
    let third = third.split("  ").nth(2).unwrap().to_owned();
    second.writes(&id, "not for the list\n").await;
    second.completes(&id, 3).await;
    let end = out.wait_for_line(&format!("{id}  failed"), DEADLINE).await;
    assert!(end.ends_with("failed, exit code 3, 5 ms"), "{end}");
    out.wait_for_line(&format!("{third}  queued at place 1"), DEADLINE)
        .await;
    drop(second);
    out.wait_for_line("a-2  left", DEADLINE).await;
    list.sigterm();
    let (_, stdout, stderr) = ended(&list).await;
    assert!(!stdout.contains("not for the list"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "{stdout:?}");
    assert_eq!(stderr, "");
}

#[tokio::test]
async fn a_command_ends_as_if_it_ran_here() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let run = Process::spawn(operator(
        &world,
        &[
            "a-1",
            "--priority",
            "high",
            "--",
            "make",
            "-k",
            "--config",
            "x",
        ],
    ));
    let execute = agent.executes().await;
    assert_eq!(
        (&execute["command"], &execute["args"]),
        (&json!("make"), &json!(["-k", "--config", "x"]))
    );
    let id = execute["commandId"].as_str().unwrap();
    agent.writes(id, "to out\n").await;
    let output = json!({"type": "stderr", "content": "to err\n"});
    agent
        .says(
            "terminal:output",
            json!({"commandId": id, "output": output}),
        )
        .await;
    agent.completes(id, 3).await;
    let (code, stdout, stderr) = ended(&run).await;
    assert_eq!((code, stdout.as_str()), (Some(3), "to out"));
    assert!(
        stderr.starts_with("to err\n") && stderr.ends_with("failed, exit code 3, 5 ms"),
        "{stderr}"
    );
    // A good end is not worth a word.
    let run = Process::spawn(operator(&world, &["a-1", "--", "true"]));
    let id = begin(&mut agent).await;
    agent.completes(&id, 0).await;
    assert_eq!(ended(&run).await, (Some(0), String::new(), String::new()));
    // Signals, and ends without a code.
    for (end, code) in [
        (json!({"exitCode": 137, "signal": "SIGKILL"}), 137),
        (json!({"status": "failed", "signal": "SIGTERM"}), 143),
        (json!({"status": "failed", "reason": "not allowed"}), 255),
    ] {
        let run = Process::spawn(operator(&world, &["a-1", "--", "x"]));
        let id = begin(&mut agent).await;
        let mut complete = end.clone();
        complete["commandId"] = json!(id);
        agent.says("command:complete", complete).await;
        let (seen, _, stderr) = ended(&run).await;
        assert_eq!(seen, Some(code), "{end} {stderr}");
    }
}

#[tokio::test]
async fn what_is_refused_is_said_and_has_a_code_of_its_own() {
    let world = World::start(1).await;
    let addr = world.platform.gateways[0].listener();
    let refusal = async |command: Command| {
        let (code, _, stderr) = ended(&Process::spawn(command)).await;
        (code, stderr)
    };
    let (code, stderr) = refusal(operator(&world, &["nobody", "--", "x"])).await;
    assert_eq!(code, Some(255));
    assert!(stderr.contains("AGENT_NOT_FOUND"), "{stderr}");
    let (code, stderr) = refusal(watch(&world, addr, "viewer", &["nobody", "--", "x"])).await;
    assert_eq!(code, Some(255));
    assert!(stderr.contains("FORBIDDEN"), "{stderr}");
    // A credential that is refused is not tried again and again.
    let mut stranger = watch(&world, addr, "viewer", &[]);
    stranger.env("SIGNALBOX_TOKEN", "sbk_aaaaaaaaaaaa_nobody");
    let (code, stderr) = refusal(stranger).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1008"), "{stderr}");
    let (code, stderr) = refusal(watch(&world, addr, "producer", &[])).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("read_agents"), "{stderr}");
    // No gateway, and one that is not asked.
    let nobody = "127.0.0.1:1".parse().unwrap();
    let (code, stderr) = refusal(watch(&world, nobody, "viewer", &[])).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no gateway at ws://127.0.0.1:1/ws"),
        "{stderr}"
    );
    let (code, _) = refusal(operator(&world, &["--", "x"])).await;
    assert_eq!(code, Some(64));
}

/// The connection is cut again and again, and the gateway behind it killed:
/// every byte arrives once, in its place.
#[tokio::test]
async fn output_survives_cut_connections_and_a_killed_gateway() {
    let mut world = World::start(2).await;
    let proxy = Proxy::start(world.platform.gateways[0].listener()).await;
    let other = world.platform.gateways[1].listener();
    let token = world.agent_token("a-1").await;
    let (mut agent, _) = Agent::connect(other, &token, "a-1", json!({})).await;
    let mut dashboard = connect(other, &world.platform.api_key("operator")).await;
    join(&mut dashboard, json!({})).await;
    let id = run(&mut dashboard, "a-1", "make").await;
    agent.executes().await;
    let whole = noise(600_000);
    let pieces: Vec<&[u8]> = whole.chunks(1_009).collect();
    let (before, after) = pieces.split_at(100);
    let mut offset = 0;
    let mut write = async |agent: &mut Agent, pieces: &[&[u8]]| {
        for piece in pieces {
            agent.writes_bytes(&id, offset, piece).await;
            offset += piece.len();
        }
    };
    // What was there before comes first.
    write(&mut agent, before).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let command = watch(&world, proxy.addr(), "viewer", &["a-1"]);
    let process = Process::spawn(into_file(&command, &file));
    let shown = || std::fs::metadata(&file).map_or(0, |file| file.len());
    let reaches = async |least: usize| {
        eventually("output", DEADLINE, async || {
            (shown() >= least as u64).then_some(())
        })
        .await;
    };
    let rounds: Vec<&[&[u8]]> = after.chunks(100).collect();
    for (round, pieces) in rounds.iter().enumerate() {
        reaches(round * 40_000).await;
        if round == 2 {
            let gateway = world.platform.gateways.remove(0);
            gateway.process.kill9();
            proxy.retarget(other);
        } else {
            proxy.cut();
        }
        write(&mut agent, pieces).await;
    }
    agent.completes(&id, 0).await;
    process
        .stderr()
        .wait_for_line("completed, exit code 0", DEADLINE)
        .await;
    process.sigterm();
    process.wait(DEADLINE).await;
    let written = std::fs::read(&file).unwrap();
    assert_eq!(written.len(), whole.len());
    assert!(written == whole, "bytes differ");
    let said = process.stderr().lines().join("\n");
    assert!(said.contains("back, and nothing was missed"), "{said}");
    assert!(
        !said.contains("missing") && !said.contains("lost were"),
        "{said}"
    );
}

/// The gateway is killed while a command runs that `watch` asked for: it is run
/// once, and its end arrives.
#[tokio::test]
async fn a_command_outlives_the_gateway_that_took_it() {
    let mut world = World::start(2).await;
    let proxy = Proxy::start(world.platform.gateways[0].listener()).await;
    let other = world.platform.gateways[1].listener();
    let token = world.agent_token("a-1").await;
    let (mut agent, _) = Agent::connect(other, &token, "a-1", json!({})).await;
    // The answer is lost: it is asked again, for the same command.
    let run = Process::spawn(watch(
        &world,
        proxy.addr(),
        "operator",
        &["a-1", "--", "make"],
    ));
    let id = begin(&mut agent).await;
    world.platform.gateways.remove(0).process.kill9();
    proxy.retarget(other);
    agent.writes(&id, "one\n").await;
    run.stdout().wait_for_line("one", DEADLINE).await;
    proxy.cut();
    agent.writes(&id, "two\n").await;
    agent.completes(&id, 7).await;
    let (code, stdout, stderr) = ended(&run).await;
    assert_eq!((code, stdout.as_str()), (Some(7), "one\ntwo"), "{stderr}");
    let next = Process::spawn(watch(&world, other, "operator", &["a-1", "--", "next"]));
    assert_eq!(agent.executes().await["command"], "next");
    drop(next);
}

#[tokio::test]
async fn the_first_ctrl_c_is_for_the_command() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let run = Process::spawn(operator(&world, &["a-1", "--", "sleep", "9"]));
    let id = begin(&mut agent).await;
    agent.writes(&id, "began\n").await;
    run.stdout().wait_for_line("began", DEADLINE).await;
    interrupt(&run);
    let told = hear(&mut agent.client, "command:interrupt").await;
    assert_eq!(
        (&told["commandId"], &told["by"]),
        (&json!(id), &json!("operator@local"))
    );
    assert!(run.exit_status().is_none());
    let end =
        json!({"commandId": id, "status": "interrupted", "signal": "SIGINT", "exitCode": 130});
    agent.says("command:complete", end).await;
    assert_eq!(ended(&run).await.0, Some(130));
    // The second leaves, and the command goes on.
    let run = Process::spawn(operator(&world, &["a-1", "--", "stubborn"]));
    let id = begin(&mut agent).await;
    agent.writes(&id, "began\n").await;
    run.stdout().wait_for_line("began", DEADLINE).await;
    interrupt(&run);
    run.stderr().wait_for_line("Ctrl-C again", DEADLINE).await;
    hear(&mut agent.client, "command:interrupt").await;
    interrupt(&run);
    let (code, _, stderr) = ended(&run).await;
    assert_eq!(code, Some(130));
    assert!(stderr.contains(&format!("{id} goes on")), "{stderr}");
    // From elsewhere, by its name.
    let other = Process::spawn(operator(&world, &["--interrupt", &id]));
    hear(&mut agent.client, "command:interrupt").await;
    let (code, stdout, _) = ended(&other).await;
    assert_eq!((code, stdout), (Some(0), format!("interrupted {id}")));
    let mut dashboard = world.dashboard("viewer").await;
    agent.completes(&id, 0).await;
    Screen::default().watch(&mut dashboard, &id).await;
    let (code, _, stderr) = ended(&Process::spawn(operator(&world, &["--interrupt", &id]))).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no such command"), "{stderr}");
}

fn interrupt(process: &Process) {
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
}

#[tokio::test]
async fn programs_get_messages_as_they_come() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let run = Process::spawn(operator(&world, &["a-1", "--json", "--", "make"]));
    let id = begin(&mut agent).await;
    agent.writes_bytes(&id, 0, b"a\xffb").await;
    agent.completes(&id, 4).await;
    let (code, stdout, _) = ended(&run).await;
    assert_eq!(code, Some(4));
    let messages: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = messages
        .iter()
        .map(|message| message["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.first(), Some(&"agent:list"));
    assert_eq!(kinds.last(), Some(&"command:complete"));
    let output = messages
        .iter()
        .find(|message| message["type"] == "terminal:output")
        .unwrap();
    assert_eq!(output["output"]["raw"], "Yf9i");
    assert!(
        messages
            .iter()
            .any(|message| message["commandId"] == id.as_str() && message["status"] == "queued")
    );
    let once = Process::spawn(operator(&world, &["--once", "--json"]));
    let (code, stdout, _) = ended(&once).await;
    assert_eq!(code, Some(0));
    let list: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list["agents"][0]["agentId"], "a-1");
}

#[tokio::test]
async fn a_running_up_is_found_by_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let tool = async |arguments: &[&str]| {
        let mut command = signalbox();
        command
            .arg("watch")
            .args(arguments)
            .arg("--data-dir")
            .arg(dir.path());
        ended(&Process::spawn(command)).await
    };
    let (code, _, stderr) = tool(&["--once"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("start `signalbox up`"), "{stderr}");
    let (_process, _) = up(dir.path()).await;
    let (code, stdout, stderr) = tool(&["--once"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("(no agent is connected)"), "{stdout}");
}

/// A terminal with `watch` in it.
struct Seat {
    keyboard: File,
    seen: std::sync::Arc<Mutex<Vec<u8>>>,
    /// The terminal's own end, to ask for its state.
    terminal: OwnedFd,
    child: std::process::Child,
}

impl Seat {
    fn take(mut command: Command, columns: u16) -> Self {
        let size = Winsize {
            ws_row: 40,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        drop(command);
        let mut screen = File::from(master.try_clone().unwrap());
        let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read) = screen.read(&mut buffer) {
                sink.lock().extend_from_slice(&buffer[..read]);
            }
        });
        Self {
            keyboard: File::from(master),
            seen,
            terminal: slave,
            child,
        }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock()).into_owned()
    }

    async fn shows(&self, text: &str) {
        let what = format!("{text:?} on the screen");
        eventually(&what, DEADLINE, async || {
            self.text().contains(text).then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    fn is_raw(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        !flags.contains(LocalFlags::ICANON) && !flags.contains(LocalFlags::ECHO)
    }

    async fn leaves(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the end", DEADLINE, async || child.try_wait().unwrap())
            .await
            .code()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_terminal_is_the_commands_while_it_runs_and_in_order_behind_it() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let mut seat = Seat::take(operator(&world, &["a-1", "--input", "--", "sh"]), 132);
    let id = begin(&mut agent).await;
    let size = hear(&mut agent.client, "terminal:resize").await;
    assert_eq!((&size["columns"], &size["rows"]), (&json!(132), &json!(40)));
    assert!(seat.is_raw());
    // Ctrl-C is a key like any other.
    seat.type_in(b"l\x03");
    let mut typed = String::new();
    while typed.len() < 2 {
        let input = hear(&mut agent.client, "terminal:input").await;
        typed.push_str(input["content"].as_str().unwrap());
    }
    assert_eq!(typed, "l\u{3}");
    // What a program draws with passes; what acts on the terminal does not.
    agent
        .writes(
            &id,
            "\u{1b}[?1049h\u{1b}[31mred\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[21tend",
        )
        .await;
    seat.shows("redend").await;
    assert!(!seat.text().contains("]52"), "{:?}", seat.text());
    // The window gets another size.
    let size = rustix::termios::Winsize {
        ws_row: 30,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&seat.terminal, size).unwrap();
    seat.signal(Signal::SIGWINCH);
    let size = hear(&mut agent.client, "terminal:resize").await;
    assert_eq!((&size["columns"], &size["rows"]), (&json!(100), &json!(30)));
    seat.type_in(b"\x1d");
    seat.shows("Ctrl-] again").await;
    hear(&mut agent.client, "command:interrupt").await;
    seat.type_in(b"\x1d");
    assert_eq!(seat.leaves().await, Some(130));
    assert!(!seat.is_raw());
    seat.shows("\u{1b}[?1049l\u{1b}[0m").await;
}

#[tokio::test]
async fn a_terminal_is_in_order_after_a_signal_too() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let mut seat = Seat::take(operator(&world, &["a-1", "--input", "--", "vi"]), 80);
    let id = begin(&mut agent).await;
    agent.writes(&id, "\u{1b}[?25l\u{1b}[?1049hhidden").await;
    seat.shows("hidden").await;
    assert!(seat.is_raw());
    seat.signal(Signal::SIGTERM);
    assert_eq!(seat.leaves().await, Some(143));
    assert!(!seat.is_raw());
    seat.shows("\u{1b}[?25h\u{1b}[?1049l").await;
}

/// Input from a pipe is sent whole, in order and within the limits.
#[tokio::test]
async fn what_is_piped_in_arrives_once_and_in_order() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let run = Process::spawn(operator(&world, &["a-1", "--input", "--", "cat"]));
    let id = begin(&mut agent).await;
    let lines: Vec<String> = (0..400).map(|number| format!("line {number:05}")).collect();
    for line in &lines {
        run.write_line(line);
    }
    run.close_stdin();
    let expected = format!("{}\n", lines.join("\n"));
    let mut typed = String::new();
    while typed.len() < expected.len() {
        let input = hear(&mut agent.client, "terminal:input").await;
        typed.push_str(input["content"].as_str().unwrap());
    }
    assert_eq!(typed, expected);
    // The end of it is a message without a key.
    let end = hear(&mut agent.client, "terminal:input").await;
    assert_eq!(end["content"], "");
    agent.completes(&id, 0).await;
    assert_eq!(ended(&run).await.0, Some(0));
}

/// Has an agent go away while a command of `watch` runs that is typed into, and
/// do this meanwhile; gives its next connection.
async fn away(
    world: &World,
    mut agent: Agent,
    run: &Process,
    id: &str,
    meanwhile: impl AsyncFnOnce(),
) -> Agent {
    let mut dashboard = world.dashboard("operator").await;
    run.write_line("first");
    hear(&mut agent.client, "terminal:input").await;
    drop(agent);
    find(&mut dashboard, |message| message["status"] == "offline").await;
    meanwhile().await;
    // By then what was sent before has been refused as well.
    let input = json!({"type": "terminal:input", "commandId": id, "content": "x"});
    dashboard.send_json(&input).await;
    let refused = hear(&mut dashboard, "command:error").await;
    assert_eq!(refused["code"], "AGENT_OFFLINE");
    let returning = json!({"capabilities": ["ack", "journal"], "running": [id]});
    world.agent_with("a-1", returning).await
}

/// What an agent is told next of a command that it runs.
async fn told(agent: &mut Agent) -> Value {
    let kinds = ["terminal:input", "command:interrupt"];
    find(&mut agent.client, |message| {
        kinds.iter().any(|kind| message["type"] == *kind)
    })
    .await
}

/// A command does not go on with a part of what is piped in.
#[tokio::test]
async fn what_is_piped_in_and_does_not_arrive_fails_the_command() {
    let world = World::start(1).await;
    let journal = json!({"capabilities": ["ack", "journal"]});
    let mut agent = world.agent_with("a-1", journal).await;
    let run = Process::spawn(operator(&world, &["a-1", "--input", "--", "cat"]));
    let id = begin(&mut agent).await;
    let mut agent = away(&world, agent, &run, &id, async || {
        run.write_line("second");
        let incomplete = "the input is incomplete";
        run.stderr().wait_for_line(incomplete, DEADLINE).await;
        run.write_line("third");
        run.close_stdin();
    })
    .await;
    assert_eq!(told(&mut agent).await["type"], "command:interrupt");
    agent.completes(&id, 0).await;
    assert_eq!(ended(&run).await.0, Some(255));
}

/// The end of what is piped in is told until the agent has it.
#[tokio::test]
async fn the_end_of_what_is_piped_in_arrives_although_the_agent_was_away() {
    let world = World::start(1).await;
    let journal = json!({"capabilities": ["ack", "journal"]});
    let mut agent = world.agent_with("a-1", journal).await;
    let run = Process::spawn(operator(&world, &["a-1", "--input", "--", "cat"]));
    let id = begin(&mut agent).await;
    let mut agent = away(&world, agent, &run, &id, async || run.close_stdin()).await;
    let end = told(&mut agent).await;
    assert_eq!(
        (&end["type"], &end["content"]),
        (&json!("terminal:input"), &json!(""))
    );
    agent.completes(&id, 0).await;
    assert_eq!(ended(&run).await.0, Some(0));
}

/// A reader that takes nothing for a while loses nothing: the gateway sends it
/// away, and it returns to where it was.
#[tokio::test]
async fn a_reader_that_stalls_loses_nothing() {
    let world = World::start(1).await;
    let mut agent = world.agent("a-1").await;
    let mut dashboard = world.dashboard("operator").await;
    let id = run(&mut dashboard, "a-1", "make").await;
    agent.executes().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let command = watch(
        &world,
        world.platform.gateways[0].listener(),
        "viewer",
        &["a-1"],
    );
    let process = Process::spawn(into_file(&command, &file));
    let first = "first\n";
    agent.writes(&id, first).await;
    eventually("the first line", DEADLINE, async || {
        (std::fs::metadata(&file).map_or(0, |file| file.len()) > 0).then_some(())
    })
    .await;
    process.sigstop();
    let line = format!("{}\n", "x".repeat(16_000));
    let writing = async {
        for _ in 0..1_200 {
            agent.writes(&id, &line).await;
        }
        agent.completes(&id, 0).await;
    };
    // Somebody else reads on.
    let mut other = Screen::default();
    tokio::join!(writing, other.watch(&mut dashboard, &id));
    process.sigcont();
    process
        .stderr()
        .wait_for_line("completed, exit code 0", DEADLINE)
        .await;
    process.sigterm();
    process.wait(DEADLINE).await;
    let said = process.stderr().lines().join("\n");
    assert!(said.contains("too slow"), "{said}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written.len(), first.len() + 1_200 * line.len());
    assert!(
        written == format!("{first}{}", line.repeat(1_200)),
        "bytes differ"
    );
}

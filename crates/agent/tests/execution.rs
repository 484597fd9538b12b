//! Real processes: what they are given, what they return, what is typed into
//! them, and which are refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Rig, TERMINAL, expect, follow};
use signalbox_agent::environment::Environment;
use signalbox_agent::executor::{Executor, NotTaken, Outcome, Request, State, Stop, Urgency};
use signalbox_agent::output::Stream;
use signalbox_agent::policy::Policy;

#[tokio::test]
async fn exit_code_signal_and_duration_are_told() {
    let rig = Rig::new(|_| {});
    let run = rig.run("echo out; echo err >&2; sleep 0.2; exit 7").await;
    run.check();
    assert_eq!(
        (run.stdout().as_str(), run.stderr().as_str()),
        ("out\n", "err\n")
    );
    let ending = run.ending;
    assert_eq!(
        (ending.outcome, ending.exit_code),
        (Outcome::Failed, Some(7))
    );
    assert_eq!(
        (ending.signal.as_deref(), ending.reason.as_deref()),
        (None, None)
    );
    assert!(ending.duration.unwrap() >= Duration::from_millis(200));
    assert!(!ending.output_incomplete && ending.left_behind == 0);
    assert_eq!(rig.run("true").await.ending.outcome, Outcome::Completed);
    for (name, number) in [("KILL", 9), ("SEGV", 11), ("TERM", 15)] {
        let ending = rig.run(&format!("kill -{name} $$")).await.ending;
        assert_eq!(ending.exit_code, Some(128 + number));
        assert_eq!(ending.signal, Some(format!("SIG{name}")));
        assert_eq!(ending.outcome, Outcome::Failed);
    }
}

#[tokio::test]
async fn memory_and_processor_time_are_told() {
    let rig = Rig::new(|_| {});
    // A string of 64 MiB, in a child of the main process.
    let run = rig
        .run("sh -c 'x=$(head -c 67108864 /dev/zero | tr \"\\0\" x); :' ; true")
        .await;
    let usage = run.ending.usage.unwrap();
    assert!(usage.peak_memory > 64 << 20, "{usage:?}");
    assert!(usage.cpu > Duration::from_millis(10), "{usage:?}");
}

#[tokio::test]
async fn a_process_has_its_own_session_and_group_and_nothing_of_ours() {
    let secret = ("SIGNALBOX_API_KEY".into(), "hidden".into());
    let path = ("PATH".into(), std::env::var_os("PATH").unwrap());
    let rig = Rig::new(|options| options.environment = Environment::new([secret, path], &[]));
    // A descriptor that is inherited unless somebody sees to it.
    let ours = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
    let run = rig
        .run("ls /proc/self/fd | tr '\\n' ' '; env | cut -d= -f1 | sort | tr '\\n' ' '; pwd")
        .await;
    let mut lines = run.stdout();
    // `ls` itself opens the folder.
    assert!(
        lines.starts_with("0 1 2 3 PATH PWD SIGNALBOX_COMMAND "),
        "{lines}"
    );
    assert!(
        lines.ends_with(&format!("{}\n", rig.work().display())),
        "{lines}"
    );
    lines = rig.run("ps -o pid=,pgid=,sid= -p $$").await.stdout();
    let ids: Vec<&str> = lines.split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert!(
        rig.run("kill -s PIPE $$; echo alive")
            .await
            .ending
            .signal
            .is_some()
    );
}

#[tokio::test]
async fn words_are_passed_as_they_are_and_nothing_else_is_run() {
    let patterns = ["printf **", "false"].map(|pattern| pattern.parse().unwrap());
    let rig = Rig::new(|options| options.policy = Policy::Matching(patterns.to_vec()));
    let run = follow(&rig.start("printf '[%s]' 'a b' $HOME", &["; id", "*", ""])).await;
    assert_eq!(run.stdout(), "[a b][$HOME][; id][*][]");
    let ending = rig.run("id").await.ending;
    let reason = ending.reason.as_ref().unwrap();
    assert!(
        reason.starts_with("not_allowed: `id`") && reason.contains("--allow"),
        "{reason}"
    );
    assert_eq!((ending.outcome, ending.exit_code), (Outcome::Failed, None));
    let ending = rig.run("printf 'x").await.ending;
    assert!(ending.reason.as_ref().unwrap().starts_with("not_started: "));
}

#[tokio::test]
async fn nothing_is_allowed_by_default() {
    let rig = Rig::new(|options| options.policy = Policy::default());
    let reason = rig.run("true").await.ending.reason.clone().unwrap();
    assert!(reason.contains("--allow 'true **'"), "{reason}");
}

#[tokio::test]
async fn an_unknown_program_is_told() {
    let rig = Rig::new(|options| options.policy = Policy::Matching(vec!["**".parse().unwrap()]));
    let reason = rig
        .run("no-such-program")
        .await
        .ending
        .reason
        .clone()
        .unwrap();
    assert_eq!(reason, "not_found: there is no program `no-such-program`");
    std::fs::write(rig.work().join("script"), "#!/no/such/interpreter").unwrap();
    std::process::Command::new("chmod")
        .arg("+x")
        .arg(rig.work().join("script"))
        .status()
        .unwrap();
    let reason = rig.run("./script").await.ending.reason.clone().unwrap();
    assert!(reason.starts_with("not_started: "), "{reason}");
}

#[tokio::test]
async fn an_id_is_executed_once() {
    let rig = Rig::new(|_| {});
    let request = Request {
        id: "once".into(),
        command: "echo ran >> ran".into(),
        args: Vec::new(),
    };
    let first = rig.executor.execute(request.clone());
    let second = rig.executor.execute(request.clone());
    follow(&first).await;
    follow(&second).await;
    assert_eq!(rig.executor.commands().len(), 1);
    rig.executor.confirm("once");
    assert!(rig.executor.commands().is_empty());
    // Also when all is confirmed and gone.
    let third = follow(&rig.executor.execute(request)).await;
    assert_eq!(third.ending.outcome, Outcome::Completed);
    assert!(third.pieces.is_empty());
    assert_eq!(
        std::fs::read_to_string(rig.work().join("ran")).unwrap(),
        "ran\n"
    );
}

#[tokio::test]
async fn no_more_run_at_once_than_agreed() {
    let rig = Rig::new(|options| options.concurrency = 1);
    let first = rig.start("cat", &[]);
    let request = Request {
        id: "second".into(),
        command: "true".into(),
        args: Vec::new(),
    };
    let refused = follow(&rig.executor.execute(request.clone())).await;
    assert!(
        refused
            .ending
            .reason
            .as_ref()
            .unwrap()
            .starts_with("busy: ")
    );
    first.input(b"").unwrap();
    follow(&first).await;
    let ran = follow(&rig.executor.execute(request)).await;
    assert_eq!(ran.ending.outcome, Outcome::Completed);
}

#[tokio::test]
async fn ids_that_are_paths_are_refused() {
    let rig = Rig::new(|_| {});
    for id in ["", "../x", "a/b", ".", &"x".repeat(129)] {
        let request = Request {
            id: id.to_owned(),
            command: "true".into(),
            args: Vec::new(),
        };
        let reason = follow(&rig.executor.execute(request))
            .await
            .ending
            .reason
            .clone()
            .unwrap();
        assert!(reason.starts_with("not_started: "), "{id}: {reason}");
    }
}

#[tokio::test]
async fn pipes_take_input_and_its_end() {
    let rig = Rig::new(|_| {});
    let command = rig.start("cat; echo end", &[]);
    assert_eq!(command.resize(1, 1), Err(NotTaken::NoTerminal));
    command.input("ü\0".as_bytes()).unwrap();
    expect(&command, &mut Vec::new(), "ü\0").await;
    command.input(b"").unwrap();
    let run = follow(&command).await;
    assert_eq!(run.stdout(), "ü\0end\n");
    assert_eq!(command.input(b"x"), Err(NotTaken::Closed));
}

#[tokio::test]
async fn input_that_nobody_reads_is_bounded_and_stops_no_output() {
    let rig = Rig::new(|options| {
        options.mode = TERMINAL;
        options.input_bytes = 300_000;
    });
    let command = rig.start("stty -echo; while :; do echo tick; sleep 0.02; done", &[]);
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "tick").await;
    // The terminal itself takes some.
    let mut taken = 0;
    while command.input(&[b'x'; 10_000]).is_ok() {
        taken += 10_000;
        assert!(taken < 10_000_000);
    }
    assert_eq!(command.input(&[b'x'; 10_000]), Err(NotTaken::Full));
    let ticks = pieces.len();
    while pieces.len() < ticks + 3 {
        let seen = common::bytes(&pieces, Stream::Stdout).len();
        common::read_until(&command, &mut pieces, |bytes| bytes.len() > seen).await;
    }
    command.end(Urgency::Kill);
    follow(&command).await;
}

#[tokio::test]
async fn who_reads_up_to_input_that_was_not_taken_fails() {
    let rig = Rig::new(|options| options.input_bytes = 300_000);
    // What it has is neither passed for the whole, nor followed by the rest.
    for (script, reads) in [("cat | wc -c; echo whole", true), ("head -c 5 >&2", false)] {
        let command = rig.start(
            &format!("trap 'exit 0' INT; until test -e go; do sleep 0.02; done; {script}"),
            &[],
        );
        while command.input(&[b'x'; 10_000]).is_ok() {}
        assert_eq!(command.input(b"more"), Err(NotTaken::Closed));
        assert_eq!(command.input(b""), Err(NotTaken::Closed));
        std::fs::write(rig.work().join("go"), "").unwrap();
        let run = follow(&command).await;
        std::fs::remove_file(rig.work().join("go")).unwrap();
        let reason = run.ending.reason.clone().unwrap_or_default();
        assert_eq!(
            reason.starts_with("input_lost: "),
            reads,
            "{:?}",
            run.ending
        );
        let outcome = if reads {
            Outcome::Failed
        } else {
            Outcome::Completed
        };
        assert_eq!(run.ending.outcome, outcome);
        assert!(!run.stdout().contains("whole"));
    }
}

#[tokio::test]
async fn a_terminal_has_its_size_before_the_program_runs_and_tells_changes() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let script = "trap 'stty size; exit' WINCH; tty; stty size; echo \"$TERM\"; while :; do sleep 0.05; done";
    let command = rig.start(script, &[]);
    let mut pieces = Vec::new();
    let text = expect(&command, &mut pieces, "xterm-256color").await;
    assert!(
        text.contains("/dev/pts/") && text.contains("\r\n24 80\r\n"),
        "{text:?}"
    );
    command.resize(120, 50).unwrap();
    let run = follow(&command).await;
    assert!(run.stdout().ends_with("50 120\r\n"), "{:?}", run.stdout());
    assert_eq!(command.resize(1, 1), Err(NotTaken::Closed));
}

#[tokio::test]
async fn a_shell_prompts_in_a_terminal_and_takes_what_is_typed() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let command = rig.start("PS1='prompt> ' bash --norc --noprofile -i", &[]);
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "prompt> ").await;
    command.input(b"echo $((6*7)); sleep 101\r").unwrap();
    expect(&command, &mut pieces, "\r42\r\n").await;
    common::eventually("sleep runs", || {
        !common::processes_with("sleep 101").is_empty()
    })
    .await;
    // A key, as anybody would press it: the shell goes on.
    command.input(b"\x03").unwrap();
    command.input(b"echo back; exit 3\r").unwrap();
    expect(&command, &mut pieces, "\rback\r\n").await;
    let run = follow(&command).await;
    run.check();
    assert_eq!(run.ending.exit_code, Some(3));
}

#[tokio::test]
async fn an_interrupt_reaches_what_runs_in_front_in_a_terminal() {
    let rig = Rig::new(|options| {
        options.mode = TERMINAL;
        options.graces.interrupt = Duration::from_secs(30);
    });
    let command = rig.start("PS1='prompt> ' bash --norc --noprofile -i", &[]);
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "prompt> ").await;
    command.input(b"sleep 102\r").unwrap();
    common::eventually("sleep runs", || {
        !common::processes_with("sleep 102").is_empty()
    })
    .await;
    // The job has a group of its own; the shell is no more than its parent.
    command.end(Urgency::Interrupt);
    let prompts = |bytes: &[u8]| String::from_utf8_lossy(bytes).matches("prompt> ").count() >= 2;
    common::read_until(&command, &mut pieces, prompts).await;
    command.input(b"exit\r").unwrap();
    let run = follow(&command).await;
    assert_eq!(run.ending.outcome, Outcome::Interrupted);
    assert!(run.ending.duration.unwrap() < Duration::from_secs(25));
}

#[tokio::test]
async fn who_closes_a_terminal_may_come_back_to_it() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    // As `ssh host </dev/null >log 2>&1` does, to ask for a password.
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.3; exec 3<>/dev/tty; \
        echo begun >&3; head -c 300000 /dev/zero | tr '\\0' x >&3; exec 3>&-; sleep 0.3; \
        echo asked >/dev/tty; read reply </dev/tty; echo \"reply=$reply\" >/dev/tty";
    let command = rig.start(script, &[]);
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "asked").await;
    command.input(b"secret\r").unwrap();
    let run = follow(&command).await;
    run.check();
    let output = run.stdout();
    assert_eq!(output.matches('x').count(), 300_000);
    assert!(
        output.ends_with("\r\nreply=secret\r\n"),
        "{:?}",
        &output[300_000..]
    );
    assert!(!run.ending.output_incomplete);
    assert_eq!(run.ending.exit_code, Some(0));
}

#[tokio::test]
async fn a_full_screen_editor_works_in_a_terminal() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let command = rig.start("exec vi -u NONE -N edited", &[]);
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "edited").await;
    command.input(b"ihello from afar\x1b").unwrap();
    expect(&command, &mut pieces, "hello from afar").await;
    command.input(b":wq\r").unwrap();
    let run = follow(&command).await;
    run.check();
    assert_eq!(run.ending.exit_code, Some(0));
    let saved = std::fs::read_to_string(rig.work().join("edited")).unwrap();
    assert_eq!(saved, "hello from afar\n");
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_and_refuses_what_comes() {
    let rig = Rig::new(|_| {});
    let command = rig.start("sleep 0.3; echo done", &[]);
    let stopping = rig.executor.clone();
    let stop = tokio::spawn(async move { stopping.stop(Stop::Wait(common::DEADLINE)).await });
    common::eventually("it refuses", || {
        matches!(rig.start("true", &[]).state(), State::Ended(_))
    })
    .await;
    stop.await.unwrap();
    assert_eq!(follow(&command).await.ending.outcome, Outcome::Completed);
    assert_eq!(rig.executor.running(), 0);
}

#[tokio::test]
async fn a_stop_interrupts_what_does_not_end() {
    let rig = Rig::new(|_| {});
    let commands = [rig.start("sleep 100", &[]), rig.start("cat", &[])];
    let stop = rig.executor.stop(Stop::Wait(Duration::from_millis(50)));
    tokio::time::timeout(common::DEADLINE, stop).await.unwrap();
    for command in commands {
        assert_eq!(follow(&command).await.ending.outcome, Outcome::Interrupted);
    }
}

#[tokio::test]
async fn one_runner_at_a_time_uses_a_folder() {
    let rig = Rig::new(|_| {});
    let options = common::options(rig.dir.path());
    assert!(matches!(
        Executor::open(options),
        Err(signalbox_agent::executor::Error::InUse(_))
    ));
}

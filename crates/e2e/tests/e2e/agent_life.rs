//! F2, F10, F14: how the product's runner begins and ends: what it refuses, a
//! stop with and without patience, another runner in its place, tokens that
//! expire, keys that are revoked, and a connection that is lost. One file, since
//! each test is a short life in the same world.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Process, Proxy, eventually, signalbox};

use crate::agent_world::{
    LONG, Machine, Sight, UNPACED, hear_status, in_terminal, request, run_whole, until_gone,
};
use crate::fleet_world::{World, find};

/// How often the runner has come to serve.
fn times_served(runner: &Process) -> usize {
    let lines = runner.stderr().lines();
    lines.iter().filter(|line| line.contains("serving")).count()
}

#[tokio::test]
async fn nothing_is_run_unless_it_is_allowed() {
    let world = World::start(1).await;
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let closed = Machine::new(&world, "closed");
    let runner = closed.serve(gateway, &UNPACED).await;
    // A sentence says how to allow something.
    runner.wait_for_line("--allow", DEADLINE).await;
    let (sight, end) = run_whole(&mut dashboard, "closed", "touch here").await;
    assert_eq!(
        (&end["status"], &end["exitCode"]),
        (&json!("failed"), &Value::Null)
    );
    let reason = end["reason"].as_str().unwrap();
    assert!(reason.starts_with("not_allowed"), "{reason}");
    assert!(sight.streams.is_empty());
    assert!(!closed.workdir().join("here").exists());
    let some = Machine::new(&world, "some");
    let allowed = [&["--allow", "echo **", "--allow", "cat"], &UNPACED[..]].concat();
    let _runner = some.serve(gateway, &allowed).await;
    let (sight, end) = run_whole(&mut dashboard, "some", "echo 'a  b' \"$HOME\"; touch here").await;
    assert_eq!(end["exitCode"], 0);
    assert_eq!(sight.stdout(), b"a  b $HOME; touch here\r\n", "no shell");
    for command in [
        "touch here",
        "/bin/echo x",
        "sh -c 'echo x'",
        "cat /etc/hostname",
    ] {
        let (_, end) = run_whole(&mut dashboard, "some", command).await;
        let reason = end["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("not_allowed"), "{command}: {end}");
    }
    assert!(!some.workdir().join("here").exists());
}

#[tokio::test]
async fn secrets_do_not_leave_the_machine() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    machine.write("secret", "hunter2-hunter2");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let redact = ["--redact", "hunter2-hunter2", "--redact", "re:tok_[a-z]{8}"];
    let runner = machine.serve_all(gateway, &redact).await;
    // Written in parts, with time between them.
    let command = "cat secret; echo; printf 'a hunter2-'; sleep 0.3; printf hunter2; sleep 0.3; \
                   echo ' b'; printf tok_; sleep 0.3; echo abcdefgh; env";
    let (sight, end) = run_whole(&mut dashboard, "m-1", command).await;
    assert_eq!(end["status"], "completed");
    let shown = sight.text();
    assert!(shown.contains("a ") && shown.contains(" b\r\n"), "{shown}");
    for secret in ["hunter2", "abcdefgh", "sbk_", "SIGNALBOX_LOG"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let log = runner.stderr().lines().join("\n");
    assert!(!log.contains("hunter2-hunter2"), "{log}");
}

#[tokio::test]
async fn wrong_use_is_one_line_and_exit_code_64() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    machine.put_key("sbk_nope");
    for arguments in [
        &[][..],
        &["--allow", ""],
        &["--redact", "abc"],
        &["--workdir", "/nonexistent"],
    ] {
        let runner = machine.start(gateway, arguments);
        let status = runner.wait(DEADLINE).await;
        assert_eq!(
            status.code(),
            Some(64),
            "{arguments:?} {:?}",
            runner.stderr().lines()
        );
    }
    // Of another role.
    machine.put_key(&world.platform.api_key("viewer"));
    let runner = machine.start(gateway, &[]);
    assert_eq!(runner.wait(LONG).await.code(), Some(64));
    let lines = runner.stderr().lines().join("\n");
    assert!(lines.contains("the key is refused"), "{lines}");
    assert!(!lines.contains(&world.platform.api_key("viewer")));
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_and_hands_it_over() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(gateway, &[]).await;
    let command = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    // One more waits at the relay: it is for whoever comes next.
    let next = request(&mut dashboard, "m-1", json!({"command": "echo next"})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    runner.sigterm();
    runner.wait_for_line("commands may go on", DEADLINE).await;
    machine.write("go", "");
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(end["status"], "completed");
    assert_eq!(sight.stdout(), in_terminal("begun\ndone\n"));
    assert_eq!(runner.wait(DEADLINE).await.code(), Some(0));
    hear_status(&mut dashboard, "m-1", "offline").await;
    let _runner = machine.serve_all(gateway, &[]).await;
    let mut sight = Sight::default();
    let end = sight.watch(&mut dashboard, &next).await;
    assert_eq!(
        (&end["status"], sight.stdout()),
        (&json!("completed"), &b"next\r\n"[..])
    );
}

#[tokio::test]
async fn a_stop_ends_what_does_not_end_in_time() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let arguments = [
        "--stop-grace",
        "1",
        "--interrupt-grace",
        "200",
        "--terminate-grace",
        "200",
    ];
    let runner = machine.serve_all(gateway, &arguments).await;
    let command = "trap '' INT TERM HUP; sleep 81726354 & echo begun; wait; wait; sleep 81726354";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    runner.sigterm();
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(
        (&end["status"], &end["signal"]),
        (&json!("interrupted"), &json!("SIGKILL"))
    );
    assert_eq!(runner.wait(DEADLINE).await.code(), Some(0));
    until_gone("81726354").await;
}

#[tokio::test]
async fn what_cannot_be_handed_over_is_handed_over_by_the_next_runner() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let front = Proxy::start(world.platform.gateways[0].listener()).await;
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(front.addr(), &["--hand-over", "1"]).await;
    let command = "echo begun; while [ ! -e go ]; do sleep 0.05; done; seq 20000; exit 5";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    front.refuse();
    front.cut();
    machine.write("go", "");
    runner.wait_for_line("connection lost", DEADLINE).await;
    runner.sigterm();
    runner.wait_for_line("not handed over", DEADLINE).await;
    assert_eq!(runner.wait(DEADLINE).await.code(), Some(0));
    front.admit();
    let _runner = machine.serve_all(front.addr(), &[]).await;
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(
        (&end["status"], &end["exitCode"]),
        (&json!("failed"), &json!(5))
    );
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(sight.stdout() == in_terminal(&format!("begun\n{numbers}")));
    assert!(sight.gaps.is_empty());
}

#[tokio::test]
async fn a_runner_that_is_replaced_gives_way() {
    let world = World::start(1).await;
    let (first, second) = (Machine::new(&world, "m-1"), Machine::new(&world, "m-1"));
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let old = first
        .serve_all(gateway, &["--interrupt-grace", "200"])
        .await;
    let command = json!({"command": "sleep 81726355"});
    let id = request(&mut dashboard, "m-1", command).await;
    find(&mut dashboard, |message| message["status"] == "running").await;
    let new = second.serve_all(gateway, &[]).await;
    let status = old.wait(DEADLINE).await;
    assert_eq!(
        status.code(),
        Some(64),
        "the service manager must not start it again"
    );
    let lines = old.stderr().lines();
    assert!(
        lines.last().unwrap().contains("another runner"),
        "{lines:?}"
    );
    // The new one does not know the command, and the old one has ended it.
    let end = Sight::default().watch(&mut dashboard, &id).await;
    assert_eq!(
        (&end["status"], &end["reason"]),
        (&json!("failed"), &json!("outcome_unknown"))
    );
    until_gone("81726355").await;
    let (sight, _) = run_whole(&mut dashboard, "m-1", "echo here").await;
    assert_eq!(sight.stdout(), b"here\r\n");
    assert_eq!(times_served(&new), 1);
}

#[tokio::test]
async fn a_second_runner_on_the_same_directory_is_refused() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let first = machine.serve_all(gateway, &[]).await;
    let second = machine.start(gateway, &[]);
    assert_eq!(second.wait(DEADLINE).await.code(), Some(64));
    assert_eq!(first.exit_status(), None);
}

#[tokio::test]
async fn tokens_are_refreshed_in_place() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(gateway, &["--token-ttl", "3"]).await;
    // Longer than three tokens live.
    let command = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 1; done";
    let (sight, end) = run_whole(&mut dashboard, "m-1", command).await;
    assert_eq!(end["status"], "completed");
    let numbers: String = (1..=10).map(|number| format!("{number}\n")).collect();
    assert_eq!(sight.stdout(), in_terminal(&numbers));
    assert_eq!(times_served(&runner), 1, "it never had to return");
    let lines = runner.stderr().lines().join("\n");
    assert!(lines.contains("goes on with a fresh token"), "{lines}");
    let fetched = lines.matches("goes on with a fresh token").count();
    assert!(fetched < 20, "{fetched} tokens in ten seconds");
    for secret in ["eyJ", "sbk_", &world.platform.api_key("agent")] {
        assert!(!lines.contains(secret), "a secret is in the log");
    }
}

/// Runs `signalbox key` as the registrar of the bus.
async fn key(world: &World, arguments: &[&str]) -> Vec<String> {
    let mut command = signalbox();
    command
        .arg("key")
        .args(arguments)
        .env("NATS_URL", world.platform.nats.url(User::Registrar));
    let process = Process::spawn(command);
    assert!(process.wait(DEADLINE).await.success());
    process.stdout().lines()
}

#[tokio::test]
async fn a_revoked_key_is_replaced_while_commands_go_on() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let make = ["create", "--role", "agent", "--name", "m-1", "--json"];
    let made: Value = serde_json::from_str(&key(&world, &make).await[0]).unwrap();
    machine.put_key(made["api_key"].as_str().unwrap());
    let runner = machine.serve_all(gateway, &[]).await;
    let command = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    key(&world, &["revoke", made["id"].as_str().unwrap()]).await;
    runner
        .wait_for_line("the key is refused, another", DEADLINE)
        .await;
    let made: Value = serde_json::from_str(&key(&world, &make).await[0]).unwrap();
    machine.put_key(made["api_key"].as_str().unwrap());
    machine.write("go", "");
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(end["status"], "completed");
    assert_eq!(sight.stdout(), in_terminal("begun\ndone\n"));
    assert_eq!(times_served(&runner), 2);
}

#[tokio::test]
async fn commands_go_on_while_the_connection_is_gone() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let front = Proxy::start(world.platform.gateways[0].listener()).await;
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine
        .serve_all(front.addr(), &["--concurrency", "2"])
        .await;
    // One goes on, the other ends meanwhile.
    let going = "echo begun; while [ ! -e go ]; do sleep 0.05; done; seq 3000";
    let ending = "echo begun; while [ ! -e gone ]; do sleep 0.05; done; seq 3000; touch over";
    let going = request(&mut dashboard, "m-1", json!({"command": going})).await;
    let ending = request(&mut dashboard, "m-1", json!({"command": ending})).await;
    let mut sights = [Sight::default(), Sight::default()];
    while sights.iter().any(|sight| sight.stdout().is_empty()) {
        let message = dashboard.next_json(DEADLINE).await;
        sights[0].see(&going, &message);
        sights[1].see(&ending, &message);
    }
    front.refuse();
    front.cut();
    runner.wait_for_line("connection lost", DEADLINE).await;
    machine.write("gone", "");
    eventually("the end of one", DEADLINE, async || {
        machine.workdir().join("over").exists().then_some(())
    })
    .await;
    front.admit();
    let end = find(&mut dashboard, |message| {
        sights[0].see(&going, message);
        sights[1].see(&ending, message)
    })
    .await;
    assert_eq!(end["status"], "completed");
    machine.write("go", "");
    let end = sights[0].watch(&mut dashboard, &going).await;
    assert_eq!(end["status"], "completed");
    let numbers: String = (1..=3_000).map(|number| format!("{number}\n")).collect();
    for sight in &sights {
        assert!(sight.stdout() == in_terminal(&format!("begun\n{numbers}")));
    }
}

#[tokio::test]
async fn a_silent_connection_is_noticed() {
    let world = World::start_with(
        1,
        &[
            &crate::fleet_world::UNLIMITED[..],
            &["--fleet-heartbeat", "1"],
        ]
        .concat(),
    )
    .await;
    let machine = Machine::new(&world, "m-1");
    let front = Proxy::start(world.platform.gateways[0].listener()).await;
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(front.addr(), &[]).await;
    let command = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    // The former connection is still there for the gateway and the relay, each
    // time: the new one takes its place.
    for time in 1..=4 {
        front.silence();
        eventually("the next connection", DEADLINE, async || {
            assert_eq!(runner.exit_status(), None, "{:?}", runner.stderr().lines());
            (times_served(&runner) > time).then_some(())
        })
        .await;
    }
    // The one before has answered no pings meanwhile.
    let mut dashboard = world.dashboard("operator").await;
    let mut sight = Sight::default();
    machine.write("go", "");
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(end["status"], "completed");
    assert_eq!(sight.stdout(), in_terminal("begun\ndone\n"));
    let lines = runner.stderr().lines().join("\n");
    assert!(lines.contains("the gateway is silent"), "{lines}");
}

#[tokio::test]
async fn an_emergency_stop_is_obeyed_and_confirmed() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let _runner = machine
        .serve_all(gateway, &["--interrupt-grace", "300"])
        .await;
    let id = request(
        &mut dashboard,
        "m-1",
        json!({"command": "echo begun; sleep 81726356"}),
    )
    .await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    dashboard
        .send_json(&json!({"type": "system:emergency-stop", "reason": "test"}))
        .await;
    let mut ended = false;
    let status = find(&mut dashboard, |message| {
        ended |= sight.see(&id, message);
        message["type"] == "system:emergency-status" && message["agents"][0]["state"] == "confirmed"
    })
    .await;
    assert_eq!(status["agents"][0]["agentId"], "m-1");
    if !ended {
        sight.watch(&mut dashboard, &id).await;
    }
    until_gone("81726356").await;
    dashboard.send_json(&json!({"type": "system:resume"})).await;
    find(&mut dashboard, |message| message["type"] == "system:resume").await;
    let (sight, _) = run_whole(&mut dashboard, "m-1", "echo again").await;
    assert_eq!(sight.stdout(), b"again\r\n");
}

#[tokio::test]
async fn the_machine_is_described_in_its_status() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let _runner = machine
        .serve_all(gateway, &["--concurrency", "2", "--status-interval", "1"])
        .await;
    let id = request(&mut dashboard, "m-1", json!({"command": "sleep 81726357"})).await;
    let status = find(&mut dashboard, |message| {
        message["type"] == "agent:status" && message["metrics"]["activeCommands"] == 1
    })
    .await;
    let metrics = &status["metrics"];
    assert_eq!(status["status"], "online");
    assert_eq!(metrics["availability"], 0.5);
    for part in ["cpuUsage", "memoryUsage"] {
        assert!(
            (0.0..=100.0).contains(&metrics[part].as_f64().unwrap()),
            "{status}"
        );
    }
    let other = request(&mut dashboard, "m-1", json!({"command": "sleep 81726357"})).await;
    hear_status(&mut dashboard, "m-1", "busy").await;
    for id in [id, other] {
        let interrupt = json!({"type": "command:interrupt", "commandId": id});
        dashboard.send_json(&interrupt).await;
    }
    hear_status(&mut dashboard, "m-1", "online").await;
    tokio::time::timeout(Duration::from_secs(30), until_gone("81726357"))
        .await
        .unwrap();
}

/// What a full spool cannot take is told as a gap, and what comes later comes.
#[tokio::test]
async fn what_does_not_fit_on_disk_is_a_gap() {
    let world = World::start(1).await;
    let machine = Machine::new(&world, "m-1");
    let front = Proxy::start(world.platform.gateways[0].listener()).await;
    let mut dashboard = world.dashboard("operator").await;
    let small = ["--spool-mib", "1", "--spool-patience", "1"];
    let runner = machine.serve_all(front.addr(), &small).await;
    let command = "echo begun; while [ ! -e go ]; do sleep 0.05; done; seq 400000; touch written; \
                   while [ ! -e on ]; do sleep 0.05; done; sleep 0.5; echo the end";
    let id = request(&mut dashboard, "m-1", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &id, "begun").await;
    front.refuse();
    front.cut();
    runner.wait_for_line("connection lost", DEADLINE).await;
    machine.write("go", "");
    eventually("the end of the numbers", DEADLINE, async || {
        machine.workdir().join("written").exists().then_some(())
    })
    .await;
    front.admit();
    // Only then is there room again.
    let mut served = 0;
    while served < 2 {
        served = times_served(&runner);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    machine.write("on", "");
    let end = sight.watch(&mut dashboard, &id).await;
    assert_eq!(
        (&end["exitCode"], &end["incomplete"]),
        (&json!(0), &json!(true))
    );
    let numbers: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    let whole = in_terminal(&format!("begun\n{numbers}the end\n"));
    assert!(!sight.gaps.is_empty());
    let (mut rest, mut place) = (Vec::new(), 0);
    for (from, to) in &sight.gaps {
        let (from, to) = (*from as usize, to.unwrap() as usize);
        assert!(place <= from && from < to, "{:?}", sight.gaps);
        rest.extend(&whole[place..from]);
        place = to;
    }
    rest.extend(&whole[place..]);
    assert!(rest.len() > 500_000 && rest.ends_with(b"the end\r\n"));
    assert!(sight.stdout() == rest, "{:?}", sight.gaps);
    let stream = &end["streams"][0];
    assert_eq!(stream["bytes"], whole.len());
    assert_eq!(stream["recorded"], sight.stdout().len());
}

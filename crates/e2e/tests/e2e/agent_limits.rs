//! F13: the product's runner stays below the gateway's limits, and loses nothing
//! where it does not.

use serde_json::json;

use crate::agent_world::{LONG, Machine, Sight, in_terminal, request, run_whole};
use crate::fleet_world::{UNLIMITED, World};

/// A command that writes a line every few milliseconds.
fn chatty(lines: usize, pause: &str) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep {pause}; done")
}

fn lines(number: usize) -> Vec<u8> {
    let text: String = (0..number).map(|line| format!("line {line}\n")).collect();
    in_terminal(&text)
}

/// No limits but these, which are pairs of flag and value.
fn with<'a>(low: &[&'a str]) -> Vec<&'a str> {
    let others = UNLIMITED.chunks(2).filter(|pair| !low.contains(&pair[0]));
    others.flatten().chain(low).copied().collect()
}

#[tokio::test]
async fn a_chatty_command_loses_nothing_at_the_default_limits() {
    let world = World::start_with(1, &[]).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve(gateway, &["--shell"]).await;
    let (sight, end) = run_whole(&mut dashboard, "m-1", &chatty(2_000, "0.004")).await;
    assert_eq!(end["status"], "completed");
    assert!(sight.stdout() == lines(2_000));
    // Much at once, too: it goes in few messages.
    let (sight, end) = run_whole(&mut dashboard, "m-1", "seq 400000").await;
    assert_eq!(end["status"], "completed");
    let numbers: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    assert!(sight.stdout() == in_terminal(&numbers));
    let log = runner.stderr().lines().join("\n");
    assert!(!log.contains("the gateway refuses"), "{log}");
}

/// With a limit that is soon used up, output comes less often, and whole.
#[tokio::test]
async fn output_is_gathered_where_the_limit_is_low() {
    let world = World::start_with(1, &with(&["--fleet-output-per-minute", "40"])).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let arguments = ["--shell", "--output-per-minute", "40"];
    let runner = machine.serve(gateway, &arguments).await;
    let command = json!({"command": chatty(1_500, "0.01")});
    let id = request(&mut dashboard, "m-1", command).await;
    let mut sight = Sight::default();
    let (mut messages, mut is_over) = (0, false);
    while !is_over {
        let message = dashboard.next_json(LONG).await;
        messages += usize::from(message["type"] == "terminal:output");
        is_over = sight.see(&id, &message);
    }
    assert!(sight.stdout() == lines(1_500));
    assert!(messages <= 40, "{messages}");
    let log = runner.stderr().lines().join("\n");
    assert!(!log.contains("the gateway refuses"), "{log}");
}

/// A runner that was not told of the limit is refused, waits as long as the
/// gateway says, and sends again what was refused.
#[tokio::test]
async fn what_the_gateway_refuses_is_sent_again() {
    let world = World::start_with(1, &with(&["--fleet-output-per-minute", "20"])).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let runner = machine.serve_all(gateway, &[]).await;
    let (sight, end) = run_whole(&mut dashboard, "m-1", &chatty(300, "0.02")).await;
    assert_eq!(end["status"], "completed");
    assert!(sight.stdout() == lines(300));
    assert!(sight.gaps.is_empty());
    let log = runner.stderr().lines().join("\n");
    assert!(log.contains("the gateway refuses"), "{log}");
}

/// Ends of many short commands are all told where other messages are limited.
#[tokio::test]
async fn ends_are_told_where_messages_are_few() {
    let low = ["--fleet-messages-per-minute", "30", "--fleet-burst", "3"];
    let world = World::start_with(1, &with(&low)).await;
    let machine = Machine::new(&world, "m-1");
    let gateway = world.platform.gateways[0].listener();
    let mut dashboard = world.dashboard("operator").await;
    let arguments = ["--shell", "--messages-per-minute", "30", "--burst", "3"];
    let runner = machine.serve(gateway, &arguments).await;
    for number in 0..12 {
        let (sight, end) = run_whole(&mut dashboard, "m-1", &format!("echo {number}")).await;
        assert_eq!(end["status"], "completed");
        assert_eq!(sight.stdout(), format!("{number}\r\n").as_bytes());
    }
    let log = runner.stderr().lines().join("\n");
    assert!(!log.contains("the gateway refuses"), "{log}");
}

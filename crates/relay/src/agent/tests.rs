//! One agent's queue and commands as a state machine: what each event makes it do,
//! and what holds in every order of events. One file, since all are short scenes
//! with the same agent.

use proptest::prelude::*;
use signalbox_protocol::wire::{
    AgentConnected, CommandComplete, CommandPriority, EmergencyState, KnownCommand, ResourceUsage,
    RunCommand, StopConfirmation, StreamSum,
};

use super::*;

const BOUNDS: Bounds = Bounds {
    queue: 5,
    bytes: 8_000,
    due_ms: 10_000,
    grace_ms: 1_000,
    silence_ms: 300,
    confirm_ms: 500,
    memory_ms: 100_000,
};

fn agent() -> Agent {
    Agent::new(Document::new("a", 0), BOUNDS, 0)
}

fn report(journal: bool, known: &[&str]) -> AgentConnected {
    AgentConnected {
        commands: known
            .iter()
            .map(|id| KnownCommand {
                command_id: (*id).to_owned(),
                ended: false,
            })
            .collect(),
        lists_commands: journal,
        keeps_journal: journal,
        ..AgentConnected::default()
    }
}

fn connect(agent: &mut Agent, connection: &str, report: &AgentConnected, now: u64) -> Vec<String> {
    let connecting = Connecting {
        gateway: "g",
        connection,
        report,
    };
    agent
        .connect(connecting, now)
        .expect("no other has taken its place")
        .abandoned
}

fn run(agent: &mut Agent, id: &str, priority: CommandPriority, now: u64) {
    let request = RunCommand {
        agent_id: "a".to_owned(),
        command: "x".to_owned(),
        priority: priority.into(),
        queue_if_offline: true,
        ..RunCommand::default()
    };
    agent
        .run(&request, "u", id.to_owned(), None, now)
        .expect("there is room");
}

fn complete(agent: &mut Agent, id: &str, exit_code: i32, now: u64) {
    let complete = CommandComplete {
        command_id: id.to_owned(),
        exit_code: Some(exit_code),
        ..CommandComplete::default()
    };
    agent.complete(&complete, now);
}

/// The commands that are sent to the agent by these effects.
fn sent(agent: &mut Agent) -> Vec<String> {
    let effects = agent.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Execute(id) => Some(id),
            _ => None,
        })
        .collect()
}

fn outcome(agent: &Agent, id: &str) -> (End, String) {
    match &agent.command(id).expect("it is there").phase {
        Phase::Ended(outcome) => (outcome.end, Agent::reason_of(outcome)),
        phase => panic!("{id} is {phase:?}"),
    }
}

fn waiting(agent: &Agent, now: u64) -> Vec<String> {
    let queue = agent.queue(now).into_iter();
    queue.map(|(command, _)| command.id.clone()).collect()
}

#[test]
fn commands_run_one_after_the_other_by_priority() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "low", CommandPriority::Low, 1);
    run(&mut agent, "normal", CommandPriority::Normal, 2);
    run(&mut agent, "high", CommandPriority::High, 3);
    assert_eq!(sent(&mut agent), ["low"]);
    assert_eq!(waiting(&agent, 4), ["high", "normal"]);
    agent.confirm("low", 5);
    complete(&mut agent, "low", 0, 6);
    assert_eq!(outcome(&agent, "low").0, End::Completed);
    assert_eq!(sent(&mut agent), ["high"]);
    agent.recorded("low");
    assert!(agent.command("low").is_none());
    // The same report again changes nothing.
    complete(&mut agent, "low", 1, 7);
    assert_eq!(sent(&mut agent), Vec::<String>::new());
}

#[test]
fn a_full_queue_and_an_absent_agent_refuse() {
    let mut agent = agent();
    let request = RunCommand {
        agent_id: "a".to_owned(),
        command: "x".to_owned(),
        ..RunCommand::default()
    };
    let refused = agent.run(&request, "u", "1".to_owned(), None, 0);
    assert_eq!(refused.unwrap_err().code(), CommandError::AgentOffline);
    for number in 0..5 {
        run(&mut agent, &number.to_string(), CommandPriority::Normal, 0);
    }
    let queued = RunCommand {
        queue_if_offline: true,
        ..request
    };
    let refused = agent.run(&queued, "u", "6".to_owned(), None, 0);
    assert_eq!(refused.unwrap_err().code(), CommandError::QueueFull);
}

#[test]
fn a_command_counts_for_what_it_takes_of_the_document() {
    let bound = BOUNDS.bytes;
    let texts = [
        "",
        "\u{1}",
        "\"\\",
        "\n\r\t\u{8}\u{c}",
        "\u{1f}\u{7f}",
        "é\u{2028}😀",
    ];
    for text in texts.map(|text| text.repeat(bound / 40)) {
        let mut agent = agent();
        let request = RunCommand {
            agent_id: "a".to_owned(),
            command: "x".to_owned(),
            args: vec![text, String::new()],
            queue_if_offline: true,
            ..RunCommand::default()
        };
        let by = "u".repeat(128);
        let trace = format!("00-{:032x}-{:016x}-01", 1, 1);
        let mut refused = None;
        for number in 0..BOUNDS.queue {
            let id = format!("cmd-0-{number:032}");
            let trace = Some(trace.clone());
            refused = agent.run(&request, &by, id, trace, u64::MAX / 2).err();
            if refused.is_some() {
                break;
            }
        }
        let stored = serde_json::to_vec(&agent.document().commands).expect("it can be written");
        assert!(stored.len() <= bound, "{} bytes are stored", stored.len());
        if request.args[0].contains('\u{1}') {
            assert_eq!(
                refused.map(|refused| refused.code()),
                Some(CommandError::QueueFull)
            );
        }
    }
}

#[test]
fn interrupts_remove_what_waits_and_tell_what_runs() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    for id in ["1", "2", "3"] {
        run(&mut agent, id, CommandPriority::Normal, 0);
    }
    agent.take_effects();
    agent.interrupt("2", "u", 1).unwrap();
    assert_eq!(outcome(&agent, "2"), (End::Interrupted, String::new()));
    assert_eq!(waiting(&agent, 1), ["3"]);
    agent.interrupt("1", "u", 1).unwrap();
    assert!(
        agent
            .take_effects()
            .contains(&Effect::Interrupt("1".to_owned()))
    );
    complete(&mut agent, "1", 130, 2);
    assert_eq!(outcome(&agent, "1").0, End::Interrupted);
    assert!(agent.interrupt("1", "u", 3).is_err());
    assert!(agent.interrupt("9", "u", 3).is_err());
}

#[test]
fn one_that_was_done_before_the_interrupt_came_is_completed() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    agent.interrupt("1", "u", 1).unwrap();
    complete(&mut agent, "1", 0, 2);
    assert_eq!(outcome(&agent, "1").0, End::Completed);
}

#[test]
fn an_agent_that_returns_goes_on_with_what_it_has() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    agent.confirm("1", 1);
    agent.lose("c", 2);
    assert_eq!(
        agent.status_now(),
        signalbox_protocol::wire::AgentStatus::Offline
    );
    agent.tick(1_001);
    connect(&mut agent, "d", &report(true, &["1", "strange"]), 1_001);
    agent.tick(5_000);
    assert_eq!(agent.busy(), 1);
    complete(&mut agent, "1", 0, 5_001);
    assert_eq!(outcome(&agent, "1").0, End::Completed);
}

#[test]
fn an_agent_that_stays_away_loses_its_commands() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    run(&mut agent, "2", CommandPriority::Normal, 0);
    agent.confirm("1", 1);
    assert_eq!(agent.next_tick_ms(1), Some(300));
    agent.tick(300);
    assert!(agent.document().session.is_none());
    agent.tick(1_299);
    assert_eq!(agent.busy(), 1);
    assert_eq!(agent.next_tick_ms(300), Some(1_300));
    agent.tick(1_300);
    assert_eq!(outcome(&agent, "1"), (End::Failed, "agent_lost".to_owned()));
    // What waits goes on waiting; what it reports too late is to be stopped.
    assert_eq!(waiting(&agent, 1_300), ["2"]);
    agent.recorded("1");
    assert_eq!(
        connect(&mut agent, "d", &report(true, &["1"]), 2_000),
        ["1"]
    );
    assert!(sent(&mut agent).contains(&"2".to_owned()));
}

#[test]
fn what_a_journal_does_not_have_is_sent_again_and_what_it_has_lost_is_unknown() {
    let mut agent = agent();
    let connected = AgentConnected {
        concurrency: 2,
        ..report(true, &[])
    };
    connect(&mut agent, "c", &connected, 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    run(&mut agent, "2", CommandPriority::Normal, 0);
    agent.executed("1", "c", Delivered::Done, 1);
    agent.executed("2", "c", Delivered::Done, 1);
    agent.confirm("2", 1);
    agent.take_effects();
    agent.lose("c", 2);
    connect(&mut agent, "d", &connected, 3);
    assert_eq!(sent(&mut agent), ["1"]);
    assert_eq!(agent.command("1").unwrap().attempt, 1);
    assert_eq!(
        outcome(&agent, "2"),
        (End::Failed, "outcome_unknown".to_owned())
    );
}

#[test]
fn an_agent_without_journal_gets_a_command_once() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(false, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    assert_eq!(sent(&mut agent), ["1"]);
    // Written for all that is known, and the connection breaks.
    agent.executed("1", "c", Delivered::Gone { surely: false }, 1);
    connect(&mut agent, "d", &report(false, &[]), 2);
    assert_eq!(sent(&mut agent), Vec::<String>::new());
    agent.hear("d", 1_001).unwrap();
    agent.tick(1_001);
    assert_eq!(agent.busy(), 1);
    agent.hear("d", 1_002).unwrap();
    agent.tick(1_002);
    assert_eq!(
        outcome(&agent, "1"),
        (End::Failed, "outcome_unknown".to_owned())
    );
}

#[test]
fn what_surely_never_left_waits_again() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(false, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    agent.executed("1", "c", Delivered::Gone { surely: true }, 1);
    assert_eq!(waiting(&agent, 1), ["1"]);
    agent.take_effects();
    connect(&mut agent, "d", &report(false, &[]), 2);
    assert_eq!(sent(&mut agent), ["1"]);
    assert_eq!(agent.command("1").unwrap().attempt, 2);
    agent.executed("1", "d", Delivered::Done, 3);
    assert_eq!(
        agent.command("1").unwrap().phase,
        Phase::Running { since_ms: 3 }
    );
}

#[test]
fn only_the_last_connection_is_the_agents() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    connect(&mut agent, "d", &report(true, &[]), 1);
    let replaced = agent
        .take_effects()
        .into_iter()
        .any(|effect| matches!(effect, Effect::Replace(session) if session.connection == "c"));
    assert!(replaced);
    assert!(!agent.hear("c", 2).unwrap_err().unknown);
    agent.lose("c", 2);
    assert!(agent.document().session.is_some());
    // Announced again, it is the same.
    agent.take_effects();
    connect(&mut agent, "d", &report(true, &[]), 3);
    assert_eq!(agent.take_effects(), []);
}

#[test]
fn an_emergency_stop_ends_everything_until_it_is_lifted() {
    let stop = EmergencyState {
        active: true,
        stop_id: "s".to_owned(),
        ..EmergencyState::default()
    };
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "1", CommandPriority::Normal, 0);
    run(&mut agent, "2", CommandPriority::Normal, 0);
    agent.confirm("1", 0);
    agent.take_effects();
    agent.emergency(&stop, 1);
    assert_eq!(
        outcome(&agent, "2"),
        (End::Interrupted, "emergency_stop".to_owned())
    );
    let effects = agent.take_effects();
    assert!(effects.contains(&Effect::Emergency));
    assert!(effects.contains(&Effect::Interrupt("1".to_owned())));
    let confirmation = |agent: &Agent, now| agent.state(now).stop();
    agent.emergency_told("s");
    assert_eq!(confirmation(&agent, 2), StopConfirmation::Unspecified);
    assert_eq!(confirmation(&agent, 501), StopConfirmation::Unreachable);
    complete(&mut agent, "1", 130, 502);
    assert_eq!(
        outcome(&agent, "1"),
        (End::Interrupted, "emergency_stop".to_owned())
    );
    assert_eq!(confirmation(&agent, 503), StopConfirmation::Confirmed);
    // Once more, and after a take-over: nothing new.
    agent.take_effects();
    agent.emergency(&stop, 504);
    assert_eq!(agent.take_effects(), []);
    run(&mut agent, "3", CommandPriority::Normal, 505);
    assert_eq!(sent(&mut agent), Vec::<String>::new());
    agent.emergency(&EmergencyState::default(), 506);
    assert_eq!(sent(&mut agent), ["3"]);
    assert_eq!(confirmation(&agent, 507), StopConfirmation::Unspecified);
}

#[test]
fn a_stop_that_meets_an_absent_agent_is_told_when_it_returns() {
    let stop = EmergencyState {
        active: true,
        stop_id: "s".to_owned(),
        ..EmergencyState::default()
    };
    let mut agent = agent();
    agent.emergency(&stop, 1);
    assert_eq!(agent.state(2).stop(), StopConfirmation::Unreachable);
    agent.take_effects();
    connect(&mut agent, "c", &report(true, &[]), 3);
    assert!(agent.take_effects().contains(&Effect::Emergency));
    agent.stopped("other");
    assert_eq!(agent.state(4).stop(), StopConfirmation::Unspecified);
    agent.stopped("s");
    assert_eq!(agent.state(5).stop(), StopConfirmation::Confirmed);
}

/// What can happen to an agent.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Run(CommandPriority),
    Confirm(usize),
    Complete(usize),
    Interrupt(usize),
    Lose,
    Return,
    TakeOver,
    Wait(u64),
    Record(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop_oneof![
            Just(CommandPriority::High),
            Just(CommandPriority::Normal),
            Just(CommandPriority::Low),
        ].prop_map(Happening::Run),
        3 => (0_usize..8).prop_map(Happening::Confirm),
        3 => (0_usize..8).prop_map(Happening::Complete),
        1 => (0_usize..8).prop_map(Happening::Interrupt),
        1 => Just(Happening::Lose),
        1 => Just(Happening::Return),
        1 => Just(Happening::TakeOver),
        1 => (0_u64..1_500).prop_map(Happening::Wait),
        2 => (0_usize..8).prop_map(Happening::Record),
    ]
}

/// A journalling agent as it should be: it starts a command once, however often
/// it is sent.
#[derive(Default)]
struct Runner {
    journal: Vec<String>,
    running: Vec<String>,
}

impl Runner {
    fn execute(&mut self, id: String) {
        if !self.journal.contains(&id) {
            self.journal.push(id.clone());
            self.running.push(id);
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: every accepted command is somewhere
    /// until its end is recorded, no more run than may, nothing that waits was
    /// ever started, and a command ends in one way only.
    #[test]
    fn no_command_is_lost_or_run_twice(
        happenings in proptest::collection::vec(happening(), 1..120),
    ) {
        let (mut now, mut number, mut connection) = (1, 0, 0);
        let mut agent = agent();
        let mut runner = Runner::default();
        let mut open: Vec<String> = Vec::new();
        let mut ends = std::collections::HashMap::new();
        for happening in happenings {
            let pick = |index: usize, agent: &Agent| {
                let commands = &agent.document().commands;
                (!commands.is_empty()).then(|| commands[index % commands.len()].id.clone())
            };
            let is_here = agent.document().session.is_some();
            match happening {
                Happening::Run(priority) => {
                    number += 1;
                    let id = format!("c{number}");
                    let request = RunCommand {
                        command: "x".to_owned(),
                        priority: priority.into(),
                        queue_if_offline: true,
                        ..RunCommand::default()
                    };
                    if agent.run(&request, "u", id.clone(), None, now).is_ok() {
                        open.push(id);
                    }
                }
                Happening::Confirm(index) if is_here => {
                    if let Some(id) = runner.running.get(index).cloned() {
                        agent.confirm(&id, now);
                    }
                }
                Happening::Complete(index) if is_here && index < runner.running.len() => {
                    let id = runner.running.remove(index);
                    complete(&mut agent, &id, 0, now);
                }
                Happening::Interrupt(index) => {
                    if let Some(id) = pick(index, &agent) {
                        agent.interrupt(&id, "u", now).ok();
                    }
                }
                Happening::Lose => agent.lose(&connection.to_string(), now),
                Happening::Return => {
                    connection += 1;
                    let known: Vec<&str> = runner.running.iter().map(String::as_str).collect();
                    let abandoned = connect(&mut agent, &connection.to_string(), &report(true, &known), now);
                    runner.running.retain(|id| !abandoned.contains(id));
                }
                Happening::TakeOver => {
                    let json = serde_json::to_vec(agent.document()).unwrap();
                    let stored: Document = serde_json::from_slice(&json).unwrap();
                    prop_assert_eq!(&stored, agent.document());
                    agent = Agent::new(stored, BOUNDS, now);
                    agent.recover(now);
                }
                Happening::Wait(time) => {
                    now += time;
                    agent.tick(now);
                }
                Happening::Record(index) => {
                    if let Some(id) = pick(index, &agent) {
                        let is_over = agent.command(&id).unwrap().is_ended();
                        agent.recorded(&id);
                        prop_assert_eq!(agent.command(&id).is_none(), is_over);
                        if is_over {
                            open.retain(|one| *one != id);
                        }
                    }
                }
                _ => {}
            }
            let is_here = agent.document().session.is_some();
            for id in sent(&mut agent) {
                if is_here {
                    runner.execute(id);
                }
            }
            now += 1;
            prop_assert!(agent.busy() <= 1);
            let there: Vec<String> =
                agent.document().commands.iter().map(|one| one.id.clone()).collect();
            prop_assert_eq!(&there, &open);
            for command in &agent.document().commands {
                if command.is_waiting() {
                    prop_assert!(!runner.journal.contains(&command.id));
                }
                if let Phase::Ended(outcome) = &command.phase {
                    let first = ends.entry(command.id.clone()).or_insert(outcome.clone());
                    prop_assert_eq!(&*first, outcome);
                }
            }
        }
    }
}

/// An agent that says how a command ended is believed, with all that it says
/// beside it.
#[test]
fn what_an_agent_says_of_an_end_is_kept() {
    let mut agent = agent();
    connect(&mut agent, "c", &report(true, &[]), 0);
    run(&mut agent, "x", CommandPriority::Normal, 1);
    let sum = |stream: i32, bytes, sha256: Vec<u8>| StreamSum {
        stream,
        bytes,
        recorded: 0,
        sha256: sha256.into(),
    };
    let complete = CommandComplete {
        command_id: "x".to_owned(),
        exit_code: Some(0),
        state: CommandState::Failed.into(),
        reason: "not allowed".to_owned(),
        // Again, of no stream, and with no hash.
        sums: vec![
            sum(0, 3, vec![7; 32]),
            sum(0, 4, vec![]),
            sum(9, 1, vec![]),
            sum(1, 2, vec![1]),
        ],
        usage: Some(ResourceUsage {
            cpu_time_ms: Some(5),
            peak_memory_bytes: None,
        }),
        ..CommandComplete::default()
    };
    agent.complete(&complete, 2);
    let Phase::Ended(outcome) = &agent.command("x").unwrap().phase else {
        panic!("it has ended");
    };
    assert_eq!(
        (outcome.end, outcome.reason.as_str()),
        (End::Failed, "not allowed")
    );
    assert_eq!(outcome.usage.unwrap().cpu_time_ms, Some(5));
    let written: Vec<_> = outcome.written.iter().map(Written::sum).collect();
    assert_eq!(written, [sum(0, 3, vec![7; 32]), sum(1, 2, vec![])]);
    // It survives being stored.
    let stored = serde_json::to_string(agent.document()).unwrap();
    assert_eq!(
        serde_json::from_str::<Document>(&stored).unwrap(),
        *agent.document()
    );
}

#[test]
fn what_was_written_is_compared_with_what_is_recorded() {
    let sum = |bytes, recorded, hash: u8| StreamSum {
        stream: 0,
        bytes,
        recorded,
        sha256: vec![hash; 32].into(),
    };
    let written = |bytes, hash| Written::of(&[sum(bytes, 0, hash)]).remove(0);
    assert!(written(3, 7).agrees(&[sum(3, 3, 7)]));
    assert!(!written(3, 7).agrees(&[sum(3, 3, 8)]), "other bytes");
    assert!(!written(4, 7).agrees(&[sum(3, 3, 7)]), "an end is missing");
    assert!(!written(3, 7).agrees(&[]), "nothing is there");
    assert!(written(0, 7).agrees(&[]));
    // What is missing in the middle, a gap tells.
    assert!(written(3, 7).agrees(&[sum(3, 2, 8)]));
    let unhashed = Written {
        sha256: Vec::new(),
        ..written(3, 7)
    };
    assert!(unhashed.agrees(&[sum(3, 3, 8)]));
}

/// A gateway that was cut off announces what it has had: the agent is elsewhere by
/// now, even where that connection is lost for the moment.
#[test]
fn a_former_connection_does_not_come_back() {
    let mut agent = agent();
    connect(&mut agent, "first", &report(true, &[]), 0);
    agent.lose("first", 1);
    connect(&mut agent, "first", &report(true, &[]), 2);
    connect(&mut agent, "second", &report(true, &[]), 3);
    run(&mut agent, "x", CommandPriority::Normal, 4);
    agent.confirm("x", 5);
    agent.lose("second", 6);
    let connecting = Connecting {
        gateway: "g",
        connection: "first",
        report: &report(true, &[]),
    };
    assert!(agent.connect(connecting, 7).is_err());
    assert!(agent.command("x").unwrap().is_busy());
    connect(&mut agent, "second", &report(true, &["x"]), 8);
    assert!(agent.command("x").unwrap().is_busy());
}

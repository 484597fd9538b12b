//! F7: what a relay makes of logs that another has begun: the hash of all that is
//! in them, whatever their size, and none of what is there in part only.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use signalbox_bus::history;
use signalbox_bus::server::User as BusUser;
use signalbox_bus::subject::{self, LogKind};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    AgentReply, AgentReport, CommandComplete, CommandPriority, CommandState, OutputChunk,
    StreamSum, TermEnded, TermRecord, TerminalOutput, agent_reply, agent_report,
    term_record::Record,
};
use signalbox_testkit::{RelayBus, Service};

use crate::fleet_side::{Agent, Connection, Gateway, User, ask, run, until};

/// Bytes of a report of output.
const REPORT_BYTES: usize = 1024 * 1024;
/// Reports of output in a large log.
const REPORTS: usize = 48;
/// What a relay may take to read it again.
const GROWTH_BYTES: usize = REPORTS / 2 * REPORT_BYTES;

/// A command that was begun, and the agent that has it.
struct Stage {
    bus: RelayBus,
    relay: Service,
    user: User,
    gateway: Gateway,
    agent: Agent,
    connection: Connection,
    id: String,
}

impl Stage {
    async fn set() -> Self {
        let bus = RelayBus::start().await;
        let relay = bus.relay(&[]).await;
        let user = User {
            bus: bus.bus(BusUser::Gateway).await,
        };
        let gateway = Gateway::start(bus.bus(BusUser::Gateway).await).await;
        let agent = Agent::new("agent-1");
        let connection = gateway.connect(&agent).await;
        let command = run("agent-1", "hold", CommandPriority::Normal);
        let id = user.run(command).await.unwrap().command_id;
        until("it runs", async || {
            let log = user.read_log(&id).await;
            log.is_some_and(|log| log.started == 1)
        })
        .await;
        Self {
            bus,
            relay,
            user,
            gateway,
            agent,
            connection,
            id,
        }
    }

    async fn report(&self, report: agent_report::Report) -> agent_reply::Outcome {
        let report = AgentReport {
            agent_id: self.agent.id.clone(),
            gateway_id: self.gateway.id.clone(),
            connection_id: self.connection.id.clone(),
            report: Some(report),
        };
        let subject = subject::relay_agents(Shard::of_agent(&self.agent.id));
        let reply: AgentReply = ask(&self.user.bus, &subject, &report).await;
        reply.outcome.unwrap()
    }

    /// Writes so many reports of output; gives its hash.
    async fn write(&self, reports: usize) -> Vec<u8> {
        let mut hash = Sha256::new();
        for number in 0..reports {
            let data = Bytes::from(vec![number as u8; REPORT_BYTES]);
            hash.update(&data);
            let offset = (number * REPORT_BYTES) as u64;
            let chunk = OutputChunk {
                offset,
                data,
                ..OutputChunk::default()
            };
            let output = agent_report::Report::Output(TerminalOutput {
                command_id: self.id.clone(),
                chunks: vec![chunk],
            });
            match self.report(output).await {
                agent_reply::Outcome::Output(taken) => {
                    assert_eq!(taken.offsets[0].offset, offset + REPORT_BYTES as u64);
                }
                outcome => panic!("{outcome:?}"),
            }
        }
        hash.finalize().to_vec()
    }

    /// Has another relay take the command over, which begins with so much memory.
    async fn replace_relay(&mut self) -> usize {
        self.relay.process.kill9();
        self.relay = self.bus.relay(&[]).await;
        let line = format!("shard served shard={} ", Shard::of_agent(&self.agent.id));
        until("a relay serves the agent", async || {
            let lines = self.relay.process.stderr().lines();
            lines.iter().any(|one| one.contains(&line))
        })
        .await;
        peak_bytes(&self.relay)
    }

    /// Ends the command, which says that it has written this; gives its end.
    async fn end(&self, reports: usize, sha256: &[u8]) -> TermEnded {
        let complete = agent_report::Report::Complete(CommandComplete {
            command_id: self.id.clone(),
            exit_code: Some(0),
            sums: vec![StreamSum {
                bytes: (reports * REPORT_BYTES) as u64,
                sha256: Bytes::copy_from_slice(sha256),
                ..StreamSum::default()
            }],
            ..CommandComplete::default()
        });
        until("the end is taken", async || {
            let outcome = self.report(complete.clone()).await;
            matches!(outcome, agent_reply::Outcome::Taken(_))
        })
        .await;
        let subject = subject::log(LogKind::Term, &self.id);
        signalbox_testkit::eventually("the end", signalbox_testkit::DEADLINE, async || {
            let stream = LogKind::Term.stream();
            let last = history::last_at_leader(&self.user.bus, stream, &subject);
            let record = TermRecord::decode(last.await.ok()??.payload).unwrap();
            match record.record {
                Some(Record::Ended(ended)) => Some(ended),
                _ => None,
            }
        })
        .await
    }
}

/// The most memory that a service has had at a time.
fn peak_bytes(service: &Service) -> usize {
    let path = format!("/proc/{}/status", service.process.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

#[tokio::test]
async fn a_log_that_was_taken_over_is_hashed_without_being_held() {
    let mut stage = Stage::set().await;
    let sha256 = stage.write(REPORTS).await;
    let before = stage.replace_relay().await;
    let ended = stage.end(REPORTS, &sha256).await;
    assert_eq!(ended.state(), CommandState::Completed);
    assert_eq!(
        (ended.sums[0].sha256.to_vec(), ended.incomplete),
        (sha256, false)
    );
    let grown = peak_bytes(&stage.relay) - before;
    assert!(grown < GROWTH_BYTES, "it took {grown} bytes");
}

#[tokio::test]
async fn of_a_log_without_its_beginning_no_hash_is_told() {
    let mut stage = Stage::set().await;
    let sha256 = stage.write(4).await;
    let subject = subject::log(LogKind::Term, &stage.id);
    let admin = stage.bus.bus(BusUser::Admin).await;
    let term = admin.jetstream().get_stream(LogKind::Term.stream()).await;
    // As the stream does where it is full.
    let purge = term.unwrap().purge().filter(&subject).keep(3).await;
    assert!(purge.unwrap().purged > 0);
    stage.replace_relay().await;
    let ended = stage.end(4, &sha256).await;
    let whole = (4 * REPORT_BYTES) as u64;
    assert_eq!(
        (ended.sums[0].bytes, ended.sums[0].recorded),
        (whole, whole)
    );
    assert!(ended.sums[0].sha256.is_empty());
    assert!(!ended.incomplete, "it is not said to differ from itself");
}

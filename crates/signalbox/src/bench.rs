//! `signalbox bench`: a load generator that accounts for every event.
//!
//! It starts what it measures as separate processes of its own binary, or
//! finds what runs elsewhere; gathers clients with full sessions; counts
//! exactly what each of them received; measures CPU and memory of each part,
//! of its own, and of bare writes of the same frames; and says when its own
//! limits may be what was measured. `docs/performance.md` tells how to use it.

mod account;
mod child;
mod client;
mod crowd;
mod dialect;
mod floor;
mod mark;
mod measure;
mod options;
mod procfs;
mod progress;
mod publisher;
mod report;
mod socket;
mod stage;
mod wire;
mod workload;

use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signalbox_service::{ExitError, Shutdown, run as run_service};

pub(crate) use self::child::{CHILD_SUBCOMMAND, become_program};
pub(crate) use self::options::BenchCommand;

use self::options::{TargetArgs, Workload};
use self::report::{Report, Run};
use crate::output;

/// How long a run that is interrupted may take to end its processes.
const GRACE: Duration = Duration::from_secs(10);
/// What a run that is not exact ends with.
const NOT_EXACT: &str = "not every event arrived once and in order, see the report";

pub(crate) fn run(command: &BenchCommand) -> Result<(), ExitError> {
    if let Workload::Floor(args) = &command.workload {
        return floor::run(args);
    }
    run_service("bench", GRACE, async |shutdown| {
        let report = tokio::select! {
            report = measure(&command.workload, &shutdown) => report?,
            () = shutdown.wait() => anyhow::bail!("interrupted"),
        };
        let (target, ..) = about(&command.workload).context("not a workload")?;
        if target.json {
            output::line(report.json())?;
        } else {
            output::line(report.table())?;
        }
        anyhow::ensure!(report.runs.iter().all(Run::is_exact), NOT_EXACT);
        Ok::<_, anyhow::Error>(())
    })
}

async fn measure(workload: &Workload, shutdown: &Shutdown) -> anyhow::Result<Report> {
    let (target, name, settings) = about(workload).context("not a workload")?;
    raise_file_limit()?;
    let mut warnings = Vec::new();
    if report::build() == "debug" {
        warnings.push("this is a debug build: its figures mean nothing".to_owned());
    }
    if target.url.is_some() && target.pid.is_empty() {
        warnings.push("no --pid was given, so CPU and memory are not measured".to_owned());
    }
    let mut runs = Vec::new();
    for _ in 0..target.repeat {
        runs.push(match workload {
            Workload::Fanout(args) => workload::fanout(args, shutdown).await?,
            Workload::Topics(args) => workload::topics(args, shutdown).await?,
            Workload::Idle(args) => workload::idle(args, shutdown).await?,
            Workload::Connect(args) => workload::connect(args, shutdown).await?,
            Workload::Resume(args) => workload::resume(args, shutdown).await?,
            Workload::Jitter(args) => workload::jitter(args, shutdown).await?,
            Workload::Terminal(args) => workload::terminal(args, shutdown).await?,
            Workload::Ingest(args) => workload::ingest(args, shutdown).await?,
            Workload::Chat(args) => workload::chat(args, shutdown).await?,
            Workload::Floor(_) => break,
        });
    }
    let dialect = match workload {
        Workload::Terminal(_) => "fleet",
        _ => target.dialect.dialect().name,
    };
    Ok(Report {
        workload: name,
        dialect,
        settings,
        warnings,
        runs,
    })
}

/// What a workload has in common with others, its name, and its settings as
/// people say them.
fn about(workload: &Workload) -> Option<(&TargetArgs, &'static str, String)> {
    Some(match workload {
        Workload::Fanout(args) if args.search => {
            let settings = format!(
                "{} clients, highest rate of events of {} bytes",
                args.connections, args.load.bytes
            );
            (&args.target, "fanout", settings)
        }
        Workload::Fanout(args) => {
            let (rate, load) = (args.rate, &args.load);
            let settings = format!(
                "{} clients, {rate} events/s of {} bytes for {} s",
                args.connections, load.bytes, load.seconds
            );
            (&args.target, "fanout", settings)
        }
        Workload::Topics(args) => {
            let (rate, load) = (args.rate, &args.load);
            let settings = format!(
                "{} clients with a topic each, {rate} events/s of {} bytes for {} s",
                args.connections, load.bytes, load.seconds
            );
            (&args.target, "topics", settings)
        }
        Workload::Idle(args) => {
            let settings = format!("{} clients for {} s", args.connections, args.seconds);
            (&args.target, "idle", settings)
        }
        Workload::Connect(args) => {
            let settings = format!(
                "{} connections, {} at once",
                args.connections, args.target.opening
            );
            (&args.target, "connect", settings)
        }
        Workload::Resume(args) => {
            let settings = format!(
                "{} clients that missed {} events",
                args.connections, args.missed
            );
            (&args.target, "resume", settings)
        }
        Workload::Jitter(args) => {
            let settings = format!(
                "{} clients that stay {} s and are away {} s, {} events/s for {} s",
                args.connections, args.every, args.away, args.rate, args.seconds
            );
            (&args.target, "jitter", settings)
        }
        Workload::Terminal(args) => {
            let settings = format!(
                "{} sessions, {} dashboards, {}/s typed, {}/s written, lines of {} bytes, {} a message, {} s each",
                args.sessions,
                args.dashboards,
                args.keys,
                args.lines,
                args.line_bytes,
                args.batch,
                args.seconds
            );
            (&args.target, "terminal", settings)
        }
        Workload::Ingest(args) => {
            let settings = format!(
                "{} events/s over {} objects, then on one channel, for {} s each",
                args.rate, args.objects, args.seconds
            );
            (&args.target, "ingest", settings)
        }
        Workload::Chat(args) => {
            let settings = format!(
                "answers of {} tokens, {} a second: one at a time, then {}",
                args.tokens, args.rate, args.streams
            );
            (&args.target, "chat", settings)
        }
        Workload::Floor(_) => return None,
    })
}

/// Takes as many descriptors as this process, and so its children, may have.
fn raise_file_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit on open files")
}

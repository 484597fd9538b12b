//! `signalbox recording`: what a command wrote, as an asciicast (version 2) that
//! players show with its timing.
//!
//! It is read from TERM on the bus, with the rights of whoever only looks on. A
//! gateway gives the output of commands that run; it has no request for those
//! that are over.

mod cast;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use prost::Message as _;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, BusOptions, history};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::TermRecord;
use signalbox_service::{ExitError, run as run_service};
use tracing::warn;

use self::cast::Cast;
use crate::agent::CellSize;
use crate::cli::DataArgs;
use crate::runtime::Runtime;

/// How long the bus may take to answer at the start.
const BUS_WAIT: Duration = Duration::from_secs(10);
/// Records of a log that are read at once.
const PAGE: usize = 64;

#[derive(Args, Clone, Debug)]
pub(crate) struct RecordingCommand {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The bus [default: that of a running `up`]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    /// The command, such as cmd-0123...
    pub(crate) command_id: String,
    /// Write to this file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The size of the terminal that the command had, which its log does not tell
    #[arg(long, default_value = "80x24", value_name = "COLUMNSxROWS")]
    pub(crate) size: CellSize,
}

pub(crate) fn run(command: &RecordingCommand) -> Result<(), ExitError> {
    if Shard::of_command(&command.command_id).is_none() {
        return Err(ExitError::config(format!(
            "`{}` is not the id of a command",
            command.command_id
        )));
    }
    let url = match &command.nats_url {
        Some(url) => url.clone(),
        None => Runtime::read(&command.data.data_dir)?.observer_url,
    };
    run_service("recording", Duration::ZERO, async |_shutdown| {
        let options = BusOptions {
            url,
            wait: BUS_WAIT,
        };
        let bus = Bus::connect(&options, "signalbox-recording").await?;
        match &command.output {
            Some(path) => {
                let file = File::create(path).with_context(|| path.display().to_string())?;
                let mut file = BufWriter::new(file);
                export(&bus, command, &mut file).await?;
                file.flush()?;
            }
            None => {
                let mut out = BufWriter::new(io::stdout());
                match export(&bus, command, &mut out).await {
                    Err(error) if is_broken_pipe(&error) => {}
                    outcome => outcome?,
                }
            }
        }
        bus.drain().await;
        Ok::<_, anyhow::Error>(())
    })
}

/// Whether nobody reads any more.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn export(
    bus: &Bus,
    command: &RecordingCommand,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let id = &command.command_id;
    let filter = subject::log(LogKind::Term, id);
    let mut cast = Cast::new(id, command.size);
    let mut from = 1;
    loop {
        let page = history::page(bus, LogKind::Term.stream(), &filter, from, PAGE).await?;
        for message in page.messages {
            from = message.sequence + 1;
            let record = TermRecord::decode(message.payload).context("unreadable record")?;
            for line in cast.lines(&record) {
                writeln!(out, "{line}")?;
            }
        }
        if page.is_last {
            break;
        }
        ensure!(from > 1, "the bus gives no records");
    }
    if !cast.has_begun() {
        bail!("there is no log of {id}, or the command has not started; logs are kept for a day");
    }
    for line in cast.end() {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    if !cast.has_ended() {
        warn!(
            command = id,
            "the command has not ended, this is what it has written so far"
        );
    }
    Ok(())
}

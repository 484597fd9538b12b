//! `signalbox dlq`: the events that routers refused: which, why, what they
//! are, and publishing them again.

mod replay;
mod show;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::json;
use signalbox_bus::dead_letter::{self, DeadLetter, Query};
use signalbox_bus::stream::{self, DLQ};
use signalbox_bus::{Bus, BusOptions};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_service::{ExitError, run as run_service};

use crate::cli::DATA_DIR;
use crate::output;
use crate::runtime::Runtime;

/// How long the bus may take to answer at the start.
const BUS_WAIT: Duration = Duration::from_secs(10);
/// What is shown where a dead letter does not say it.
const UNKNOWN: &str = "-";

#[derive(Args, Clone, Debug)]
pub(crate) struct DlqCommand {
    /// Directory of the data, credentials and addresses of `up`
    #[arg(long, env = "SIGNALBOX_DATA_DIR", default_value = DATA_DIR, value_name = "DIR", global = true)]
    pub(crate) data_dir: PathBuf,
    /// The bus, with an operator's rights [default: that of a running `up`]
    #[arg(long, env = "NATS_URL", hide_env_values = true, global = true)]
    pub(crate) nats_url: Option<String>,
    #[command(subcommand)]
    pub(crate) action: DlqAction,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum DlqAction {
    /// List refused events, newest last
    List(ListArgs),
    /// Print one with its headers and data
    Show(ShowArgs),
    /// Publish refused events again, each once
    Replay(ReplayArgs),
}

/// Which dead letters are meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct QueryArgs {
    /// Only events of this domain
    #[arg(long)]
    pub(crate) domain: Option<Domain>,
    /// Only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only those refused within this time, such as 30m, 2h or 7d, or since an RFC 3339 timestamp
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) query: QueryArgs,
    /// Print one JSON object per event
    #[arg(long)]
    pub(crate) json: bool,
    /// The most that are listed; the oldest are left out
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub(crate) limit: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    /// Its sequence, as `list` prints it
    pub(crate) sequence: u64,
    /// Print the data alone, byte for byte
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArgs {
    /// Their sequences, as `list` prints them
    #[arg(
        value_name = "SEQUENCE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) sequences: Vec<u64>,
    /// Replay all that there are now, or all that the filters leave
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
    /// Replay also what was replayed before
    #[arg(long)]
    pub(crate) again: bool,
}

pub(crate) fn run(command: &DlqCommand) -> Result<(), ExitError> {
    let action = command.action.clone();
    let query = match &action {
        DlqAction::List(ListArgs { query, .. }) => query.parse().map_err(ExitError::config)?,
        DlqAction::Replay(ReplayArgs {
            query, sequences, ..
        }) => {
            let query = query.parse().map_err(ExitError::config)?;
            if !sequences.is_empty() && !query.is_empty() {
                return Err(ExitError::config(
                    "--domain, --reason and --since choose among --all, not among sequences",
                ));
            }
            query
        }
        DlqAction::Show(_) => Query::default(),
    };
    let url = match &command.nats_url {
        Some(url) => url.clone(),
        None => Runtime::read(&command.data_dir)?.operator_url,
    };
    run_service("dlq", Duration::ZERO, async |_shutdown| {
        let options = BusOptions {
            url,
            wait: BUS_WAIT,
        };
        let bus = Bus::connect(&options, "signalbox-dlq").await?;
        match action {
            DlqAction::List(args) => list(&bus, &query, &args).await?,
            DlqAction::Show(args) => show::run(&bus, &args).await?,
            DlqAction::Replay(args) => replay::run(&bus, &query, &args).await?,
        }
        bus.drain().await;
        Ok::<_, anyhow::Error>(())
    })
}

impl QueryArgs {
    fn parse(&self) -> Result<Query, String> {
        Ok(Query {
            domain: self.domain,
            reason: self.reason.clone(),
            since: self.since.as_deref().map(parse_since).transpose()?,
        })
    }
}

async fn list(bus: &Bus, query: &Query, args: &ListArgs) -> anyhow::Result<()> {
    let last = stream::state(bus, DLQ).await?.last;
    let mut newest: VecDeque<String> = VecDeque::new();
    dead_letter::walk(bus, query, last, async |letter| {
        newest.push_back(if args.json {
            as_json(&letter)
        } else {
            as_text(&letter)
        });
        if newest.len() > args.limit {
            newest.pop_front();
        }
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    for line in newest {
        if !output::line(line)? {
            break;
        }
    }
    Ok(())
}

/// A line for people: sequence, time, subject, id, reason.
fn as_text(letter: &DeadLetter) -> String {
    format!(
        "{:>6}  {}  {}  id={}  {}",
        letter.sequence,
        time_of(letter),
        printable(&letter.subject),
        printable(letter.id.as_deref().unwrap_or(UNKNOWN)),
        printable(&letter.reason),
    )
}

/// A line for programs.
fn as_json(letter: &DeadLetter) -> String {
    json!({
        "sequence": letter.sequence,
        "refused_at": letter.refused_at,
        "subject": letter.subject,
        "id": letter.id,
        "reason": letter.reason,
        "trace_id": letter.trace.map(|trace| trace.trace_id().to_string()),
        "bytes": letter.payload.len(),
    })
    .to_string()
}

fn time_of(letter: &DeadLetter) -> String {
    letter
        .refused_at
        .map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string())
}

/// Text of a producer's making, with nothing in it that moves a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control().then(|| char.escape_default());
            let plain = escaped.is_none().then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// The time so long ago, or the timestamp itself.
fn parse_since(text: &str) -> Result<Timestamp, String> {
    let wrong =
        || format!("--since `{text}`: expected a number of s, m, h or d, or an RFC 3339 timestamp");
    if let Some(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let ago = Duration::from_secs(number.checked_mul(factor).ok_or_else(wrong)?);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = i64::try_from(now.saturating_sub(ago).as_millis()).map_err(|_| wrong())?;
    Timestamp::from_unix_millis(millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_so_long_ago_or_a_timestamp() {
        let exact = parse_since("2024-12-19T21:30:00Z").unwrap();
        assert_eq!(exact.to_string(), "2024-12-19T21:30:00Z");
        let day = parse_since("1d").unwrap().unix_millis();
        let hour = parse_since("1h").unwrap().unix_millis();
        assert!((82_790_000..82_810_000).contains(&(hour - day)));
        assert_eq!(parse_since("999999999d").unwrap().unix_millis(), 0);
        for wrong in ["", "h", "-1h", "1w", "1é", "99999999999999999999s", "soon"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn terminals_are_not_moved() {
        assert_eq!(printable("büro\u{1b}[2J\n"), "büro\\u{1b}[2J\\n");
    }
}

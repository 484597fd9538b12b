//! Publishing dead letters again: each once, with what it was published with.

use anyhow::bail;
use signalbox_bus::Bus;
use signalbox_bus::dead_letter::{self, DeadLetter, Outcome, Query, ReplayError, Replays};
use signalbox_bus::stream::{self, DLQ};

use super::{ReplayArgs, UNKNOWN, printable};
use crate::output;

/// How a run went.
#[derive(Default)]
struct Tally {
    asked: usize,
    failed: usize,
}

pub(super) async fn run(bus: &Bus, query: &Query, args: &ReplayArgs) -> anyhow::Result<()> {
    // What is refused once more comes behind this and is not replayed in turn.
    let last = stream::state(bus, DLQ).await?.last;
    let replays = Replays::open(bus.clone()).await?;
    let mut tally = Tally::default();
    if args.all {
        dead_letter::walk(bus, query, last, async |letter| {
            tally.replay(&replays, &letter, args.again).await
        })
        .await?;
    } else {
        for &sequence in &args.sequences {
            match dead_letter::read(bus, sequence).await? {
                Some(letter) => tally.replay(&replays, &letter, args.again).await?,
                None => tally.fail(sequence, "there is no such dead letter")?,
            }
        }
    }
    if tally.failed > 0 {
        bail!(
            "{} of {} dead letters were not replayed",
            tally.failed,
            tally.asked
        );
    }
    Ok(())
}

impl Tally {
    async fn replay(
        &mut self,
        replays: &Replays,
        letter: &DeadLetter,
        again: bool,
    ) -> anyhow::Result<()> {
        let sequence = letter.sequence;
        let stored = match replays.replay(letter, again).await {
            Ok(Outcome::Replayed(stored)) => stored,
            Ok(Outcome::Already { at, .. }) => {
                self.asked += 1;
                output::line(format_args!("{sequence}  replayed already, at {at}"))?;
                return Ok(());
            }
            // Without the bus the others would fare no better.
            Err(ReplayError::Bus(error)) => return Err(error.into()),
            Err(error) => return self.fail(sequence, error),
        };
        self.asked += 1;
        let trace = letter
            .trace
            .map_or_else(|| UNKNOWN.to_owned(), |trace| trace.trace_id().to_string());
        output::line(format_args!(
            "{sequence}  replayed {} id={} as event {} trace={trace}",
            letter.subject,
            printable(letter.id.as_deref().unwrap_or(UNKNOWN)),
            stored.sequence,
        ))?;
        Ok(())
    }

    fn fail(&mut self, sequence: u64, cause: impl std::fmt::Display) -> anyhow::Result<()> {
        self.asked += 1;
        self.failed += 1;
        output::line(format_args!("{sequence}  {cause}"))?;
        Ok(())
    }
}

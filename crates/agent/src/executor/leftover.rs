//! What a former runner left: its processes are ended, its commands come to
//! their ends, and their output is there to be read.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tracing::{info, warn};

use super::{Command, Ending, Options};
use crate::family::Family;
use crate::journal::{Journal, Known};
use crate::spool::{Budget, Spool};

/// How often it is asked who is left.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Ends what is left and returns the commands whose end nobody has confirmed,
/// oldest first.
pub(super) fn take_over(
    journal: &mut Journal,
    options: &Options,
    spools: &Path,
    budget: &Arc<Budget>,
) -> io::Result<Vec<Command>> {
    let unconfirmed = journal.unconfirmed();
    let mut families: Vec<(String, Family)> = Vec::new();
    for (id, known) in &unconfirmed {
        if let Known::Started { marker, process } = known {
            families.push((id.clone(), Family::left_over(marker, *process)));
        }
    }
    end_all(&mut families, options);
    let mut commands = Vec::new();
    for (id, known) in unconfirmed {
        let spool = Spool::recover(spools.join(&id), options.spool, Arc::clone(budget))?;
        let ending = match known {
            Known::Ended(ending) | Known::Confirmed(ending, _) => {
                let told = reconcile(&spool, &ending);
                if told != *ending {
                    journal.end(&id, Arc::new(told.clone()))?;
                }
                Arc::new(told)
            }
            Known::Started { .. } => {
                let family = families.iter_mut().find(|(other, _)| *other == id);
                let left = family.map_or(0, |(_, family)| family.signal(&[], false));
                warn!(
                    command = id,
                    left_behind = left,
                    "a former runner did not see the end of a command"
                );
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                let ending = Arc::new(Ending::unknown(spool.written(), spool.lost(), left));
                journal.end(&id, Arc::clone(&ending))?;
                ending
            }
        };
        spool.seal();
        commands.push(Command::ended(&id, Some(spool), ending));
    }
    Ok(commands)
}

/// Where the disk has less than was written, as after a loss of power, a gap
/// says so.
fn reconcile(spool: &Spool, ending: &Ending) -> Ending {
    let mut told = ending.clone();
    for sum in &mut told.streams {
        let missing = sum.bytes.saturating_sub(spool.written().of(sum.stream));
        if missing > 0 {
            spool.gap(sum.stream, sum.bytes, SystemTime::now(), true);
            sum.lost += missing;
            told.output_incomplete = true;
        }
    }
    told
}

fn end_all(families: &mut [(String, Family)], options: &Options) {
    let mut left: Vec<&mut Family> = Vec::new();
    for (id, family) in families {
        let alive = family.signal(&[Signal::TERM, Signal::HUP, Signal::CONT], false);
        if alive > 0 {
            info!(command = %id, alive, "ending what a former runner left behind");
            left.push(family);
        }
    }
    wait(&mut left, &[], options.graces.terminate);
    kill(&mut left, options.graces.kill);
}

/// Kills all members; returns how many would not go.
pub(super) fn kill(families: &mut [&mut Family], grace: Duration) -> u32 {
    let left = wait(families, &[Signal::KILL], grace);
    u32::try_from(left).unwrap_or(u32::MAX)
}

/// Sends signals again and again until nobody is left or the grace is over.
fn wait(families: &mut [&mut Family], signals: &[Signal], grace: Duration) -> usize {
    let deadline = Instant::now() + grace;
    loop {
        let alive = families
            .iter_mut()
            .map(|family| family.signal(signals, false))
            .sum();
        if alive == 0 || Instant::now() >= deadline {
            return alive;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Deletes output that belongs to no command any more.
pub(super) fn delete_unknown(spools: &Path, known: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(spools)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&known) {
            info!(folder = %entry.path().display(), "deleting output that belongs to no command");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

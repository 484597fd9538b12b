//! All commands of the runner: takes requests, hands out [`Command`]s.

mod leftover;
mod options;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use self::options::{Error, Graces, Options, Request, Stop};
pub use crate::command::{Command, NotTaken, Progress, State, Urgency};
pub use crate::ending::{Ending, Outcome, Usage};
use crate::family::{self, Family};
use crate::journal::Journal;
use crate::policy::Refusal;
use crate::process::Mode;
use crate::spool::{Budget, Spool};
use crate::supervisor::Supervisor;

/// The longest id.
const MAX_ID_BYTES: usize = 128;
/// Of the thread of a command: it calls nothing deep.
const STACK_BYTES: usize = 512 * 1024;
/// The folder of spooled output.
const SPOOL: &str = "spool";
/// The file that one runner at a time has locked.
const LOCK: &str = "lock";
/// How long another runner is given to let go of it: a process that a killed one
/// had forked, and that is not yet a program of its own, still has it. So once
/// it is ours, all that is left bears its mark.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How often that is tried.
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// The longest sentence that says why a command did not run.
const MAX_REASON_BYTES: usize = 1_000;

/// All commands of the runner. Clones are the same executor.
#[derive(Clone, Debug)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    budget: Arc<Budget>,
    journal: Mutex<Journal>,
    table: Mutex<Table>,
    /// How many run.
    running: watch::Sender<usize>,
    /// Held for as long as the executor is used.
    _lock: File,
}

#[derive(Debug, Default)]
struct Table {
    /// Those that run, and those whose end is not confirmed.
    commands: HashMap<String, (u64, Command)>,
    next: u64,
    stopping: bool,
}

impl Executor {
    /// Opens journal and spool, ends what a former runner left behind, and
    /// becomes the reaper of all that its commands orphan. Blocks, for up to the
    /// graces where processes are left.
    ///
    /// # Errors
    /// When another runner uses the folder, or it cannot be used.
    pub fn open(options: Options) -> Result<Self, Error> {
        if !options.workdir.is_dir() {
            return Err(Error::Workdir(options.workdir));
        }
        let directory = options.directory.clone();
        let spools = directory.join(SPOOL);
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Open { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&spools)
            .map_err(cannot(&spools))?;
        let lock = lock(&directory)?;
        family::become_reaper().map_err(Error::Reaper)?;
        let mut journal = Journal::open(&directory, options.journal).map_err(cannot(&directory))?;
        let budget = Arc::new(Budget::new(options.spool.total_bytes));
        let commands = leftover::take_over(&mut journal, &options, &spools, &budget)
            .map_err(cannot(&spools))?;
        let mut table = Table::default();
        for command in commands {
            table.insert(command);
        }
        leftover::delete_unknown(&spools, |id| table.commands.contains_key(id))
            .map_err(cannot(&spools))?;
        Ok(Self(Arc::new(Inner {
            options,
            budget,
            journal: Mutex::new(journal),
            table: Mutex::new(table),
            running: watch::Sender::new(0),
            _lock: lock,
        })))
    }

    /// Executes a command, or finds the one with this id: nothing is executed
    /// twice. The process starts on a thread of its own; at most a line of the
    /// journal is waited for. A command that cannot run has ended when it is
    /// returned, or soon after, with the reason; `busy` alone is not remembered,
    /// so that it can be tried again.
    pub fn execute(&self, request: Request) -> Command {
        let inner = &self.0;
        let id = request.id.clone();
        let mut table = inner.table.lock();
        if let Some((_, command)) = table.commands.get(&id) {
            return command.clone();
        }
        if let Some(known) = inner.journal.lock().known(&id) {
            return Command::ended(&id, None, known.ending());
        }
        let refuse = |reason: &str| {
            let ending = Ending::not_run(Outcome::Failed, reason);
            Command::ended(&id, None, Arc::new(ending))
        };
        if !is_id(&id) {
            return refuse("not_started: the command's id is no file name");
        }
        if table.stopping {
            return refuse("busy: the agent stops");
        }
        // By their states, not by `running`, which follows a little later: whoever
        // has heard of an end may send the next command.
        let commands = table.commands.values();
        let running = commands.filter(|(_, command)| !matches!(command.state(), State::Ended(_)));
        if running.count() >= inner.options.concurrency {
            return refuse("busy: the agent runs as many commands as it may");
        }
        let folder = inner.spool_folder(&id);
        let spool = Spool::new(folder, inner.options.spool, Arc::clone(&inner.budget));
        let terminal = matches!(inner.options.mode, Mode::Terminal(_));
        let command = match Command::new(&id, spool, inner.options.input_bytes, terminal) {
            Ok(command) => command,
            Err(error) => return refuse(&format!("busy: {error}")),
        };
        table.insert(command.clone());
        inner.running.send_modify(|running| *running += 1);
        drop(table);
        let (of_thread, executor) = (command.clone(), self.clone());
        let thread = thread::Builder::new()
            .name("command".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || executor.0.supervise(&of_thread, &request));
        if let Err(error) = thread {
            let reason = format!("not_started: {error}");
            inner.end(&command, Ending::not_run(Outcome::Failed, &reason));
        }
        command
    }

    /// The command with this id, if it runs or its end is not confirmed.
    #[must_use]
    pub fn command(&self, id: &str) -> Option<Command> {
        let table = self.0.table.lock();
        table.commands.get(id).map(|(_, command)| command.clone())
    }

    /// Commands that run, and those whose end is not confirmed; oldest first.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        let table = self.0.table.lock();
        let mut all: Vec<_> = table.commands.values().collect();
        all.sort_unstable_by_key(|(order, _)| *order);
        all.into_iter()
            .map(|(_, command)| command.clone())
            .collect()
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        *self.0.running.borrow()
    }

    /// The end of a command has been taken by whom it concerns: drops its spool.
    /// Does nothing to one that runs.
    pub fn confirm(&self, id: &str) {
        let mut table = self.0.table.lock();
        let ended = |(_, command): &(u64, Command)| matches!(command.state(), State::Ended(_));
        if !table.commands.get(id).is_some_and(ended) {
            return;
        }
        let command = table.commands.remove(id);
        drop(table);
        if let Err(error) = self.0.journal.lock().confirm(id) {
            // It would come up again after a restart, and be confirmed again.
            warn!(command = id, %error, "the journal cannot be written");
        }
        if let Some(spool) = command.as_ref().and_then(|(_, command)| command.spool()) {
            spool.remove();
        }
    }

    /// Refuses new commands, ends those that run, and returns when all have
    /// ended and their ends are on disk. Output that nobody takes delays that by
    /// the spool's patience at most.
    pub async fn stop(&self, how: Stop) {
        self.0.table.lock().stopping = true;
        let mut running = self.0.running.subscribe();
        if let Stop::Wait(patience) = how {
            let all = running.wait_for(|&running| running == 0);
            if tokio::time::timeout(patience, all).await.is_ok() {
                return;
            }
            warn!(
                running = self.running(),
                "commands have not ended in time: interrupting them"
            );
        }
        for command in self.commands() {
            command.end(Urgency::Interrupt);
        }
        // The sender is ours.
        running.wait_for(|&running| running == 0).await.ok();
    }
}

impl Table {
    fn insert(&mut self, command: Command) {
        let order = self.next;
        self.next += 1;
        self.commands
            .insert(command.id().to_owned(), (order, command));
    }
}

impl Inner {
    fn spool_folder(&self, id: &str) -> PathBuf {
        self.options.directory.join(SPOOL).join(id)
    }

    /// The thread of a command.
    fn supervise(&self, command: &Command, request: &Request) {
        let mark = format!("{}.{:016x}", request.id, rand::random::<u64>());
        let mut family = Family::new(&mark);
        let ending = catch_unwind(AssertUnwindSafe(|| {
            self.execute(command, request, &mark, &mut family)
        }));
        let ending = ending.unwrap_or_else(|_| {
            error!(
                command = command.id(),
                "the supervision of a command failed: killing it"
            );
            let left = leftover::kill(&mut [&mut family], self.options.graces.kill);
            let (written, lost) = command
                .spool()
                .map(|spool| (spool.written(), spool.lost()))
                .unwrap_or_default();
            Ending::unknown(written, lost, left)
        });
        drop(family);
        self.end(command, ending);
    }

    fn execute(
        &self,
        command: &Command,
        request: &Request,
        mark: &str,
        family: &mut Family,
    ) -> Ending {
        let options = &self.options;
        let permit = options.policy.permit(
            &request.command,
            &request.args,
            options.environment.path(),
            &options.workdir,
        );
        let failed = |code: &str, sentence: &dyn ToString| {
            let sentence = options.redaction.text(&sentence.to_string());
            let reason = format!("{code}: {sentence}");
            let end = reason.floor_char_boundary(MAX_REASON_BYTES);
            Ending::not_run(Outcome::Failed, &reason[..end])
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal @ Refusal::NotAllowed(_)) => return failed("not_allowed", &refusal),
            Err(refusal @ Refusal::NotFound(_)) => return failed("not_found", &refusal),
            Err(refusal @ Refusal::Malformed(_)) => return failed("not_started", &refusal),
        };
        if let Err(error) = self.journal.lock().plan(&request.id, mark) {
            return failed(
                "not_started",
                &format!("the journal cannot be written: {error}"),
            );
        }
        if command.orders().urgency.is_some() {
            return Ending::not_run(
                Outcome::Interrupted,
                "not_started: it was interrupted before",
            );
        }
        let planned = |process| {
            if let Err(error) = self.journal.lock().run(&request.id, process) {
                warn!(command = command.id(), %error, "the journal cannot be written");
            }
        };
        match Supervisor::start(command, options, family, mark, &permit, planned) {
            Ok(supervisor) => {
                info!(command = command.id(), program = %permit.program.display(), "executing");
                supervisor.run()
            }
            Err(error) => failed("not_started", &error),
        }
    }

    /// A command has ended: on disk first, then for everybody.
    fn end(&self, command: &Command, ending: Ending) {
        let ending = Arc::new(ending);
        if let Err(error) = self.journal.lock().end(command.id(), Arc::clone(&ending)) {
            error!(command = command.id(), %error, "the end of a command is not in the journal");
        }
        info!(
            command = command.id(),
            outcome = ?ending.outcome,
            exit_code = ending.exit_code,
            left_behind = ending.left_behind,
            "a command has ended"
        );
        command.finish(ending);
        self.running.send_modify(|running| *running -= 1);
    }
}

/// Whether an id may be the name of a folder.
fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(plain)
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let deadline = Instant::now() + LOCK_PATIENCE;
    let locked = opened.and_then(|file| {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_EVERY);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    });
    match locked {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(Error::InUse(directory.to_owned())),
        Err(source) => Err(Error::Open { path, source }),
    }
}

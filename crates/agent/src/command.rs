//! One command: what is asked of it, and how far it is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;
use tokio::sync::watch;
use tracing::warn;

use crate::ending::Ending;
use crate::input::Input;
use crate::output::{Offsets, Piece, Stream};
use crate::process::Size;
use crate::spool::Spool;

/// How a command is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its processes run, or are about to.
    Running,
    /// It has ended; nothing of it changes any more.
    Ended(Arc<Ending>),
}

/// How far a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Behind the last byte of each stream that can be read.
    pub written: Offsets,
    /// Whether it has ended.
    pub ended: bool,
}

/// How a command is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// SIGINT, after a grace SIGTERM, after another SIGKILL.
    Interrupt,
    /// SIGTERM, after a grace SIGKILL.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Why input or a size was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It has ended, or its standard input is closed.
    #[error("the command takes no input any more")]
    Closed,
    /// It does not read what it was sent.
    #[error("too much input waits for the command")]
    Full,
    /// It has pipes.
    #[error("the command has no terminal")]
    NoTerminal,
}

/// One command. Clones are the same command.
#[derive(Clone, Debug)]
pub struct Command(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: String,
    spool: Option<Spool>,
    orders: Mutex<Orders>,
    /// Wakes the thread of the command; gone when that has ended.
    wake: Mutex<Option<Arc<OwnedFd>>>,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    terminal: bool,
}

/// What is asked of the thread of a command.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) input: Input,
    /// How it is to be ended.
    pub(crate) urgency: Option<Urgency>,
    /// Its terminal's size.
    pub(crate) size: Option<Size>,
    /// Whether something was acknowledged.
    pub(crate) acknowledged: bool,
}

impl Command {
    /// One that is about to be executed.
    pub(crate) fn new(
        id: &str,
        spool: Spool,
        input_bytes: usize,
        terminal: bool,
    ) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let command = Self::of(id, Some(spool), State::Running, input_bytes, terminal);
        *command.0.wake.lock() = Some(Arc::new(wake));
        Ok(command)
    }

    /// One that has ended, with its output unless that has been taken.
    pub(crate) fn ended(id: &str, spool: Option<Spool>, ending: Arc<Ending>) -> Self {
        Self::of(id, spool, State::Ended(ending), 0, false)
    }

    fn of(
        id: &str,
        spool: Option<Spool>,
        state: State,
        input_bytes: usize,
        terminal: bool,
    ) -> Self {
        let ended = matches!(state, State::Ended(_));
        let mut input = Input::new(input_bytes);
        if ended {
            input.close();
        }
        let progress = Progress {
            written: spool.as_ref().map(Spool::written).unwrap_or_default(),
            ended,
        };
        Self(Arc::new(Shared {
            id: id.to_owned(),
            spool,
            orders: Mutex::new(Orders {
                input,
                urgency: None,
                size: None,
                acknowledged: false,
            }),
            wake: Mutex::new(None),
            state: Mutex::new(state),
            progress: watch::Sender::new(progress),
            terminal,
        }))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.state.lock().clone()
    }

    /// Changes with every output and with the end.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Reads what was written at these offsets and behind them, in written
    /// order, about `max` bytes; empty if there is nothing yet. What is
    /// acknowledged is gone. From the page cache as a rule: fast enough for an
    /// async thread.
    ///
    /// # Errors
    /// When the spool cannot be read, or is damaged.
    pub fn read(&self, from: Offsets, max: usize) -> io::Result<Vec<Piece>> {
        let Some(spool) = &self.0.spool else {
            return Ok(Vec::new());
        };
        // Asked first: once it has ended nothing is written any more.
        let ended = self.0.progress.borrow().ended;
        spool.read(from, max, ended)
    }

    /// Waits until there is something to read at these offsets; `None` if there
    /// never will be, since the command has ended. May be cancelled.
    ///
    /// # Errors
    /// When the spool cannot be read, or is damaged.
    pub async fn next(&self, from: Offsets, max: usize) -> io::Result<Option<Vec<Piece>>> {
        let mut progress = self.progress();
        loop {
            let ended = progress.borrow_and_update().ended;
            let pieces = self.read(from, max)?;
            if !pieces.is_empty() {
                return Ok(Some(pieces));
            }
            if ended || progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// All bytes of a stream before `offset` may be forgotten.
    pub fn acknowledge(&self, stream: Stream, offset: u64) {
        if let Some(spool) = &self.0.spool
            && spool.acknowledge(stream, offset)
        {
            self.0.orders.lock().acknowledged = true;
            self.wake();
        }
    }

    /// Up to where each stream is acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Offsets {
        self.0
            .spool
            .as_ref()
            .map(Spool::acknowledged)
            .unwrap_or_default()
    }

    /// Ends it. Asking again changes nothing, unless it is more urgent.
    pub fn end(&self, urgency: Urgency) {
        let mut orders = self.0.orders.lock();
        orders.urgency = orders.urgency.max(Some(urgency));
        drop(orders);
        self.wake();
    }

    /// Types into it. Empty bytes close the standard input of a command with
    /// pipes.
    ///
    /// # Errors
    /// When nothing of it was taken. With pipes nothing is taken from then on,
    /// and the command fails once it has read all that was.
    pub fn input(&self, bytes: &[u8]) -> Result<(), NotTaken> {
        let mut orders = self.0.orders.lock();
        let taken = orders.input.push(bytes);
        if taken == Err(NotTaken::Full) && !self.0.terminal {
            orders.input.break_off();
        }
        taken?;
        if bytes.is_empty() && !self.0.terminal {
            orders.input.close();
        }
        drop(orders);
        self.wake();
        Ok(())
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// When it has none, or has ended.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), NotTaken> {
        if !self.0.terminal {
            return Err(NotTaken::NoTerminal);
        }
        if matches!(self.state(), State::Ended(_)) {
            return Err(NotTaken::Closed);
        }
        self.0.orders.lock().size = Some(Size { columns, rows });
        self.wake();
        Ok(())
    }

    /// What is asked, for the thread of the command.
    pub(crate) fn orders(&self) -> parking_lot::MutexGuard<'_, Orders> {
        self.0.orders.lock()
    }

    /// What wakes that thread.
    pub(crate) fn waker(&self) -> Option<Arc<OwnedFd>> {
        self.0.wake.lock().clone()
    }

    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.0.spool.as_ref()
    }

    /// Tells what can be read.
    pub(crate) fn publish(&self) {
        let written = self
            .0
            .spool
            .as_ref()
            .map(Spool::written)
            .unwrap_or_default();
        self.0.progress.send_if_modified(|progress| {
            let news = progress.written != written;
            progress.written = written;
            news
        });
    }

    /// It has ended, and so has its thread.
    pub(crate) fn finish(&self, ending: Arc<Ending>) {
        self.0.orders.lock().input.close();
        *self.0.wake.lock() = None;
        if let Some(spool) = &self.0.spool {
            spool.seal();
        }
        *self.0.state.lock() = State::Ended(ending);
        let written = self
            .0
            .spool
            .as_ref()
            .map(Spool::written)
            .unwrap_or_default();
        self.0.progress.send_replace(Progress {
            written,
            ended: true,
        });
    }

    fn wake(&self) {
        let Some(wake) = self.waker() else {
            return;
        };
        match write(&*wake, &1u64.to_ne_bytes()) {
            // A counter at its limit wakes as well.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => warn!(command = self.id(), %error, "cannot wake the thread of a command"),
        }
    }
}

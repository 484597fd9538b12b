//! Where things are shown: what commands write goes to standard output and
//! standard error as they wrote it, what `watch` says to standard error. A
//! thread of its own writes, so that a reader that takes nothing stops neither
//! signals nor signs of life; what waits for it is bounded, and beyond that
//! nothing more is read from the gateway.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::client::escapes::{Escapes, Filter, Modes};

/// Pieces that wait to be written; when full, the gateway is not read.
const PIECES_CAPACITY: usize = 16;
/// How long what waits may take to be written at the end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// Where a piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Nobody reads standard output any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    pieces: mpsc::Sender<(Exit, Vec<u8>)>,
    written: oneshot::Receiver<()>,
    /// How output is filtered, at each exit.
    out: Escapes,
    err: Escapes,
    /// Whether the terminal may answer what it is asked.
    answers: bool,
    out_is_terminal: bool,
    filters: HashMap<(String, String), Filter>,
    modes: Modes,
}

impl Screen {
    /// `wanted` is how output is to be filtered, if anyone said so.
    pub(super) fn new(wanted: Option<Escapes>, answers: bool) -> io::Result<Self> {
        let by_default = |is_terminal| match is_terminal {
            true => Escapes::Safe,
            false => Escapes::All,
        };
        let out_is_terminal = io::stdout().is_terminal();
        let out = wanted.unwrap_or(by_default(out_is_terminal));
        let err = wanted.unwrap_or(by_default(io::stderr().is_terminal()));
        let (pieces, inbox) = mpsc::channel(PIECES_CAPACITY);
        let (done, written) = oneshot::channel();
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                write_all(inbox);
                done.send(()).ok();
            })?;
        Ok(Self {
            pieces,
            written,
            out,
            err,
            answers,
            out_is_terminal,
            filters: HashMap::new(),
            modes: Modes::default(),
        })
    }

    /// Shows a line for people.
    pub(super) async fn line(&self, exit: Exit, text: &str) -> Result<(), Gone> {
        self.put(exit, format!("{text}\n").into_bytes()).await
    }

    /// Shows what a command wrote.
    pub(super) async fn output(
        &mut self,
        command: String,
        stream: String,
        bytes: &[u8],
    ) -> Result<(), Gone> {
        let (exit, escapes) = match stream.as_str() {
            "stdout" => (Exit::Out, self.out),
            _ => (Exit::Err, self.err),
        };
        let answers = self.answers;
        // Each has its own state: a sequence that one leaves open is no business
        // of another's output.
        let filter = self.filters.entry((command, stream));
        let filter = filter.or_insert_with(|| Filter::new(escapes, answers));
        let shown = filter.pass(bytes, &mut self.modes);
        if shown.is_empty() {
            return Ok(());
        }
        self.put(exit, shown).await
    }

    /// Clears the terminal, if it is one that may be moved.
    pub(super) async fn clear(&self) -> Result<(), Gone> {
        if self.out_is_terminal && self.out != Escapes::None {
            return self.put(Exit::Out, b"\x1b[H\x1b[2J".to_vec()).await;
        }
        Ok(())
    }

    /// A command has ended: nothing of it is kept.
    pub(super) fn forget(&mut self, command: &str) {
        self.filters.retain(|(of, _), _| of != command);
    }

    async fn put(&self, exit: Exit, bytes: Vec<u8>) -> Result<(), Gone> {
        self.pieces.send((exit, bytes)).await.map_err(|_| Gone)
    }

    /// Writes what waits, puts the terminal in order, and ends.
    pub(super) async fn finish(self) {
        if self.out_is_terminal {
            let restore = self.modes.restore().into_bytes();
            if !restore.is_empty() {
                let put = self.pieces.send((Exit::Out, restore));
                timeout(FLUSH_PATIENCE, put).await.ok();
            }
        }
        drop(self.pieces);
        timeout(FLUSH_PATIENCE, self.written).await.ok();
    }
}

fn write_all(mut inbox: mpsc::Receiver<(Exit, Vec<u8>)>) {
    while let Some((exit, bytes)) = inbox.blocking_recv() {
        match exit {
            Exit::Out => {
                let mut out = io::stdout().lock();
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
            // Without anyone who reads it, there is still standard output.
            Exit::Err => {
                io::stderr().write_all(&bytes).ok();
            }
        }
    }
}

//! The terminal that `watch` runs in: its keys one by one, its size, and the
//! state that it is left in.

use std::io::{self, IsTerminal as _, Read as _};
use std::thread;

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Bytes that are read at once.
const READ_BYTES: usize = 4 * 1024;
/// Reads that wait to be sent; when full, no more is read, and the terminal or
/// whoever writes to it waits.
const KEYS_CAPACITY: usize = 4;

/// A terminal that hands over each key as it is typed; dropped, it is as it was.
#[derive(Debug)]
pub(super) struct RawMode(Termios);

impl RawMode {
    /// Takes the terminal at standard input over; `None` where there is none.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What is written still ends its lines: it is more than the command's.
        raw.output_modes = before.output_modes | OutputModes::OPOST;
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone, and then it needs nothing.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Columns and rows of the terminal at standard output, or at standard input.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    let size = size.ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// What is typed, until standard input ends.
///
/// The thread that reads cannot be called back from a read; it ends with the
/// process.
pub(super) fn keys() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(KEYS_CAPACITY);
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            let mut buffer = vec![0; READ_BYTES];
            let mut stdin = io::stdin().lock();
            loop {
                match stdin.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => {
                        if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        })?;
    Ok(receiver)
}

//! The protocol over the pipes of a program: a message per line. Lines are read
//! piece by piece and dropped beyond a bound, so that an endless one costs a
//! bounded amount of memory, and in the end the connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rmcp::service::{RoleClient, TxJsonRpcMessage};
use rmcp::transport::Transport;
use signalbox_bus::assignment::Stop;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{debug, enabled, warn};

use super::wire::{self, Incoming, MAX_MESSAGE_BYTES};

/// How much of one line is read and dropped before the connection is given up,
/// in bytes.
const MAX_DROPPED_BYTES: usize = 64 * 1024 * 1024;
/// What a buffer may keep allocated from one line to the next, in bytes.
const KEPT_BYTES: usize = 64 * 1024;
/// The longest line of standard error that is logged whole, in bytes.
const MAX_ERROR_LINE_BYTES: usize = 4096;

/// A message that did not reach the server.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct SendError {
    /// What happened.
    pub(super) detail: String,
    /// Whether the server may have it all the same.
    pub(super) perhaps: bool,
}

/// A connection to a program. Generic, so that tests bring their own pipes.
pub(super) struct Stdio<R> {
    server: Arc<str>,
    /// `None` once it is closed. A write that fails closes it: half a line may
    /// have been written.
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    /// That a write has failed, which ends the connection: whoever does not read
    /// is of no more use.
    broken: Stop,
    /// How long a write may take, those before it included.
    patience: Duration,
    lines: Lines<BufReader<R>>,
}

impl<R: AsyncRead + Unpin + Send> Stdio<R> {
    /// `patience` is how long the server may take to read a message.
    pub(super) fn new(server: &Arc<str>, stdin: ChildStdin, stdout: R, patience: Duration) -> Self {
        Self {
            server: Arc::clone(server),
            stdin: Arc::new(Mutex::new(Some(stdin))),
            broken: Stop::default(),
            patience,
            lines: Lines::new(BufReader::new(stdout), MAX_MESSAGE_BYTES),
        }
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> Transport<RoleClient> for Stdio<R> {
    type Error = SendError;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), SendError>> + Send + 'static {
        let stdin = Arc::clone(&self.stdin);
        let (broken, patience) = (self.broken.clone(), self.patience);
        async move {
            let failed = |detail: String, perhaps| Err(SendError { detail, perhaps });
            let mut bytes = match serde_json::to_vec(&message) {
                Ok(bytes) => bytes,
                Err(error) => return failed(error.to_string(), false),
            };
            bytes.push(b'\n');
            let Ok(mut stdin) = timeout(patience, stdin.lock()).await else {
                return failed("the server does not read".to_owned(), false);
            };
            let Some(mut pipe) = stdin.take() else {
                return failed("the server's input is closed".to_owned(), false);
            };
            let detail = match timeout(patience, pipe.write_all(&bytes)).await {
                Ok(Ok(())) => {
                    *stdin = Some(pipe);
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the server does not read".to_owned(),
            };
            broken.trigger();
            failed(detail, true)
        }
    }

    async fn receive(&mut self) -> Option<Incoming> {
        loop {
            let line = tokio::select! {
                line = self.lines.next() => line,
                () = self.broken.wait() => return None,
            };
            match line {
                Ok(Line::Whole(line)) => {
                    if let Some(message) = wire::read(&self.server, line) {
                        return Some(message);
                    }
                }
                Ok(Line::TooLong(beginning)) => {
                    let id = wire::id_of_beginning(beginning);
                    warn!(server = %self.server, "dropping a message that is too long");
                    if let Some(id) = id {
                        return Some(wire::too_long(id));
                    }
                }
                Ok(Line::End) => return None,
                Err(error) => {
                    warn!(server = %self.server, %error, "giving the connection up");
                    return None;
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), SendError> {
        // A write that hangs holds it; the server is ended all the same.
        if let Ok(mut stdin) = self.stdin.try_lock() {
            stdin.take();
        }
        Ok(())
    }
}

/// A line, or what there is of it.
enum Line<'a> {
    /// Without its end.
    Whole(&'a [u8]),
    /// The beginning of one that is longer than is taken; told once, before its
    /// end is known.
    TooLong(&'a [u8]),
    /// There are no more.
    End,
}

/// Takes lines from a reader. Cancel safe.
struct Lines<R> {
    reader: R,
    most: usize,
    /// How much of one line is dropped before that is an error.
    most_dropped: usize,
    line: Vec<u8>,
    /// The line was handed out; the next call begins another one.
    done: bool,
    /// How much of a line was dropped that is too long, if it is.
    dropped: Option<usize>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            most,
            most_dropped: MAX_DROPPED_BYTES,
            line: Vec::new(),
            done: false,
            dropped: None,
        }
    }

    async fn next(&mut self) -> io::Result<Line<'_>> {
        if std::mem::take(&mut self.done) {
            self.line.clear();
            self.line.shrink_to(KEPT_BYTES);
        }
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(Line::End);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let taken = part.len() + usize::from(end.is_some());
            if let Some(dropped) = self.dropped {
                let dropped = dropped.saturating_add(part.len());
                self.dropped = end.is_none().then_some(dropped);
                self.reader.consume(taken);
                if dropped > self.most_dropped {
                    return Err(io::Error::other("a line does not end"));
                }
                continue;
            }
            let fits = self.line.len() + part.len() <= self.most;
            if fits {
                self.line.extend_from_slice(part);
            } else {
                self.dropped = end.is_none().then_some(part.len());
            }
            self.reader.consume(taken);
            if !fits {
                self.done = true;
                return Ok(Line::TooLong(&self.line));
            }
            if end.is_some() {
                self.done = true;
                return Ok(Line::Whole(&self.line));
            }
        }
    }
}

/// Reads a program's standard error to its end, and logs it for who debugs.
pub(super) async fn log_errors(server: &str, stderr: ChildStderr) {
    let mut lines = Lines::new(BufReader::new(stderr), MAX_ERROR_LINE_BYTES);
    // Whatever it writes there, a program must not hang for it.
    lines.most_dropped = usize::MAX;
    loop {
        match lines.next().await {
            Ok(Line::Whole(line) | Line::TooLong(line)) => {
                if enabled!(tracing::Level::DEBUG) {
                    let line = wire::line(&String::from_utf8_lossy(line));
                    debug!(server, line, "the server says");
                }
            }
            Ok(Line::End) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], most: usize) -> Vec<(bool, String)> {
        // A small buffer, so that lines come in pieces.
        let mut lines = Lines::new(BufReader::with_capacity(3, text), most);
        let mut found = Vec::new();
        loop {
            let (whole, line) = match lines.next().await.unwrap() {
                Line::Whole(line) => (true, line),
                Line::TooLong(line) => (false, line),
                Line::End => return found,
            };
            found.push((whole, String::from_utf8(line.to_vec()).unwrap()));
        }
    }

    #[tokio::test]
    async fn a_long_line_is_told_of_and_the_next_one_is_whole() {
        let found = lines(b"ab\n\nabcdefghijklmnopq\nxy\nabcdef\nz\nrest", 5).await;
        let expected = [
            (true, "ab"),
            (true, ""),
            (false, "abcde"),
            (true, "xy"),
            (false, "abcde"),
            (true, "z"),
        ];
        let expected: Vec<_> = expected
            .map(|(whole, line)| (whole, line.to_owned()))
            .into();
        // Of a line that is too long there is as much as came before it was.
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.0, expected.0);
            assert!(expected.1.starts_with(&found.1), "{found:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_reading_and_takes_no_memory() {
        let mut lines = Lines::new(BufReader::new(tokio::io::repeat(b'x')), 1000);
        assert!(matches!(lines.next().await, Ok(Line::TooLong(_))));
        assert!(lines.next().await.is_err());
        assert!(lines.line.capacity() <= KEPT_BYTES);
    }
}

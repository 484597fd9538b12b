//! What a process prints, line by line, for a test to wait on.

use std::{
    io::{BufRead, BufReader, Read},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

/// The lines that a process has printed to one of its outputs. All are kept.
#[derive(Debug)]
pub struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    /// How far [`next_line`](Self::next_line) has read.
    read: Mutex<usize>,
    /// Changes after every line, and is closed at the end of the output.
    changed: watch::Receiver<()>,
}

impl Output {
    /// Reads everything from `pipe`, in a thread that ends with the output.
    pub(crate) fn capture(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (change, changed) = watch::channel(());
        let sink = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                sink.lock()
                    .push(String::from_utf8_lossy(&line).into_owned());
                change.send(()).ok();
            }
        });
        Self {
            lines,
            read: Mutex::new(0),
            changed,
        }
    }

    /// All lines up to now.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// The first line that contains `pattern`, which may be printed already.
    ///
    /// # Panics
    /// When no such line is printed within `deadline`, or the output ends.
    pub async fn wait_for_line(&self, pattern: &str, deadline: Duration) -> String {
        match timeout(deadline, self.find(pattern)).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!(
                "the output ended without {pattern:?}:\n{}",
                self.lines().join("\n")
            ),
            Err(_) => panic!(
                "no {pattern:?} within {deadline:?}:\n{}",
                self.lines().join("\n")
            ),
        }
    }

    /// The next line that this method has not returned yet; `None` at the end
    /// of the output.
    ///
    /// # Panics
    /// When neither comes within `deadline`.
    pub async fn next_line(&self, deadline: Duration) -> Option<String> {
        let next = self.search(|lines| {
            let mut read = self.read.lock();
            let line = lines.get(*read).cloned();
            *read += usize::from(line.is_some());
            line
        });
        timeout(deadline, next).await.unwrap_or_else(|_| {
            panic!(
                "no further line within {deadline:?} after:\n{}",
                self.lines().join("\n")
            )
        })
    }

    /// The first line that contains `pattern`; `None` when the output ends without.
    pub(crate) async fn find(&self, pattern: &str) -> Option<String> {
        self.search(|lines| lines.iter().find(|line| line.contains(pattern)).cloned())
            .await
    }

    /// Waits for the end of the output, at most for `deadline`: a process that
    /// the program left behind may hold it open.
    pub(crate) async fn ended(&self, deadline: Duration) {
        let end = async {
            let mut changed = self.changed.clone();
            while changed.changed().await.is_ok() {}
        };
        timeout(deadline, end).await.ok();
    }

    async fn search(&self, look: impl Fn(&[String]) -> Option<String>) -> Option<String> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            // Asked before looking: lines that come in between wake the wait below.
            let ended = changed.has_changed().is_err();
            let found = look(&self.lines.lock());
            if found.is_some() || ended {
                return found;
            }
            changed.changed().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::DEADLINE;

    #[tokio::test]
    async fn lines_are_found_and_read_in_order() {
        let output = Output::capture(&b"one\ntwo\nthree"[..]);
        assert_eq!(output.wait_for_line("thr", DEADLINE).await, "three");
        assert_eq!(output.next_line(DEADLINE).await.as_deref(), Some("one"));
        assert_eq!(output.next_line(DEADLINE).await.as_deref(), Some("two"));
        assert_eq!(output.next_line(DEADLINE).await.as_deref(), Some("three"));
        assert_eq!(output.next_line(DEADLINE).await, None);
        assert_eq!(output.lines().len(), 3);
    }

    #[tokio::test]
    async fn line_that_is_printed_later_is_waited_for() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let output = Output::capture(reader);
        let mut waiting = Box::pin(output.wait_for_line("now", DEADLINE));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        std::io::Write::write_all(&mut writer, b"not yet\nnow\n").unwrap();
        assert_eq!(waiting.await, "now");
    }

    #[tokio::test]
    #[should_panic(expected = "ended without \"two\"")]
    async fn output_that_ends_without_the_line_fails_at_once() {
        Output::capture(&b"one\n"[..])
            .wait_for_line("two", DEADLINE)
            .await;
    }

    #[tokio::test]
    #[should_panic(expected = "within 1ms")]
    async fn line_that_does_not_come_fails_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let output = Output::capture(reader);
        output.wait_for_line("two", Duration::from_millis(1)).await;
    }
}

//! One run of a tool, held to its time: told to end when that is over or when the
//! answer is cancelled, and dropped a little later.

use std::time::Duration;

use signalbox_bus::assignment::Stop;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::tools::{Note, Outcome, Running};

/// How long a tool may take to end once it was told to.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// What a run is held to, and where its notes go.
pub(super) struct Supervision {
    /// The call's number in the answer.
    pub(super) number: u32,
    /// When its time is over.
    pub(super) deadline: Instant,
    /// Uttered when the answer is cancelled.
    pub(super) cancel: Stop,
    /// Tells the tool to end.
    pub(super) stop: Stop,
    /// What the tool tells.
    pub(super) notes: mpsc::Receiver<Note>,
    /// Who is to know of it.
    pub(super) told: mpsc::Sender<(u32, Note)>,
}

/// Why a tool was told to end.
enum Cause {
    Cancelled,
    TimedOut,
}

impl Supervision {
    /// Runs a tool to its end, one way or another. All that it has told is passed on
    /// by then.
    pub(super) async fn run(mut self, mut running: Running) -> Outcome {
        let cancel = self.cancel.clone();
        let mut cancelled = std::pin::pin!(cancel.wait());
        let cause = loop {
            tokio::select! {
                biased;
                () = &mut cancelled => break Cause::Cancelled,
                outcome = &mut running => {
                    self.pass_rest().await;
                    return outcome;
                }
                Some(note) = self.notes.recv() => self.pass(note).await,
                () = sleep_until(self.deadline) => break Cause::TimedOut,
            }
        };
        self.stop.trigger();
        let late = timeout(GRACE, running).await;
        self.pass_rest().await;
        match (cause, late) {
            (Cause::Cancelled, Ok(Outcome::Stopped(words))) => Outcome::Stopped(words),
            (Cause::Cancelled, _) => Outcome::Cancelled,
            // It has come to its end all the same: that is what is known of it.
            (Cause::TimedOut, Ok(Outcome::Value(value))) => Outcome::Value(value),
            (Cause::TimedOut, _) => Outcome::TimedOut,
        }
    }

    async fn pass(&self, note: Note) {
        // Whoever listens outlives this, or nobody does.
        self.told.send((self.number, note)).await.ok();
    }

    async fn pass_rest(&mut self) {
        while let Ok(note) = self.notes.try_recv() {
            self.pass(note).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use serde_json::json;
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Run {
        cancel: Stop,
        stop: Stop,
        note: mpsc::Sender<Note>,
        told: mpsc::Receiver<(u32, Note)>,
        supervision: Supervision,
    }

    fn run() -> Run {
        let (note, notes) = mpsc::channel(4);
        let (tell, told) = mpsc::channel(4);
        let (cancel, stop) = (Stop::default(), Stop::default());
        let supervision = Supervision {
            number: 3,
            deadline: Instant::now() + LIMIT,
            cancel: cancel.clone(),
            stop: stop.clone(),
            notes,
            told: tell,
        };
        Run {
            cancel,
            stop,
            note,
            told,
            supervision,
        }
    }

    fn terminal() -> Note {
        Note::Terminal {
            agent_id: "a".to_owned(),
            command_id: "c".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_gives_in_time_is_its_outcome_and_its_notes_come_first() {
        let mut one = run();
        let note = one.note.clone();
        let outcome = one.supervision.run(Box::pin(async move {
            note.send(terminal()).await.ok();
            Outcome::Value(json!(1))
        }));
        assert_eq!(outcome.await, Outcome::Value(json!(1)));
        assert_eq!(one.told.try_recv().unwrap(), (3, terminal()));
        assert!(!one.stop.is_triggered());
    }

    #[tokio::test(start_paused = true)]
    async fn what_hears_nothing_is_dropped_after_the_grace() {
        let begun = Instant::now();
        let one = run();
        let outcome = one.supervision.run(Box::pin(pending())).await;
        assert_eq!(outcome, Outcome::TimedOut);
        assert!(one.stop.is_triggered());
        assert_eq!(begun.elapsed(), LIMIT + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_still_gives_when_its_time_is_over_counts_where_it_is_a_value() {
        for (late, expected) in [
            (Outcome::Value(json!(2)), Outcome::Value(json!(2))),
            (Outcome::Error("stopped".to_owned()), Outcome::TimedOut),
            (Outcome::Cancelled, Outcome::TimedOut),
        ] {
            let one = run();
            let stop = one.stop.clone();
            let outcome = one.supervision.run(Box::pin(async move {
                stop.wait().await;
                late
            }));
            assert_eq!(outcome.await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_run_is_cancelled_whatever_it_still_gives() {
        let one = run();
        let (cancel, stop) = (one.cancel.clone(), one.stop.clone());
        let outcome = one.supervision.run(Box::pin(async move {
            sleep(Duration::from_secs(1)).await;
            cancel.trigger();
            stop.wait().await;
            Outcome::Value(json!(3))
        }));
        assert_eq!(outcome.await, Outcome::Cancelled);
    }
}

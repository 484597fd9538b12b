//! The calls of a round that are under way: those that wait to be started, that
//! run, and on which people decide. What is here is lost with the process; the log
//! has all that a next one needs.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;

use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

use super::places::Room;
use crate::approval::{Action, Approvals, Decided, Status};
use crate::tools::{Note, Outcome};

/// Calls of a round that run at once; the others wait for them.
pub(super) const AT_ONCE: usize = 8;
/// Notes of all running tools that wait for the turn; tools wait beyond.
const NOTES: usize = 16;
/// What becomes of actions and waits to be told; the turn waits beyond.
const TELLINGS: usize = 128;

/// Who waits for people, and for which call.
type Waiting = Pin<Box<dyn Future<Output = (u32, Decided)> + Send>>;

/// See the module.
pub(super) struct Desk {
    /// Those that may run, the first first.
    pub(super) ready: VecDeque<u32>,
    /// Those that run.
    pub(super) runs: Runs,
    /// Those that people are asked about.
    pub(super) waiting: FuturesUnordered<Waiting>,
    /// What running tools tell, and where they tell it.
    pub(super) notes: mpsc::Receiver<(u32, Note)>,
    pub(super) tell: mpsc::Sender<(u32, Note)>,
    /// The chat's room among those that wait for people.
    pub(super) room: Option<Room>,
    tidings: Tidings,
}

impl Desk {
    pub(super) fn new(approvals: Approvals) -> Self {
        let (tell, notes) = mpsc::channel(NOTES);
        Self {
            ready: VecDeque::new(),
            runs: Runs::default(),
            waiting: FuturesUnordered::new(),
            notes,
            tell,
            room: None,
            tidings: Tidings::new(approvals),
        }
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_clear(&self) -> bool {
        self.ready.is_empty() && self.runs.is_empty() && self.waiting.is_empty()
    }

    /// Whether people are asked, and nothing else goes on.
    pub(super) fn is_waiting(&self) -> bool {
        self.ready.is_empty() && self.runs.is_empty() && !self.waiting.is_empty()
    }

    /// Has people told what becomes of an action, behind what they were told of it
    /// before.
    pub(super) async fn told(&mut self, action: Action, status: Status) {
        self.tidings.tell(action, status).await;
    }

    /// Waits until all of that is told.
    pub(super) async fn all_told(self) {
        self.tidings.finish().await;
    }
}

/// Calls that run; dropped, they are.
#[derive(Default)]
pub(super) struct Runs {
    running: JoinSet<Outcome>,
    numbers: HashMap<Id, u32>,
}

impl Runs {
    /// Runs a call beside the others.
    pub(super) fn begin(
        &mut self,
        number: u32,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let task = self.running.spawn(work);
        self.numbers.insert(task.id(), number);
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits for the end of one; `None` when there is none. Cancel safe.
    pub(super) async fn ended(&mut self) -> Option<(u32, Outcome)> {
        let joined = self.running.join_next_with_id().await?;
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let number = self.numbers.remove(&id)?;
        let outcome = match joined {
            Ok((_, outcome)) => outcome,
            Err(cause) => {
                error!(number, %cause, "tool broke down");
                Outcome::Unknown("the tool broke down; whether it acted is unknown".to_owned())
            }
        };
        Some((number, outcome))
    }
}

/// What is told of actions, one after the other, beside what the turn does.
struct Tidings {
    approvals: Approvals,
    queue: Option<mpsc::Sender<(Action, Status)>>,
    task: JoinSet<()>,
}

impl Tidings {
    fn new(approvals: Approvals) -> Self {
        Self {
            approvals,
            queue: None,
            task: JoinSet::new(),
        }
    }

    async fn tell(&mut self, action: Action, status: Status) {
        let queue = self.queue.get_or_insert_with(|| {
            let (queue, mut tidings) = mpsc::channel::<(Action, Status)>(TELLINGS);
            let mut teller = self.approvals.teller();
            self.task.spawn(async move {
                while let Some((action, status)) = tidings.recv().await {
                    teller.tell(&action, status).await;
                }
            });
            queue
        });
        queue.send((action, status)).await.ok();
    }

    async fn finish(mut self) {
        self.queue = None;
        // It has an end, told or not.
        while self.task.join_next().await.is_some() {}
    }
}

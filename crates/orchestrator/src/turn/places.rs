//! A turn's place among the answers that are written at once, of all users and of
//! its own. It is given back while people are asked, for however long that takes,
//! and taken again behind those who wait already; meanwhile the turn has room among
//! those that wait for people, which are bounded in the same two ways.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Counted, Metrics};

/// Which places there are no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Those of the user.
    OfUser,
    /// All.
    OfAll,
}

/// What one user may have at once. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct OfUser {
    /// Answers that are written.
    answers: Arc<Semaphore>,
    /// Chats that wait for people.
    waiting: Arc<Semaphore>,
}

impl OfUser {
    pub(crate) fn new(answers: usize, waiting: usize) -> Self {
        Self {
            answers: Arc::new(Semaphore::new(answers)),
            waiting: Arc::new(Semaphore::new(waiting)),
        }
    }
}

/// A chat's room among those that wait for people. Dropped, it is given up.
pub(super) struct Room {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// See the module.
pub(crate) struct Places {
    of_user: OfUser,
    of_all: Arc<Semaphore>,
    metrics: Metrics,
    held: Option<Held>,
}

struct Held {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
    _running: Counted,
}

impl Places {
    /// None yet, of these.
    pub(crate) const fn new(of_user: OfUser, of_all: Arc<Semaphore>, metrics: Metrics) -> Self {
        Self {
            of_user,
            of_all,
            metrics,
            held: None,
        }
    }

    /// Takes the place where it is free.
    pub(crate) fn try_take(&mut self) -> Result<(), Full> {
        let (of_user, of_all) = try_both(&self.of_user.answers, &self.of_all)?;
        self.hold(of_user, of_all);
        Ok(())
    }

    /// Takes the place as soon as it is free, unless it is held. Cancel safe.
    pub(super) async fn take(&mut self) {
        if self.held.is_some() {
            return;
        }
        // Always in this order, so that no two turns wait for each other.
        let of_user = Arc::clone(&self.of_user.answers).acquire_owned().await;
        let of_all = Arc::clone(&self.of_all).acquire_owned().await;
        if let (Ok(of_user), Ok(of_all)) = (of_user, of_all) {
            self.hold(of_user, of_all);
        }
    }

    /// Takes room among those that wait for people, of whom there may be `of_all`,
    /// where it is free.
    pub(super) fn try_wait(&self, of_all: &Arc<Semaphore>) -> Result<Room, Full> {
        let (of_user, of_all) = try_both(&self.of_user.waiting, of_all)?;
        Ok(Room {
            _of_user: of_user,
            _of_all: of_all,
        })
    }

    /// Leaves the place to others.
    pub(super) fn give_back(&mut self) {
        self.held = None;
    }

    fn hold(&mut self, of_user: OwnedSemaphorePermit, of_all: OwnedSemaphorePermit) {
        self.held = Some(Held {
            _of_user: of_user,
            _of_all: of_all,
            _running: self.metrics.running_answer(),
        });
    }
}

fn try_both(
    of_user: &Arc<Semaphore>,
    of_all: &Arc<Semaphore>,
) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Full> {
    let of_user = Arc::clone(of_user).try_acquire_owned();
    let of_user = of_user.map_err(|_| Full::OfUser)?;
    let of_all = Arc::clone(of_all).try_acquire_owned();
    let of_all = of_all.map_err(|_| Full::OfAll)?;
    Ok((of_user, of_all))
}

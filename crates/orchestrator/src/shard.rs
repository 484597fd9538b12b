//! The holder of one shard: goes on with the answers that were being written,
//! then hands each request to the keeper of its session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use prost::Message as _;
use signalbox_bus::assignment::{Hold, Left, Parts, Stop, Work};
use signalbox_bus::trace::TraceContext;
use signalbox_bus::{Bus, BusError, key, subject};
use signalbox_protocol::chat;
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{ChatError, ChatRefusal, ChatRequest, chat_request::Verb};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::agents::Agents;
use crate::keeper::{Ended, INPUT_CAPACITY, Input, Keeper, Request};
use crate::open_turn::{self, SessionKey};
use crate::reply::{Reply, invalid, refusal};
use crate::turn::{Means, OfUser};

/// The pause before a shard that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked for answers that nobody writes: a former holder that was
/// stopped may have accepted a message before it knew that it was one.
const SWEEP: Duration = Duration::from_secs(5);
/// The longest id of a user.
const USER_ID_BYTES: usize = 256;

/// The shards, one orchestrator for each.
pub(crate) fn shards() -> Parts<Shard> {
    Parts {
        service: "orchestrator",
        all: Shard::all().collect(),
        lease: key::orchestrator_lease,
        member: key::orchestrator_member,
        is_member: key::is_orchestrator_member,
    }
}

/// What all shards and sessions of an orchestrator share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) agents: Arc<Agents>,
    pub(crate) means: Means,
    /// Answers that may be written.
    pub(crate) answers: Arc<Semaphore>,
    pub(crate) answers_per_user: usize,
    /// Chats of one user that may wait for people.
    pub(crate) waiting_per_user: usize,
    /// Chats that may be in memory.
    pub(crate) chats: Arc<Semaphore>,
    /// How long answers may take to be finished when a shard is given away.
    pub(crate) drain: Duration,
}

impl Work<Shard> for Shared {
    async fn hold(&self, hold: Hold<Shard>) -> Left {
        Holding::new(self.clone(), hold).run().await
    }
}

/// A shard that this orchestrator holds.
struct Holding {
    shared: Shared,
    hold: Hold<Shard>,
    keepers: HashMap<SessionKey, mpsc::Sender<Input>>,
    tasks: JoinSet<(SessionKey, Ended)>,
    /// What each user may have at once, for as long as they have chats in memory.
    places: HashMap<String, (OfUser, usize)>,
    /// Says to the keepers that no answer is to be begun.
    leaving: Stop,
}

impl Holding {
    fn new(shared: Shared, hold: Hold<Shard>) -> Self {
        shared.means.metrics.held(hold.part).set(1);
        Self {
            shared,
            hold,
            keepers: HashMap::new(),
            tasks: JoinSet::new(),
            places: HashMap::new(),
            leaving: Stop::default(),
        }
    }

    /// Serves the shard until it is to be given away and its answers are written,
    /// or until it is another's. Cancelling ends everything that belongs to it.
    async fn run(mut self) -> Left {
        let stop = self.hold.stop.clone();
        tokio::select! {
            () = stop.wait() => return Left::Done,
            () = self.take_over() => {}
        }
        let mut requests = loop {
            match self.subscribe().await {
                Ok(requests) => break requests,
                Err(cause) => {
                    debug!(shard = %self.hold.part, %cause, "shard not served yet");
                    sleep(PAUSE).await;
                }
            }
        };
        info!(shard = %self.hold.part, answers = self.keepers.len(), "shard served");
        let mut sweeps = interval_at(Instant::now() + SWEEP, SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                _ = sweeps.tick() => self.sweep().await,
                Some(ended) = self.tasks.join_next() => {
                    if let Some(left) = self.note_end(ended) {
                        return left;
                    }
                }
                message = requests.next() => match message {
                    Some(message) => self.take(message).await,
                    None => return Left::Broken,
                },
            }
            // After the process was stopped, this may be the first to notice.
            if self.hold.tenure.is_over() {
                return Left::Superseded;
            }
        }
        self.leave(requests).await
    }

    /// Has what is being written finished, as far as that is a matter of moments;
    /// the rest is the next holder's.
    async fn leave(&mut self, mut requests: Subscriber) -> Left {
        self.leaving.trigger();
        let drain = self.shared.drain;
        let finished = async {
            while !self.tasks.is_empty() {
                tokio::select! {
                    Some(ended) = self.tasks.join_next() => {
                        if let Some(left) = self.note_end(ended) {
                            return left;
                        }
                    }
                    Some(message) = requests.next() => self.take(message).await,
                }
            }
            Left::Done
        };
        match timeout(drain, finished).await {
            Ok(left) => left,
            Err(_) => {
                warn!(shard = %self.hold.part, chats = self.tasks.len(), "answers left behind");
                Left::Done
            }
        }
    }

    /// Goes on with what was being written.
    async fn take_over(&mut self) {
        let sessions = loop {
            match open_turn::of_shard(&self.shared.bus, self.hold.part).await {
                Ok(sessions) => break sessions,
                Err(cause) => {
                    debug!(shard = %self.hold.part, %cause, "shard not taken over yet");
                    sleep(PAUSE).await;
                }
            }
        };
        for session in sessions {
            self.keep(session, false);
        }
    }

    /// Looks for answers that nobody writes.
    async fn sweep(&mut self) {
        let found = open_turn::of_shard(&self.shared.bus, self.hold.part);
        let sessions = match timeout(PAUSE, found).await {
            Ok(Ok(sessions)) => sessions,
            // The next time, then.
            Ok(Err(_)) | Err(_) => return,
        };
        for session in sessions {
            match self.keepers.get(&session) {
                Some(keeper) => {
                    keeper.try_send(Input::Noted).ok();
                }
                None => {
                    self.keep(session, false);
                }
            }
        }
    }

    async fn subscribe(&self) -> Result<Subscriber, BusError> {
        let subject = subject::orchestrator_chat(self.hold.part);
        let subscribed = self.shared.bus.client().subscribe(subject.clone()).await;
        subscribed.map_err(|error| BusError::Api {
            action: format!("serve {subject}"),
            cause: error.to_string(),
        })
    }

    /// Takes note that a session is kept no more; gives why the shard is to be left,
    /// if so.
    fn note_end(&mut self, ended: Result<(SessionKey, Ended), JoinError>) -> Option<Left> {
        match ended {
            Ok((session, ended)) => {
                if let Some((_, chats)) = self.places.get_mut(&session.user_id) {
                    *chats -= 1;
                    if *chats == 0 {
                        self.places.remove(&session.user_id);
                    }
                }
                self.keepers.remove(&session);
                match ended {
                    Ended::Idle => None,
                    Ended::Superseded => {
                        self.shared.means.metrics.fenced.add(1);
                        warn!(session = %session.session_id, "another orchestrator writes the log");
                        Some(Left::Superseded)
                    }
                    // One chat must not cost the others theirs. An answer of it is
                    // gone on with at the next sweep, which is counted.
                    Ended::Broken => {
                        error!(session = %session.session_id, "chat put away");
                        None
                    }
                }
            }
            // Whoever takes the shard next finds everything as it was.
            Err(cause) => {
                error!(shard = %self.hold.part, %cause, "keeper of a chat ended");
                Some(Left::Broken)
            }
        }
    }

    async fn take(&mut self, message: Message) {
        let reply = Reply::new(self.shared.bus.clone(), message.reply);
        let Ok(request) = ChatRequest::decode(message.payload) else {
            warn!(shard = %self.hold.part, "unreadable request");
            return;
        };
        let user_id = request.user_id;
        let Some(verb) = request.verb else {
            return self.refuse(reply, invalid("verb", "expected a verb")).await;
        };
        let known_user = !user_id.is_empty()
            && user_id.len() <= USER_ID_BYTES
            && chat::shard(&user_id) == self.hold.part;
        if !known_user {
            let refusal = invalid("user_id", "expected a user of this shard");
            return self.refuse(reply, refusal).await;
        }
        let session_id = match session_of(&verb) {
            Ok(session_id) => session_id,
            Err(refusal) => return self.refuse(reply, refusal).await,
        };
        let session = SessionKey {
            user_id,
            session_id,
        };
        let keeper = match self.keepers.get(&session) {
            Some(keeper) => keeper.clone(),
            None if self.leaving.is_triggered() => {
                let words = "the chats of this user are changing hands";
                let refusal = refusal(ChatError::Unavailable, words);
                return self.refuse(reply, refusal).await;
            }
            None => match self.keep(session, true) {
                Some(keeper) => keeper,
                None => {
                    let words = "too many chats are going on";
                    let refusal = refusal(ChatError::AgentUnavailable, words);
                    return self.refuse(reply, refusal).await;
                }
            },
        };
        let trace = TraceContext::of(message.headers.as_ref());
        // Without room it is not answered, and comes again.
        let request = Box::new(Request { verb, reply, trace });
        keeper.try_send(Input::Request(request)).ok();
    }

    async fn refuse(&self, reply: Reply, refusal: ChatRefusal) {
        self.shared.means.metrics.refused.add(1);
        reply.refuse(refusal).await;
    }

    /// Begins to keep a session; nothing where there is no room and there `must_fit`.
    fn keep(&mut self, session: SessionKey, must_fit: bool) -> Option<mpsc::Sender<Input>> {
        let room = Arc::clone(&self.shared.chats).try_acquire_owned().ok();
        if room.is_none() && must_fit {
            return None;
        }
        let (answers, waiting) = (self.shared.answers_per_user, self.shared.waiting_per_user);
        let (places, chats) = self
            .places
            .entry(session.user_id.clone())
            .or_insert_with(|| (OfUser::new(answers, waiting), 0));
        *chats += 1;
        let (inputs, receiver) = mpsc::channel(INPUT_CAPACITY);
        let keeper = Keeper::new(
            self.shared.clone(),
            (self.hold.generation.revision(), self.hold.tenure.clone()),
            session.clone(),
            receiver,
            places.clone(),
            self.leaving.clone(),
        );
        self.keepers.insert(session.clone(), inputs.clone());
        self.tasks.spawn(async move {
            let _room = room;
            (session, keeper.run().await)
        });
        Some(inputs)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shared.means.metrics.held(self.hold.part).set(0);
    }
}

/// The session that a request is about.
fn session_of(verb: &Verb) -> Result<String, ChatRefusal> {
    let session_id = match verb {
        Verb::Start(start) => {
            let words = "expected 32 hexadecimal digits";
            return chat::session_id(&start.nonce).ok_or_else(|| invalid("nonce", words));
        }
        Verb::Message(message) => &message.session_id,
        Verb::Cancel(cancel) => &cancel.session_id,
        Verb::Join(join) => &join.session_id,
    };
    if chat::is_session_id(session_id) {
        Ok(session_id.clone())
    } else {
        Err(not_found(session_id))
    }
}

/// There is no such session, or it is another's, which comes to the same.
pub(crate) fn not_found(session_id: &str) -> ChatRefusal {
    ChatRefusal {
        session_id: session_id.to_owned(),
        ..refusal(ChatError::SessionNotFound, "there is no such chat")
    }
}

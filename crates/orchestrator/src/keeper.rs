//! Keeps one session: reads it back, answers requests about it, and has at most
//! one answer written at a time.

mod request;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use signalbox_bus::assignment::Stop;
use signalbox_bus::lease::Tenure;
use signalbox_bus::log;
use signalbox_bus::subject::LogKind;
use signalbox_bus::trace::{self, Kind, Span, TraceContext};
use signalbox_protocol::chat;
use signalbox_protocol::wire::{ChatCancelled, ChatError, chat_reply::Outcome, chat_request::Verb};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info};

use crate::answer::Answer;
use crate::chat_log::{ChatLog, Lost};
use crate::open_turn::{OpenTurn, SessionKey};
use crate::reply::{Reply, refusal};
use crate::session::{self, Session};
use crate::shard::{Shared, not_found};
use crate::turn::{OfUser, Places, Turn, View};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.orchestrator";
/// Requests that wait for a session; further ones are not answered and come again.
pub(crate) const INPUT_CAPACITY: usize = 32;
/// How long a session is kept that nobody uses. Its log's tip is told for the
/// first half of it.
const IDLE: Duration = Duration::from_secs(60);
/// How often the tip of a log is told.
const TIP: Duration = Duration::from_secs(1);
/// How long it is told after the last record.
const TIPS_PAST_END: Duration = Duration::from_secs(30);
/// The pause before a session that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests about earlier answers that are looked up at once.
const LOOKUPS: usize = 8;

/// What a keeper is told.
pub(crate) enum Input {
    /// A request about the session.
    Request(Box<Request>),
    /// There is a note that an answer is being written.
    Noted,
}

/// A request about the session.
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) reply: Reply,
    pub(crate) trace: Option<TraceContext>,
}

/// Why a session is kept no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nobody has used it for a while, or there is none.
    Idle,
    /// Another orchestrator writes its log.
    Superseded,
    /// Its log cannot be written.
    Broken,
}

/// What an answer ends with.
type Writing = Pin<Box<dyn Future<Output = Result<(ChatLog, Answer), Lost>> + Send>>;
/// A lookup that ends with its answer sent.
type Lookup = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer that is being written.
struct Running {
    work: Writing,
    cancel: Stop,
    /// Who waits for the answer's end, having asked for it.
    cancelled_by: Vec<Reply>,
    view: Arc<Mutex<View>>,
}

/// A session that was read.
struct Kept {
    session: Session,
    open_turn: OpenTurn,
    /// With the answer while one is written.
    log: Option<ChatLog>,
    running: Option<Running>,
    lookups: FuturesUnordered<Lookup>,
    /// When something was asked or written last.
    used: Instant,
}

/// The keeper of a session.
pub(crate) struct Keeper {
    shared: Shared,
    /// Which of the shard's holders this is.
    owner: u64,
    tenure: Tenure,
    key: SessionKey,
    inputs: mpsc::Receiver<Input>,
    /// What this user may have at once.
    places: OfUser,
    leaving: Stop,
}

impl Keeper {
    pub(crate) fn new(
        shared: Shared,
        (owner, tenure): (u64, Tenure),
        key: SessionKey,
        inputs: mpsc::Receiver<Input>,
        places: OfUser,
        leaving: Stop,
    ) -> Self {
        Self {
            shared,
            owner,
            tenure,
            key,
            inputs,
            places,
            leaving,
        }
    }

    /// Keeps the session until nobody needs it, or another has it.
    pub(crate) async fn run(mut self) -> Ended {
        let metrics = self.shared.means.metrics.clone();
        let _counted = metrics.session();
        loop {
            match self.keep().await {
                Ok(()) => break,
                // The former owner was at it still: look again.
                Err(Lost::Moved) => debug!(session = %self.key.session_id, "read again"),
                Err(Lost::Superseded) => return Ended::Superseded,
                Err(Lost::Refused) => return Ended::Broken,
            }
        }
        // What came meanwhile is to come again.
        self.inputs.close();
        while let Some(input) = self.inputs.recv().await {
            if let Input::Request(request) = input {
                let words = "the chat is being put away";
                let refusal = refusal(ChatError::Unavailable, words);
                request.reply.refuse(refusal).await;
            }
        }
        Ended::Idle
    }

    async fn keep(&mut self) -> Result<(), Lost> {
        let (log, session) = self.load().await;
        let mut kept = match session {
            Some(session) => self.kept(log, session).await?,
            None => match self.begin(log).await? {
                Some(kept) => kept,
                None => return Ok(()),
            },
        };
        let mut tips = interval(TIP);
        tips.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_leaving = self.leaving.is_triggered();
            // Nobody knows when people decide: that is the next holder's to hear.
            if is_leaving && (kept.running.is_none() || kept.waits_since().is_some()) {
                return Ok(());
            }
            tokio::select! {
                biased;
                written = async {
                    match kept.running.as_mut() {
                        Some(running) => running.work.as_mut().await,
                        None => std::future::pending().await,
                    }
                } => self.note_end(&mut kept, written).await?,
                input = self.inputs.recv() => match input {
                    Some(Input::Request(request)) => {
                        kept.used = Instant::now();
                        self.handle(&mut kept, *request).await?;
                    }
                    // A former holder was at it still, after this one has read.
                    Some(Input::Noted) if kept.running.is_none() => return Err(Lost::Moved),
                    Some(Input::Noted) => {}
                    // The shard has left it.
                    None => return Ok(()),
                },
                Some(()) = kept.lookups.next() => {}
                _ = tips.tick() => {
                    if let Some(number) = kept.tip_to_tell() {
                        self.tell_tip(number).await;
                    }
                }
                () = self.leaving.wait(), if !is_leaving => {}
                () = sleep_until(kept.used + IDLE), if kept.is_idle() => return Ok(()),
            }
        }
    }

    /// Reads the session back, trying for as long as it takes.
    async fn load(&self) -> (ChatLog, Option<Session>) {
        let SessionKey {
            user_id,
            session_id,
        } = &self.key;
        loop {
            let bus = self.shared.bus.clone();
            match session::load(bus, user_id, session_id, self.owner).await {
                Ok(loaded) => return loaded,
                Err(cause) => {
                    debug!(session = %session_id, %cause, "chat not read yet");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn open_turn(&self) -> OpenTurn {
        loop {
            match OpenTurn::read(self.shared.bus.clone(), &self.key).await {
                Ok(open_turn) => return open_turn,
                Err(cause) => {
                    debug!(session = %self.key.session_id, %cause, "chat not read yet");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A session as it was read; goes on with an answer that was being written.
    async fn kept(&self, log: ChatLog, session: Session) -> Result<Kept, Lost> {
        let unfinished = session.last.clone().filter(Answer::is_running);
        let mut open_turn = self.open_turn().await;
        if unfinished.is_none() {
            open_turn.remove().await?;
        }
        let mut kept = Kept {
            session,
            open_turn,
            log: Some(log),
            running: None,
            lookups: FuturesUnordered::new(),
            used: Instant::now(),
        };
        if let Some(answer) = unfinished {
            info!(session = %self.key.session_id, answer = answer.number, "going on with an answer");
            self.write(&mut kept, answer, None, None);
        }
        Ok(kept)
    }

    /// Waits for the request that begins the session, as there is none.
    async fn begin(&mut self, log: ChatLog) -> Result<Option<Kept>, Lost> {
        let mut log = Some(log);
        loop {
            // Nobody has sent anything: a note is left from a log that is kept no
            // more.
            let request = match self.inputs.recv().now_or_never().flatten() {
                Some(Input::Request(request)) => request,
                Some(Input::Noted) => continue,
                None => {
                    self.open_turn().await.remove().await?;
                    return Ok(None);
                }
            };
            match (request.verb, log.take()) {
                (Verb::Start(start), Some(begun)) => {
                    match self.start(begun, &start, request.reply).await? {
                        Ok(kept) => return Ok(Some(kept)),
                        Err(untouched) => log = Some(untouched),
                    }
                }
                (_, rest) => {
                    log = rest;
                    self.shared.means.metrics.refused.add(1);
                    let refusal = not_found(&self.key.session_id);
                    request.reply.refuse(refusal).await;
                }
            }
        }
    }

    /// Has an answer written, which is begun by this orchestrator where there is a
    /// `place` for it.
    fn write(
        &self,
        kept: &mut Kept,
        answer: Answer,
        place: Option<Places>,
        trace: Option<&TraceContext>,
    ) {
        let Some(log) = kept.log.take() else {
            error!(session = %self.key.session_id, "the log is away");
            return;
        };
        let view = Arc::new(Mutex::new(View {
            number: log.number(),
            sequence: log.sequence(),
            chunks: answer.chunks,
            waits_since: None,
        }));
        let cancel = Stop::default();
        let agent = self
            .shared
            .agents
            .find(&kept.session.agent().agent_type)
            .cloned();
        let is_new = place.is_some();
        let turn = Turn::new(
            self.shared.means.clone(),
            agent,
            log,
            &kept.session,
            (self.key.clone(), answer.clone()),
            place.unwrap_or_else(|| self.places()),
            (cancel.clone(), Arc::clone(&view)),
        );
        let span = match trace {
            Some(trace) => Span::behind(trace, SCOPE, Kind::Internal, || "chat answer".into()),
            None => Span::root(SCOPE, Kind::Internal, || "chat answer recovered".into()),
        };
        let work: Writing = match is_new {
            true => Box::pin(trace::within(span, turn.run())),
            false => Box::pin(trace::within(span, turn.go_on())),
        };
        kept.session.begin(answer.without_rounds());
        kept.running = Some(Running {
            work,
            cancel,
            cancelled_by: Vec::new(),
            view,
        });
    }

    /// A place that an answer may have.
    fn places(&self) -> Places {
        let of_all = Arc::clone(&self.shared.answers);
        let metrics = self.shared.means.metrics.clone();
        Places::new(self.places.clone(), of_all, metrics)
    }

    async fn note_end(
        &self,
        kept: &mut Kept,
        written: Result<(ChatLog, Answer), Lost>,
    ) -> Result<(), Lost> {
        let Some(running) = kept.running.take() else {
            return Ok(());
        };
        let (log, answer) = written?;
        let number = answer.number;
        kept.log = Some(log);
        kept.session.finish(answer);
        kept.used = Instant::now();
        for reply in running.cancelled_by {
            let cancelled = ChatCancelled {
                session_id: self.key.session_id.clone(),
                answer: number,
            };
            reply.send(Outcome::Cancelled(cancelled)).await;
        }
        kept.open_turn.remove().await
    }

    async fn tell_tip(&self, number: u64) {
        let id = chat::log_id(&self.key.user_id, &self.key.session_id);
        log::tell_tip(&self.shared.bus, LogKind::Chat, &id, number).await;
    }
}

impl Kept {
    /// How far the log is.
    fn tip(&self) -> View {
        if let Some(running) = &self.running {
            return *running.view.lock();
        }
        View {
            number: self.log.as_ref().map_or(0, ChatLog::number),
            sequence: self.log.as_ref().map_or(0, ChatLog::sequence),
            chunks: self.session.last.as_ref().map_or(0, |last| last.chunks),
            waits_since: None,
        }
    }

    /// Since when the answer that is written does nothing but wait for people.
    fn waits_since(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        running.view.lock().waits_since
    }

    /// The number of the last record, as long as it is told: while something is
    /// written, and for a while behind it.
    fn tip_to_tell(&self) -> Option<u64> {
        let is_told = match (&self.running, self.waits_since()) {
            (Some(_), None) => true,
            (Some(_), Some(since)) => since.elapsed() < TIPS_PAST_END,
            (None, _) => self.used.elapsed() < TIPS_PAST_END,
        };
        is_told.then(|| self.tip().number)
    }

    fn is_idle(&self) -> bool {
        self.running.is_none() && self.lookups.is_empty()
    }
}

//! Chats with agents: what the client asks for. What is said in them comes from
//! their logs, see [`crate::chat`].

use std::rc::Rc;

use signalbox_identity::{Permission, Principal};
use signalbox_limits::{Key, Quota};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::threat::chat::{
    AgentErrorCode, CancelChat, ChatFrame, ChatMessage, ResumeChat, StartChat,
};
use signalbox_protocol::wire::chat_reply::Outcome;
use signalbox_protocol::wire::chat_request::Verb;
use signalbox_protocol::wire::{self, ChatError, ChatJoined, ChatRefusal};
use signalbox_protocol::{ErrorCode, chat};
use time::OffsetDateTime;
use tracing::{debug, info};
use uuid::Uuid;

use super::standing::Held;
use super::{AUDIT, Session};
use crate::access;
use crate::chat::{Passage, Reading, Seat, walk};
use crate::dialect::threat::chat as words;
use crate::dialect::{Answer, Chat, Dialect, Excess};

/// The name of the limit, as clients know it.
const CHATS: &str = "agent_chats_per_hour";
/// What is said when nobody can be asked.
const UNAVAILABLE: &str = "agents are out of reach now";
const NO_SUCH_CHAT: &str = "there is no such chat";

/// Why something about a chat was not done.
enum Trouble {
    /// The message was bad or not allowed.
    Complaint(Complaint),
    /// The client was told all there is to say.
    Told,
}

impl From<Complaint> for Trouble {
    fn from(complaint: Complaint) -> Self {
        Self::Complaint(complaint)
    }
}

impl<D: Dialect + 'static> Session<D> {
    /// Serves a message about chats.
    pub(super) async fn chat(&mut self, asked: Chat) -> Result<(), Complaint> {
        let served = match asked {
            Chat::Start(asked) => self.start_chat(asked).await,
            Chat::Say(asked) => self.say(asked).await,
            Chat::Cancel(asked) => self.cancel_chat(asked).await,
            Chat::Resume(asked) => self.resume_chat(asked).await,
            Chat::Follow {
                session,
                is_resumed,
            } => self.follow_chats(session, is_resumed).await,
        };
        match served {
            Ok(()) | Err(Trouble::Told) => Ok(()),
            Err(Trouble::Complaint(complaint)) => Err(complaint),
        }
    }

    async fn start_chat(&mut self, asked: StartChat) -> Result<(), Trouble> {
        let principal = self.chatter()?;
        self.count_chat(&principal).await?;
        let seat = self.seat(None).await?;
        let verb = Verb::Start(wire::StartChat {
            agent_type: asked.agent_type.clone(),
            context: asked.context.unwrap_or_default(),
            nonce: Uuid::new_v4().simple().to_string(),
        });
        let started = match self.ask(&seat, verb, None).await? {
            Outcome::Started(started) => started,
            Outcome::Refusal(refusal) if refusal.code() == ChatError::UnknownAgent => {
                return Err(unknown_agent(&asked.agent_type, &refusal).into());
            }
            other => return Err(self.refused(other, None)),
        };
        let session = started.session_id;
        info!(
            target: AUDIT,
            session = %self.name,
            subject = %principal.subject,
            agent = asked.agent_type,
            chat = session,
            "chat begun"
        );
        let tip = seat.tip(&session);
        // Its first record may have come that way already.
        if tip == 0 || !seat.is_subscribed() {
            let agent = started.agent.unwrap_or_default();
            let _sent = self.outbound.send_frame(&words::started(&session, &agent));
            seat.attach(&session, 2);
            if tip > 1 {
                let passage = Passage {
                    after: 1,
                    ..onward(&session, started.sequence)
                };
                self.read_back(&seat, passage);
            }
        } else {
            seat.attach(&session, tip + 1);
        }
        self.latest_chat = Some(session);
        Ok(())
    }

    async fn say(&mut self, asked: ChatMessage) -> Result<(), Trouble> {
        let principal = self.chatter()?;
        let session = self.named(asked.session_id)?;
        let seat = self.seat(Some(&session)).await?;
        let channels = access::readable(principal.permissions);
        // By then the client was told that it was not heard.
        let expires = OffsetDateTime::now_utc() + self.shard.shared.options.chat.patience;
        let expires_ms = expires.unix_timestamp_nanos() / 1_000_000;
        let verb = Verb::Message(wire::ChatMessage {
            expires_at_ms: u64::try_from(expires_ms).unwrap_or_default(),
            channels: channels.map(|channel| channel.name().to_owned()).collect(),
            permissions: principal.permissions.words().collect(),
            session_id: session.clone(),
            message: asked.message,
            context: asked.context.unwrap_or_default(),
            message_id: asked
                .message_id
                .unwrap_or_else(|| Uuid::new_v4().simple().to_string()),
        });
        let accepted = match self.ask(&seat, verb, Some(&session)).await? {
            Outcome::Accepted(accepted) => accepted,
            other => return Err(self.refused(other, Some(&session))),
        };
        debug!(
            session = %self.name,
            chat = session,
            answer = accepted.answer,
            repeated = accepted.repeated,
            "message accepted"
        );
        // What it is shown anyway needs no reading back, unless it asked before
        // and waits for an answer that it may have lost.
        if accepted.repeated {
            let joined = self.join(&seat, &session, accepted.answer, 0).await?;
            self.read_back(&seat, behind(&session, &joined));
        } else if !seat.follows(&session) {
            self.read_back(&seat, onward(&session, accepted.sequence));
        }
        Ok(())
    }

    async fn cancel_chat(&mut self, asked: CancelChat) -> Result<(), Trouble> {
        self.chatter()?;
        let session = self.named(asked.session_id)?;
        let seat = self.seat(Some(&session)).await?;
        let verb = Verb::Cancel(wire::CancelChat {
            session_id: session.clone(),
            answer: asked.answer.unwrap_or_default(),
        });
        match self.ask(&seat, verb, Some(&session)).await? {
            Outcome::Cancelled(cancelled) => {
                info!(
                    target: AUDIT,
                    session = %self.name,
                    chat = session,
                    answer = cancelled.answer,
                    "answer cancelled"
                );
                self.answer(&Answer::Chat(&ChatFrame::ChatCancelled {
                    session_id: &session,
                    answer: some(cancelled.answer),
                }));
                Ok(())
            }
            other => Err(self.refused(other, Some(&session))),
        }
    }

    async fn resume_chat(&mut self, asked: ResumeChat) -> Result<(), Trouble> {
        self.chatter()?;
        let session = self.named(Some(asked.session_id))?;
        let seat = self.seat(Some(&session)).await?;
        let answer = asked.answer.unwrap_or_default();
        let joined = self
            .join(&seat, &session, answer, asked.after_chunk)
            .await?;
        let passage = behind(&session, &joined);
        let Ok(reading) = seat.read(&passage.session) else {
            let message = "too many chats are being resumed on this connection";
            return Err(Complaint::plain(ErrorCode::RateLimit, message).into());
        };
        self.answer(&Answer::Chat(&ChatFrame::ChatResumed {
            session_id: &session,
            answer: some(joined.answer),
            after_chunk: asked.after_chunk,
            answering: joined.is_running,
        }));
        self.begin_walk(seat, reading, passage);
        Ok(())
    }

    async fn follow_chats(
        &mut self,
        session: Option<String>,
        is_resumed: bool,
    ) -> Result<(), Trouble> {
        self.chatter()?;
        self.has_room()?;
        let seat = match session {
            None => self.seat(None).await?,
            Some(ref session) => {
                let session = self.named(Some(session.clone()))?;
                let seat = self.seat(Some(&session)).await?;
                self.join(&seat, &session, 0, 0).await?;
                seat
            }
        };
        let name = self.next_name();
        seat.subscribe(session.as_deref());
        self.answer(&Answer::Subscribed {
            channel: Channel::AgentChat,
            subscription_id: &name,
            seq: self.shard.hub.borrow().cursor(),
            // Chats go on by chunk, not by position.
            recovered: is_resumed.then_some(false),
        });
        self.standing.hold(name, Held::Chats { session });
        Ok(())
    }

    /// The user, who may chat.
    fn chatter(&self) -> Result<Rc<Principal>, Complaint> {
        let Some(principal) = self.standing.principal() else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        let required = Permission::ChatAgents;
        if !principal.permissions.contains(required) {
            let message = format!("chats need permission {required}");
            return Err(Complaint::plain(ErrorCode::Forbidden, message));
        }
        Ok(principal)
    }

    /// Counts a chat against what the user may begin.
    async fn count_chat(&self, principal: &Principal) -> Result<(), Trouble> {
        let quota = Quota::per_hour(principal.limits.agent_chats_per_hour);
        let key = Key::chats(&principal.subject.to_string());
        let usage = self.shard.shared.limits.count(&key, quota, 1).await;
        if !usage.is_exceeded() {
            return Ok(());
        }
        debug!(session = %self.name, used = usage.used, limit = usage.limit, "too many chats");
        self.answer(&Answer::LimitExceeded(&Excess {
            limit_type: CHATS,
            used: usage.used,
            limit: usage.limit,
            resets_in: usage.resets_in,
        }));
        Err(Trouble::Told)
    }

    /// The chat that is meant.
    fn named(&self, session: Option<String>) -> Result<String, Trouble> {
        let Some(session) = session.or_else(|| self.latest_chat.clone()) else {
            let message = "no chat was begun on this connection: say which in `session_id`";
            return Err(self.failed(None, AgentErrorCode::SessionNotFound, message, false));
        };
        if chat::is_session_id(&session) {
            return Ok(session);
        }
        let code = AgentErrorCode::SessionNotFound;
        Err(self.failed(Some(&session), code, NO_SUCH_CHAT, false))
    }

    /// The connection's seat, once everything that is stored from then on is
    /// shown to it.
    async fn seat(&self, session: Option<&str>) -> Result<Rc<Seat>, Trouble> {
        let seat = match self.standing.seat() {
            Some(seat) => seat,
            None => {
                let user = self.chatter()?.subject.to_string();
                let taken = Seat::take(&self.shard, &user, self.outbound.clone());
                let Some(seat) = taken else {
                    return Err(self.unavailable(session));
                };
                self.standing.sit(Rc::clone(&seat));
                seat
            }
        };
        let patience = self.shard.shared.options.chat.patience;
        let is_set = seat.is_set(patience).await;
        // The credential may have been taken back meanwhile, and the seat with it.
        self.chatter()?;
        if is_set {
            Ok(seat)
        } else {
            Err(self.unavailable(session))
        }
    }

    /// Has something done, and looks again whether the client may still have it
    /// done.
    async fn ask(
        &self,
        seat: &Seat,
        verb: Verb,
        session: Option<&str>,
    ) -> Result<Outcome, Trouble> {
        let shared = &self.shard.shared;
        if !*shared.bus_present.borrow() {
            return Err(self.unavailable(session));
        }
        let orchestrators = shared.chats.orchestrators();
        let patience = shared.options.chat.patience;
        let answer = orchestrators.ask(seat.user(), verb, patience).await;
        self.chatter()?;
        answer.map_err(|_| self.unavailable(session))
    }

    /// Asks where an answer lies, 0 being the last one, of which the client has
    /// the chunks up to the given one.
    async fn join(
        &self,
        seat: &Seat,
        session: &str,
        answer: u32,
        after_chunk: u32,
    ) -> Result<ChatJoined, Trouble> {
        let verb = Verb::Join(wire::JoinChat {
            session_id: session.to_owned(),
            answer,
            after_chunk,
        });
        match self.ask(seat, verb, Some(session)).await? {
            Outcome::Joined(joined) => Ok(joined),
            other => Err(self.refused(other, Some(session))),
        }
    }

    /// Shows the client a part of a chat from the stream, and what follows.
    fn read_back(&self, seat: &Rc<Seat>, passage: Passage) {
        // Beyond the bound it is shown what comes; the rest can be resumed.
        let Ok(reading) = seat.read(&passage.session) else {
            seat.attach(&passage.session, 0);
            return;
        };
        self.begin_walk(Rc::clone(seat), reading, passage);
    }

    fn begin_walk(&self, seat: Rc<Seat>, reading: Reading, passage: Passage) {
        let (shard, outbound) = (Rc::clone(&self.shard), self.outbound.clone());
        self.replays
            .push(Box::pin(walk(shard, outbound, seat, reading, passage)));
    }

    /// Tells the client what an orchestrator refuses.
    fn refused(&self, outcome: Outcome, session: Option<&str>) -> Trouble {
        let Outcome::Refusal(refusal) = outcome else {
            debug!(session = %self.name, ?outcome, "an answer to something else");
            return self.unavailable(session);
        };
        if refusal.code() == ChatError::Invalid {
            let field = (!refusal.field.is_empty()).then(|| refusal.field.clone());
            return Trouble::Complaint(Complaint {
                code: ErrorCode::InvalidMessage,
                message: refusal.message,
                field,
            });
        }
        self.answer(&Answer::Chat(&words::refused(&refusal, session)));
        Trouble::Told
    }

    fn unavailable(&self, session: Option<&str>) -> Trouble {
        self.failed(session, AgentErrorCode::AgentUnavailable, UNAVAILABLE, true)
    }

    fn failed(
        &self,
        session: Option<&str>,
        code: AgentErrorCode,
        message: &str,
        retry_available: bool,
    ) -> Trouble {
        let frame = words::failed(session, code, message, retry_available);
        self.answer(&Answer::Chat(&frame));
        Trouble::Told
    }
}

/// A chat from a record on that was stored just now: the rest is told.
fn onward(session: &str, from: u64) -> Passage {
    Passage {
        session: session.into(),
        from,
        until: from,
        after: 0,
        known: (0, 0),
    }
}

/// A chat from an answer on, up to where it was when it was joined.
fn behind(session: &str, joined: &ChatJoined) -> Passage {
    Passage {
        session: session.into(),
        from: joined.sequence,
        until: joined.tip_sequence,
        // The client has the chat's opening, if not its first answer.
        after: joined.number.min(1),
        known: (joined.answer, joined.after_chunk),
    }
}

fn unknown_agent(asked: &str, refusal: &ChatRefusal) -> Complaint {
    let known = refusal.known_agents.join(", ");
    Complaint {
        code: ErrorCode::NotFound,
        message: format!("unknown agent `{asked}`: expected {known}"),
        field: Some("agent_type".to_owned()),
    }
}

/// A number, of which 0 is none.
const fn some(number: u32) -> Option<u32> {
    match number {
        0 => None,
        number => Some(number),
    }
}

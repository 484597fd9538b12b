//! Requests: the handshake, polls, bodies, and who gets to be upgraded.

use std::{error::Error, future::Future, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use signalbox_transport::{PendingUpgrade, upgrade};
use tokio::{task::yield_now, time::timeout};

use super::{
    Answer, EndReason, Engine, Layer, Session, SessionRequest, TakeUpgrade, UpgradeElsewhere, Verb,
    core::Core,
    poll::{BegunPoll, Given},
    polling::Polling,
    request::{Query, Refused, is_push},
};
use crate::codec::{Malformed, decode_payload};

/// Packets of one body that are handled before other tasks have their turn.
const PACKETS_PER_TURN: usize = 256;

impl<L: Layer> Engine<L> {
    /// Answers a request to the Engine.IO path. An upgrade is completed by a task of the engine.
    ///
    /// CORS, `Origin` and preflight requests are for the caller, who also sees to it that the
    /// future is dropped when the client gives up: [`serve_http`](signalbox_transport::serve_http)
    /// does. A poll counts from the call on, whether the future is polled or not.
    pub fn handle<B>(
        self: &Rc<Self>,
        request: Request<B>,
        peer: IpAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<L, B>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let begun = self.begin_request(request, peer);
        let engine = Rc::clone(self);
        async move {
            match begun {
                Begun::Answered(response) => response,
                Begun::Poll(poll) => poll.answer().await.into_response(),
                Begun::Push(request, push) => engine.push(request, push).await.into_response(),
                Begun::Elsewhere(request, sid) => {
                    engine.elsewhere(request, sid).await.into_response()
                }
            }
        }
    }

    fn begin_request<B>(self: &Rc<Self>, request: Request<B>, peer: IpAddr) -> Begun<L, B> {
        self.turn();
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(refused) => return refused.into(),
        };
        match (query.sid, query.websocket) {
            (None, false) => Begun::Answered(self.open_polling(request, peer).into_response()),
            (None, true) => Begun::Answered(self.open_websocket(request, peer)),
            (Some(sid), true) => Begun::Answered(self.request_upgrade(request, &sid, peer)),
            (Some(sid), false) => self.begin_session_request(request, sid),
        }
    }

    fn begin_session_request<B>(self: &Rc<Self>, request: Request<B>, sid: String) -> Begun<L, B> {
        let push = match is_push(request.method()) {
            Ok(push) => push,
            Err(refused) => return refused.into(),
        };
        let Some(session) = self.find(&sid) else {
            return Begun::Elsewhere(request, sid);
        };
        if push {
            match self.begin_push(session) {
                Ok(push) => Begun::Push(request, push),
                Err(refused) => refused.into(),
            }
        } else {
            match self.begin_poll(session) {
                Ok(poll) => Begun::Poll(poll),
                Err(refused) => refused.into(),
            }
        }
    }

    /// Answers a request to a session of this engine that came as a value, from another shard or
    /// gateway. Drop the future when the client gives up.
    pub async fn request(self: &Rc<Self>, request: SessionRequest) -> Answer {
        self.turn();
        let Some(session) = self.find(&request.sid) else {
            return Refused::Sid.answer();
        };
        match request.verb {
            Verb::Poll => match self.begin_poll(session) {
                Ok(poll) => poll.answer().await,
                Err(refused) => refused.answer(),
            },
            Verb::Push(body) => match self.begin_push(session) {
                Ok(push) => {
                    push.unread.keep();
                    if body.len() > push.session.link.max_payload() {
                        return self.give_up_body(&push.session, Refused::TooLarge);
                    }
                    self.take_body(&push.session, &body).await
                }
                Err(refused) => refused.answer(),
            },
            Verb::TooLarge => match self.begin_push(session) {
                Ok(push) => {
                    push.unread.keep();
                    self.give_up_body(&push.session, Refused::TooLarge)
                }
                Err(refused) => refused.answer(),
            },
        }
    }

    fn open_polling<B>(&self, request: Request<B>, peer: IpAddr) -> Answer {
        if request.method() != Method::GET {
            return Refused::Method.answer();
        }
        let unsettled = match self.make_room(peer) {
            Ok(unsettled) => unsettled,
            Err(refused) => return refused.answer(),
        };
        let (parts, _) = request.into_parts();
        match self.layer.admit(&parts, peer) {
            Ok(opening) => {
                let sid = self.layer.session_id().into();
                let session = self.begin(sid, opening, unsettled, None);
                Answer::ok(self.open_packet(&session.link))
            }
            Err(answer) => answer,
        }
    }

    fn open_websocket<B>(
        self: &Rc<Self>,
        request: Request<B>,
        peer: IpAddr,
    ) -> Response<Full<Bytes>> {
        let unsettled = match self.make_room(peer) {
            Ok(unsettled) => unsettled,
            Err(refused) => return refused.answer().into_response(),
        };
        let (parts, body) = request.into_parts();
        let opening = match self.layer.admit(&parts, peer) {
            Ok(opening) => opening,
            Err(answer) => return answer.into_response(),
        };
        let mut request = Request::from_parts(parts, body);
        let (response, pending) = match upgrade::accept(&mut request) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection.response(),
        };
        let engine = Rc::clone(self);
        self.core.spawn(async move {
            engine.serve_websocket(pending, opening, unsettled).await;
        });
        response.map(|_| Full::default())
    }

    fn request_upgrade<B>(
        self: &Rc<Self>,
        request: Request<B>,
        sid: &str,
        peer: IpAddr,
    ) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let take = match self.begin_upgrade(&parts, sid, peer) {
            Ok(take) => take,
            Err(answer) => return answer.into_response(),
        };
        match upgrade::accept(&mut Request::from_parts(parts, body)) {
            Ok((response, pending)) => {
                take(pending);
                response.map(|_| Full::default())
            }
            Err(rejection) => rejection.response(),
        }
    }

    /// Who takes the connection of an upgrade.
    fn begin_upgrade(
        self: &Rc<Self>,
        request: &Parts,
        sid: &str,
        peer: IpAddr,
    ) -> Result<TakeUpgrade, Answer> {
        let (engine, owned) = (Rc::clone(self), sid.to_owned());
        if self.by_sid.borrow().contains_key(sid) {
            return Ok(Box::new(move |pending| engine.upgrade(&owned, pending)));
        }
        match self.layer.upgrade_elsewhere(sid) {
            Some(UpgradeElsewhere::HandOn(take)) => Ok(take),
            Some(UpgradeElsewhere::Fetch(owner)) => {
                let unsettled = self.make_room(peer).map_err(Refused::answer)?;
                let opening = self.layer.admit(request, peer)?;
                Ok(Box::new(move |pending| {
                    engine.fetch(&owned, pending, owner, opening, unsettled);
                }))
            }
            None => Err(Refused::Sid.answer()),
        }
    }

    /// Upgrades a session of this engine to a WebSocket connection that was agreed to here or on
    /// another shard. One that cannot take over is closed with 1008; the session goes on as it was.
    pub fn upgrade(self: &Rc<Self>, sid: &str, pending: PendingUpgrade) {
        let engine = Rc::clone(self);
        let sid = sid.to_owned();
        self.core.spawn(async move {
            engine.probe(&sid, pending).await;
        });
    }

    async fn push<B>(&self, request: Request<B>, push: BegunPush<L>) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let session = &push.session;
        let body = self.read_body(request, session.link.max_payload()).await;
        push.unread.keep();
        match body {
            Ok(body) => self.take_body(session, &body).await,
            Err(refused) => self.give_up_body(session, refused),
        }
    }

    /// Ends a session whose client sends a body that is not taken.
    fn give_up_body(&self, session: &Rc<Session<L>>, refused: Refused) -> Answer {
        let reason = match refused {
            Refused::TooLarge => EndReason::TooLarge,
            _ => EndReason::TransportError,
        };
        self.end(session, reason);
        refused.answer()
    }

    async fn elsewhere<B>(&self, request: Request<B>, sid: String) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let verb = if request.method() == Method::POST {
            match self.read_body(request, self.options.max_payload).await {
                Ok(body) => Verb::Push(body),
                // Whoever has the session ends it.
                Err(Refused::TooLarge) => Verb::TooLarge,
                Err(refused) => return refused.answer(),
            }
        } else {
            Verb::Poll
        };
        let answer = self.layer.elsewhere(SessionRequest { sid, verb }).await;
        answer.unwrap_or_else(|| Refused::Sid.answer())
    }

    async fn read_body<B>(&self, request: Request<B>, max_bytes: usize) -> Result<Bytes, Refused>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if announces_more(request.headers(), max_bytes) {
            return Err(Refused::TooLarge);
        }
        let body = Limited::new(request.into_body(), max_bytes);
        match timeout(self.options.body_timeout, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refused::TooLarge),
            Ok(Err(_)) => Err(Refused::Bad),
            Err(_) => Err(Refused::Slow),
        }
    }

    /// Lets one body in at a time; a second ends the session, since their order is lost.
    fn begin_push(&self, session: Rc<Session<L>>) -> Result<BegunPush<L>, Refused> {
        let link = &session.link;
        if link.is_ended() {
            return Err(Refused::Sid);
        }
        let Some(polling) = link.polling.borrow().clone().filter(|_| !link.frozen.get()) else {
            return Err(Refused::Bad);
        };
        if polling.pushing.replace(true) {
            self.refuse(&session, Malformed::State);
            return Err(Refused::Bad);
        }
        Ok(BegunPush {
            unread: Given::new(&self.core, link.key),
            _pushing: Pushing {
                polling,
                core: Rc::clone(&self.core),
            },
            session,
        })
    }

    async fn take_body(&self, session: &Rc<Session<L>>, body: &[u8]) -> Answer {
        let packets = match decode_payload(body, self.options.max_packets) {
            Ok(packets) => packets,
            Err(malformed) => {
                self.refuse(session, malformed);
                return Refused::Bad.answer();
            }
        };
        for (count, packet) in packets.into_iter().enumerate() {
            if count > 0 && count.is_multiple_of(PACKETS_PER_TURN) {
                yield_now().await;
            }
            if session.link.is_ended() {
                break;
            }
            if let Err(malformed) = self.packet(session, packet) {
                self.refuse(session, malformed);
                return Refused::Bad.answer();
            }
        }
        Answer::ok("ok")
    }
}

/// A request after everything that could be done at once.
enum Begun<L: Layer, B> {
    Answered(Response<Full<Bytes>>),
    Poll(BegunPoll<L>),
    Push(Request<B>, BegunPush<L>),
    Elsewhere(Request<B>, String),
}

impl<L: Layer, B> From<Refused> for Begun<L, B> {
    fn from(refused: Refused) -> Self {
        Self::Answered(refused.answer().into_response())
    }
}

/// A POST whose body is still to be read.
struct BegunPush<L: Layer> {
    session: Rc<Session<L>>,
    unread: Given,
    _pushing: Pushing,
}

/// Lets the next body in when dropped.
struct Pushing {
    polling: Rc<Polling>,
    core: Rc<Core>,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.polling.pushing.set(false);
        self.core.calmer.notify_waiters();
    }
}

fn announces_more(headers: &HeaderMap, max_bytes: usize) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > max_bytes as u64)
}

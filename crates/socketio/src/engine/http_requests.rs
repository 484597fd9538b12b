//! Requests: the handshake, polls, bodies, and who gets to be upgraded.

use std::{error::Error, net::IpAddr, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use signalbox_transport::{PendingUpgrade, upgrade};
use tokio::{task::yield_now, time::timeout};

use super::{
    Answer, EndReason, Engine, Layer, Session, SessionRequest, Verb,
    polling::Polling,
    request::{Query, Refused, is_push},
};
use crate::codec::decode_payload;

/// Packets of one body that are handled before other tasks have their turn.
const PACKETS_PER_TURN: usize = 256;

impl<L: Layer> Engine<L> {
    /// Answers a request to the Engine.IO path. An upgrade is completed by a task of the engine.
    ///
    /// CORS, `Origin` and preflight requests are for the caller, who also sees to it that this
    /// future is dropped when the client gives up: [`serve_http`](signalbox_transport::serve_http)
    /// does.
    pub async fn handle<B>(
        self: &Rc<Self>,
        mut request: Request<B>,
        peer: IpAddr,
    ) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.turn();
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(refused) => return refused.answer().into_response(),
        };
        match (query.sid, query.websocket) {
            (None, false) => self.open_polling(request, peer).into_response(),
            (None, true) => self.open_websocket(request, peer),
            (Some(sid), true) => self.request_upgrade(&mut request, &sid),
            (Some(sid), false) => self.session_request(request, sid).await.into_response(),
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
            Verb::Poll => self.answer_poll(&session).await,
            Verb::Push(body) => match self.begin_push(&session) {
                Ok(_pushing) => self.take_body(&session, &body).await,
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
                let session = self.begin(opening, unsettled, None);
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
        request: &mut Request<B>,
        sid: &str,
    ) -> Response<Full<Bytes>> {
        let here = self.by_sid.borrow().contains_key(sid);
        let take = if here {
            None
        } else if let Some(take) = self.layer.upgrade_elsewhere(sid) {
            Some(take)
        } else {
            return Refused::Sid.answer().into_response();
        };
        match upgrade::accept(request) {
            Ok((response, pending)) => {
                match take {
                    Some(take) => take(pending),
                    None => self.upgrade(sid, pending),
                }
                response.map(|_| Full::default())
            }
            Err(rejection) => rejection.response(),
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

    async fn session_request<B>(self: &Rc<Self>, request: Request<B>, sid: String) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let push = match is_push(request.method()) {
            Ok(push) => push,
            Err(refused) => return refused.answer(),
        };
        let Some(session) = self.find(&sid) else {
            return self.elsewhere(request, sid, push).await;
        };
        if !push {
            return self.answer_poll(&session).await;
        }
        let _pushing = match self.begin_push(&session) {
            Ok(pushing) => pushing,
            Err(refused) => return refused.answer(),
        };
        let unread = Unread {
            engine: self,
            session: &session,
        };
        let body = self.read_body(request, session.link.max_payload()).await;
        std::mem::forget(unread);
        match body {
            Ok(body) => self.take_body(&session, &body).await,
            Err(refused) => {
                let reason = match refused {
                    Refused::TooLarge => EndReason::TooLarge,
                    _ => EndReason::TransportError,
                };
                self.end(&session, reason);
                refused.answer()
            }
        }
    }

    async fn elsewhere<B>(&self, request: Request<B>, sid: String, push: bool) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let verb = if push {
            match self.read_body(request, self.options.max_payload).await {
                Ok(body) => Verb::Push(body),
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
    fn begin_push(&self, session: &Rc<Session<L>>) -> Result<Pushing, Refused> {
        let link = &session.link;
        if link.is_ended() {
            return Err(Refused::Sid);
        }
        let Some(polling) = link.polling.borrow().clone() else {
            return Err(Refused::Bad);
        };
        if polling.pushing.replace(true) {
            self.refuse(session, crate::Malformed::State);
            return Err(Refused::Bad);
        }
        Ok(Pushing(polling))
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

/// Lets the next body in when dropped.
struct Pushing(Rc<Polling>);

impl Drop for Pushing {
    fn drop(&mut self) {
        self.0.pushing.set(false);
    }
}

/// Ends the session of a body that its client gave up.
struct Unread<'a, L: Layer> {
    engine: &'a Engine<L>,
    session: &'a Session<L>,
}

impl<L: Layer> Drop for Unread<'_, L> {
    fn drop(&mut self) {
        self.engine.core.add_chore(super::Chore::End(
            self.session.link.key,
            EndReason::TransportError,
        ));
    }
}

fn announces_more(headers: &HeaderMap, max_bytes: usize) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > max_bytes as u64)
}

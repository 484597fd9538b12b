//! What Engine.IO sees of Socket.IO.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
};

use http::request::Parts;
use tokio::time::Instant;

use super::{Client, DisconnectReason, Handler, MemberState, Socket, SocketIo};
use crate::{
    Answer, EndReason, Layer, Link, Malformed, SessionRequest, UpgradeElsewhere,
    engine::{ClientState, Deadline, Message, Session},
};

impl<H: Handler> Layer for SocketIo<H> {
    type Opening = H::Opening;
    type Session = Client<H>;

    fn session_id(&self) -> String {
        self.handler.session_id()
    }

    fn admit(&self, request: &Parts, peer: IpAddr) -> Result<Self::Opening, Answer> {
        self.handler.open(request, peer)
    }

    fn open(&self, link: &Rc<Link>, opening: Self::Opening) -> Self::Session {
        let until = Instant::now() + self.options.connect_timeout;
        link.set_deadline(until);
        let opening = Rc::new(opening);
        self.handler.opened(link, &opening);
        Client {
            opening,
            members: RefCell::default(),
            assembler: RefCell::default(),
            lonely_until: Cell::new(Some(until)),
            left_any: Cell::default(),
        }
    }

    fn message(&self, session: &Rc<Session<Self>>, message: Message<'_>) -> Result<(), Malformed> {
        match message {
            Message::Text(text) => self.text(session, text),
            Message::Binary(bytes) => self.binary(&session.data, bytes),
        }
    }

    fn deadline(&self, session: &Rc<Session<Self>>, now: Instant) -> Deadline {
        let client = &session.data;
        let mut lonely = client.lonely_until.get();
        if lonely.is_some_and(|until| until <= now) {
            if !client.is_awaiting_verdict() {
                return Deadline::End;
            }
            // The handler takes its time; the client has done its part.
            lonely = Some(now + self.options.connect_timeout);
            client.lonely_until.set(lonely);
        }
        let sockets: Vec<Socket> = client
            .members
            .borrow()
            .iter()
            .map(|member| member.socket.clone())
            .collect();
        let acks = sockets.iter().filter_map(|socket| socket.expire_acks(now));
        match acks.chain(lonely).min() {
            Some(next) => Deadline::Again(next),
            None => Deadline::Done,
        }
    }

    fn ended(&self, session: &Rc<Session<Self>>, reason: EndReason) {
        let client = &session.data;
        client.assembler.take();
        for member in client.members.take() {
            let reason = if member.socket.was_disconnected() {
                DisconnectReason::ServerLeft
            } else {
                DisconnectReason::Ended(reason)
            };
            self.depart(client, &member, reason);
        }
    }

    fn left(&self, session: &Rc<Session<Self>>, namespace: &str) {
        let client = &session.data;
        let gone = client.members.borrow().iter().any(|member| {
            &**member.socket.namespace() == namespace && member.socket.was_disconnected()
        });
        if gone && let Some(member) = client.take(namespace) {
            self.depart(client, &member, DisconnectReason::ServerLeft);
            self.look_lonely(session);
        }
    }

    async fn elsewhere(&self, request: SessionRequest) -> Option<Answer> {
        self.handler.elsewhere(request).await
    }

    fn upgrade_elsewhere(&self, sid: &str) -> Option<UpgradeElsewhere> {
        self.handler.upgrade_elsewhere(sid)
    }

    fn is_busy(&self, session: &Session<Self>) -> bool {
        let members = session.data.members.borrow();
        members.iter().any(|member| match &member.state {
            MemberState::Connecting(..) => true,
            MemberState::In(data) => self.handler.is_busy(&member.socket, data),
        })
    }

    fn freeze(&self, session: &Session<Self>) -> Option<ClientState> {
        self.freeze_client(&session.data)
    }

    fn moved(&self, session: &Rc<Session<Self>>) {
        let client = &session.data;
        client.assembler.take();
        for member in client.members.take() {
            self.depart(client, &member, DisconnectReason::Moved);
        }
    }

    fn thaw_opening(&self, here: Self::Opening, opening: &[u8]) -> Option<Self::Opening> {
        self.handler.thaw_opening(here, opening)
    }

    async fn thaw(&self, session: &Rc<Session<Self>>, state: ClientState) -> bool {
        self.thaw_client(session, state).await
    }
}

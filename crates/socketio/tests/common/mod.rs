//! A server on a port of its own, and clients that speak HTTP and raw frames, so that a test
//! controls every byte. One file, since every test needs both sides, and each test binary
//! compiles what is here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod neighbours;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{self, Future},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use http::request::Parts;
use hyper::service::service_fn;
use serde_json::{Value, json};
use signalbox_socketio::{
    Ack, Answer, Connecting, DisconnectReason, Engine, EngineOptions, Event, Handler, Layer,
    Packet, Refusal, SessionRequest, Socket, SocketIo, SocketIoOptions, UpgradeElsewhere, Verdict,
};
use signalbox_transport::{HttpLimits, serve_http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::spawn_local,
    time::{sleep, timeout},
};

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Fails the test if it takes too long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("in time")
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = timeout(DEADLINE, async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// A server whose handler does what clients ask it to.
#[derive(Default)]
pub(crate) struct Desk {
    /// Who is in, in the order of arrival.
    pub(crate) members: RefCell<Vec<Socket>>,
    /// Who left, and why.
    pub(crate) left: RefCell<Vec<(Rc<str>, DisconnectReason)>>,
    /// Names of events that came.
    pub(crate) events: RefCell<Vec<String>>,
    /// Events of `/recover`, by offset.
    pub(crate) history: RefCell<Vec<String>>,
    /// Secrets of recoverable sockets, with their ids.
    pub(crate) pids: RefCell<Vec<(String, Rc<str>)>>,
    /// Verdicts on `/slow` that are awaited.
    pub(crate) deciding: Rc<Cell<usize>>,
    /// Whether `/slow` has a verdict.
    pub(crate) decided: tokio::sync::Notify,
    /// What was [published](Desk::publish), with its namespace.
    pub(crate) log: RefCell<Vec<(String, Packet)>>,
    /// Acknowledgements that `owe` keeps.
    pub(crate) owed: RefCell<Vec<Ack>>,
    /// Whether sockets may move away.
    pub(crate) rooted: Cell<bool>,
    /// Whether sockets that come are turned away.
    pub(crate) closed: Cell<bool>,
    /// Where sessions are that are not here.
    pub(crate) elsewhere: RefCell<Option<Rc<dyn neighbours::Elsewhere>>>,
}

/// Counts down when dropped.
struct Deciding(Rc<Cell<usize>>);

impl Drop for Deciding {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Desk {
    pub(crate) fn broadcast(&self, namespace: &str, packet: &Packet) {
        for member in self.members.borrow().iter() {
            if &**member.namespace() == namespace {
                let _sent = member.emit(packet);
            }
        }
    }

    /// As [`broadcast`](Self::broadcast), and keeps it for sockets that are on their way here.
    pub(crate) fn publish(&self, namespace: &str, packet: &Packet) {
        let entry = (namespace.to_owned(), packet.clone());
        self.log.borrow_mut().push(entry);
        self.broadcast(namespace, packet);
    }

    fn recover(&self, connecting: &Connecting<Self>) {
        let asked = connecting.recovery();
        let known = asked.as_ref().and_then(|asked| {
            let pids = self.pids.borrow();
            pids.iter().find(|(pid, _)| *pid == asked.pid).cloned()
        });
        let Some((pid, id)) = known else {
            let pid = signalbox_socketio::random_id();
            self.pids
                .borrow_mut()
                .push((pid.clone(), connecting.socket().id()));
            connecting.offer_recovery(pid);
            return;
        };
        connecting.restore_id(id);
        connecting.offer_recovery(pid);
        let offset = asked.and_then(|asked| asked.offset);
        let seen = offset.map_or(0, |offset| offset.parse::<usize>().unwrap() + 1);
        for (at, text) in self.history.borrow().iter().enumerate().skip(seen) {
            let _sent = connecting.socket().emit(&missed(at, text));
        }
    }
}

/// An event of `/recover`.
pub(crate) fn missed(at: usize, text: &str) -> Packet {
    Packet::event("/recover", "news")
        .value(&text.into())
        .offset(&at.to_string())
        .build()
}

impl Handler for Desk {
    type Opening = String;
    type Data = ();

    fn open(&self, request: &Parts, _peer: IpAddr) -> Result<String, Answer> {
        let query = request.uri.query().unwrap_or_default();
        if query.contains("token=bad") {
            return Err(Answer::denied(http::StatusCode::FORBIDDEN, "bad token"));
        }
        Ok(query.to_owned())
    }

    async fn connect(self: Rc<Self>, connecting: Connecting<Self>) -> Verdict<()> {
        match connecting.namespace() {
            "/" | "/ws" => {}
            "/slow" => {
                self.deciding.set(self.deciding.get() + 1);
                let _deciding = Deciding(Rc::clone(&self.deciding));
                self.decided.notified().await;
            }
            "/recover" => self.recover(&connecting),
            "/later" => return Verdict::Close,
            "/private" => {
                return Verdict::Refuse(Refusal {
                    message: "not for you".to_owned(),
                    data: Some(json!({"code": 7})),
                });
            }
            _ => return Verdict::Refuse(Refusal::invalid_namespace()),
        }
        self.members.borrow_mut().push(connecting.socket().clone());
        Verdict::Accept(())
    }

    fn connected(&self, socket: &Socket, _: &Rc<()>) {
        let greeting = Packet::event(socket.namespace(), "hello").build();
        if &**socket.namespace() == "/ws" {
            let _sent = socket.emit(&greeting);
        }
    }

    fn event(&self, socket: &Socket, _: &Rc<()>, event: Event<'_>, ack: Option<Ack>) {
        self.events.borrow_mut().push(event.name.to_string());
        let mut back = Packet::event(socket.namespace(), "back");
        match (event.name.as_ref(), ack) {
            ("echo", Some(ack)) => {
                let _sent = ack.send(|mut answer| {
                    for argument in &event.arguments {
                        answer = answer.raw(argument);
                    }
                    answer.attachments(event.attachments)
                });
            }
            ("echo", None) => {
                for argument in &event.arguments {
                    back = back.raw(argument);
                }
                let _sent = socket.emit(&back.attachments(event.attachments).build());
            }
            ("ask", _) => {
                let question = Packet::event(socket.namespace(), "question").value(&json!(1));
                let answer = socket.emit_with_ack(question, Duration::from_millis(300));
                let socket = socket.clone();
                spawn_local(async move {
                    let said = match answer.await {
                        Ok(answer) => json!(answer.arguments),
                        Err(error) => Value::from(error.to_string()),
                    };
                    let packet = Packet::event(socket.namespace(), "answered").value(&said);
                    let _sent = socket.emit(&packet.build());
                });
            }
            ("owe", Some(ack)) => self.owed.borrow_mut().push(ack),
            ("kick", _) => socket.disconnect(),
            ("drop", _) => socket.close(),
            _ => {}
        }
    }

    fn session_id(&self) -> String {
        let elsewhere = self.elsewhere.borrow();
        let id = elsewhere
            .as_ref()
            .and_then(|elsewhere| elsewhere.session_id());
        id.unwrap_or_else(signalbox_socketio::random_id)
    }

    async fn elsewhere(&self, request: SessionRequest) -> Option<Answer> {
        let elsewhere = self.elsewhere.borrow().clone()?;
        elsewhere.request(request).await
    }

    fn upgrade_elsewhere(&self, sid: &str) -> Option<UpgradeElsewhere> {
        self.elsewhere.borrow().as_ref()?.upgrade(sid)
    }

    fn freeze(&self, socket: &Socket, _: &Rc<()>) -> Option<Vec<u8>> {
        let position = self.log.borrow().len();
        let state = format!("{} {position}", socket.namespace());
        (!self.rooted.get()).then(|| state.into_bytes())
    }

    fn freeze_opening(&self, opening: &String) -> Option<Vec<u8>> {
        Some(opening.clone().into_bytes())
    }

    fn thaw_opening(&self, here: String, opening: &[u8]) -> Option<String> {
        assert!(here.contains("transport=websocket"), "{here}");
        String::from_utf8(opening.to_vec()).ok()
    }

    async fn thaw(self: Rc<Self>, socket: Socket, _: Rc<String>, data: Vec<u8>) -> Option<()> {
        let data = String::from_utf8(data).unwrap();
        let (namespace, position) = data.split_once(' ').unwrap();
        assert_eq!(namespace, &**socket.namespace());
        // As a handler that has to ask somebody.
        tokio::task::yield_now().await;
        if self.closed.get() {
            return None;
        }
        for (of, packet) in self.log.borrow().iter().skip(position.parse().unwrap()) {
            if of == namespace {
                let _sent = socket.emit(packet);
            }
        }
        self.members.borrow_mut().push(socket);
        Some(())
    }

    fn disconnect(&self, socket: &Socket, _: &Rc<()>, reason: DisconnectReason) {
        self.members.borrow_mut().retain(|member| member != socket);
        let mut left = self.left.borrow_mut();
        left.push((Rc::clone(socket.namespace()), reason));
    }
}

pub(crate) struct TestServer {
    pub(crate) engine: Rc<Engine<SocketIo<Desk>>>,
    pub(crate) desk: Rc<Desk>,
    pub(crate) address: SocketAddr,
}

/// Settings that let tests end soon; heartbeats are out of the way.
pub(crate) fn quick() -> (EngineOptions, SocketIoOptions) {
    let engine = EngineOptions {
        upgrade_timeout: Duration::from_millis(400),
        body_timeout: Duration::from_millis(400),
        max_unsettled_per_address: 100_000,
        outbound: signalbox_transport::OutboundLimits {
            close_grace: Duration::from_millis(400),
            ..signalbox_transport::OutboundLimits::default()
        },
        ..EngineOptions::default()
    };
    (engine, SocketIoOptions::default())
}

/// Serves HTTP for an engine.
pub(crate) async fn serve<L: Layer>(listener: TcpListener, engine: Rc<Engine<L>>) {
    let limits = HttpLimits {
        write_timeout: Duration::from_millis(400),
        ..HttpLimits::default()
    };
    while let Ok((stream, peer)) = listener.accept().await {
        let engine = Rc::clone(&engine);
        spawn_local(async move {
            let service = service_fn(move |request| {
                let answer = engine.handle(request, peer.ip());
                async move { Ok::<_, Infallible>(answer.await) }
            });
            serve_http(stream, service, &limits, future::pending())
                .await
                .ok();
        });
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        let (engine, layer) = quick();
        Self::with(engine, layer).await
    }

    pub(crate) async fn with(engine: EngineOptions, layer: SocketIoOptions) -> Self {
        let desk = Rc::<Desk>::default();
        let engine = Engine::new(SocketIo::new(Rc::clone(&desk), layer), engine);
        let driver = Rc::clone(&engine);
        spawn_local(async move { driver.run().await });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(serve(listener, Rc::clone(&engine)));
        Self {
            engine,
            desk,
            address,
        }
    }

    pub(crate) async fn http(&self) -> Http {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Http(stream)
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, query: &str) -> (u16, String) {
        self.http().await.get(query).await
    }

    pub(crate) async fn post(&self, sid: &str, body: impl AsRef<[u8]>) -> (u16, String) {
        self.http().await.post(sid, body.as_ref()).await
    }

    pub(crate) async fn poll(&self, sid: &str) -> (u16, String) {
        self.get(&polling(sid)).await
    }

    /// Opens a polling session and gives its id.
    pub(crate) async fn open(&self) -> String {
        let (status, body) = self.get("EIO=4&transport=polling").await;
        assert_eq!(status, 200, "{body}");
        sid_of(&body)
    }

    /// Opens a polling session in a namespace.
    pub(crate) async fn join(&self, namespace: &str) -> String {
        let sid = self.open().await;
        let (status, _) = self.post(&sid, format!("40{namespace},")).await;
        assert_eq!(status, 200);
        let (_, body) = self.poll(&sid).await;
        assert!(body.starts_with("40"), "{body}");
        sid
    }

    /// Opens a session over WebSocket.
    pub(crate) async fn websocket(&self) -> Ws {
        let mut ws = self.upgrade("EIO=4&transport=websocket").await.unwrap();
        assert!(ws.text().await.starts_with("0{"));
        ws
    }

    /// Opens a session over WebSocket in a namespace.
    pub(crate) async fn joined(&self, namespace: &str) -> Ws {
        let mut ws = self.websocket().await;
        ws.send(&format!("40{namespace},")).await;
        let answer = ws.text().await;
        assert!(answer.starts_with("40"), "{answer}");
        ws
    }

    /// A WebSocket connection, or the status of the refusal.
    pub(crate) async fn upgrade(&self, query: &str) -> Result<Ws, u16> {
        self.upgrade_over(TcpStream::connect(self.address).await.unwrap(), query)
            .await
    }

    /// A WebSocket connection whose client's kernel takes as little as it can.
    pub(crate) async fn narrow(&self, query: &str) -> Ws {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        self.upgrade_over(stream, query).await.unwrap()
    }

    async fn upgrade_over(&self, stream: TcpStream, query: &str) -> Result<Ws, u16> {
        let mut http = Http(stream);
        let request = format!(
            "GET /socket.io/?{query} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        http.0.write_all(request.as_bytes()).await.unwrap();
        match soon(http.head()).await {
            Some((101, _)) => Ok(Ws(http.0)),
            Some((status, _)) => Err(status),
            None => Err(0),
        }
    }
}

pub(crate) fn polling(sid: &str) -> String {
    format!("EIO=4&transport=polling&sid={sid}")
}

pub(crate) fn sid_of(open: &str) -> String {
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

/// An HTTP connection.
pub(crate) struct Http(pub(crate) TcpStream);

impl Http {
    pub(crate) async fn get(&mut self, query: &str) -> (u16, String) {
        self.begin_get(query).await;
        self.answer().await
    }

    pub(crate) async fn begin_get(&mut self, query: &str) {
        let request = format!("GET /socket.io/?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    pub(crate) async fn post(&mut self, sid: &str, body: &[u8]) -> (u16, String) {
        self.begin_post(sid, body.len()).await;
        // One that is refused early is not read to its end.
        self.0.write_all(body).await.ok();
        self.answer().await
    }

    /// The head of a POST with a body of `length` bytes.
    pub(crate) async fn begin_post(&mut self, sid: &str, length: usize) {
        let request = format!(
            "POST /socket.io/?{} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n",
            polling(sid)
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> (u16, String) {
        soon(async {
            let (status, length) = self.head().await.expect("an answer");
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            (status, String::from_utf8(body).unwrap())
        })
        .await
    }

    /// Status and length of an answer; `None` at the end of the connection.
    async fn head(&mut self) -> Option<(u16, usize)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        Some((status, length))
    }
}

/// What a WebSocket connection brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
    End,
}

/// A WebSocket connection.
pub(crate) struct Ws(pub(crate) TcpStream);

impl Ws {
    pub(crate) async fn send(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes()).await;
    }

    pub(crate) async fn binary(&mut self, bytes: &[u8]) {
        self.frame(0x82, bytes).await;
    }

    /// A message of that many bytes.
    pub(crate) async fn frame_of(&mut self, bytes: usize) {
        self.send(&format!("42[\"{}\"]", "x".repeat(bytes))).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let frame = masked(first, payload);
        // A server that has refused the first bytes may be gone.
        self.0.write_all(&frame).await.ok();
    }

    pub(crate) async fn receive(&mut self) -> Frame {
        soon(async {
            let Ok(first) = self.0.read_u8().await else {
                return Frame::End;
            };
            let len = match self.0.read_u8().await.unwrap() {
                126 => usize::from(self.0.read_u16().await.unwrap()),
                127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            if self.0.read_exact(&mut payload).await.is_err() {
                return Frame::End;
            }
            match first {
                0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
                0x82 => Frame::Binary(payload),
                0x88 => Frame::Close(u16::from_be_bytes([payload[0], payload[1]])),
                other => panic!("frame {other:x}"),
            }
        })
        .await
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.receive().await {
            Frame::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Reads to the Close frame and gives its code; zero if the connection ends without.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match self.receive().await {
                Frame::Close(code) => return code,
                Frame::End => return 0,
                _ => {}
            }
        }
    }
}

/// A text frame in wire form.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    masked(0x81, text.as_bytes())
}

/// A client's frame in wire form, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

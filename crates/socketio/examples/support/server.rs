//! What the examples that measure share: a server with one room, and the client's side in raw
//! frames.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::{cell::RefCell, convert::Infallible, error::Error, future, io, net::IpAddr, rc::Rc};

use http::request::Parts;
use hyper::service::service_fn;
use signalbox_socketio::{
    Ack, Answer, Connecting, DisconnectReason, Engine, EngineOptions, Event, Handler, Socket,
    SocketIo, SocketIoOptions, Verdict,
};
use signalbox_transport::{HttpLimits, serve_http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Joins the namespace of most examples.
pub(crate) const CONNECT: &str = "40/ws,";

/// Everyone who is in.
pub(crate) struct Rooms(pub(crate) Rc<RefCell<Vec<Socket>>>);

impl Handler for Rooms {
    type Opening = ();
    type Data = ();

    fn open(&self, _request: &Parts, _peer: IpAddr) -> Result<(), Answer> {
        Ok(())
    }

    async fn connect(self: Rc<Self>, _connecting: Connecting<Self>) -> Verdict<()> {
        Verdict::Accept(())
    }

    fn connected(&self, socket: &Socket, _data: &Rc<()>) {
        self.0.borrow_mut().push(socket.clone());
    }

    fn event(&self, _: &Socket, _: &Rc<()>, _: Event<'_>, _: Option<Ack>) {}

    fn disconnect(&self, socket: &Socket, _: &Rc<()>, _: DisconnectReason) {
        self.0.borrow_mut().retain(|member| member != socket);
    }
}

/// An engine without a limit per address, since all clients come from one.
pub(crate) fn engine(rooms: Rooms) -> Rc<Engine<SocketIo<Rooms>>> {
    let options = EngineOptions {
        max_unsettled_per_address: usize::MAX,
        ..EngineOptions::default()
    };
    let layer = SocketIo::new(Rc::new(rooms), SocketIoOptions::default());
    Engine::new(layer, options)
}

/// Serves one connection.
pub(crate) async fn accept_one(stream: TcpStream, engine: Rc<Engine<SocketIo<Rooms>>>) {
    let service = service_fn(move |request| {
        let engine = Rc::clone(&engine);
        async move { Ok::<_, Infallible>(engine.handle(request, [127, 0, 0, 1].into()).await) }
    });
    serve_http(stream, service, &HttpLimits::default(), future::pending())
        .await
        .ok();
}

/// Opens a session over WebSocket and reads its first packet.
pub(crate) async fn handshake(stream: &mut TcpStream) -> Result<(), Box<dyn Error>> {
    stream
        .write_all(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\n\
              Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await?;
    let mut end = [0; 4];
    while &end != b"\r\n\r\n" {
        end.rotate_left(1);
        end[3] = stream.read_u8().await?;
    }
    read_text(stream).await?;
    Ok(())
}

/// Sends a short text frame.
pub(crate) async fn send(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await
}

/// Reads a text frame.
pub(crate) async fn read_text(stream: &mut TcpStream) -> Result<String, Box<dyn Error>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let len = match head[1] {
        126 => usize::from(stream.read_u16().await?),
        len => usize::from(len),
    };
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).await?;
    Ok(String::from_utf8(payload)?)
}

//! A server in the setting that the protocol's own test suites expect: Socket.IO at `/socket.io/`
//! and an Engine.IO echo at `/engine.io/`. `cargo run --release -p signalbox-socketio --example
//! conformance -- --port 3000`

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    convert::Infallible,
    error::Error,
    future::{self, Future},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use serde_json::{Map, Value};
use signalbox_socketio::{
    Ack, Answer, Connecting, DisconnectReason, EndReason, Engine, EngineOptions, Event, Handler,
    Layer, Link, Malformed, Packet, Refusal, Socket, SocketIo, SocketIoOptions, Verdict,
    engine::{Deadline, Message, Session},
};
use signalbox_transport::{HttpLimits, serve_http};
use tokio::{net::TcpListener, task::spawn_local, time::Instant};

/// A server for the protocol's own test suites.
#[derive(Parser)]
struct Args {
    /// Where to listen, on the loopback addresses of IPv4 and, if it has them, IPv6.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Milliseconds from the opening to the first ping, and from ping to ping.
    #[arg(long, default_value_t = 300)]
    ping_interval: u64,
    /// Milliseconds to answer a ping.
    #[arg(long, default_value_t = 200)]
    ping_timeout: u64,
    /// Milliseconds that a session may be in no namespace.
    #[arg(long, default_value_t = 1000)]
    connect_timeout: u64,
}

/// Sends every message back.
struct Echo;

impl Layer for Echo {
    type Opening = ();
    type Session = ();

    fn admit(&self, _request: &Parts, _peer: IpAddr) -> Result<(), Answer> {
        Ok(())
    }

    fn open(&self, _link: &Rc<Link>, (): ()) {}

    fn message(&self, session: &Rc<Session<Self>>, message: Message<'_>) -> Result<(), Malformed> {
        // A session that takes no more ends by itself.
        let _sent = match message {
            Message::Text(text) => session.link.send_text(text),
            Message::Binary(bytes) => session.link.send_binary(&bytes),
        };
        Ok(())
    }

    fn deadline(&self, _session: &Rc<Session<Self>>, _now: Instant) -> Deadline {
        Deadline::Done
    }

    fn ended(&self, _session: &Rc<Session<Self>>, _reason: EndReason) {}
}

/// Two namespaces that send everything back.
struct Namespaces;

impl Handler for Namespaces {
    type Opening = ();
    type Data = Map<String, Value>;

    fn open(&self, _request: &Parts, _peer: IpAddr) -> Result<(), Answer> {
        Ok(())
    }

    async fn connect(self: Rc<Self>, connecting: Connecting<Self>) -> Verdict<Self::Data> {
        match connecting.namespace() {
            "/" | "/custom" => Verdict::Accept(connecting.auth().clone()),
            _ => Verdict::Refuse(Refusal::invalid_namespace()),
        }
    }

    fn connected(&self, socket: &Socket, auth: &Rc<Self::Data>) {
        let auth = Value::Object((**auth).clone());
        let packet = Packet::event(socket.namespace(), "auth").value(&auth);
        let _sent = socket.emit(&packet.build());
    }

    fn event(&self, socket: &Socket, _: &Rc<Self::Data>, event: Event<'_>, ack: Option<Ack>) {
        match (event.name.as_ref(), ack) {
            ("message", _) => {
                let mut back = Packet::event(socket.namespace(), "message-back");
                for argument in event.arguments {
                    back = back.raw(argument);
                }
                let _sent = socket.emit(&back.attachments(event.attachments).build());
            }
            ("message-with-ack", Some(ack)) => {
                let _sent = ack.send(|mut answer| {
                    for argument in event.arguments {
                        answer = answer.raw(argument);
                    }
                    answer.attachments(event.attachments)
                });
            }
            _ => {}
        }
    }

    fn disconnect(&self, _: &Socket, _: &Rc<Self::Data>, _: DisconnectReason) {}
}

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let options = EngineOptions {
        ping_interval: Duration::from_millis(args.ping_interval),
        ping_timeout: Duration::from_millis(args.ping_timeout),
        max_payload: 1_000_000,
        ..EngineOptions::default()
    };
    let socket_io = SocketIo::new(
        Rc::new(Namespaces),
        SocketIoOptions {
            connect_timeout: Duration::from_millis(args.connect_timeout),
            ..SocketIoOptions::default()
        },
    );
    let server = Rc::new(Server {
        echo: Engine::new(Echo, options),
        socket_io: Engine::new(socket_io, options),
    });
    let driver = Rc::clone(&server);
    spawn_local(async move { tokio::join!(driver.echo.run(), driver.socket_io.run()) });

    let first = TcpListener::bind(("127.0.0.1", args.port)).await?;
    let addr = first.local_addr()?;
    if let Ok(second) = TcpListener::bind(("::1", addr.port())).await {
        spawn_local(accept(second, Rc::clone(&server)));
    }
    println!("listening on http://{addr}");
    accept(first, server).await;
    Ok(())
}

struct Server {
    echo: Rc<Engine<Echo>>,
    socket_io: Rc<Engine<SocketIo<Namespaces>>>,
}

/// An answer under way.
type Answering = Pin<Box<dyn Future<Output = Response<Full<Bytes>>>>>;

impl Server {
    fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Answering {
        match request.uri().path() {
            "/engine.io/" => Box::pin(self.echo.handle(request, peer.ip())),
            "/socket.io/" => Box::pin(self.socket_io.handle(request, peer.ip())),
            _ => {
                let mut response = Response::new(Full::from("nothing is served here\n"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                Box::pin(future::ready(response))
            }
        }
    }
}

async fn accept(listener: TcpListener, server: Rc<Server>) {
    while let Ok((stream, peer)) = listener.accept().await {
        let server = Rc::clone(&server);
        spawn_local(async move {
            let service = service_fn(move |request| {
                let answer = server.handle(request, peer);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            serve_http(stream, service, &HttpLimits::default(), future::pending())
                .await
                .ok();
        });
    }
}

//! Sessions of another engine, as on another shard or gateway: polls, bodies and upgrades that
//! arrive at the wrong one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::IpAddr, rc::Rc};

use common::{TestServer, polling, quick};
use http::request::Parts;
use signalbox_socketio::{
    Ack, Answer, Connecting, DisconnectReason, Engine, Event, Handler, SessionRequest, Socket,
    SocketIo, UpgradeElsewhere, Verdict,
};
use tokio::{net::TcpListener, task::spawn_local};

/// Has no sessions of its own, but knows who does.
struct Neighbour(Rc<Engine<SocketIo<common::Desk>>>);

impl Handler for Neighbour {
    type Opening = ();
    type Data = ();

    fn open(&self, _request: &Parts, _peer: IpAddr) -> Result<(), Answer> {
        Err(Answer::denied(http::StatusCode::FORBIDDEN, "not here"))
    }

    async fn connect(self: Rc<Self>, _connecting: Connecting<Self>) -> Verdict<()> {
        Verdict::Close
    }

    fn event(&self, _: &Socket, _: &Rc<()>, _: Event<'_>, _: Option<Ack>) {}

    fn disconnect(&self, _: &Socket, _: &Rc<()>, _: DisconnectReason) {}

    async fn elsewhere(&self, request: SessionRequest) -> Option<Answer> {
        if request.sid == "nowhere" {
            return None;
        }
        Some(self.0.request(request).await)
    }

    fn upgrade_elsewhere(&self, sid: &str) -> Option<UpgradeElsewhere> {
        let (engine, sid) = (Rc::clone(&self.0), sid.to_owned());
        (sid != "nowhere").then(|| {
            UpgradeElsewhere::HandOn(Box::new(move |pending| engine.upgrade(&sid, pending)))
        })
    }
}

#[tokio::test(flavor = "local")]
async fn requests_that_arrive_at_another_engine_are_handed_on() {
    let mut server = TestServer::start().await;
    let sid = server.join("/").await;
    let (options, layer) = quick();
    let neighbour = Rc::new(Neighbour(Rc::clone(&server.engine)));
    let other = Engine::new(SocketIo::new(neighbour, layer), options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // From here on the clients talk to the wrong one.
    server.address = listener.local_addr().unwrap();
    spawn_local(common::serve(listener, other));

    assert_eq!(server.post(&sid, "42[\"echo\",1]").await.0, 200);
    assert_eq!(server.poll(&sid).await, (200, "42[\"back\",1]".to_owned()));
    assert_eq!(server.poll("nowhere").await.0, 400);
    assert_eq!(server.post("nowhere", "4").await.0, 400);
    let upgrade = |sid: &str| format!("EIO=4&transport=websocket&sid={sid}");
    assert_eq!(server.upgrade(&upgrade("nowhere")).await.err(), Some(400));
    let mut ws = server.upgrade(&upgrade(&sid)).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    ws.send("421[\"echo\",2]").await;
    assert_eq!(ws.text().await, "431[2]");
    assert_eq!(server.get(&polling(&sid)).await.0, 400);
}

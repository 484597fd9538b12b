//! Where the sessions of a [`Desk`] are that are not its own, and two servers
//! that have each other's.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use signalbox_socketio::{
    Answer, Engine, EngineOptions, SessionRequest, SessionState, SocketIo, SocketIoOptions,
    UpgradeElsewhere,
    engine::{Claim, LocalFuture, Owner},
};

use super::{Desk, TestServer, Ws, quick};

/// Where sessions are that are not here.
pub(crate) trait Elsewhere {
    fn session_id(&self) -> Option<String> {
        None
    }

    fn request(&self, request: SessionRequest) -> LocalFuture<Option<Answer>>;

    fn upgrade(&self, sid: &str) -> Option<UpgradeElsewhere>;
}

type DeskEngine = Engine<SocketIo<Desk>>;

/// What goes wrong between two servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The owner does not answer the question for a session.
    Silent,
    /// The session is handed over, and does not arrive.
    Lost,
    /// Another session arrives.
    Mistaken,
}

/// Another server of the same process.
pub(crate) struct Other {
    engine: Rc<DeskEngine>,
    pub(crate) fault: Rc<Cell<Fault>>,
    /// What has moved.
    pub(crate) moved: Rc<RefCell<Vec<SessionState>>>,
}

impl Elsewhere for Other {
    fn request(&self, request: SessionRequest) -> LocalFuture<Option<Answer>> {
        let engine = Rc::clone(&self.engine);
        Box::pin(async move { Some(engine.request(request).await) })
    }

    fn upgrade(&self, sid: &str) -> Option<UpgradeElsewhere> {
        let owner = Asked {
            engine: Rc::clone(&self.engine),
            sid: sid.to_owned(),
            fault: Rc::clone(&self.fault),
            moved: Rc::clone(&self.moved),
        };
        (sid != "nowhere").then(|| UpgradeElsewhere::Fetch(Box::new(owner)))
    }
}

struct Asked {
    engine: Rc<DeskEngine>,
    sid: String,
    fault: Rc<Cell<Fault>>,
    moved: Rc<RefCell<Vec<SessionState>>>,
}

impl Owner for Asked {
    fn make_way(self: Box<Self>) -> LocalFuture<Option<Box<dyn Claim>>> {
        Box::pin(async move {
            if self.fault.get() == Fault::Silent {
                std::future::pending::<()>().await;
            }
            let departure = self.engine.make_way(&self.sid).await?;
            let claim: Box<dyn Claim> = Box::new(Faulty {
                claim: Box::new(departure),
                fault: self.fault,
                moved: self.moved,
            });
            Some(claim)
        })
    }
}

struct Faulty {
    claim: Box<dyn Claim>,
    fault: Rc<Cell<Fault>>,
    moved: Rc<RefCell<Vec<SessionState>>>,
}

impl Claim for Faulty {
    fn hand_over(self: Box<Self>) -> LocalFuture<Option<SessionState>> {
        Box::pin(async move {
            let mut state = self.claim.hand_over().await?;
            self.moved.borrow_mut().push(state.clone());
            match self.fault.get() {
                Fault::Lost => return None,
                Fault::Mistaken => state.sid.push('x'),
                Fault::None | Fault::Silent => {}
            }
            Some(state)
        })
    }
}

/// Two servers; what the second does not have is at the first.
pub(crate) struct Pair {
    pub(crate) owner: TestServer,
    pub(crate) other: TestServer,
    pub(crate) fault: Rc<Cell<Fault>>,
    pub(crate) moved: Rc<RefCell<Vec<SessionState>>>,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let (engine, layer) = quick();
        Self::with(engine, layer).await
    }

    pub(crate) async fn with(engine: EngineOptions, layer: SocketIoOptions) -> Self {
        let owner = TestServer::with(engine, layer).await;
        let other = TestServer::with(engine, layer).await;
        let elsewhere = Other {
            engine: Rc::clone(&owner.engine),
            fault: Rc::default(),
            moved: Rc::default(),
        };
        let (fault, moved) = (Rc::clone(&elsewhere.fault), Rc::clone(&elsewhere.moved));
        *other.desk.elsewhere.borrow_mut() = Some(Rc::new(elsewhere));
        Self {
            owner,
            other,
            fault,
            moved,
        }
    }

    /// A WebSocket connection to the other server for a session of the owner.
    pub(crate) async fn connect(&self, sid: &str) -> Ws {
        let query = format!("EIO=4&transport=websocket&sid={sid}");
        self.other.upgrade(&query).await.unwrap()
    }

    /// As [`connect`](Self::connect), up to the answer to the probe.
    pub(crate) async fn probe(&self, sid: &str) -> Ws {
        let mut ws = self.connect(sid).await;
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        ws
    }

    /// Has a session move.
    pub(crate) async fn upgrade(&self, sid: &str) -> Ws {
        let mut ws = self.probe(sid).await;
        ws.send("5").await;
        ws
    }
}

//! A CONNECT: who is let into the namespace, as what, and what is said first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use signalbox_identity::Principal;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::socketio::NAMESPACE;
use signalbox_protocol::frame::workspace::Room;
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_socketio::{Connecting, Refusal, Socket, Verdict};
use tokio::time::{Instant, sleep};
use tracing::info;
use uuid::Uuid;

use super::hello::{Hello, RefuseBy, Token};
use super::identity::Due;
use super::keeping::FEED;
use super::opening::Opening;
use super::seat::{Greeting, Seat, Seated};
use super::{AUDIT, Sockets};
use crate::authority::Refusal as Refused;
use crate::dialect::{Metering, pipeline, workspace};
use crate::hub::{Progress, SubscriptionId};
use crate::ledger::{Account, Joined};
use crate::replay::{is_within_reach, replay_together};
use crate::session::meter::Meter;
use crate::shard::Connection;

/// How long a client may stay without a credential.
const AUTHENTICATION: Duration = Duration::from_secs(10);
/// How long a client that was told to leave may still say something and be
/// answered: what it said when it was let in is on its way.
const LEAVING: Duration = Duration::from_millis(250);

type Decision = Verdict<Seated>;

impl Sockets {
    /// Decides on a CONNECT.
    pub(super) async fn enter(self: Rc<Self>, connecting: Connecting<Self>) -> Decision {
        if connecting.namespace() != NAMESPACE {
            return Verdict::Refuse(Refusal::new(workspace::other_namespace()));
        }
        if !*self.shard.shared.bus_present.borrow() {
            return Verdict::Close;
        }
        let opening = Rc::clone(connecting.opening());
        let refuse_by = self.shard.shared.options.refuse_by;
        let hello = Hello::read(&opening, connecting.auth(), refuse_by);
        let name = format!("io-session-{}", Uuid::now_v7().simple());
        info!(
            target: AUDIT,
            session = %name,
            peer = %opening.peer(),
            dialect = %hello.dialect,
            transport = ?connecting.socket().link().transport(),
            "connected"
        );
        if let Some(recovery) = connecting.recovery()
            && let Some(decision) = self.recover(&connecting, &hello, &name, recovery).await
        {
            return decision;
        }
        match hello.dialect {
            Dialect::Workspace => self.enter_workspace(connecting, hello, name).await,
            _ => self.enter_pipeline(&connecting, &hello, name),
        }
    }

    fn enter_pipeline(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        hello: &Hello,
        name: String,
    ) -> Decision {
        let seated = self.seated(self.seat(connecting, hello.dialect, hello.recovery, name));
        let seat = &seated.seat;
        match hello.since {
            Ok(since) => seat.since.set(since),
            Err(wrong) => seat.complaint.set(Some(wrong)),
        }
        self.await_credential(seat);
        self.offer(connecting, seat);
        Verdict::Accept(seated)
    }

    /// Sets the alarm for a credential that does not come.
    pub(super) fn await_credential(&self, seat: &Rc<Seat>) {
        let patience = self.shard.shared.options.authentication;
        seat.due.set(Due::Credential);
        self.clock
            .set(seat, Instant::now() + patience.unwrap_or(AUTHENTICATION));
    }

    async fn enter_workspace(
        self: &Rc<Self>,
        connecting: Connecting<Self>,
        hello: Hello,
        name: String,
    ) -> Decision {
        let principal = match self.identify(&connecting, &hello, &name).await {
            Ok(principal) => principal,
            Err(decision) => return decision,
        };
        let seated = self.seated(self.seat(&connecting, hello.dialect, hello.recovery, name));
        let seat = &seated.seat;
        let since = match hello.since {
            Ok(since) => since,
            Err(wrong) => {
                seat.complaint.set(Some(wrong));
                None
            }
        };
        let recovered = match since {
            None => None,
            Some(since) => match is_within_reach(&self.shard, since).await {
                Ok(reached) => Some(reached),
                Err(_) => return Verdict::Close,
            },
        };
        let here = self.shard.hub.borrow().cursor();
        let start = since.filter(|_| recovered == Some(true)).unwrap_or(here);
        {
            let mut account = seat.account.borrow_mut();
            let rooms = workspace::first_rooms(&principal);
            let rooms = rooms
                .iter()
                .map(|room| (room.to_string(), Joined::At(start)));
            account.rooms = rooms.collect();
            account.connected_at = start;
            account.principal = Some(Rc::new(principal));
        }
        self.offer(&connecting, seat);
        // Kept before the client hears of it.
        self.keep(seat).await;
        if !self.settle_in(seat, |_| start.sequence) {
            return Verdict::Close;
        }
        seat.greeting.set(Greeting::Established {
            recovered,
            rooms: false,
        });
        Verdict::Accept(seated)
    }

    /// Who a client of dialect `workspace` is.
    ///
    /// # Errors
    /// What is decided about one that has no good credential.
    pub(super) async fn identify(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        hello: &Hello,
        name: &str,
    ) -> Result<Principal, Decision> {
        let opening = connecting.opening();
        let missing = workspace::Refused {
            code: ErrorCode::AuthMissing,
            message: "no token was given",
        };
        let failed = |message| workspace::Refused {
            code: ErrorCode::AuthFailed,
            message,
        };
        let (refused, delay) = match &hello.token {
            Token::Missing => (missing, Duration::ZERO),
            Token::KeyInUrl => {
                let message = "API keys are not accepted in URLs, exchange them for a token";
                (failed(message), Duration::ZERO)
            }
            Token::Given(token) => match self.examine(name, opening, token, None).await {
                Ok(principal) => return Ok(principal),
                Err(withheld) => match withheld.refusal {
                    Refused::Invalid(reason) => {
                        let delay = self.count_refusal(opening, token, &withheld);
                        (failed(reason), delay)
                    }
                    Refused::Unavailable => {
                        info!(target: AUDIT, session = %name, peer = %opening.peer(), reason = "credentials cannot be checked now", "refused");
                        return Err(Verdict::Close);
                    }
                },
            },
        };
        info!(target: AUDIT, session = %name, peer = %opening.peer(), reason = refused.message, "refused");
        if hello.refuse_by == RefuseBy::ConnectError {
            self.withhold(delay).await;
            return Err(Verdict::Refuse(Refusal {
                message: refused.message.to_owned(),
                data: Some(workspace::refusal_data(&refused)),
            }));
        }
        let seat = self.seat(connecting, hello.dialect, false, name.to_owned());
        seat.refused.replace(Some(refused));
        // Commands wait for the verdict.
        seat.working.set(true);
        seat.greeting.set(Greeting::Refused { delay });
        Err(Verdict::Accept(self.seated(seat)))
    }

    /// Tells a client that it is not let in, answers what it said meanwhile,
    /// and has it leave.
    pub(super) fn turn_away(self: &Rc<Self>, seat: &Rc<Seat>, delay: Duration) {
        let (desk, seat) = (Rc::clone(self), Rc::clone(seat));
        self.tasks.spawn(async move {
            desk.withhold(delay).await;
            let refused = seat.refused.borrow().clone();
            if let Some(refused) = refused {
                seat.say(&workspace::refusal(&refused));
            }
            seat.working.set(false);
            desk.work(&seat);
            sleep(LEAVING).await;
            seat.send_away(&desk.clock);
        });
    }

    /// A seat for a client that is about to be let in.
    pub(super) fn seat(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        dialect: Dialect,
        recovery: bool,
        name: String,
    ) -> Rc<Seat> {
        let (socket, opening) = (connecting.socket(), connecting.opening());
        self.seat_for(socket, opening, dialect, recovery, name)
    }

    /// A seat for a client that is or was let in.
    pub(super) fn seat_for(
        self: &Rc<Self>,
        socket: &Socket,
        opening: &Rc<Opening>,
        dialect: Dialect,
        recovery: bool,
        name: String,
    ) -> Rc<Seat> {
        let socket = socket.clone();
        let socket_id = socket.id().to_string();
        let outbound = socket.outbound().clone();
        let member = self.shard.hub.borrow_mut().join(outbound);
        let per_minute = match dialect {
            // Its document knows no limit.
            Dialect::Workspace => 0,
            _ => self.shard.shared.options.messages_per_minute,
        };
        Rc::new(Seat {
            name,
            socket,
            opening: Rc::clone(opening),
            shard: Rc::clone(&self.shard),
            member,
            dialect,
            offsets: recovery,
            began: Instant::now(),
            account: RefCell::new(Account {
                socket_id,
                dialect,
                principal: None,
                connected_at: self.shard.hub.borrow().cursor(),
                rooms: BTreeMap::new(),
                narrowing: None,
                with_pipeline: false,
            }),
            entry: RefCell::default(),
            pid: RefCell::default(),
            left_behind: RefCell::default(),
            denied: RefCell::default(),
            rooms: RefCell::default(),
            feeds: RefCell::default(),
            greeting: Cell::new(Greeting::None),
            since: Cell::default(),
            lost: Cell::default(),
            complaint: Cell::default(),
            due: Cell::default(),
            alarm: Cell::default(),
            inbox: RefCell::default(),
            working: Cell::default(),
            refused: RefCell::default(),
            strikes: Cell::default(),
            bad_tokens: Cell::default(),
            meter: Cell::new(Some(Meter::new(dialect, Metering::Connection, per_minute))),
            over: Cell::default(),
            forgotten: Cell::default(),
            counted: Cell::default(),
            desk: Rc::downgrade(self),
        })
    }

    /// Lists a seat among the shard's connections for as long as it is taken:
    /// what is revoked from here on reaches it.
    pub(super) fn seated(&self, seat: Rc<Seat>) -> Seated {
        let presence = self.shard.enter(Connection {
            outbound: seat.socket.outbound().clone(),
            dialect: seat.dialect,
            // The engine tells its sessions itself.
            farewell: |_| {},
            holder: Rc::clone(&seat) as Rc<_>,
        });
        Seated::new(seat, Rc::clone(&self.clock), presence)
    }

    /// Subscribes a client to everything that its account has, each from where
    /// `start` says; nothing is brought yet. False when its credential does not
    /// hold any more, or it has left.
    pub(super) fn settle_in(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        start: impl Fn(Joined) -> u64,
    ) -> bool {
        let Some(principal) = seat.principal().filter(|_| !seat.over.get()) else {
            return false;
        };
        let Ok(principal) = self.acceptable((*principal).clone(), None) else {
            return false;
        };
        let principal = Rc::new(principal);
        seat.account.borrow_mut().principal = Some(Rc::clone(&principal));
        let joined = seat.account.borrow().rooms.clone();
        let encoding = seat.encoding(Dialect::Workspace);
        for (name, joined) in joined {
            let from = start(joined);
            if name == FEED {
                let narrowing = seat.account.borrow().narrowing.clone();
                self.place_feed(seat, &principal, &narrowing.unwrap_or_default(), from);
                continue;
            }
            // A newer version may know other rooms.
            let Ok(room) = name.parse::<Room>() else {
                continue;
            };
            if !workspace::may_enter(&principal, &room) {
                seat.account.borrow_mut().rooms.remove(&name);
                seat.denied.borrow_mut().push(room);
                continue;
            }
            let selection = workspace::selection(&room);
            let mut hub = self.shard.hub.borrow_mut();
            let id = hub.subscribe(seat.member, selection, &encoding, Some(from));
            seat.rooms.borrow_mut().insert(room, id);
        }
        if seat.dialect == Dialect::Workspace {
            seat.counted.set(true);
            self.shard
                .shared
                .occupancy
                .enter(seat.rooms.borrow().keys());
        }
        self.trust(seat, &principal);
        true
    }

    /// Every subscription of a client.
    pub(super) fn subscriptions(seat: &Seat) -> Vec<SubscriptionId> {
        let rooms = seat.rooms.borrow();
        let feeds = seat.feeds.borrow();
        rooms.values().chain(feeds.iter()).copied().collect()
    }

    /// Says what is said first, and lets events come.
    pub(super) fn greet(self: &Rc<Self>, seat: &Rc<Seat>) {
        match seat.greeting.replace(Greeting::None) {
            Greeting::None => {}
            Greeting::Refused { delay } => self.turn_away(seat, delay),
            Greeting::Established { recovered, rooms } => {
                self.establish(seat, recovered, rooms);
            }
        }
        if let Some(wrong) = seat.complaint.take() {
            let complaint = Complaint {
                field: Some("since".to_owned()),
                ..Complaint::plain(ErrorCode::InvalidMessage, wrong)
            };
            seat.say(&match seat.dialect {
                Dialect::Workspace => {
                    workspace::complaint(&complaint, &seat.socket.id(), None, None)
                }
                _ => pipeline::complaint(&complaint, None),
            });
        }
    }

    fn establish(self: &Rc<Self>, seat: &Rc<Seat>, recovered: Option<bool>, rooms: bool) {
        let Some(principal) = seat.principal() else {
            return;
        };
        let ids = Self::subscriptions(seat);
        let seq = self.seq_of(&ids);
        let rooms = rooms.then(|| {
            let rooms = seat.rooms.borrow();
            let mut rooms: Vec<_> = rooms.keys().map(ToString::to_string).collect();
            rooms.sort_unstable();
            rooms
        });
        let user = principal.subject.as_str();
        let id = seat.socket.id();
        seat.say(&workspace::established(&id, user, seq, recovered, rooms));
        for room in seat.denied.take() {
            self.tell_denied(seat, &room);
        }
        if self.shard.hub.borrow_mut().catch_up_together(&ids) == Progress::Live {
            return;
        }
        let (desk, seat) = (Rc::clone(self), Rc::clone(seat));
        self.tasks.spawn(async move {
            let outbound = seat.socket.outbound().clone();
            replay_together(&desk.shard, &outbound, &ids).await;
        });
    }

    /// The position behind which everything comes that these subscriptions
    /// bring.
    fn seq_of(&self, ids: &[SubscriptionId]) -> Cursor {
        let hub = self.shard.hub.borrow();
        let cursors = ids.iter().map(|id| hub.cursor_of(*id));
        cursors
            .min_by_key(|cursor| cursor.sequence)
            .unwrap_or_else(|| hub.cursor())
    }
}

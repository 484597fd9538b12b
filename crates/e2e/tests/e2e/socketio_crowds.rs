//! Promises 1 and 2 for Socket.IO (G8, G10): crowds of stock clients, two
//! gateways, and one that is killed or stopped under load. Each client has to
//! have every event of its rooms, once and in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_identity::UserId;
use signalbox_protocol::envelope::CE_ID;
use signalbox_testkit::{DEADLINE, NodeClient, Platform, Proxy, PythonClient};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

const JAVASCRIPT: usize = 200;
const PYTHON: usize = 50;
const PROJECTS: usize = 4;
/// Events of each lane.
const EVENTS: usize = 120;
const PACE: Duration = Duration::from_millis(100);
/// Events of each lane ahead of the fault.
const BEFORE: usize = 30;
/// How long after the last publish the last client may have everything.
const SETTLING: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(500);
/// Lines of a gateway's log that a failed test shows.
const TOLD: usize = 400;
/// How long a publish may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sequence of events of one type to the same rooms.
#[derive(Clone, Debug)]
struct Lane {
    name: String,
    subject: &'static str,
    data: Value,
}

/// The lane of a project's room.
fn project(number: usize) -> String {
    format!("project:p-{number}")
}

fn lanes(user: &str) -> Vec<Lane> {
    let lane = |name: &str, subject, data: Value| {
        let name = name.to_owned();
        Lane {
            name,
            subject,
            data,
        }
    };
    let mut lanes: Vec<Lane> = (0..PROJECTS)
        .map(|number| {
            let data = json!({
                "project_id": format!("p-{number}"),
                "project_name": "P",
                "status": "active",
            });
            lane(&project(number), "events.project.updated", data)
        })
        .collect();
    let agent = json!({"agent_id": "a-1", "agent_name": "A", "status": "busy", "availability": 50});
    lanes.push(lane("global", "events.agent.status_changed", agent));
    // To two rooms, of which a client may have both.
    let issue = json!({
        "issue_id": "i-1",
        "project_id": "p-0",
        "title": "T",
        "status": "open",
        "priority": "low",
        "assigned_to": user,
    });
    lanes.push(lane("both", "events.issue.updated", issue));
    let scan = json!({"scanId": "s-1", "scan": {}});
    lanes.push(lane(
        "pipeline",
        "events.pipeline.security_scan_updated",
        scan,
    ));
    lanes
}

/// What a client is to receive.
fn owed(client: &Value) -> Vec<String> {
    if client["dialect"] == "pipeline" {
        return vec!["pipeline".to_owned()];
    }
    let rooms = client["rooms"].as_array().into_iter().flatten();
    let rooms = rooms.map(|room| room.as_str().unwrap().to_owned());
    let mut rooms: Vec<String> = rooms.chain(["global".into()]).collect();
    // To a project and to a user, whom the clients in Python are not.
    if client["dialect"] == "workspace" || rooms.contains(&project(0)) {
        rooms.push("both".to_owned());
    }
    rooms
}

/// Two gateways, each behind an address that outlives it.
struct Stage {
    platform: Platform,
    fronts: Vec<Proxy>,
    user: String,
}

impl Stage {
    async fn set() -> Self {
        let platform = Platform::start_with(2, &["--connect-rate", "0"]).await;
        let mut fronts = Vec::new();
        for gateway in &platform.gateways {
            fronts.push(Proxy::start(gateway.listener()).await);
        }
        let user = platform.claims("viewer").sub.to_string();
        Self {
            platform,
            fronts,
            user,
        }
    }

    /// A token for everyone's projects.
    fn token(&self, user: &str) -> String {
        let mut claims = self.platform.claims("viewer");
        claims.sub = UserId::new(user).unwrap();
        claims.projects = (0..PROJECTS).map(|number| format!("p-{number}")).collect();
        let token = self.platform.signing_key().sign(&claims);
        token.unwrap().expose().to_owned()
    }

    fn front(&self, client: usize) -> SocketAddr {
        self.fronts[client % self.fronts.len()].addr()
    }

    /// Clients of all kinds: in both dialects, with and without polling.
    fn javascript(&self) -> Vec<Value> {
        let client = |id: usize| {
            let dialect = if id.is_multiple_of(5) {
                "pipeline"
            } else {
                "workspace"
            };
            let transports = match id % 3 {
                0 => json!(["websocket"]),
                1 => json!(["polling", "websocket"]),
                _ => json!(["polling"]),
            };
            let rooms = match dialect {
                "workspace" => json!([project(id % PROJECTS)]),
                _ => json!([]),
            };
            json!({
                "id": id,
                "url": format!("http://{}", self.front(id)),
                "dialect": dialect,
                "rooms": rooms,
                "options": {"transports": transports},
            })
        };
        (0..JAVASCRIPT).map(client).collect()
    }

    fn python(&self) -> Vec<Value> {
        let client = |id: usize| {
            json!({
                "id": JAVASCRIPT + id,
                "url": format!("http://{}", self.front(id)),
                "rooms": [project(id % PROJECTS)],
            })
        };
        (0..PYTHON).map(client).collect()
    }
}

impl Drop for Stage {
    /// A test that fails shows what the gateways said last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for gateway in &self.platform.gateways {
                let lines = gateway.process.stderr().lines();
                let told = lines.iter().rev().take(TOLD).rev();
                let told: Vec<&str> = told.map(String::as_str).collect();
                eprintln!("{}\n", told.join("\n"));
            }
        }
    }
}

/// Both crowds.
struct Crowd {
    javascript: NodeClient,
    python: PythonClient,
    owed: BTreeMap<u64, Vec<String>>,
}

impl Crowd {
    /// Gathers everyone and waits until all have everything confirmed.
    async fn gather(stage: &Stage) -> Self {
        let (javascript, python) = (stage.javascript(), stage.python());
        let owed = javascript
            .iter()
            .chain(&python)
            .map(|client| (client["id"].as_u64().unwrap(), owed(client)))
            .collect();
        let settings =
            |user, clients| json!({"url": "", "token": stage.token(user), "clients": clients});
        let crowd = Self {
            javascript: NodeClient::start("crowd.mjs", &settings(&stage.user, javascript)),
            python: PythonClient::start("crowd_client.py", &settings("another", python)),
            owed,
        };
        let all = |count: usize| move |value: &Value| value["count"] == count;
        loop {
            if all(JAVASCRIPT)(&crowd.javascript.next(DEADLINE).await) {
                break;
            }
        }
        loop {
            if all(PYTHON)(&crowd.python.next(DEADLINE).await) {
                break;
            }
        }
        crowd
    }

    /// What every client says of itself.
    async fn report(&self) -> Vec<Value> {
        self.javascript.process().write_line("{\"report\":true}");
        self.python.process().write_line("{\"report\":true}");
        let mut clients = Vec::new();
        for mut report in [
            self.javascript.expect_event("report").await,
            self.python.expect_event("report").await,
        ] {
            clients.append(report["clients"].as_array_mut().unwrap());
        }
        clients
    }

    /// Waits until everyone has as many events as there are, and then holds
    /// each list against what was published.
    async fn settle(&self, what: &str) -> Vec<Value> {
        let end = Instant::now() + SETTLING;
        loop {
            let clients = self.report().await;
            let missing: Vec<&Value> = clients
                .iter()
                .filter(|client| self.missing(client) > 0)
                .collect();
            if missing.is_empty() {
                for client in &clients {
                    self.check(client, what);
                }
                return clients;
            }
            assert!(
                Instant::now() < end,
                "{what}: {} clients miss events, one of them {}",
                missing.len(),
                missing[0]
            );
            sleep(POLL).await;
        }
    }

    fn owed(&self, client: &Value) -> &[String] {
        &self.owed[&client["id"].as_u64().unwrap()]
    }

    fn missing(&self, client: &Value) -> usize {
        let received = |lane: &String| {
            let list = client["lanes"][lane].as_array();
            list.map_or(0, Vec::len)
        };
        let owed = self.owed(client).iter();
        owed.map(|lane| EVENTS.saturating_sub(received(lane))).sum()
    }

    fn check(&self, client: &Value, what: &str) {
        assert_eq!(client["troubles"], json!([]), "{what}: {client}");
        let mut lanes: Vec<&String> = client["lanes"].as_object().unwrap().keys().collect();
        lanes.sort();
        let mut owed: Vec<&String> = self.owed(client).iter().collect();
        owed.sort();
        assert_eq!(lanes, owed, "{what}: foreign rooms, {client}");
        let all: Vec<usize> = (0..EVENTS).collect();
        for lane in owed {
            assert_eq!(
                client["lanes"][lane],
                json!(all),
                "{what}: {lane}, {client}"
            );
        }
    }
}

/// Publishes a lane at its pace, whatever happens.
async fn produce(bus: Bus, lane: Lane, progress: &'static AtomicUsize) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..EVENTS {
        pace.tick().await;
        let mut data = lane.data.clone();
        data["lane"] = lane.name.as_str().into();
        data["n"] = number.into();
        let id = format!("{}-{number}", lane.name);
        let mut headers = HeaderMap::new();
        headers.insert(CE_ID, id.as_str());
        let message = Outgoing {
            subject: lane.subject.to_owned(),
            message_id: format!("crowd/{id}"),
            headers,
            payload: data.to_string().into(),
        };
        publish(&bus, &message, PATIENCE).await.unwrap();
        progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs the load, with a fault as soon as each lane is under way on average.
async fn under_load(stage: &mut Stage, fault: impl AsyncFnOnce(&mut Stage)) {
    let progress: &'static AtomicUsize = Box::leak(Box::default());
    let mut producing = JoinSet::new();
    let lanes = lanes(&stage.user);
    let before = BEFORE * lanes.len();
    for lane in lanes {
        let bus = stage.platform.bus(User::Producer).await;
        producing.spawn(produce(bus, lane, progress));
    }
    while progress.load(Ordering::Relaxed) < before {
        sleep(PACE).await;
    }
    fault(stage).await;
    while let Some(lane) = producing.join_next().await {
        lane.unwrap();
    }
}

/// How often the clients of a kind connected and recovered.
fn returns<'a>(clients: impl Iterator<Item = &'a Value>) -> (u64, u64) {
    clients.fold((0, 0), |(returns, recovered), client| {
        let number = |field: &str| client[field].as_u64().unwrap();
        (
            returns + number("connects") - 1,
            recovered + number("recovered"),
        )
    })
}

/// A gateway is killed: everyone has everything, and those who take part
/// recover on the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_costs_its_clients_nothing() {
    let mut stage = Stage::set().await;
    let crowd = Crowd::gather(&stage).await;
    under_load(&mut stage, async |stage| {
        stage.platform.gateways[0].process.kill9();
        let other = stage.platform.gateways[1].listener();
        stage.fronts[0].retarget(other);
    })
    .await;
    let clients = crowd.settle("a gateway was killed").await;
    let (javascript, python) = clients.split_at(JAVASCRIPT);
    let (came_back, recovered) = returns(javascript.iter());
    assert!(came_back >= JAVASCRIPT as u64 / 2, "{came_back} returns");
    assert_eq!(recovered, came_back, "all of them recovered");
    let (came_back, recovered) = returns(python.iter());
    assert!(came_back >= PYTHON as u64 / 2, "{came_back} returns");
    assert_eq!(recovered, came_back, "all of them were told so, {python:?}");
}

/// Each gateway is stopped in turn, as in a rolling update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_nobody_anything() {
    let mut stage = Stage::set().await;
    let crowd = Crowd::gather(&stage).await;
    under_load(&mut stage, async |stage| {
        for index in 0..2 {
            // New connections go elsewhere ahead of the stop, as a load
            // balancer has it.
            let other = stage.platform.gateways[1 - index].listener();
            stage.fronts[index].retarget(other);
            let gateway = &stage.platform.gateways[index].process;
            gateway.sigterm();
            assert!(gateway.wait(DEADLINE).await.success());
            let successor = stage.platform.start_gateway(&["--connect-rate", "0"]).await;
            stage.fronts[index].retarget(successor.listener());
            stage.platform.gateways[index] = successor;
        }
    })
    .await;
    let clients = crowd.settle("gateways were restarted in turn").await;
    let (came_back, recovered) = returns(clients[..JAVASCRIPT].iter());
    assert!(came_back >= JAVASCRIPT as u64, "{came_back} returns");
    assert_eq!(recovered, came_back, "all of them recovered");
}

//! Real things for tests: a `nats-server` per test, the `signalbox` binary as
//! a process that can be killed, and clients that are not ours.
//!
//! Everything panics with a sentence that says what failed, and with the
//! command to run where something is not installed: a test never skips. All
//! waits end at a deadline. No process outlives the test program, however that
//! ends, and no fixed port is used, so tests run side by side.

mod browser;
mod child;
mod credential;
mod deadline;
mod http;
pub mod ledger;
mod model;
mod nats;
mod node;
mod orchestrator;
mod output;
mod platform;
mod process;
mod proxy;
mod python;
mod redis;
mod relay;
mod resources;
mod round_robin;
mod subscriber;
mod threat;
mod websocket;

pub use self::{
    browser::Browser,
    deadline::{DEADLINE, eventually},
    http::{Answer, request},
    model::{FakeModel, Finish, Gate, Received, Reply},
    nats::{NatsServer, settle},
    node::NodeClient,
    orchestrator::{ChatBus, orchestrator},
    output::Output,
    platform::{Arguments, Platform, Service, api_key, get, post},
    process::{Process, signalbox},
    proxy::{Direction, Flow, Proxy},
    python::PythonClient,
    redis::RedisServer,
    relay::{RelayBus, relay},
    round_robin::RoundRobin,
    subscriber::{LiveLedger, Subscriber},
    threat::{Follower, Record},
    websocket::{Closed, Refused, WsClient},
};

//! NATS for Signalbox: the only crate that knows how events, requests and
//! state lie on the bus.
//!
//! | module | holds |
//! |---|---|
//! | [`connection`] | connecting, the server's version, permission refusals |
//! | [`subject`], [`key`] | every subject and KV key, built in one place |
//! | [`header`] | the headers of stored events |
//! | [`stored_event`] | events as they lie on TOPICS |
//! | [`dead_letter`] | refused events as they lie on DLQ, and their replay |
//! | [`stream`] | EVENTS, TOPICS and DLQ: made by `init`, verified by services |
//! | [`intake`] | events from other protocols become messages, checked |
//! | [`publish`] | publish with acknowledgement, retry and deadline |
//! | [`work_queue`] | a router's consumer of one domain |
//! | [`fenced`] | writing what one owner at a time may write |
//! | [`document`] | state in a bucket that has one owner |
//! | [`log`] | logs of one owner: appending, and following from anywhere |
//! | [`assignment`] | who among the replicas of a service holds which part of the work |
//! | [`lease`] | who may do what only one may do, for a while |
//! | [`reader`] | a gateway's one ordered reader of TOPICS |
//! | [`history`] | reading stored events back |
//! | [`investigation`] | who is in an investigation, and what was noted there |
//! | [`session_store`] | Socket.IO sessions that clients may come back to |
//! | [`rpc`] | protobuf requests between services |
//! | [`relays`] | requests to relays, asked until they are answered |
//! | [`trace`] | spans, and the trace context of messages |
//! | [`metrics`] | what is measured of a connection |
//! | [`server`] | the managed `nats-server` child of a single machine |
//!
//! It knows subjects and bytes; what an event means is the callers' matter.

pub mod assignment;
pub mod connection;
pub mod dead_letter;
pub mod decision;
pub mod document;
pub mod fenced;
pub mod header;
pub mod history;
pub mod intake;
pub mod investigation;
pub mod key;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod publish;
pub mod reader;
pub mod relays;
pub mod rpc;
pub mod server;
pub mod session_store;
pub mod stored_event;
pub mod stream;
pub mod subject;
pub mod survey;
pub mod trace;
pub mod work_queue;

pub use crate::connection::{Bus, BusArgs, BusError, BusOptions};
pub use async_nats::{HeaderMap, Subject};

//! What Signalbox speaks: the event catalogue, the frames of the dialects,
//! the messages between services, ids, cursors and error codes.
//!
//! The crate does no I/O and knows no socket, no NATS and no clock: bytes and
//! values go in, values and bytes come out.
//!
//! | module | holds |
//! |---|---|
//! | [`catalogue`] | one entry per event type: fields, route, defaults, words |
//! | [`envelope`] | a producer's message -> [`event::Event`] |
//! | [`chat`] | ids of chats, and their shards |
//! | [`decision`] | what users decide on response actions |
//! | [`event`] | an event after validation |
//! | [`fleet`] | shards of agents, ids of commands |
//! | [`investigation`] | who is in an investigation, and what was noted there |
//! | [`cursor`] | epochs and resume offsets |
//! | [`frame`] | the JSON frames of each dialect |
//! | [`wire`] | protobuf messages between services, generated from `proto/` |

pub mod catalogue;
pub mod chat;
pub mod cursor;
pub mod decision;
pub mod dialect;
pub mod domain;
pub mod envelope;
pub mod error_code;
pub mod event;
pub mod fleet;
pub mod frame;
pub mod investigation;
pub mod json;
pub mod name;
pub mod timestamp;
pub mod trace;

/// Protobuf messages between services, generated from `proto/` by
/// `cargo run -p signalbox-protocol --example generate`.
#[expect(missing_docs, reason = "generated code")]
pub mod wire {
    include!("gen/signalbox.v1.rs");
}

pub use crate::cursor::{Cursor, Epoch, FleetCursor};
pub use crate::dialect::Dialect;
pub use crate::domain::Domain;
pub use crate::error_code::ErrorCode;
pub use crate::event::{Event, Priority};

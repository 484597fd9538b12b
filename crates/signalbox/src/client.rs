//! A client of a gateway, for people at a terminal: where the gateway is and with
//! what credential, one WebSocket connection, its messages, and how to show what
//! others have written. What is said over it is the business of the subcommands.

pub(crate) mod connection;
pub(crate) mod escapes;
pub(crate) mod message;
pub(crate) mod target;

pub(crate) use self::connection::{Connection, Failure, Heard};
pub(crate) use self::escapes::plain;
pub(crate) use self::message::Message;
pub(crate) use self::target::{ConnectArgs, Target};

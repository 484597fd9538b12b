//! The codec of dialect `mesh` is what its shape says.

use serde_json::{Value, json};

use super::super::{
    Authenticated, ClientFrame, EventFrame, Failure, ServerFrame, Subscribed, Unsubscribed,
};
use super::*;
use crate::cursor::{Cursor, Epoch};
use crate::frame::shape::tests::{data_of, decoder_agrees, encoder_agrees};
use crate::timestamp::Timestamp;

const SEQ: Cursor = Cursor {
    epoch: Epoch::from_unix_micros(0xa),
    sequence: 7,
};

#[test]
fn the_decoder_agrees() {
    decoder_agrees(&SHAPE, ClientFrame::decode);
}

fn time() -> Timestamp {
    Timestamp::parse("2024-12-19T21:30:00Z").unwrap()
}

/// Every server frame, with all that may be absent or without it. A variant
/// that is not here does not compile.
fn frames(full: bool) -> Vec<Value> {
    let options = full.then_some(());
    let timestamp = time();
    let frames = [
        ServerFrame::Authenticated {
            data: Authenticated {
                session_id: "s",
                expires_at: options.map(|()| timestamp),
            },
            timestamp,
        },
        ServerFrame::Subscribed {
            data: Subscribed {
                channel: "network_events",
                seq: SEQ,
                recovered: options.map(|()| true),
            },
            timestamp,
        },
        ServerFrame::Unsubscribed {
            data: Unsubscribed {
                channel: "network_events",
            },
            timestamp,
        },
        ServerFrame::Pong,
        ServerFrame::Error {
            data: Failure {
                code: ErrorCode::InvalidMessage,
                message: "m",
                field: options.map(|()| "f"),
                retry_after: options.map(|()| 1_000),
                expires_at: options.map(|()| timestamp),
            },
            timestamp,
        },
    ];
    for frame in &frames {
        match frame {
            ServerFrame::Authenticated { .. }
            | ServerFrame::Subscribed { .. }
            | ServerFrame::Unsubscribed { .. }
            | ServerFrame::Pong
            | ServerFrame::Error { .. } => {}
        }
    }
    frames.iter().map(|frame| json!(frame)).collect()
}

#[test]
fn server_frames_have_the_fields_of_their_shapes() {
    encoder_agrees(&SHAPE, &frames(true), &frames(false));
}

#[test]
fn events_have_the_fields_of_their_shapes() {
    let mut count = 0;
    for (kind, message) in SHAPE.events() {
        let data = data_of(kind);
        let frame = json!(EventFrame {
            kind: message.kind,
            event: kind.name,
            data: &data,
            timestamp: time(),
            id: "e-1",
            seq: SEQ,
        });
        message.check(&frame).unwrap();
        let keys = frame.as_object().unwrap().len();
        assert_eq!(keys, message.fields.len() + 1, "{frame}");
        count += 1;
    }
    assert_eq!(count, 16);
}

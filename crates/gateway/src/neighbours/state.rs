//! Sessions between their engine's form and the bus's.

use std::time::Duration;

use signalbox_protocol::wire;
use signalbox_protocol::wire::queued_packet::Packet;
use signalbox_socketio::SessionState;
use signalbox_socketio::engine::{ClientState, PartialMessage, QueuedPacket, SocketState};

/// A session for the bus.
pub(super) fn to_wire(state: SessionState) -> wire::SessionState {
    let client = state.client;
    wire::SessionState {
        sid: state.sid,
        queue: state
            .queue
            .into_iter()
            .map(|packet| wire::QueuedPacket {
                packet: Some(match packet {
                    QueuedPacket::Text(text) => Packet::Text(text),
                    QueuedPacket::Binary(bytes) => Packet::Binary(bytes),
                }),
            })
            .collect(),
        max_payload: state.max_payload as u64,
        beat_in_ms: millis(state.beat_in),
        pong_awaited: state.pong_awaited,
        settled: state.settled,
        opening: client.opening.into(),
        lonely_for_ms: client.lonely_for.map(millis),
        left_any: client.left_any,
        partial: client.partial.map(|partial| wire::PartialMessage {
            packet: partial.packet,
            attachments: partial.attachments,
        }),
        sockets: client
            .sockets
            .into_iter()
            .map(|socket| wire::SocketState {
                namespace: socket.namespace,
                id: socket.id,
                pid: socket.pid,
                next_ack: socket.next_ack,
                data: socket.data.into(),
            })
            .collect(),
    }
}

/// A session from the bus; `None` if it is not understood.
pub(super) fn from_wire(state: wire::SessionState) -> Option<SessionState> {
    let queue = state.queue.into_iter().map(|packet| match packet.packet? {
        Packet::Text(text) => Some(QueuedPacket::Text(text)),
        Packet::Binary(bytes) => Some(QueuedPacket::Binary(bytes)),
    });
    let sockets = state.sockets.into_iter().map(|socket| SocketState {
        namespace: socket.namespace,
        id: socket.id,
        pid: socket.pid,
        next_ack: socket.next_ack,
        data: socket.data.into(),
    });
    Some(SessionState {
        sid: state.sid,
        queue: queue.collect::<Option<_>>()?,
        max_payload: usize::try_from(state.max_payload).ok()?,
        beat_in: Duration::from_millis(state.beat_in_ms),
        pong_awaited: state.pong_awaited,
        settled: state.settled,
        client: ClientState {
            opening: state.opening.into(),
            lonely_for: state.lonely_for_ms.map(Duration::from_millis),
            left_any: state.left_any,
            partial: state.partial.map(|partial| PartialMessage {
                packet: partial.packet,
                attachments: partial.attachments,
            }),
            sockets: sockets.collect(),
        },
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_survive_the_way() {
        let socket = |namespace: &str, pid: Option<&str>| SocketState {
            namespace: namespace.to_owned(),
            id: "socket".to_owned(),
            pid: pid.map(str::to_owned),
            next_ack: 7,
            data: vec![0, 255],
        };
        let full = SessionState {
            sid: "sid".to_owned(),
            queue: vec![
                QueuedPacket::Text("42[\"é\"]".to_owned()),
                QueuedPacket::Binary(vec![0, 30, 255].into()),
                QueuedPacket::Text("2".to_owned()),
            ],
            max_payload: 1_048_576,
            beat_in: Duration::from_millis(24_999),
            pong_awaited: true,
            settled: true,
            client: ClientState {
                opening: b"token=x".to_vec(),
                lonely_for: Some(Duration::ZERO),
                left_any: true,
                partial: Some(PartialMessage {
                    packet: "51-[{\"_placeholder\":true,\"num\":0}]".to_owned(),
                    attachments: vec![vec![1].into()],
                }),
                sockets: vec![socket("/", None), socket("/ws", Some("pid"))],
            },
        };
        for state in [full, SessionState::default()] {
            assert_eq!(from_wire(to_wire(state.clone())), Some(state));
        }
        let nothing = wire::SessionState {
            queue: vec![wire::QueuedPacket { packet: None }],
            ..wire::SessionState::default()
        };
        assert_eq!(from_wire(nothing), None, "a packet of a newer version");
    }
}

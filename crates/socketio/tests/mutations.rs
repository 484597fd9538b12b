//! Decoders under mutated input: what the fuzz targets do, for as long as a test may take, and the
//! same every time. And packets of any content, written and read again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/entry.rs"]
mod entry;
#[path = "../../protocol/fuzz/mutate.rs"]
mod mutate;

use std::collections::HashSet;

use mutate::Mutator;
use proptest::prelude::*;
use serde_json::{Value, value::to_raw_value};
use signalbox_socketio::{
    Packet,
    codec::{
        Assembler, AssemblyLimits, Body, EnginePacket, SocketPacket, arguments, decode_packet,
        decode_payload, decode_socket_packet,
    },
};
use signalbox_transport::Frame;

/// Mutations per decoder.
const ROUNDS: usize = 100_000;

#[test]
fn no_decoder_is_harmed_by_mutated_input() {
    for (number, (entry, seeds)) in (0..).zip(entry::seeds()) {
        Mutator::new(number).run(entry, &seeds, ROUNDS);
    }
}

/// Mutations that are all refused at the first byte would prove nothing.
#[test]
fn mutations_reach_all_parts_of_the_decoders() {
    let [(_, payloads), (_, packets), _] = entry::seeds();
    let mut mutator = Mutator::new(7);
    let (mut accepted, mut refused) = (0, HashSet::new());
    for _ in 0..20_000 {
        let mut input = packets[mutator.below(packets.len())].clone();
        mutator.mutate(&mut input);
        if let Ok(text) = std::str::from_utf8(&input) {
            let decoded = decode_socket_packet(text, 3).and_then(|packet| match packet {
                SocketPacket::Message {
                    header, payload, ..
                } => arguments(header.body, payload).map(|_| ()),
                _ => Ok(()),
            });
            match decoded {
                Ok(()) => accepted += 1,
                Err(malformed) => {
                    refused.insert(malformed);
                }
            }
        }
        let mut input = payloads[mutator.below(payloads.len())].clone();
        mutator.mutate(&mut input);
        if let Err(malformed) = decode_payload(&input, 3) {
            refused.insert(malformed);
        }
    }
    assert!(accepted > 500, "{accepted} accepted");
    assert!(refused.len() >= 9, "{refused:?}");
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        namespace in "/[a-z/]{0,12}",
        name in ".{0,20}",
        values in prop::collection::vec(json(), 0..5),
        binaries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
    ) {
        let mut event = Packet::event(&namespace, &name);
        for value in &values {
            event = event.raw(&to_raw_value(value).unwrap());
        }
        for binary in &binaries {
            event = event.binary(binary.clone());
        }
        let packet = event.build();
        let frames: Vec<&Frame> = packet.frames().collect();
        let text = std::str::from_utf8(frames[0].payload()).unwrap();
        let Ok(EnginePacket::Text(text)) = decode_packet(text) else {
            panic!("a message");
        };
        let Ok(SocketPacket::Message { header, attachments, payload }) =
            decode_socket_packet(text, 10)
        else {
            panic!("an event");
        };
        prop_assert_eq!(header.namespace, namespace.as_str());
        prop_assert_eq!(header.body, Body::Event { ack: None });
        prop_assert_eq!(attachments, binaries.len());
        let reserved = ["connect", "connect_error", "disconnect", "disconnecting", "newListener",
            "removeListener"].contains(&name.as_str());
        prop_assume!(!reserved);
        let (again, given) = arguments(header.body, payload).unwrap();
        prop_assert_eq!(again.as_ref(), name.as_str());
        let given: Vec<Value> =
            given.iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect();
        prop_assert_eq!(&given[..values.len()], values.as_slice());
        prop_assert_eq!(given.len(), values.len() + binaries.len());
        if !binaries.is_empty() {
            let limits = AssemblyLimits { attachments: 10, bytes: 1 << 20 };
            let mut assembler = Assembler::new(header, attachments, payload, &limits).unwrap();
            let mut whole = None;
            for frame in &frames[1..] {
                prop_assert!(whole.is_none());
                whole = assembler.take(frame.payload().to_vec().into()).unwrap();
            }
            let attachments = whole.unwrap().attachments;
            prop_assert!(attachments.iter().eq(binaries.iter()));
        }
    }
}

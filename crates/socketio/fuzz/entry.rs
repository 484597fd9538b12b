//! What fuzzers and the seeded test of mutations feed: each function takes any bytes, and panics if
//! a decoder does, or breaks a promise of its own.

use serde_json::value::RawValue;
use signalbox_socketio::{
    Malformed, Packet,
    codec::{
        Assembler, AssemblyLimits, Body, EnginePacket, MAX_NAMESPACE_BYTES, SEPARATOR,
        SocketPacket, arguments, decode_packet, decode_payload, decode_socket_packet,
    },
};

const MAX_PACKETS: usize = 16;
const LIMITS: AssemblyLimits = AssemblyLimits {
    attachments: 3,
    bytes: 256,
};

/// Polling payloads: as many packets as separators say, each the same alone.
pub(crate) fn payload(bytes: &[u8]) {
    let Ok(packets) = decode_payload(bytes, MAX_PACKETS) else {
        return;
    };
    assert!(packets.len() <= MAX_PACKETS);
    let text = std::str::from_utf8(bytes).expect("payloads are text");
    let parts: Vec<&str> = text.split(SEPARATOR).collect();
    assert_eq!(packets.len(), parts.len());
    for (decoded, part) in packets.iter().zip(parts) {
        match decoded {
            EnginePacket::Binary(bytes) => assert!(bytes.len() < part.len()),
            decoded => assert_eq!(decode_packet(part).as_ref(), Ok(decoded)),
        }
    }
}

/// Socket.IO packets: accepted events survive being written anew.
pub(crate) fn packet(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match decode_socket_packet(text, LIMITS.attachments) {
        Ok(SocketPacket::Connect { namespace, .. } | SocketPacket::Disconnect { namespace }) => {
            assert!(namespace.starts_with('/') && namespace.len() <= MAX_NAMESPACE_BYTES);
        }
        Ok(SocketPacket::Message {
            header,
            attachments,
            payload,
        }) => {
            assert!(attachments <= LIMITS.attachments);
            let Ok((name, given)) = arguments(header.body, payload) else {
                return;
            };
            if let Body::Event { ack: None } = header.body {
                rewritten(header.namespace, &name, &given);
            }
        }
        Err(_) => {}
    }
}

/// Writes an event as the server does and reads it as one of a client.
fn rewritten(namespace: &str, name: &str, given: &[&RawValue]) {
    let mut event = Packet::event(namespace, name);
    for argument in given {
        event = event.raw(argument);
    }
    let event = event.build();
    let frame = event.single_frame().expect("no attachments");
    let wire = std::str::from_utf8(frame.payload()).expect("packets are text");
    let packet = wire.strip_prefix('4').expect("an Engine.IO message");
    let Ok(SocketPacket::Message {
        header, payload, ..
    }) = decode_socket_packet(packet, 0)
    else {
        panic!("{packet} is no event");
    };
    assert_eq!(header.namespace, namespace);
    let (again, arguments) = arguments(header.body, payload).expect("an event");
    assert_eq!(again, name);
    assert!(
        arguments
            .iter()
            .map(|argument| argument.get())
            .eq(given.iter().map(|argument| argument.get()))
    );
}

/// Messages with attachments: the packet, an empty line, and the attachments by lines. Complete
/// ones have as many as were announced and are within the limits.
pub(crate) fn attachments(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(Ok(text)) = lines.next().map(std::str::from_utf8) else {
        return;
    };
    let Ok(SocketPacket::Message {
        header,
        attachments,
        payload,
    }) = decode_socket_packet(text, LIMITS.attachments)
    else {
        return;
    };
    if attachments == 0 {
        return;
    }
    let Ok(mut assembler) = Assembler::new(header, attachments, payload, &LIMITS) else {
        return;
    };
    for (taken, line) in (1..).zip(lines) {
        match assembler.take(line.to_vec().into()) {
            Ok(None) => assert!(taken < attachments),
            Ok(Some(whole)) => {
                assert_eq!(taken, attachments);
                assert_eq!(whole.attachments.len(), attachments);
                assert_eq!(whole.header(), header);
                let total: usize = whole.attachments.iter().map(|bytes| bytes.len()).sum();
                assert!(total + whole.payload.len() <= LIMITS.bytes);
                return;
            }
            Err(malformed) => {
                assert_eq!(malformed, Malformed::AttachmentsTooLong);
                return;
            }
        }
    }
}

/// A function of this module.
pub(crate) type Entry = fn(&[u8]);

/// Valid inputs of each function, to be mutated.
pub(crate) fn seeds() -> [(Entry, Vec<Vec<u8>>); 3] {
    let payloads = [
        "4hello",
        "40/ws,{\"token\":\"a\"}\u{1e}42/ws,[\"a\",1]\u{1e}3",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQIDBA==",
        "1",
        "2probe\u{1e}6\u{1e}5",
    ];
    let packets = [
        "0",
        "0/custom,{\"pid\":\"a\",\"offset\":\"1-2\",\"n\":[1,{\"b\":null}]}",
        "1/custom",
        "2[\"event\",1,\"two\",{\"3\":[true]}]",
        "2/ws,12[\"gr\\u00fcn\"]",
        "3/ws,13[\"answer\"]",
        "52-/n,7[\"a\",{\"_placeholder\":true,\"num\":1}]",
        "61-9[{\"_placeholder\":true,\"num\":0}]",
        "2[17,-1.5e3]",
    ];
    let messages = [
        "51-[\"a\",{\"_placeholder\":true,\"num\":0}]\none\n",
        "53-/ws,1[\"a\",[{\"x\":{\"_placeholder\":true,\"num\":2}}]]\none\ntwo\nthree",
        "62-4[{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]\n\n\n",
    ];
    let bytes = |text: &&str| text.as_bytes().to_vec();
    [
        (payload, payloads.iter().map(bytes).collect()),
        (packet, packets.iter().map(bytes).collect()),
        (attachments, messages.iter().map(bytes).collect()),
    ]
}

//! Socket.IO 5 packets as a client sends them: type, attachments, namespace, acknowledgement id and
//! the outer shape of the payload. What an event means is for others.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};

use super::Malformed;

/// The longest namespace; a longer one ends the connection.
pub const MAX_NAMESPACE_BYTES: usize = 128;

/// The largest integer that a JavaScript number holds exactly.
const MAX_ACK_ID: u64 = (1 << 53) - 1;

/// Event names that the protocol's libraries use for themselves.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// A packet of a client.
#[derive(Debug)]
pub enum SocketPacket<'a> {
    /// Wants to join a namespace.
    Connect {
        /// The namespace, `/` for the main one.
        namespace: &'a str,
        /// What came with it; empty if nothing did.
        auth: Map<String, Value>,
    },
    /// Leaves a namespace.
    Disconnect {
        /// The namespace.
        namespace: &'a str,
    },
    /// An event or an acknowledgement, complete unless it announces attachments.
    Message {
        /// Its kind, namespace and id.
        header: Header<'a>,
        /// How many binary messages follow.
        attachments: usize,
        /// The payload: a JSON array, unless it announces attachments not looked at yet.
        payload: &'a str,
    },
}

/// What an event or acknowledgement is, but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The namespace, `/` for the main one.
    pub namespace: &'a str,
    /// The kind, with its acknowledgement id.
    pub body: Body,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// An event; the client wants an acknowledgement if there is an id.
    Event {
        /// The id to acknowledge with.
        ack: Option<u64>,
    },
    /// An acknowledgement of an event of ours.
    Ack {
        /// The id that the event went out with.
        id: u64,
    },
}

/// Decodes a packet, as it stands in an Engine.IO text message, with at most `max_attachments`.
///
/// # Errors
/// When its shape is not that of a client's packet.
pub fn decode_socket_packet(
    packet: &str,
    max_attachments: usize,
) -> Result<SocketPacket<'_>, Malformed> {
    let kind = *packet.as_bytes().first().ok_or(Malformed::Empty)?;
    if !matches!(kind, b'0'..=b'3' | b'5' | b'6') {
        return Err(Malformed::SocketType);
    }
    let mut rest = &packet[1..];
    let mut attachments = 0;
    if matches!(kind, b'5' | b'6') {
        let (count, behind) = digits(rest);
        rest = behind.strip_prefix('-').ok_or(Malformed::AttachmentCount)?;
        if count.is_empty() {
            return Err(Malformed::AttachmentCount);
        }
        // A number that no integer holds is still a number.
        attachments = count.parse().unwrap_or(usize::MAX);
        if attachments > max_attachments {
            return Err(Malformed::TooManyAttachments);
        }
    }
    let namespace = if rest.starts_with('/') {
        let (namespace, behind) = rest.split_once(',').unwrap_or((rest, ""));
        rest = behind;
        namespace
    } else {
        "/"
    };
    if namespace.len() > MAX_NAMESPACE_BYTES {
        return Err(Malformed::Namespace);
    }
    let (id, payload) = digits(rest);
    let id = match id {
        "" => None,
        id => Some(
            id.parse()
                .ok()
                .filter(|id| *id <= MAX_ACK_ID)
                .ok_or(Malformed::AckId)?,
        ),
    };
    let body = match (kind, id) {
        (b'0', None) => {
            return Ok(SocketPacket::Connect {
                namespace,
                auth: object(payload)?,
            });
        }
        (b'1', None) => {
            return match payload {
                "" => Ok(SocketPacket::Disconnect { namespace }),
                _ => Err(Malformed::Payload),
            };
        }
        (b'2' | b'5', ack) => Body::Event { ack },
        (b'3' | b'6', Some(id)) => Body::Ack { id },
        _ => return Err(Malformed::AckId),
    };
    Ok(SocketPacket::Message {
        header: Header { namespace, body },
        attachments,
        payload,
    })
}

/// The payload of a CONNECT: nothing or an object.
fn object(payload: &str) -> Result<Map<String, Value>, Malformed> {
    if payload.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(payload).map_err(|_| Malformed::Payload)
}

/// Takes a message's payload apart: an event's name and arguments, or an acknowledgement's
/// arguments behind an empty name.
///
/// An event's name is a string, or a number as it is written.
///
/// # Errors
/// When it is not the array that the message's kind demands.
pub fn arguments<'a>(
    body: Body,
    payload: &'a str,
) -> Result<(Cow<'a, str>, Vec<&'a RawValue>), Malformed> {
    let mut arguments: Vec<&RawValue> =
        serde_json::from_str(payload).map_err(|_| Malformed::Payload)?;
    if let Body::Ack { .. } = body {
        return Ok((Cow::Borrowed(""), arguments));
    }
    if arguments.is_empty() {
        return Err(Malformed::Payload);
    }
    let name = arguments.remove(0).get();
    let name = match name.as_bytes()[0] {
        b'"' => {
            serde_json::from_str::<Name<'_>>(name)
                .map_err(|_| Malformed::Payload)?
                .0
        }
        b'-' | b'0'..=b'9' => Cow::Borrowed(name),
        _ => return Err(Malformed::Payload),
    };
    if RESERVED.contains(&name.as_ref()) {
        return Err(Malformed::ReservedEvent);
    }
    Ok((name, arguments))
}

/// A string that is borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Splits behind the leading digits.
fn digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(packet: &str) -> Malformed {
        match decode_socket_packet(packet, 10) {
            Ok(SocketPacket::Message {
                header, payload, ..
            }) => arguments(header.body, payload).expect_err(packet),
            decoded => decoded.expect_err(packet),
        }
    }

    #[test]
    fn every_malformed_shape_is_told_apart() {
        let long = format!("0/{},", "n".repeat(MAX_NAMESPACE_BYTES));
        for (packet, malformed) in [
            ("", Malformed::Empty),
            ("abc", Malformed::SocketType),
            ("4{\"message\":\"x\"}", Malformed::SocketType),
            ("7", Malformed::SocketType),
            ("é", Malformed::SocketType),
            (&long, Malformed::Namespace),
            ("0[]", Malformed::Payload),
            ("0\"x\"", Malformed::Payload),
            ("0{", Malformed::Payload),
            ("0{}{}", Malformed::Payload),
            ("0/a,{\"k\":}", Malformed::Payload),
            ("01", Malformed::AckId),
            ("01{}", Malformed::AckId),
            ("11", Malformed::AckId),
            ("1[]", Malformed::Payload),
            ("1/a,x", Malformed::Payload),
            ("2", Malformed::Payload),
            ("2{}", Malformed::Payload),
            ("2[]", Malformed::Payload),
            ("2[{}]", Malformed::Payload),
            ("2[null]", Malformed::Payload),
            ("2[true]", Malformed::Payload),
            ("2[\"a\"", Malformed::Payload),
            ("2[\"a\",]", Malformed::Payload),
            ("2[\"a\"]x", Malformed::Payload),
            ("2[\"\\ud800\"]", Malformed::Payload),
            ("2abc[\"a\"]", Malformed::Payload),
            ("2-1[\"a\"]", Malformed::Payload),
            ("2/a[\"a\"]", Malformed::Payload),
            ("29007199254740992[\"a\"]", Malformed::AckId),
            ("299999999999999999999[\"a\"]", Malformed::AckId),
            ("2[\"connect\"]", Malformed::ReservedEvent),
            ("2[\"connect_error\"]", Malformed::ReservedEvent),
            ("2[\"disconnect\"]", Malformed::ReservedEvent),
            ("2[\"disconnecting\"]", Malformed::ReservedEvent),
            ("2[\"newListener\"]", Malformed::ReservedEvent),
            ("2[\"removeListener\"]", Malformed::ReservedEvent),
            ("2[\"disconn\\u0065ct\"]", Malformed::ReservedEvent),
            ("3[]", Malformed::AckId),
            ("31", Malformed::Payload),
            ("31{}", Malformed::Payload),
            ("5[\"a\"]", Malformed::AttachmentCount),
            ("5-[\"a\"]", Malformed::AttachmentCount),
            ("51[\"a\"]", Malformed::AttachmentCount),
            ("51.0-[\"a\"]", Malformed::AttachmentCount),
            ("5--1-[\"a\"]", Malformed::AttachmentCount),
            ("5+1-[\"a\"]", Malformed::AttachmentCount),
            ("511-[\"a\"]", Malformed::TooManyAttachments),
            (
                "599999999999999999999999-[\"a\"]",
                Malformed::TooManyAttachments,
            ),
            ("61-[]", Malformed::AckId),
        ] {
            assert_eq!(refused(packet), malformed, "{packet:?}");
        }
    }

    #[test]
    fn packets_of_each_type() {
        let connect = |packet| match decode_socket_packet(packet, 0) {
            Ok(SocketPacket::Connect { namespace, auth }) => {
                (namespace, Value::Object(auth).to_string())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(connect("0"), ("/", "{}".to_owned()));
        assert_eq!(connect("0/custom"), ("/custom", "{}".to_owned()));
        assert_eq!(connect("0/ws,"), ("/ws", "{}".to_owned()));
        assert_eq!(
            connect("0/ws,{\"token\":\"a\"}"),
            ("/ws", "{\"token\":\"a\"}".to_owned())
        );
        assert!(matches!(
            decode_socket_packet("1/custom", 0),
            Ok(SocketPacket::Disconnect {
                namespace: "/custom"
            })
        ));

        let message = |packet| match decode_socket_packet(packet, 2) {
            Ok(SocketPacket::Message {
                header,
                attachments,
                payload,
            }) => {
                let (name, arguments) = arguments(header.body, payload).unwrap();
                let arguments: Vec<String> = arguments.iter().map(|a| a.to_string()).collect();
                (
                    header.namespace,
                    header.body,
                    attachments,
                    name,
                    arguments.join(";"),
                )
            }
            other => panic!("{other:?}"),
        };
        let event = |ack| Body::Event { ack };
        for (packet, decoded) in [
            (
                "2[\"a\",1,{\"b\":[]}]",
                ("/", event(None), 0, "a", "1;{\"b\":[]}"),
            ),
            ("2/n,12[\"a\\n\"]", ("/n", event(Some(12)), 0, "a\n", "")),
            ("2[7, \"x\"]", ("/", event(None), 0, "7", "\"x\"")),
            ("2[-1.5]", ("/", event(None), 0, "-1.5", "")),
            ("2[\"\"]", ("/", event(None), 0, "", "")),
            (
                "29007199254740991[\"a\"]",
                ("/", event(Some(MAX_ACK_ID)), 0, "a", ""),
            ),
            ("30[]", ("/", Body::Ack { id: 0 }, 0, "", "")),
            (
                "3/n,13[\"b\",2]",
                ("/n", Body::Ack { id: 13 }, 0, "", "\"b\";2"),
            ),
            ("52-/n,[\"a\"]", ("/n", event(None), 2, "a", "")),
            ("50-[\"a\"]", ("/", event(None), 0, "a", "")),
            ("61-4[1]", ("/", Body::Ack { id: 4 }, 1, "", "1")),
        ] {
            let (namespace, body, attachments, name, arguments) = message(packet);
            assert_eq!(
                (
                    namespace,
                    body,
                    attachments,
                    name.as_ref(),
                    arguments.as_str()
                ),
                decoded,
                "{packet}"
            );
        }
    }
}

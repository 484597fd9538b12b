//! Packets of a server, built once and sent to any number of sockets over either transport.

use std::{fmt::Write as _, iter, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use signalbox_transport::Frame;

/// A Socket.IO packet in wire form; a clone shares the bytes.
///
/// Over WebSocket its frames are written as they are. Over long-polling the payload of the same
/// frames is copied into a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    head: Frame,
    attachments: Option<Arc<[Frame]>>,
    /// Whether a client would take the last argument for an offset.
    ends_in_string: bool,
}

impl Packet {
    /// Begins an event in `namespace` (`/` is the main one).
    pub fn event(namespace: &str, name: &str) -> PacketBuilder {
        let mut builder = PacketBuilder::new(b'2', namespace);
        builder.separate();
        push_json(&mut builder.arguments, name);
        // A client takes even the name for an offset where no argument follows.
        builder.ends_in_string = true;
        builder
    }

    /// Begins an acknowledgement of the client's event with that id.
    pub(crate) fn ack(namespace: &str, id: u64) -> PacketBuilder {
        let mut builder = PacketBuilder::new(b'3', namespace);
        builder.id = Some(id);
        builder
    }

    /// The answer to a CONNECT.
    pub(crate) fn connect(namespace: &str, sid: &str, pid: Option<&str>) -> Self {
        let mut payload = String::from("{\"sid\":");
        push_json(&mut payload, sid);
        if let Some(pid) = pid {
            payload.push_str(",\"pid\":");
            push_json(&mut payload, pid);
        }
        payload.push('}');
        Self::bare(b'0', namespace, &payload)
    }

    /// The refusal of a CONNECT.
    pub(crate) fn connect_error(namespace: &str, message: &str, data: Option<&Value>) -> Self {
        let mut payload = String::from("{\"message\":");
        push_json(&mut payload, message);
        if let Some(data) = data {
            // Writing to a string does not fail.
            write!(payload, ",\"data\":{data}").ok();
        }
        payload.push('}');
        Self::bare(b'4', namespace, &payload)
    }

    /// The end of a namespace.
    pub(crate) fn disconnect(namespace: &str) -> Self {
        Self::bare(b'1', namespace, "")
    }

    fn bare(kind: u8, namespace: &str, payload: &str) -> Self {
        let mut text = head(kind, None, namespace);
        text.push_str(payload);
        Self {
            head: Frame::text(&text),
            attachments: None,
            ends_in_string: false,
        }
    }

    /// The frames to send, which must stay together: the packet and its attachments.
    #[inline]
    pub fn frames(&self) -> impl Iterator<Item = &Frame> + Clone {
        let attachments = self.attachments.as_deref().unwrap_or_default();
        iter::once(&self.head).chain(attachments)
    }

    /// The frame of a packet without attachments, to be kept with others.
    pub fn single_frame(&self) -> Option<&Frame> {
        self.attachments.is_none().then_some(&self.head)
    }

    /// Whether the last argument is a string that is not meant as an offset. A client with
    /// connection state recovery would take it for one, so that
    /// [`Socket::emit`](crate::Socket::emit) sends such a packet [guarded](Self::guarded).
    pub fn ends_in_string(&self) -> bool {
        self.ends_in_string
    }

    /// The same event with `null` as a further last argument.
    #[must_use]
    pub fn guarded(&self) -> Self {
        let text = self.head.payload();
        let open = text.strip_suffix(b"]").unwrap_or(text);
        Self {
            head: Frame::text_bytes(&[open, b",null]"].concat()),
            attachments: self.attachments.clone(),
            ends_in_string: false,
        }
    }
}

/// A packet under construction.
#[derive(Debug)]
pub struct PacketBuilder {
    kind: u8,
    namespace: Box<str>,
    id: Option<u64>,
    /// The arguments so far, without the closing bracket.
    arguments: String,
    attachments: Vec<Bytes>,
    ends_in_string: bool,
}

impl PacketBuilder {
    fn new(kind: u8, namespace: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            id: None,
            arguments: String::from("["),
            attachments: Vec::new(),
            ends_in_string: false,
        }
    }

    /// Appends an argument that is JSON already.
    #[must_use]
    pub fn raw(mut self, argument: &RawValue) -> Self {
        self.push(argument.get());
        self
    }

    /// Appends an argument.
    #[must_use]
    pub fn value(mut self, argument: &Value) -> Self {
        self.push(&argument.to_string());
        self
    }

    /// Appends an argument of any type.
    ///
    /// # Errors
    /// When it cannot be written as JSON, as a map whose keys are not strings.
    pub fn argument(mut self, argument: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        let json = serde_json::to_string(argument)?;
        self.push(&json);
        Ok(self)
    }

    /// Appends a binary argument.
    #[must_use]
    pub fn binary(mut self, bytes: impl Into<Bytes>) -> Self {
        let placeholder = format!(
            "{{\"_placeholder\":true,\"num\":{}}}",
            self.attachments.len()
        );
        self.push(&placeholder);
        self.attachments.push(bytes.into());
        self
    }

    /// Adds attachments for placeholders that stand in other arguments, numbered from zero; for
    /// passing on what a client sent. Must not be mixed with [`binary`](Self::binary).
    #[must_use]
    pub fn attachments(mut self, attachments: &[Bytes]) -> Self {
        self.attachments.extend_from_slice(attachments);
        self
    }

    /// Appends the offset from which a client with connection state recovery resumes behind this
    /// event. It must be the last argument.
    #[must_use]
    pub fn offset(mut self, offset: &str) -> Self {
        self.separate();
        push_json(&mut self.arguments, offset);
        self.ends_in_string = false;
        self
    }

    /// Asks for an acknowledgement with this id.
    pub(crate) fn id(mut self, id: u64) -> Self {
        self.id = Some(id);
        self
    }

    /// The packet.
    #[must_use]
    pub fn build(self) -> Packet {
        let attachments = (!self.attachments.is_empty()).then(|| {
            let frames = self.attachments.iter().map(|bytes| Frame::binary(bytes));
            frames.collect::<Arc<[_]>>()
        });
        let count = attachments.as_ref().map(|frames| frames.len());
        let mut text = head(self.kind, count, &self.namespace);
        if let Some(id) = self.id {
            // Writing to a string does not fail.
            write!(text, "{id}").ok();
        }
        text.push_str(&self.arguments);
        text.push(']');
        Packet {
            head: Frame::text(&text),
            attachments,
            ends_in_string: self.ends_in_string,
        }
    }

    fn push(&mut self, json: &str) {
        self.separate();
        self.arguments.push_str(json);
        self.ends_in_string = json.starts_with('"');
    }

    fn separate(&mut self) {
        if self.arguments.len() > 1 {
            self.arguments.push(',');
        }
    }
}

/// Everything ahead of the id: Engine.IO and Socket.IO type, attachments, namespace.
fn head(kind: u8, attachments: Option<usize>, namespace: &str) -> String {
    /// From the type of a packet to that of the same packet with attachments.
    const BINARY: u8 = 3;
    let mut head = String::from("4");
    if let Some(attachments) = attachments {
        head.push(char::from(kind + BINARY));
        // Writing to a string does not fail.
        write!(head, "{attachments}-").ok();
    } else {
        head.push(char::from(kind));
    }
    if namespace != "/" {
        head.push_str(namespace);
        head.push(',');
    }
    head
}

/// Appends a string as JSON.
fn push_json(json: &mut String, text: &str) {
    // Writing a string to a string does not fail.
    write!(json, "{}", Value::from(text)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(packet: &Packet) -> &str {
        std::str::from_utf8(packet.head.payload()).unwrap()
    }

    #[test]
    fn packets_of_each_type() {
        for (packet, wire) in [
            (Packet::connect("/", "a", None), r#"40{"sid":"a"}"#),
            (
                Packet::connect("/n", "a", Some("p")),
                r#"40/n,{"sid":"a","pid":"p"}"#,
            ),
            (
                Packet::connect_error("/n", "Invalid \"x\"", None),
                r#"44/n,{"message":"Invalid \"x\""}"#,
            ),
            (
                Packet::connect_error("/", "no", Some(&serde_json::json!({"code": 1}))),
                r#"44{"message":"no","data":{"code":1}}"#,
            ),
            (Packet::disconnect("/n"), "41/n,"),
            (Packet::event("/", "a\n").build(), r#"42["a\n"]"#),
            (
                Packet::event("/n", "a").value(&Value::from(1)).build(),
                r#"42/n,["a",1]"#,
            ),
            (
                Packet::event("/", "a").id(7).offset("x-1").build(),
                r#"427["a","x-1"]"#,
            ),
            (Packet::ack("/n", 12).build(), "43/n,12[]"),
            (
                Packet::ack("/", 12)
                    .argument("b")
                    .unwrap()
                    .argument(&2)
                    .unwrap()
                    .build(),
                r#"4312["b",2]"#,
            ),
        ] {
            assert_eq!(text(&packet), wire);
            assert!(packet.single_frame().is_some());
        }
    }

    #[test]
    fn attachments_follow_their_packet() {
        let packet = Packet::event("/n", "a")
            .binary(&b"one"[..])
            .binary(&b"two"[..])
            .build();
        assert_eq!(
            text(&packet),
            r#"452-/n,["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#
        );
        let payloads: Vec<&[u8]> = packet.frames().skip(1).map(Frame::payload).collect();
        assert_eq!(payloads, [b"one", b"two"]);
        assert!(packet.single_frame().is_none());
        let ack = Packet::ack("/", 3).binary(&b"one"[..]).build();
        assert_eq!(text(&ack), r#"461-3[{"_placeholder":true,"num":0}]"#);
    }

    #[test]
    fn strings_that_are_no_offsets_can_be_guarded() {
        let event = || Packet::event("/", "a");
        let plain = event().argument("text").unwrap().build();
        assert!(plain.ends_in_string());
        assert_eq!(text(&plain.guarded()), r#"42["a","text",null]"#);
        assert!(!plain.guarded().ends_in_string());
        let bare = event().build();
        assert!(bare.ends_in_string(), "the name would be taken");
        assert_eq!(text(&bare.guarded()), r#"42["a",null]"#);
        for packet in [
            event().offset("o").build(),
            event().argument(&1).unwrap().build(),
            event().argument("text").unwrap().offset("o").build(),
            event().argument("t").unwrap().binary(&b""[..]).build(),
        ] {
            assert!(!packet.ends_in_string(), "{packet:?}");
        }
    }
}

//! Ready-made server frames (RFC 6455 section 5): header and payload in one shared buffer, built
//! once and written to any number of connections. Does not read frames.

use std::fmt;

use bytes::Bytes;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD_BYTES: usize = 125;

/// The longest reason of a Close frame: a control payload less the two bytes of the code.
pub const MAX_CLOSE_REASON_BYTES: usize = MAX_CONTROL_PAYLOAD_BYTES - 2;

/// First header byte: final fragment, no reserved bits.
const FIN: u8 = 0x80;
/// The bit of the opcode that all control frames have.
const CONTROL_BIT: u8 = 0x08;
/// The part of the first header byte that is the opcode.
const OPCODE_MASK: u8 = 0x0f;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Longest header of an unmasked frame.
const MAX_HEADER_BYTES: usize = 10;

/// A status code of a Close frame (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: this end is going away, a server because it shuts down.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: the peer sent a kind of data that is not accepted, as binary where text is meant.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1007: a message's content does not fit its type, as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: the peer broke a rule of the application.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message is over the size limit.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1011: this end met a condition it cannot handle.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1013: overloaded or the peer too slow, come back later (IANA registry, not in the RFC).
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// A code that may stand in a Close frame, or `None` for one that may not (as 1005 and 1006,
    /// which only reports use).
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The code as it stands on the wire.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// A code that a peer sent, whatever it is.
    pub(crate) const fn received(code: u16) -> Self {
        Self(code)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame is for, by its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// A Close frame.
    Close,
    /// A Ping.
    Ping,
    /// A Pong.
    Pong,
}

/// An immutable, complete and unmasked frame; a clone shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text message in one frame.
    pub fn text(payload: &str) -> Self {
        Self::build(TEXT, payload.as_bytes())
    }

    /// A text message whose payload the caller knows to be UTF-8, as the output of a JSON
    /// serializer is. Other bytes would make the peer close the connection with 1007.
    pub fn text_bytes(payload: &[u8]) -> Self {
        debug_assert!(
            std::str::from_utf8(payload).is_ok(),
            "text payload is not UTF-8"
        );
        Self::build(TEXT, payload)
    }

    /// A binary message in one frame.
    pub fn binary(payload: &[u8]) -> Self {
        Self::build(BINARY, payload)
    }

    /// A Close frame (section 5.5.1); the reason is cut at a character boundary to
    /// [`MAX_CLOSE_REASON_BYTES`].
    pub fn close(code: CloseCode, reason: &str) -> Self {
        let reason = &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON_BYTES)];
        let mut payload = Vec::with_capacity(2 + reason.len());
        payload.extend_from_slice(&code.as_u16().to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
        Self::build(CLOSE, &payload)
    }

    /// A Ping frame (section 5.5.2); the payload is cut to [`MAX_CONTROL_PAYLOAD_BYTES`].
    pub fn ping(payload: &[u8]) -> Self {
        Self::build(PING, control_payload(payload))
    }

    /// A Pong frame (section 5.5.3); the payload is cut to [`MAX_CONTROL_PAYLOAD_BYTES`].
    pub fn pong(payload: &[u8]) -> Self {
        Self::build(PONG, control_payload(payload))
    }

    /// A copy of one whole frame that is already in wire form.
    pub(crate) fn from_wire(frame: &[u8]) -> Self {
        debug_assert!(frame.len() >= 2, "a frame has at least two header bytes");
        Self(Bytes::copy_from_slice(frame))
    }

    /// Bytes on the wire, header included.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a frame is never empty, its header alone has two bytes"
    )]
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is a Close, Ping or Pong frame.
    #[inline]
    pub fn is_control(&self) -> bool {
        self.0[0] & CONTROL_BIT != 0
    }

    /// Whether this is a Close frame.
    #[inline]
    pub fn is_close(&self) -> bool {
        self.0[0] & OPCODE_MASK == CLOSE
    }

    /// Takes the wire form of one whole frame apart, for a [`Socket`](crate::Socket) whose peer does
    /// not speak WebSocket; `None` for anything that is not a frame of this crate.
    pub fn dissect(wire: &[u8]) -> Option<(FrameKind, &[u8])> {
        let kind = match wire.first()? & OPCODE_MASK {
            TEXT => FrameKind::Text,
            BINARY => FrameKind::Binary,
            CLOSE => FrameKind::Close,
            PING => FrameKind::Ping,
            PONG => FrameKind::Pong,
            _ => return None,
        };
        let header = match wire.get(1)? {
            126 => 4,
            127 => MAX_HEADER_BYTES,
            _ => 2,
        };
        Some((kind, wire.get(header..)?))
    }

    /// What the frame carries: the wire form without its header.
    pub fn payload(&self) -> &[u8] {
        Self::dissect(&self.0).map_or(&[], |(_, payload)| payload)
    }

    /// The wire form: header, then payload.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether another frame shares the bytes.
    #[cfg(test)]
    pub(crate) fn is_shared(&self) -> bool {
        !self.0.is_unique()
    }

    fn build(opcode: u8, payload: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
        frame.push(FIN | opcode);
        // Section 5.2: seven bits of length, or the marker 126 and 16 bits, or the marker 127 and
        // 64 bits.
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len @ 126..=0xffff => {
                frame.push(126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        Self(Bytes::from(frame))
    }
}

impl fmt::Debug for Frame {
    /// Opcode and size only: payloads stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("opcode", &(self.0[0] & OPCODE_MASK))
            .field("len", &self.len())
            .finish()
    }
}

fn control_payload(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(MAX_CONTROL_PAYLOAD_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_takes_the_shortest_form_at_every_border() {
        for (payload, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = Frame::text(&"x".repeat(payload));
            assert_eq!(
                &frame.as_bytes()[..header.len()],
                header,
                "payload of {payload}"
            );
            assert_eq!(frame.len(), header.len() + payload);
        }
    }

    #[test]
    fn opcodes_and_kinds() {
        for (frame, first, control) in [
            (Frame::text("a"), 0x81, false),
            (Frame::text_bytes(b"a"), 0x81, false),
            (Frame::binary(b"a"), 0x82, false),
            (Frame::close(CloseCode::NORMAL, ""), 0x88, true),
            (Frame::ping(b"a"), 0x89, true),
            (Frame::pong(b"a"), 0x8a, true),
        ] {
            assert_eq!(frame.as_bytes()[0], first);
            assert_eq!(frame.is_control(), control);
            assert_eq!(frame.is_close(), first == 0x88);
        }
    }

    #[test]
    fn frames_come_apart_as_they_were_built() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            for (frame, kind) in [
                (Frame::text_bytes(&payload), FrameKind::Text),
                (Frame::binary(&payload), FrameKind::Binary),
            ] {
                assert_eq!(
                    Frame::dissect(frame.as_bytes()),
                    Some((kind, payload.as_slice()))
                );
                assert_eq!(frame.payload(), payload);
            }
        }
        let close = Frame::close(CloseCode::NORMAL, "bye");
        assert_eq!(
            Frame::dissect(close.as_bytes()),
            Some((FrameKind::Close, &b"\x03\xe8bye"[..]))
        );
        for torn in [&[][..], &[0x81], &[0x83, 0], &[0x81, 126, 0]] {
            assert_eq!(Frame::dissect(torn), None);
        }
    }

    #[test]
    fn close_reason_is_cut_at_a_character_boundary() {
        let reason = format!("{}é", "x".repeat(MAX_CLOSE_REASON_BYTES - 1));
        let frame = Frame::close(CloseCode::POLICY_VIOLATION, &reason);
        assert_eq!(frame.as_bytes()[..4], [0x88, 124, 0x03, 0xf0]);
        assert_eq!(&frame.as_bytes()[4..], "x".repeat(122).as_bytes());

        let longest = Frame::close(CloseCode::NORMAL, &"y".repeat(200));
        assert_eq!(longest.as_bytes()[1], 125);
    }

    #[test]
    fn control_payload_is_cut_to_its_limit() {
        assert_eq!(Frame::ping(&[7; 300]).len(), 2 + 125);
        assert_eq!(Frame::pong(&[7; 125]).len(), 2 + 125);
    }

    #[test]
    fn reserved_codes_cannot_be_made() {
        for reserved in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(CloseCode::new(reserved), None, "{reserved}");
        }
        assert_eq!(CloseCode::new(1013), Some(CloseCode::TRY_AGAIN_LATER));
        assert_eq!(CloseCode::new(4000).map(CloseCode::as_u16), Some(4000));
    }
}

//! Bytes to messages: tungstenite's state machine, fed by non-blocking reads, with its replies
//! handed to [`Outbound`] and its errors turned into close codes.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use crate::{CloseCode, Frame, Outbound, socket::would_block};

/// Read buffer of a connection that is receiving; held only until the message is complete. Also
/// what one read may bring.
const READ_BUFFER_BYTES: usize = 4096;

/// Decodes the messages of one connection.
pub(super) struct Decoder {
    context: WebSocketContext,
    /// Bytes read that are not accounted for by a message returned.
    ///
    /// Each message is taken to have come in one frame with the shortest header, the least that it
    /// can have cost. At zero every byte read has therefore been returned, and there is neither a
    /// partial frame nor a fragmented message: the decoder may be dropped. A peer that fragments or
    /// pads its lengths merely keeps it.
    unreturned: usize,
}

/// What one attempt to decode brought.
pub(super) enum Decoded {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A Ping, which has been answered, or a Pong.
    Control,
    /// The first Close frame of the peer.
    Close {
        /// Its code, if it has one.
        code: Option<CloseCode>,
        /// Its reason, perhaps empty.
        reason: String,
        /// The Close frame to answer with.
        answer: Option<Frame>,
    },
    /// Nothing more until the socket is readable again.
    Blocked,
    /// The peer broke the protocol; the decoder is of no use any more.
    Violation {
        /// The code to close with.
        code: CloseCode,
        /// The reason to close with.
        reason: &'static str,
    },
    /// The connection broke, or the peer left.
    Broken(io::Error),
}

impl Decoder {
    pub(super) fn new(max_message_bytes: usize, read_ahead: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            // Zero makes each reply one write, so that the adapter below sees whole frames.
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let unreturned = read_ahead.len();
        let context =
            WebSocketContext::from_partially_read(read_ahead.into(), Role::Server, Some(config));
        Self {
            context,
            unreturned,
        }
    }

    pub(super) fn set_max_message_bytes(&mut self, max_message_bytes: usize) {
        self.context.set_config(|config| {
            config.max_message_size = Some(max_message_bytes);
            config.max_frame_size = Some(max_message_bytes);
        });
    }

    /// Whether it holds nothing that a new decoder would not have.
    pub(super) fn is_empty(&self) -> bool {
        self.unreturned == 0
    }

    /// Decodes one message, reading as much as it takes. Also says whether anything was read.
    pub(super) fn decode(&mut self, outbound: &Outbound) -> (Decoded, bool) {
        let mut wire = Wire {
            outbound,
            read: 0,
            answer: None,
        };
        let result = self.context.read(&mut wire);
        self.unreturned += wire.read;
        let decoded = match result {
            Ok(Message::Close(close)) => {
                // Brings out the answer; that it then reports the connection as closed is what it
                // should do.
                self.context.flush(&mut wire).ok();
                let (code, reason) = close
                    .map(|close| (u16::from(close.code), close.reason))
                    .unzip();
                Decoded::Close {
                    code: code.map(CloseCode::received),
                    reason: reason.map_or_else(String::new, |reason| reason.as_str().to_owned()),
                    answer: wire.answer.take(),
                }
            }
            Ok(message) => {
                self.unreturned -= least_wire_bytes(message.len());
                match message {
                    Message::Text(text) => Decoded::Text(text),
                    Message::Binary(bytes) => Decoded::Binary(bytes),
                    _ => Decoded::Control,
                }
            }
            Err(error) => explain(error),
        };
        (decoded, wire.read > 0)
    }
}

/// The bytes of the shortest client frame (RFC 6455 section 5.2) with that payload: two, a mask,
/// and the longer lengths.
fn least_wire_bytes(payload: usize) -> usize {
    let header = match payload {
        0..=125 => 2 + 4,
        126..=0xffff => 2 + 2 + 4,
        _ => 2 + 8 + 4,
    };
    header + payload
}

fn explain(error: Error) -> Decoded {
    match error {
        Error::Io(error) if would_block(&error) => Decoded::Blocked,
        Error::Io(error) => Decoded::Broken(error),
        Error::Capacity(_) => Decoded::Violation {
            code: CloseCode::MESSAGE_TOO_BIG,
            reason: "message too big",
        },
        Error::Utf8(_) => Decoded::Violation {
            code: CloseCode::INVALID_PAYLOAD,
            reason: "text is not UTF-8",
        },
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Error::ConnectionClosed
        | Error::AlreadyClosed => Decoded::Broken(io::ErrorKind::UnexpectedEof.into()),
        Error::Protocol(error) => Decoded::Violation {
            code: CloseCode::PROTOCOL_ERROR,
            reason: sentence(&error),
        },
        _ => Decoded::Violation {
            code: CloseCode::PROTOCOL_ERROR,
            reason: "protocol violation",
        },
    }
}

fn sentence(error: &ProtocolError) -> &'static str {
    match error {
        ProtocolError::UnmaskedFrameFromClient => "frame is not masked",
        ProtocolError::NonZeroReservedBits => "reserved bits are set",
        ProtocolError::FragmentedControlFrame => "control frame is fragmented",
        ProtocolError::ControlFrameTooBig => "control frame is too long",
        ProtocolError::UnknownControlFrameType(_) | ProtocolError::UnknownDataFrameType(_) => {
            "unknown opcode"
        }
        ProtocolError::UnexpectedContinueFrame => "continuation of nothing",
        ProtocolError::ExpectedFragment(_) => "new message within a fragmented one",
        ProtocolError::InvalidCloseSequence => "malformed close frame",
        _ => "protocol violation",
    }
}

/// The connection as tungstenite sees it: reads come from the socket, writes are whole reply frames
/// for [`Outbound`].
struct Wire<'a> {
    outbound: &'a Outbound,
    /// Bytes read so far.
    read: usize,
    /// The answer to the peer's Close.
    answer: Option<Frame>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.outbound.connection().try_read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        let reply = Frame::from_wire(frame);
        if reply.is_close() {
            self.answer = Some(reply);
        } else {
            // A connection that is closed or too slow says so to its reader; a pong is nothing to
            // insist on.
            let _ = self.outbound.send_control(reply);
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_in_fragments_never_costs_less_than_in_one_frame() {
        let sizes = [
            0,
            1,
            124,
            125,
            126,
            127,
            32_768,
            65_410,
            65_535,
            65_536,
            65_537,
            1 << 20,
        ];
        for (first, second) in sizes
            .iter()
            .flat_map(|first| sizes.map(|second| (*first, second)))
        {
            let apart = least_wire_bytes(first) + least_wire_bytes(second);
            assert!(
                apart >= least_wire_bytes(first + second),
                "{first} and {second}"
            );
        }
    }
}

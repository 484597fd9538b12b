//! Bytes to packets and back: Engine.IO 4 (packets, polling payloads) and Socket.IO 5 (packets,
//! binary attachments). No I/O, and no state but that of a packet whose attachments are under way.

mod assembly;
mod engine_io;
mod outgoing;
mod socket_io;

pub(crate) use self::engine_io::{append_binary, append_text};
pub use self::{
    assembly::{Assembled, Assembler, AssemblyLimits},
    engine_io::{EnginePacket, SEPARATOR, decode_packet, decode_payload},
    outgoing::{Packet, PacketBuilder},
    socket_io::{Body, Header, MAX_NAMESPACE_BYTES, SocketPacket, arguments, decode_socket_packet},
};

/// What is wrong with what a client sent. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// A packet without a single byte, as between two separators.
    #[error("empty packet")]
    Empty,
    /// A polling payload that is not UTF-8.
    #[error("payload is not UTF-8")]
    NotUtf8,
    /// An Engine.IO packet type that does not exist or that only a server sends.
    #[error("unknown engine.io packet type")]
    EngineType,
    /// Data behind an Engine.IO packet type that has none.
    #[error("data behind a packet type that has none")]
    EngineData,
    /// A binary packet of a polling payload that is not base64.
    #[error("binary packet is not base64")]
    Base64,
    /// More packets in one payload than are accepted.
    #[error("too many packets in one payload")]
    TooManyPackets,
    /// A Socket.IO packet type that does not exist or that only a server sends.
    #[error("unknown socket.io packet type")]
    SocketType,
    /// A binary packet whose number of attachments is missing or no number.
    #[error("malformed number of attachments")]
    AttachmentCount,
    /// More attachments than are accepted.
    #[error("too many attachments")]
    TooManyAttachments,
    /// A namespace of more than [`MAX_NAMESPACE_BYTES`] bytes.
    #[error("namespace is too long")]
    Namespace,
    /// An acknowledgement id where none belongs, or one that no JavaScript number holds.
    #[error("malformed acknowledgement id")]
    AckId,
    /// A payload that is not the JSON that its packet type demands.
    #[error("malformed payload")]
    Payload,
    /// An event name that the protocol reserves.
    #[error("reserved event name")]
    ReservedEvent,
    /// A placeholder that names no attachment.
    #[error("placeholder without an attachment")]
    Placeholder,
    /// A text packet while attachments are awaited.
    #[error("text where an attachment is awaited")]
    AttachmentAwaited,
    /// A binary message that no packet has announced.
    #[error("binary message that was not announced")]
    Unannounced,
    /// A packet that does not fit the state of the connection, as an event ahead of a CONNECT.
    #[error("packet does not fit the state of the connection")]
    State,
    /// A packet that is too long together with its attachments.
    #[error("attachments are too long")]
    AttachmentsTooLong,
}

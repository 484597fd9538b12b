//! Engine.IO 4: packets as a client sends them, one in each WebSocket message or several in a
//! polling payload. What a server sends is built elsewhere.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::Malformed;

/// What stands between the packets of a polling payload.
pub const SEPARATOR: char = '\u{1e}';

/// What marks a binary packet in a polling payload.
const BINARY: char = 'b';

/// A packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnginePacket<'a> {
    /// The client leaves.
    Close,
    /// A probe during an upgrade, with its data.
    Ping(&'a str),
    /// The answer to a ping, with its data.
    Pong(&'a str),
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(Bytes),
    /// The end of an upgrade.
    Upgrade,
    /// Nothing.
    Noop,
}

/// Decodes a text packet, as it stands in a WebSocket text message.
///
/// # Errors
/// When it is empty, of a type that a client does not send, or has data where none belongs.
pub fn decode_packet(packet: &str) -> Result<EnginePacket<'_>, Malformed> {
    let kind = packet.as_bytes().first().ok_or(Malformed::Empty)?;
    // Only ASCII types are taken, behind which there is a character boundary.
    let data = packet.get(1..).ok_or(Malformed::EngineType)?;
    let bare = |bare| match data {
        "" => Ok(bare),
        _ => Err(Malformed::EngineData),
    };
    match kind {
        b'1' => bare(EnginePacket::Close),
        b'2' => Ok(EnginePacket::Ping(data)),
        b'3' => Ok(EnginePacket::Pong(data)),
        b'4' => Ok(EnginePacket::Text(data)),
        b'5' => bare(EnginePacket::Upgrade),
        b'6' => bare(EnginePacket::Noop),
        _ => Err(Malformed::EngineType),
    }
}

/// Decodes a polling payload of at most `max_packets` packets.
///
/// # Errors
/// When there are more, or any of them is malformed: then none of them counts.
pub fn decode_payload(
    payload: &[u8],
    max_packets: usize,
) -> Result<Vec<EnginePacket<'_>>, Malformed> {
    let payload = std::str::from_utf8(payload).map_err(|_| Malformed::NotUtf8)?;
    let mut packets = Vec::new();
    for packet in payload.split(SEPARATOR) {
        if packets.len() == max_packets {
            return Err(Malformed::TooManyPackets);
        }
        packets.push(match packet.strip_prefix(BINARY) {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map(|bytes| EnginePacket::Binary(bytes.into()))
                .map_err(|_| Malformed::Base64)?,
            None => decode_packet(packet)?,
        });
    }
    Ok(packets)
}

/// Appends a text packet to a polling payload.
pub(crate) fn append_text(payload: &mut Vec<u8>, packet: &[u8]) {
    separate(payload);
    payload.extend_from_slice(packet);
}

/// Appends a binary packet to a polling payload.
pub(crate) fn append_binary(payload: &mut Vec<u8>, bytes: &[u8]) {
    separate(payload);
    payload.push(BINARY as u8);
    payload.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

fn separate(payload: &mut Vec<u8>) {
    if !payload.is_empty() {
        payload.push(SEPARATOR as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_each_type() {
        for (packet, decoded) in [
            ("1", Ok(EnginePacket::Close)),
            ("2", Ok(EnginePacket::Ping(""))),
            ("2probe", Ok(EnginePacket::Ping("probe"))),
            ("3", Ok(EnginePacket::Pong(""))),
            ("4", Ok(EnginePacket::Text(""))),
            ("4grün", Ok(EnginePacket::Text("grün"))),
            ("5", Ok(EnginePacket::Upgrade)),
            ("6", Ok(EnginePacket::Noop)),
            ("", Err(Malformed::Empty)),
            ("0{}", Err(Malformed::EngineType)),
            ("7", Err(Malformed::EngineType)),
            ("abc", Err(Malformed::EngineType)),
            ("é", Err(Malformed::EngineType)),
            ("\0", Err(Malformed::EngineType)),
            ("1x", Err(Malformed::EngineData)),
            ("5x", Err(Malformed::EngineData)),
            ("6x", Err(Malformed::EngineData)),
        ] {
            assert_eq!(decode_packet(packet), decoded, "{packet:?}");
        }
    }

    #[test]
    fn payloads_are_taken_whole_or_not_at_all() {
        let binary = |bytes: &'static [u8]| EnginePacket::Binary(Bytes::from_static(bytes));
        for (payload, decoded) in [
            (&b"4a"[..], Ok(vec![EnginePacket::Text("a")])),
            (
                b"4a\x1e3\x1ebAQI=",
                Ok(vec![
                    EnginePacket::Text("a"),
                    EnginePacket::Pong(""),
                    binary(&[1, 2]),
                ]),
            ),
            (b"b", Ok(vec![binary(&[])])),
            (b"", Err(Malformed::Empty)),
            (b"4a\x1e", Err(Malformed::Empty)),
            (b"\x1e4a", Err(Malformed::Empty)),
            (b"4a\x1e\x1e4b", Err(Malformed::Empty)),
            (b"4a\x1e9", Err(Malformed::EngineType)),
            (b"4a\x1ebAQI", Err(Malformed::Base64)),
            (b"b!", Err(Malformed::Base64)),
            (b"4\xff", Err(Malformed::NotUtf8)),
            (b"4\x1e4\x1e4\x1e4", Err(Malformed::TooManyPackets)),
        ] {
            assert_eq!(
                decode_payload(payload, 3),
                decoded,
                "{:?}",
                String::from_utf8_lossy(payload)
            );
        }
    }

    #[test]
    fn what_is_appended_is_decoded_again() {
        let mut payload = Vec::new();
        append_text(&mut payload, b"4a");
        append_binary(&mut payload, &[0, 0x1e, 255]);
        append_text(&mut payload, b"6");
        assert_eq!(
            decode_payload(&payload, 3),
            Ok(vec![
                EnginePacket::Text("a"),
                EnginePacket::Binary(Bytes::from_static(&[0, 0x1e, 255])),
                EnginePacket::Noop
            ])
        );
    }
}

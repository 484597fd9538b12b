//! The client's half of WebSocket, as little as a load generator needs: one
//! request, masked frames out, whole frames in. It never fragments and does
//! not compress, and neither does the server that it measures.

use anyhow::{Context as _, bail, ensure};

/// A text message.
pub(super) const TEXT: u8 = 0x1;
/// A close frame.
pub(super) const CLOSE: u8 = 0x8;
/// A ping.
pub(super) const PING: u8 = 0x9;
/// A pong.
pub(super) const PONG: u8 = 0xA;

/// The key of every handshake. It guards proxies against pages that forge
/// handshakes, which a load generator is not; so the sample of RFC 6455 does.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server must answer to [`KEY`].
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The mask of every frame: the server must unmask as ever, and no browser is
/// tricked into sending anything here.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x19, 0x7E];
/// The longest payload accepted from a server, in bytes.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
/// The longest response head accepted from a server, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The request that opens a WebSocket at `path`.
pub(super) fn request(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// The length of the response head at the start of `bytes`, once it is whole
/// and says that the protocol is switched.
pub(super) fn switched(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        ensure!(
            bytes.len() <= MAX_HEAD_BYTES,
            "the response head is too long"
        );
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("the response head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        bail!("upgrade refused: {status}");
    }
    let accepted = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        });
    ensure!(accepted, "upgrade answered for another request");
    Ok(Some(end + 4))
}

/// Appends a masked, final frame to `out`.
pub(super) fn write_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
}

/// A server's unmasked, final text frame.
pub(super) fn server_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    write_frame(&mut frame, TEXT, payload);
    let mask_at = frame.len() - payload.len() - MASK.len();
    frame.truncate(mask_at);
    frame[1] &= 0x7F;
    frame.extend_from_slice(payload);
    frame
}

/// Cuts what a server sends into frames. Holds bytes only while a frame is
/// incomplete.
#[derive(Debug, Default)]
pub(super) struct Parser {
    partial: Vec<u8>,
}

impl Parser {
    /// One that begins with bytes that came already.
    pub(super) fn with(bytes: &[u8]) -> Self {
        Self {
            partial: bytes.to_vec(),
        }
    }

    /// Whether bytes that came already make a whole frame. After [`feed`]
    /// they never do.
    ///
    /// [`feed`]: Self::feed
    pub(super) fn has_frame(&self) -> bool {
        let mut any = false;
        !self.partial.is_empty() && cut(&self.partial, &mut |_, _| any = true).is_ok() && any
    }

    /// Hands each frame that is complete with `bytes` to `on`, with its opcode.
    ///
    /// # Errors
    /// When the bytes are no frames that a server may send here.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut on: impl FnMut(u8, &[u8]),
    ) -> anyhow::Result<()> {
        if self.partial.is_empty() {
            let rest = cut(bytes, &mut on)?;
            self.partial.extend_from_slice(rest);
        } else {
            self.partial.extend_from_slice(bytes);
            let left = cut(&self.partial, &mut on)?.len();
            self.partial.drain(..self.partial.len() - left);
        }
        Ok(())
    }
}

/// Hands over whole frames and gives back what is left.
fn cut<'a>(mut bytes: &'a [u8], on: &mut impl FnMut(u8, &[u8])) -> anyhow::Result<&'a [u8]> {
    loop {
        let &[first, second, ..] = bytes else {
            return Ok(bytes);
        };
        ensure!(first & 0x70 == 0, "the server set a reserved bit");
        ensure!(
            first & 0x80 != 0 && first & 0x0F != 0,
            "the server fragments"
        );
        ensure!(second & 0x80 == 0, "the server masks");
        let (start, length) = match second & 0x7F {
            126 => match bytes.get(2..4) {
                Some(&[a, b]) => (4, usize::from(u16::from_be_bytes([a, b]))),
                _ => return Ok(bytes),
            },
            127 => match bytes.get(2..10).map(<[u8; 8]>::try_from) {
                Some(Ok(length)) => {
                    let length = usize::try_from(u64::from_be_bytes(length));
                    (10, length.unwrap_or(usize::MAX))
                }
                _ => return Ok(bytes),
            },
            length => (2, usize::from(length)),
        };
        ensure!(length <= MAX_PAYLOAD_BYTES, "a frame of {length} bytes");
        let Some(payload) = bytes.get(start..start + length) else {
            return Ok(bytes);
        };
        on(first & 0x0F, payload);
        bytes = &bytes[start + length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of every length class, and a ping between them.
    fn traffic() -> (Vec<u8>, Vec<(u8, usize)>) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for length in [0, 1, 125, 126, 300, 65_535, 65_536, 70_000] {
            bytes.extend(server_text(&vec![b'x'; length]));
            bytes.extend([0x80 | PING, 2, 1, 2]);
            expected.extend([(TEXT, length), (PING, 2)]);
        }
        (bytes, expected)
    }

    fn frames(bytes: &[u8], piece: usize) -> Vec<(u8, usize)> {
        let mut parser = Parser::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            parser
                .feed(piece, |opcode, payload| {
                    frames.push((opcode, payload.len()))
                })
                .unwrap();
        }
        assert!(parser.partial.is_empty());
        frames
    }

    #[test]
    fn coalesced_and_split_frames_are_cut_alike() {
        let (bytes, expected) = traffic();
        for piece in [1, 2, 3, 7, 127, 4_096, 65_537, bytes.len()] {
            assert_eq!(frames(&bytes, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_a_server_may_not_send_is_an_error() {
        let mut masked = Vec::new();
        write_frame(&mut masked, TEXT, b"hi");
        let huge = [&[0x81, 127][..], &[0xFF; 8]].concat();
        for wrong in [&masked[..], &[0x01, 0], &[0x80, 0], &[0xC1, 0], &huge] {
            assert!(
                Parser::default().feed(wrong, |_, _| {}).is_err(),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn client_frames_are_masked() {
        let mut frame = Vec::new();
        write_frame(&mut frame, TEXT, b"hello");
        assert_eq!(frame[..6], [0x81, 0x85, 0x5A, 0xC3, 0x19, 0x7E]);
        let plain: Vec<u8> = frame[6..]
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(a, b)| a ^ b)
            .collect();
        assert_eq!(plain, b"hello");
    }

    #[test]
    fn only_the_answer_to_our_request_opens() {
        let head = |status: &str, accept: &str| {
            format!("HTTP/1.1 {status}\r\nSec-WebSocket-ACCEPT: {accept}\r\n\r\nrest")
        };
        let open = head("101 Switching Protocols", ACCEPT);
        assert_eq!(switched(open.as_bytes()).unwrap(), Some(open.len() - 4));
        assert_eq!(switched(&open.as_bytes()[..20]).unwrap(), None);
        let full = head("503 Service Unavailable", ACCEPT);
        let refused = switched(full.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("503"), "{refused}");
        assert!(switched(head("101 X", "other").as_bytes()).is_err());
    }
}

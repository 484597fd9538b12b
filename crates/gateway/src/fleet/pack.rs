//! Batches and compressed messages, read within bounds and written for those
//! who asked.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::value::RawValue;
use signalbox_protocol::frame::fields::{Complaint, MAX_LIST_ENTRIES};
use signalbox_protocol::frame::fleet::pack::Compressed;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::frame::fleet::{ClientFrame, ClientMessage};
use signalbox_transport::Frame;

use super::frames::{now, write};

/// Messages beyond this are worth compressing, in bytes.
const WORTH_BYTES: usize = 1_024;
/// What is inflated at a time, in bytes.
const STEP_BYTES: usize = 16 * 1024;

/// Opens a message into its parts. A plain one is its own only part.
///
/// # Errors
/// Names the field that is not as it must be.
pub(super) fn open(message: ClientMessage, most: usize) -> Result<Vec<ClientMessage>, Complaint> {
    match message.body {
        Ok(ClientFrame::Batch(batch)) => Ok(batch
            .open()?
            .into_iter()
            .map(ClientMessage::inner)
            .collect()),
        Ok(ClientFrame::Compressed(compressed)) => {
            let original_type = compressed.original_type.clone();
            let text = inflate(&compressed, most)?;
            let inner = ClientMessage::read(&text);
            if inner.kind.is_some_and(|kind| kind != original_type) {
                return Err(Complaint::field(
                    "originalType",
                    "the type of what is compressed",
                ));
            }
            match inner.body {
                Ok(ClientFrame::Compressed(_)) => {
                    Err(Complaint::field("data", "a plain message or a batch"))
                }
                Ok(ClientFrame::Batch(_)) => open(inner, most),
                Ok(_) | Err(_) => Ok(vec![inner]),
            }
        }
        Ok(_) | Err(_) => Ok(vec![message]),
    }
}

/// Inflates as much as the sender says there is, and no more than `most`.
fn inflate(compressed: &Compressed, most: usize) -> Result<String, Complaint> {
    let size = usize::try_from(compressed.original_size)
        .ok()
        .filter(|size| (1..=most).contains(size))
        .ok_or_else(|| {
            Complaint::field("originalSize", &format!("a whole number from 1 to {most}"))
        })?;
    let bytes = STANDARD
        .decode(&compressed.data)
        .map_err(|_| Complaint::field("data", "base64"))?;
    if bytes.len() as u64 != compressed.compressed_size {
        return Err(Complaint::field(
            "compressedSize",
            &format!("{}, the size of the compressed bytes", bytes.len()),
        ));
    }
    let mut reader = GzDecoder::new(bytes.as_slice());
    // Memory grows with what really comes, never beyond what was announced.
    let mut inflated = Vec::new();
    let mut step = [0; STEP_BYTES];
    loop {
        match reader.read(&mut step) {
            Ok(0) => break,
            Ok(read) if inflated.len() + read <= size => {
                inflated.extend_from_slice(&step[..read]);
            }
            Ok(_) => {
                return Err(Complaint::field(
                    "originalSize",
                    "the size of what is compressed",
                ));
            }
            Err(_) => return Err(Complaint::field("data", "gzip")),
        }
    }
    if inflated.len() != size {
        return Err(Complaint::field(
            "originalSize",
            &format!("{}, the size of what is compressed", inflated.len()),
        ));
    }
    if !reader.into_inner().is_empty() {
        return Err(Complaint::field("data", "gzip and nothing behind it"));
    }
    String::from_utf8(inflated).map_err(|_| Complaint::field("data", "UTF-8 in gzip"))
}

/// What a dashboard understands beside plain messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packing {
    /// Several messages in one.
    pub(super) batch: bool,
    /// Messages in fewer bytes.
    pub(super) compressed: bool,
}

impl Packing {
    /// What a client says that it understands.
    pub(super) fn of(capabilities: &[String]) -> Self {
        let can = |word: &str| capabilities.iter().any(|known| known == word);
        Self {
            batch: can("batch"),
            compressed: can("compressed"),
        }
    }

    /// Whether everything is sent as it is.
    pub(super) const fn is_plain(self) -> bool {
        !self.batch && !self.compressed
    }

    /// The same messages, packed.
    pub(super) fn pack<'a>(self, frames: impl Iterator<Item = &'a Frame>) -> Vec<Frame> {
        let frames: Vec<&Frame> = frames.collect();
        let together = if self.batch { MAX_LIST_ENTRIES } else { 1 };
        frames
            .chunks(together)
            .map(|part| match part {
                [one] => self.squeeze((*one).clone(), type_of(one)),
                several => self.squeeze(batch(several), "batch"),
            })
            .collect()
    }

    fn squeeze(self, frame: Frame, original_type: &str) -> Frame {
        let bytes = frame.payload();
        if !self.compressed || bytes.len() <= WORTH_BYTES {
            return frame;
        }
        let (data, compressed_size) = deflate(bytes);
        write(&ServerFrame::Compressed {
            algorithm: "gzip",
            original_type,
            original_size: bytes.len(),
            compressed_size,
            data: &data,
            timestamp: now(),
        })
    }
}

fn batch(frames: &[&Frame]) -> Frame {
    let messages: Vec<&RawValue> = frames
        .iter()
        .filter_map(|frame| serde_json::from_slice(frame.payload()).ok())
        .collect();
    write(&ServerFrame::Batch {
        count: messages.len(),
        messages: &messages,
        timestamp: now(),
    })
}

/// The type of a message that was written here, where it comes first.
fn type_of(frame: &Frame) -> &str {
    let text = std::str::from_utf8(frame.payload()).unwrap_or_default();
    let kind = text.strip_prefix(r#"{"type":""#);
    kind.and_then(|rest| rest.split_once('"'))
        .map_or("terminal:output", |(kind, _)| kind)
}

/// The bytes compressed, in base64, and how many they are.
fn deflate(bytes: &[u8]) -> (String, usize) {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = writer.write_all(bytes).and_then(|()| writer.finish());
    // Memory can be written to.
    let compressed = compressed.unwrap_or_default();
    (STANDARD.encode(&compressed), compressed.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MOST: usize = 64 * 1024;

    fn compressed(
        kind: &str,
        text: &str,
        change: impl Fn(&mut serde_json::Value),
    ) -> ClientMessage {
        let (data, size) = deflate(text.as_bytes());
        let mut message = json!({
            "type": "compressed",
            "algorithm": "gzip",
            "originalType": kind,
            "originalSize": text.len(),
            "compressedSize": size,
            "data": data,
        });
        change(&mut message);
        ClientMessage::read(&message.to_string())
    }

    fn field(message: ClientMessage) -> String {
        open(message, MOST).unwrap_err().field.unwrap()
    }

    #[test]
    fn messages_and_batches_come_out_as_they_went_in() {
        let ping = r#"{"type":"heartbeat:ping"}"#;
        let opened = open(compressed("heartbeat:ping", ping, |_| {}), MOST).unwrap();
        assert_eq!(opened, [ClientMessage::read(ping)]);
        let batch = format!(r#"{{"type":"batch","messages":[{ping},{ping}],"count":2}}"#);
        let opened = open(compressed("batch", &batch, |_| {}), MOST).unwrap();
        assert_eq!(opened.len(), 2);
    }

    #[test]
    fn what_is_not_true_is_named() {
        let ping = r#"{"type":"heartbeat:ping"}"#;
        let with = |key: &'static str, value: serde_json::Value| {
            field(compressed("heartbeat:ping", ping, move |message| {
                message[key] = value.clone();
            }))
        };
        assert_eq!(with("originalSize", json!(ping.len() + 1)), "originalSize");
        assert_eq!(with("originalSize", json!(ping.len() - 1)), "originalSize");
        assert_eq!(with("originalSize", json!(0)), "originalSize");
        assert_eq!(with("originalSize", json!(MOST + 1)), "originalSize");
        assert_eq!(with("compressedSize", json!(1)), "compressedSize");
        assert_eq!(with("data", json!("!")), "data");
        assert_eq!(with("originalType", json!("batch")), "originalType");
        let inner = compressed("x", ping, |_| {});
        assert_eq!(field(inner), "originalType");
        let (twice, _) = deflate(ping.as_bytes());
        let nested = json!({"type": "compressed", "algorithm": "gzip", "originalType": "x",
            "originalSize": 1, "compressedSize": 1, "data": twice});
        assert_eq!(
            field(compressed("compressed", &nested.to_string(), |_| {})),
            "data"
        );
        let batch = json!({"type": "batch", "count": 1,
            "messages": [{"type": "batch", "messages": [{}], "count": 1}]});
        assert_eq!(
            field(compressed("batch", &batch.to_string(), |_| {})),
            "messages"
        );
    }

    #[test]
    fn a_bomb_is_defused_at_the_size_that_it_claims() {
        let zeros = " ".repeat(50 * 1024 * 1024);
        let bomb = compressed("heartbeat:ping", &zeros, |message| {
            message["originalSize"] = json!(100);
        });
        assert_eq!(field(bomb), "originalSize");
    }

    #[test]
    fn what_is_packed_can_be_opened() {
        let frames: Vec<_> = (0..300)
            .map(|number| Frame::text(&format!(r#"{{"type":"heartbeat:ping","n":{number}}}"#)))
            .collect();
        let packing = Packing {
            batch: true,
            compressed: true,
        };
        let packed = packing.pack(frames.iter());
        assert_eq!(packed.len(), 2);
        let mut opened = 0;
        for frame in &packed {
            let text = std::str::from_utf8(frame.payload()).unwrap();
            opened += open(ClientMessage::read(text), MOST).unwrap().len();
        }
        assert_eq!(opened, 300);
        assert_eq!(Packing::default().pack(frames.iter()), frames);
    }

    #[test]
    fn bytes_behind_the_end_are_refused() {
        let ping = r#"{"type":"heartbeat:ping"}"#;
        let message = compressed("heartbeat:ping", ping, |message| {
            let data = message["data"].as_str().unwrap();
            let mut bytes = STANDARD.decode(data).unwrap();
            bytes.extend_from_slice(b"more");
            message["compressedSize"] = json!(bytes.len());
            message["data"] = json!(STANDARD.encode(bytes));
        });
        assert_eq!(field(message), "data");
    }
}

//! A message whose binary attachments follow one by one: kept until the last has come, within
//! bounds.

use bytes::Bytes;
use serde_json::Value;

use super::{
    Malformed,
    socket_io::{Body, Header},
};

/// Bounds of one message with attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssemblyLimits {
    /// Binary attachments; more are refused when they are announced.
    pub attachments: usize,
    /// Bytes of the packet and its attachments together.
    pub bytes: usize,
}

/// A message whose attachments have not all come.
#[derive(Debug)]
pub struct Assembler {
    namespace: Box<str>,
    body: Body,
    payload: Box<str>,
    attachments: Vec<Bytes>,
    missing: usize,
    /// Bytes that may still come.
    room: usize,
}

/// A message with all its attachments.
#[derive(Debug, PartialEq, Eq)]
pub struct Assembled {
    namespace: Box<str>,
    body: Body,
    /// The JSON text, with placeholders.
    pub payload: Box<str>,
    /// What the placeholders stand for, by number.
    pub attachments: Vec<Bytes>,
}

impl Assembled {
    /// A message without attachments, to be kept.
    pub(crate) fn bare(header: Header<'_>, payload: &str) -> Self {
        Self {
            namespace: header.namespace.into(),
            body: header.body,
            payload: payload.into(),
            attachments: Vec::new(),
        }
    }

    /// Bytes of its payload and attachments.
    pub(crate) fn bytes(&self) -> usize {
        let attachments = self.attachments.iter().map(Bytes::len).sum::<usize>();
        self.payload.len() + attachments
    }

    /// What the message is, but for its payload.
    pub fn header(&self) -> Header<'_> {
        Header {
            namespace: &self.namespace,
            body: self.body,
        }
    }
}

impl Assembler {
    /// Begins a message that announces `attachments`, at least one.
    ///
    /// # Errors
    /// When its payload is not JSON, has a placeholder for an attachment that is not announced, or
    /// is too long already.
    pub fn new(
        header: Header<'_>,
        attachments: usize,
        payload: &str,
        limits: &AssemblyLimits,
    ) -> Result<Self, Malformed> {
        let value: Value = serde_json::from_str(payload).map_err(|_| Malformed::Payload)?;
        if !placeholders_fit(&value, attachments) {
            return Err(Malformed::Placeholder);
        }
        let room = limits
            .bytes
            .checked_sub(payload.len())
            .ok_or(Malformed::AttachmentsTooLong)?;
        Ok(Self {
            namespace: header.namespace.into(),
            body: header.body,
            payload: payload.into(),
            attachments: Vec::new(),
            missing: attachments,
            room,
        })
    }

    /// The message so far: its text as the client sent it, and the attachments that have come.
    pub(crate) fn so_far(&self) -> (String, Vec<Bytes>) {
        let count = self.attachments.len() + self.missing;
        let (kind, id) = match self.body {
            Body::Event { ack } => ('5', ack),
            Body::Ack { id } => ('6', Some(id)),
        };
        let mut packet = format!("{kind}{count}-");
        if &*self.namespace != "/" {
            packet.push_str(&self.namespace);
            packet.push(',');
        }
        if let Some(id) = id {
            packet.push_str(&id.to_string());
        }
        packet.push_str(&self.payload);
        (packet, self.attachments.clone())
    }

    /// Takes the next attachment; gives the message after the last.
    ///
    /// # Errors
    /// When they are too long together.
    pub fn take(&mut self, attachment: Bytes) -> Result<Option<Assembled>, Malformed> {
        self.room = self
            .room
            .checked_sub(attachment.len())
            .ok_or(Malformed::AttachmentsTooLong)?;
        self.attachments.push(attachment);
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return Ok(None);
        }
        Ok(Some(Assembled {
            namespace: std::mem::take(&mut self.namespace),
            body: self.body,
            payload: std::mem::take(&mut self.payload),
            attachments: std::mem::take(&mut self.attachments),
        }))
    }
}

/// Whether every placeholder names one of so many attachments. The parser has bounded the depth.
pub(crate) fn placeholders_fit(value: &Value, attachments: usize) -> bool {
    match value {
        Value::Array(values) => values
            .iter()
            .all(|value| placeholders_fit(value, attachments)),
        Value::Object(object) if object.get("_placeholder") == Some(&Value::Bool(true)) => object
            .get("num")
            .and_then(Value::as_u64)
            .is_some_and(|number| number < attachments as u64),
        Value::Object(object) => object
            .values()
            .all(|value| placeholders_fit(value, attachments)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header<'_> = Header {
        namespace: "/n",
        body: Body::Event { ack: Some(3) },
    };

    fn begin(attachments: usize, payload: &str) -> Result<Assembler, Malformed> {
        let limits = AssemblyLimits {
            attachments: 10,
            bytes: 60,
        };
        Assembler::new(HEADER, attachments, payload, &limits)
    }

    #[test]
    fn a_message_is_complete_with_its_last_attachment() {
        let payload = r#"["a",[{"_placeholder":true,"num":1}]]"#;
        let mut assembler = begin(2, payload).unwrap();
        assert_eq!(assembler.take(Bytes::from_static(b"one")), Ok(None));
        let whole = assembler
            .take(Bytes::from_static(b"two"))
            .unwrap()
            .expect("the last");
        assert_eq!(whole.header(), HEADER);
        assert_eq!(&*whole.payload, payload);
        assert_eq!(whole.attachments, [&b"one"[..], b"two"]);
    }

    #[test]
    fn placeholders_must_name_an_attachment() {
        for (number, refused) in [
            ("0", None),
            ("1", Some(Malformed::Placeholder)),
            ("-1", Some(Malformed::Placeholder)),
            ("0.5", Some(Malformed::Placeholder)),
            ("\"0\"", Some(Malformed::Placeholder)),
            ("null", Some(Malformed::Placeholder)),
        ] {
            let payload = format!(r#"["a",{{"x":[{{"_placeholder":true,"num":{number}}}]}}]"#);
            assert_eq!(begin(1, &payload).err(), refused, "{number}");
        }
        assert_eq!(
            begin(1, r#"["a",{"_placeholder":true}]"#).err(),
            Some(Malformed::Placeholder)
        );
        assert!(begin(1, r#"["a",{"_placeholder":false,"num":7}]"#).is_ok());
        assert_eq!(begin(1, "[\"a\"").err(), Some(Malformed::Payload));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(begin(1, &deep).err(), Some(Malformed::Payload));
    }

    #[test]
    fn attachments_are_bounded_together() {
        assert_eq!(
            begin(1, &format!("[\"{}\"]", "x".repeat(60))).err(),
            Some(Malformed::AttachmentsTooLong)
        );
        let mut assembler = begin(9, "[\"a\"]").unwrap();
        assert_eq!(assembler.take(Bytes::from(vec![0; 50])), Ok(None));
        assert_eq!(
            assembler.take(Bytes::from(vec![0; 6])),
            Err(Malformed::AttachmentsTooLong)
        );
    }
}

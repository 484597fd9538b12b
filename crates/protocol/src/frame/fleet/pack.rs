//! Several messages in one, and messages in fewer bytes. Only sizes and counts
//! are checked here; what compression is, the reader's owner knows.

use serde_json::{Map, Value};

use crate::frame::fields::{Complaint, MAX_LIST_ENTRIES};

/// Several messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The messages.
    pub messages: Vec<Map<String, Value>>,
    /// How many there are, as the sender says.
    pub count: u64,
}

/// A message, or a batch of them, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// How.
    pub algorithm: &'static str,
    /// The type of what is compressed.
    pub original_type: String,
    /// Its size in bytes.
    pub original_size: u64,
    /// The size of the compressed bytes.
    pub compressed_size: u64,
    /// The compressed bytes in base64.
    pub data: String,
}

impl Batch {
    /// The messages, which must be as many as the sender says and no
    /// containers themselves.
    ///
    /// # Errors
    /// Names the field.
    pub fn open(self) -> Result<Vec<Map<String, Value>>, Complaint> {
        if self.count != self.messages.len() as u64 {
            let length = format!("{}, the length of `messages`", self.messages.len());
            return Err(Complaint::field("count", &length));
        }
        let is_container = |message: &Map<String, Value>| {
            matches!(
                message.get("type").and_then(Value::as_str),
                Some("batch" | "compressed")
            )
        };
        if self.messages.iter().any(is_container) {
            let expected = format!("a list of 1 to {MAX_LIST_ENTRIES} plain messages");
            return Err(Complaint::field("messages", &expected));
        }
        Ok(self.messages)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(messages: &Value, count: u64) -> Result<usize, String> {
        let messages = messages.as_array().unwrap().iter();
        let batch = Batch {
            messages: messages
                .map(|one| one.as_object().unwrap().clone())
                .collect(),
            count,
        };
        let opened = batch.open().map(|messages| messages.len());
        opened.map_err(|complaint| complaint.field.unwrap())
    }

    #[test]
    fn a_batch_has_as_many_plain_messages_as_it_says() {
        let ping = json!({"type": "heartbeat:ping"});
        assert_eq!(batch(&json!([ping, ping]), 2), Ok(2));
        assert_eq!(batch(&json!([ping, ping]), 3), Err("count".to_owned()));
        for kind in ["batch", "compressed"] {
            let nested = json!([{"type": kind}]);
            assert_eq!(batch(&nested, 1), Err("messages".to_owned()));
        }
    }
}

//! Reading a client's frame field by field, so that every complaint names the
//! field and says what was expected. One file, since every reading shares
//! these words.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::shape::Kind;
use crate::cursor::{Cursor, FleetCursor};
use crate::error_code::ErrorCode;
use crate::name;

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8_192;
/// The most entries that a list in a frame may have.
pub const MAX_LIST_ENTRIES: usize = 256;
/// The largest whole number that every reader of JSON keeps exactly.
pub const MAX_COUNT: u64 = (1 << 53) - 1;

/// What is wrong with a client's frame.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct Complaint {
    /// The code that the client sees.
    pub code: ErrorCode,
    /// A sentence that names the field and what was expected.
    pub message: String,
    /// The field, where it is one field's fault.
    pub field: Option<String>,
}

impl Complaint {
    /// A field that is missing or not what it must be.
    #[must_use]
    pub fn field(field: &str, expected: &str) -> Self {
        Self {
            code: ErrorCode::InvalidMessage,
            message: format!("field `{field}`: expected {expected}"),
            field: Some(field.to_owned()),
        }
    }

    /// A complaint that names no field.
    #[must_use]
    pub fn plain(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
        }
    }
}

/// The fields of one JSON object.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Where the object stands, as a prefix of its fields' names.
    path: String,
}

impl Fields {
    /// Reads a frame.
    ///
    /// # Errors
    /// INVALID_JSON when it is no JSON, INVALID_MESSAGE when it is no object.
    pub fn parse(text: &str) -> Result<Self, Complaint> {
        let value = serde_json::from_str(text).map_err(|_| {
            Complaint::plain(
                ErrorCode::InvalidJson,
                "expected a JSON object in one text frame",
            )
        })?;
        match value {
            Value::Object(map) => Ok(Self {
                map,
                path: String::new(),
            }),
            _ => Err(Complaint::plain(
                ErrorCode::InvalidMessage,
                "expected a JSON object",
            )),
        }
    }

    /// The fields of a frame that was read before.
    #[must_use]
    pub const fn of(map: Map<String, Value>) -> Self {
        Self {
            map,
            path: String::new(),
        }
    }

    fn complaint(&self, field: &str, expected: Kind) -> Complaint {
        Complaint::field(&format!("{}{field}", self.path), &expected.expectation())
    }

    /// A string that must be there, of 1 to `max_bytes` bytes.
    ///
    /// # Errors
    /// Names the field.
    pub fn text(&mut self, field: &str, max_bytes: usize) -> Result<String, Complaint> {
        match self.map.remove(field) {
            Some(Value::String(text)) if !text.is_empty() && text.len() <= max_bytes => Ok(text),
            _ => Err(self.complaint(field, Kind::Text { most: max_bytes })),
        }
    }

    /// A string that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no such string.
    pub fn optional_text(
        &mut self,
        field: &str,
        max_bytes: usize,
    ) -> Result<Option<String>, Complaint> {
        if !self.has(field) {
            self.map.remove(field);
            return Ok(None);
        }
        self.text(field, max_bytes).map(Some)
    }

    /// An id that must be there.
    ///
    /// # Errors
    /// Names the field.
    pub fn id(&mut self, field: &str) -> Result<String, Complaint> {
        self.optional_id(field)?
            .ok_or_else(|| self.complaint(field, Kind::Id))
    }

    /// One of a few words, which must be there.
    ///
    /// # Errors
    /// Names the field and the words.
    pub fn word(
        &mut self,
        field: &str,
        words: &'static [&'static str],
    ) -> Result<&'static str, Complaint> {
        let found = self.map.remove(field);
        let text = found.as_ref().and_then(Value::as_str);
        words
            .iter()
            .find(|word| text == Some(word))
            .copied()
            .ok_or_else(|| self.complaint(field, Kind::OneOf(words)))
    }

    /// An id that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no id.
    pub fn optional_id(&mut self, field: &str) -> Result<Option<String>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if name::is_valid(&text) => Ok(Some(text)),
            Some(_) => Err(self.complaint(field, Kind::Id)),
        }
    }

    /// A resume offset that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no offset of ours.
    pub fn optional_cursor(&mut self, field: &str) -> Result<Option<Cursor>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .map(Some)
                .ok_or_else(|| self.complaint(field, Kind::Cursor)),
        }
    }

    /// As [`optional_cursor`](Self::optional_cursor), of dialect `fleet`.
    ///
    /// # Errors
    /// Names the field when it is there and no offset of ours.
    pub fn optional_fleet_cursor(&mut self, field: &str) -> Result<Option<FleetCursor>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| text.parse().ok())
                .map(Some)
                .ok_or_else(|| self.complaint(field, Kind::FleetCursor)),
        }
    }

    /// Any string, which must be there.
    ///
    /// # Errors
    /// Names the field.
    pub fn any_text(&mut self, field: &str) -> Result<String, Complaint> {
        match self.map.remove(field) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(self.complaint(field, Kind::AnyText)),
        }
    }

    /// Any string, which may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no string.
    pub fn optional_any_text(&mut self, field: &str) -> Result<Option<String>, Complaint> {
        if !self.has(field) {
            self.map.remove(field);
            return Ok(None);
        }
        self.any_text(field).map(Some)
    }

    /// One of a few words, which may be absent or null.
    ///
    /// # Errors
    /// Names the field and the words.
    pub fn optional_word(
        &mut self,
        field: &str,
        words: &'static [&'static str],
    ) -> Result<Option<&'static str>, Complaint> {
        if !self.has(field) {
            self.map.remove(field);
            return Ok(None);
        }
        self.word(field, words).map(Some)
    }

    /// A whole number up to [`MAX_COUNT`] that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no such number.
    pub fn optional_count(&mut self, field: &str) -> Result<Option<u64>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|number| *number <= MAX_COUNT)
                .map(Some)
                .ok_or_else(|| self.complaint(field, Kind::Count)),
        }
    }

    /// A whole number up to [`MAX_COUNT`], which must be there.
    ///
    /// # Errors
    /// Names the field.
    pub fn count(&mut self, field: &str) -> Result<u64, Complaint> {
        self.optional_count(field)?
            .ok_or_else(|| self.complaint(field, Kind::Count))
    }

    /// A whole number within `range`, which must be there.
    ///
    /// # Errors
    /// Names the field.
    pub fn integer(&mut self, field: &str, range: RangeInclusive<u32>) -> Result<u32, Complaint> {
        let (least, most) = range.clone().into_inner();
        self.optional_integer(field, range)?
            .ok_or_else(|| self.complaint(field, Kind::Integer { least, most }))
    }

    /// An object, which must be there.
    ///
    /// # Errors
    /// Names the field.
    pub fn object(&mut self, field: &str) -> Result<Self, Complaint> {
        self.optional_object(field)?
            .ok_or_else(|| self.complaint(field, Kind::AnyObject))
    }

    /// A list of strings of any kind and number that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no such list.
    pub fn optional_any_texts(&mut self, field: &str) -> Result<Option<Vec<String>>, Complaint> {
        let items = match self.map.remove(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.complaint(field, Kind::AnyTexts)),
        };
        items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                _ => Err(self.complaint(field, Kind::AnyTexts)),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A list of messages, which must be there and not be empty.
    ///
    /// # Errors
    /// Names the field.
    pub fn messages(&mut self, field: &str) -> Result<Vec<Map<String, Value>>, Complaint> {
        let items = match self.map.remove(field) {
            Some(Value::Array(items)) if (1..=MAX_LIST_ENTRIES).contains(&items.len()) => items,
            _ => return Err(self.complaint(field, Kind::Messages)),
        };
        items
            .into_iter()
            .map(|item| match item {
                Value::Object(map) => Ok(map),
                _ => Err(self.complaint(field, Kind::Messages)),
            })
            .collect()
    }

    /// A whole number that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no whole number within `range`.
    pub fn optional_integer(
        &mut self,
        field: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, Complaint> {
        let value = match self.map.remove(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .map(Some)
            .ok_or_else(|| {
                let (least, most) = range.into_inner();
                self.complaint(field, Kind::Integer { least, most })
            })
    }

    /// A list of strings that may be absent or null, but not empty.
    ///
    /// # Errors
    /// Names the field when it is there and no such list.
    pub fn optional_texts(&mut self, field: &str) -> Result<Option<Vec<String>>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.texts(field, value).map(Some),
        }
    }

    fn texts(&self, field: &str, value: Value) -> Result<Vec<String>, Complaint> {
        let wrong = || self.complaint(field, Kind::Texts);
        let Value::Array(items) = value else {
            return Err(wrong());
        };
        if items.is_empty() || items.len() > MAX_LIST_ENTRIES {
            return Err(wrong());
        }
        items
            .into_iter()
            .map(|item| match item {
                Value::String(text) if text.len() <= name::MAX_NAME_BYTES => Ok(text),
                _ => Err(wrong()),
            })
            .collect()
    }

    /// An object that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no object.
    pub fn optional_object(&mut self, field: &str) -> Result<Option<Self>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                map,
                path: format!("{}{field}.", self.path),
            })),
            Some(_) => Err(self.complaint(field, Kind::AnyObject)),
        }
    }

    /// A list of objects that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no such list.
    pub fn optional_objects(&mut self, field: &str) -> Result<Option<Vec<Self>>, Complaint> {
        let items = match self.map.remove(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.complaint(field, Kind::List(&[]))),
        };
        items
            .into_iter()
            .map(|item| match item {
                Value::Object(map) => Ok(Self {
                    map,
                    path: format!("{}{field}[].", self.path),
                }),
                _ => Err(self.complaint(field, Kind::List(&[]))),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A boolean that may be absent or null.
    ///
    /// # Errors
    /// Names the field when it is there and no boolean.
    pub fn optional_flag(&mut self, field: &str) -> Result<Option<bool>, Complaint> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.complaint(field, Kind::Flag)),
        }
    }

    /// Whether the field is there and not null.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is there, be it null.
    #[must_use]
    pub fn names(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Whether the field is there and null.
    #[must_use]
    pub fn has_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// Whether the field is there and an empty list.
    #[must_use]
    pub fn has_empty_list(&self, field: &str) -> bool {
        let list = self.map.get(field).and_then(Value::as_array);
        list.is_some_and(Vec::is_empty)
    }

    /// Ends the reading of an object that may have no other fields.
    ///
    /// # Errors
    /// Names a field that was not read.
    pub fn finish(self) -> Result<(), Complaint> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let field = format!("{}{unknown}", self.path);
                Err(Complaint {
                    code: ErrorCode::InvalidMessage,
                    message: format!("field `{field}`: there is no such field"),
                    field: Some(field),
                })
            }
        }
    }

    /// What is left of the object.
    #[must_use]
    pub fn into_rest(self) -> Map<String, Value> {
        self.map
    }

    /// What is left of the object, as lists of strings by key.
    ///
    /// # Errors
    /// Names the first key whose value is no list of strings.
    pub fn into_lists(mut self) -> Result<Vec<(String, Vec<String>)>, Complaint> {
        let map = std::mem::take(&mut self.map);
        map.into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                let list = self.texts(&key, value)?;
                Ok((key, list))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_null_is_read_as_absent_and_the_rest_is_refused() {
        let nulls = r#"{"a": null, "b": null, "c": null, "d": null, "e": null}"#;
        let mut object = Fields::parse(nulls).unwrap();
        assert!(object.has_null("a") && !object.has("a") && !object.has("z"));
        assert_eq!(object.optional_text("a", 10), Ok(None));
        assert_eq!(object.optional_flag("b"), Ok(None));
        assert_eq!(object.optional_texts("c"), Ok(None));
        assert_eq!(object.optional_id("d"), Ok(None));
        let complaint = object.finish().unwrap_err();
        assert_eq!(complaint.field.as_deref(), Some("e"));
        let mut object = Fields::parse(r#"{"a": [], "b": true, "c": 1}"#).unwrap();
        assert!(object.has_empty_list("a") && !object.has_empty_list("b"));
        assert_eq!(object.optional_flag("b"), Ok(Some(true)));
        let complaint = object.optional_flag("c").unwrap_err();
        assert_eq!(complaint.message, "field `c`: expected a boolean");
    }

    #[test]
    fn complaints_name_the_nested_field() {
        let mut frame = Fields::parse(r#"{"client_info": {"name": 5}}"#).unwrap();
        let mut info = frame.optional_object("client_info").unwrap().unwrap();
        let complaint = info.optional_text("name", 10).unwrap_err();
        assert_eq!(complaint.field.as_deref(), Some("client_info.name"));
        assert_eq!(complaint.code, ErrorCode::InvalidMessage);
    }

    #[test]
    fn a_list_of_objects_has_nothing_else_in_it() {
        let mut fields = Fields::parse(r#"{"a":[{"b":1}],"c":[{},2],"d":{}}"#).unwrap();
        let mut items = fields.optional_objects("a").unwrap().unwrap();
        assert_eq!(items[0].optional_count("b"), Ok(Some(1)));
        let missing = items[0].count("c").unwrap_err();
        assert_eq!(missing.field.as_deref(), Some("a[].c"));
        for name in ["c", "d"] {
            let complaint = fields.optional_objects(name).unwrap_err();
            assert_eq!(complaint.field.as_deref(), Some(name));
        }
        assert!(fields.optional_objects("e").unwrap().is_none());
    }

    #[test]
    fn what_is_no_object_is_told_apart_from_what_is_no_json() {
        assert_eq!(Fields::parse("{").unwrap_err().code, ErrorCode::InvalidJson);
        assert_eq!(
            Fields::parse("[]").unwrap_err().code,
            ErrorCode::InvalidMessage
        );
    }
    #[test]
    fn integers_are_whole_and_in_range() {
        let read = |value: &str| {
            let frame = format!(r#"{{"ttl": {value}}}"#);
            Fields::parse(&frame)
                .unwrap()
                .optional_integer("ttl", 1..=60)
        };
        assert_eq!(read("1"), Ok(Some(1)));
        assert_eq!(read("60"), Ok(Some(60)));
        assert_eq!(read("null"), Ok(None));
        for wrong in ["0", "61", "-1", "1.5", "1e1", "4294967297", "\"5\"", "[5]"] {
            let complaint = read(wrong).unwrap_err();
            assert_eq!(
                complaint.message,
                "field `ttl`: expected a whole number from 1 to 60"
            );
        }
        let absent = Fields::parse("{}").unwrap().optional_integer("ttl", 1..=60);
        assert_eq!(absent, Ok(None));
    }
}

//! What holds for every shape, and how codecs are compared with theirs.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;

use serde_json::value::RawValue;
use serde_json::{Map, json};

use super::*;
use crate::frame::fields::Complaint;

/// A message with its required fields alone.
fn bare(message: &Message) -> Map<String, serde_json::Value> {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), json!(message.kind));
    for field in message.fields.iter().filter(|field| field.required) {
        fields.insert(field.name.to_owned(), field.kind.samples().swap_remove(0));
    }
    fields
}

fn text(fields: &Map<String, serde_json::Value>) -> String {
    serde_json::to_string(fields).unwrap()
}

/// Asserts that a decoder accepts and refuses what a shape says.
pub(crate) fn decoder_agrees<T: PartialEq + Debug>(
    shape: &Shape,
    decode: impl Fn(&str) -> Result<T, Complaint>,
) {
    for message in shape.client {
        let bare = bare(message);
        let plain = decode(&text(&bare)).unwrap();
        let mut more = bare.clone();
        more.insert("unheard_of".to_owned(), json!({"a": [null]}));
        assert_eq!(decode(&text(&more)).unwrap(), plain, "{more:?}");
        for field in message.fields.iter() {
            for wrong in field.wrong() {
                let mut broken = bare.clone();
                match &wrong.value {
                    None => broken.remove(field.name),
                    Some(value) => broken.insert(field.name.to_owned(), value.clone()),
                };
                refuses(&decode, &text(&broken), &wrong);
                if wrong.value.is_some() {
                    last_duplicate_counts(&decode, &bare, field, &broken, &wrong);
                }
            }
            for value in field.right() {
                let mut other = bare.clone();
                other.insert(field.name.to_owned(), value);
                let read = decode(&text(&other));
                assert!(read.is_ok(), "{}: {read:?}", text(&other));
            }
        }
    }
    let unknown = decode(r#"{"type":"nope"}"#).unwrap_err();
    let types: Vec<_> = shape.client.iter().map(|message| message.kind).collect();
    let (last, others) = types.split_last().unwrap();
    let expected = format!("expected {} or {last}", others.join(", "));
    assert_eq!(unknown.code, ErrorCode::UnknownType);
    assert!(unknown.message.ends_with(&expected), "{}", unknown.message);
}

fn refuses<T: Debug>(decode: &impl Fn(&str) -> Result<T, Complaint>, text: &str, wrong: &Wrong) {
    let is_unknown = matches!(
        wrong.code,
        ErrorCode::UnknownChannel | ErrorCode::UnknownFilter
    );
    let complaint = match decode(text) {
        // Which channels and events there are may be for others to say.
        Ok(_) if is_unknown => return,
        decoded => decoded.expect_err(text),
    };
    assert_eq!(complaint.code, wrong.code, "{text}");
    assert_eq!(
        complaint.field.as_deref(),
        Some(wrong.field.as_str()),
        "{text}"
    );
    if let Some(expected) = &wrong.expected {
        assert_eq!(
            complaint.message,
            format!("field `{}`: expected {expected}", wrong.field),
            "{text}"
        );
    }
}

fn last_duplicate_counts<T: PartialEq + Debug>(
    decode: &impl Fn(&str) -> Result<T, Complaint>,
    bare: &Map<String, serde_json::Value>,
    field: &Field,
    broken: &Map<String, serde_json::Value>,
    wrong: &Wrong,
) {
    let right = field.kind.samples().swap_remove(0);
    let mut good = bare.clone();
    good.insert(field.name.to_owned(), right.clone());
    let twice = |first: &Map<String, serde_json::Value>, last: &serde_json::Value| {
        let text = text(first);
        format!("{},{}:{last}}}", &text[..text.len() - 1], json!(field.name))
    };
    let saved = decode(&twice(broken, &right)).unwrap();
    assert_eq!(saved, decode(&text(&good)).unwrap());
    refuses(decode, &twice(&good, &broken[field.name]), wrong);
}

/// Asserts that frames as they are written are those of a shape: `full` with
/// every field, `scant` without those that may be absent.
pub(crate) fn encoder_agrees(
    shape: &Shape,
    full: &[serde_json::Value],
    scant: &[serde_json::Value],
) {
    fn named(frames: &[serde_json::Value]) -> Vec<(&str, serde_json::Value)> {
        frames
            .iter()
            .map(|frame| (frame["type"].as_str().unwrap(), frame.clone()))
            .collect()
    }
    payloads_agree(shape, &named(full), &named(scant));
}

/// The same for messages whose name does not stand in them.
pub(crate) fn payloads_agree(
    shape: &Shape,
    full: &[(&str, serde_json::Value)],
    scant: &[(&str, serde_json::Value)],
) {
    for (frames, is_full) in [(full, true), (scant, false)] {
        let found: BTreeSet<_> = frames.iter().map(|(name, _)| (*name).to_owned()).collect();
        let listed: BTreeSet<_> = shape.server.iter().map(Message::name).collect();
        assert_eq!(found, listed);
        for (name, frame) in frames {
            let message = shape.server(name).unwrap();
            message.check(frame).unwrap();
            let besides: &[&str] = if message.is_tagged { &["type"] } else { &[] };
            assert_keys(&message.fields, frame, is_full, besides);
        }
    }
}

/// Data of an event type with every field that is checked.
pub(crate) fn data_of(kind: &EventType) -> Map<String, serde_json::Value> {
    let fields = kind.fields.iter();
    let data = fields.map(|field| {
        let value = Kind::from(field.kind).samples().swap_remove(0);
        (field.name.to_owned(), value)
    });
    let data = data.collect();
    kind.check(&data).unwrap();
    data
}

/// A decoder of the arguments of Socket.IO events as one of frames: what names
/// the frame's type is the event's name.
pub(crate) fn of_frames<T>(
    decode: impl Fn(&str, &[&RawValue]) -> Result<T, Complaint>,
) -> impl Fn(&str) -> Result<T, Complaint> {
    move |text| {
        let argument = RawValue::from_string(text.to_owned()).unwrap();
        let frame: serde_json::Value = serde_json::from_str(text).unwrap();
        decode(frame["type"].as_str().unwrap(), &[&argument])
    }
}

/// Asserts that an object has all its fields, or just the required ones.
fn assert_keys(fields: &[Field], object: &serde_json::Value, is_full: bool, besides: &[&str]) {
    let kept = fields.iter().filter(|field| field.required || is_full);
    let listed: BTreeSet<_> = kept
        .clone()
        .map(|field| field.name)
        .chain(besides.iter().copied())
        .collect();
    let written = object.as_object().unwrap().keys().map(String::as_str);
    assert_eq!(written.collect::<BTreeSet<_>>(), listed, "{object}");
    for field in kept {
        if let Kind::Object(inner) = field.kind {
            assert_keys(inner, &object[field.name], is_full, &[]);
        }
    }
}

#[test]
fn names_are_unique_and_everything_is_described() {
    for shape in ALL {
        let mut names = HashSet::new();
        for message in shape.client {
            assert!(names.insert(message.name()), "{} twice", message.kind);
            for answer in message.answers {
                assert!(shape.server(answer).is_some(), "{answer}");
            }
            for code in message.refusals {
                assert!(shape.refusals.iter().any(|refusal| refusal.code == *code));
            }
            described(&message.fields);
        }
        names.clear();
        let events = shape.events().map(|(_, message)| message);
        for message in shape.server.iter().cloned().chain(events) {
            assert!(names.insert(message.name()), "{} twice", message.kind);
            assert!(!message.summary.is_empty(), "{}", message.kind);
        }
        for message in shape.server {
            described(&message.fields);
        }
        for refusal in shape.refusals {
            match (refusal.fate, shape.carrier) {
                (Fate::Stays, _) | (Fate::SentAway, Carrier::SocketIo) => {}
                (Fate::Closed(codes), Carrier::WebSocket) => {
                    let listed = |code| shape.closes.iter().any(|close| close.code == code);
                    assert!(codes.iter().all(|code| listed(*code)), "{codes:?}");
                }
                (fate, carrier) => panic!("{fate:?} over {carrier:?}"),
            }
        }
        for name in shape.errors {
            assert!(shape.server(name).is_some(), "{name}");
        }
    }
}

fn described(fields: &[Field]) {
    for field in fields {
        assert!(!field.summary.is_empty(), "{}", field.name);
        if let Kind::Object(inner) | Kind::List(inner) = field.kind {
            described(inner);
        }
    }
}

/// What values say of kinds is what the check of written messages says.
#[test]
fn samples_fit_and_strangers_do_not() {
    let of = |kind| Field::required("f", kind, "");
    for shape in ALL {
        let fields = shape.client.iter().chain(shape.server);
        for field in fields.flat_map(|message| message.fields.iter()) {
            let message = Message {
                fields: vec![of(field.kind)].into(),
                ..Message::server("m", "", &[])
            };
            for value in field.kind.samples() {
                let frame = json!({"type": "m", "f": value});
                // Null stands for absent where clients write, not where we do.
                if !frame.to_string().contains("null") {
                    assert_eq!(message.check(&frame), Ok(()), "{frame}");
                }
            }
            for (what, value) in field.kind.strangers() {
                let is_position =
                    matches!(field.kind, Kind::Cursor | Kind::FleetCursor) && what == "no position";
                let frame = json!({"type": "m", "f": value});
                assert!(is_position || message.check(&frame).is_err(), "{frame}");
            }
        }
    }
}

#[test]
fn differences_are_told_apart() {
    const INNER: &[Field] = &[Field::required("b", Kind::Id, "")];
    const FIELDS: &[Field] = &[
        Field::required("a", Kind::Flag, ""),
        Field::optional("o", Kind::Object(INNER), ""),
    ];
    let message = Message::server("m", "", FIELDS);
    let check = |value| message.check(&value).map_err(|misfit| misfit.to_string());
    assert_eq!(check(json!({"type": "m", "a": true})), Ok(()));
    assert_eq!(
        check(json!({"type": "n", "a": true})),
        Err("expected a message `m`".into())
    );
    assert_eq!(
        check(json!({"type": "m"})),
        Err("field `a` is missing".into())
    );
    assert_eq!(
        check(json!({"type": "m", "a": true, "c": 1})),
        Err("field `c` is not in the shape".into())
    );
    assert_eq!(
        check(json!({"type": "m", "a": true, "o": {"b": "x", "c": 1}})),
        Err("field `o.c` is not in the shape".into())
    );
    assert_eq!(
        check(json!({"type": "m", "a": true, "o": {"b": "x y"}})),
        Err("field `o.b`: expected an id of 1 to 128 bytes without white space".into())
    );
}

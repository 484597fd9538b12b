//! G3: every way in which a client message can be wrong gets the documented
//! answer, and the connection behaves as documented. The cases are generated
//! from the shapes of the dialects, so a new message or field is tested as
//! soon as it is described; a message that is not described fails. One file:
//! the ways of being wrong are read beside what each must be answered.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::shape::{Field, Kind, Message, Offer, Shape};
use signalbox_testkit::{DEADLINE, Platform, WsClient};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::speech::Speech;

/// Bad messages in a row that close a connection.
const STRIKES: usize = 10;
/// Messages that are sent before their answers are read.
const BATCH: usize = 64;
/// The longest type.
const TYPE: Kind = Kind::Text { most: 128 };

/// A message that must be refused.
struct Case {
    /// The message and field that it is a case of.
    of: (&'static str, String),
    what: String,
    text: String,
    code: ErrorCode,
    field: Option<String>,
    /// How the sentence for people ends, where the documentation gives it.
    ending: Option<String>,
}

/// One gateway that does not count the messages of a connection.
async fn platform() -> Platform {
    Platform::start_with(1, &["--messages-per-minute", "0"]).await
}

/// A client message with its required fields, right for this connection.
fn valid(message: &Message, credential: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), json!(message.kind));
    for field in message.fields.iter().filter(|field| field.required) {
        fields.insert(
            field.name.to_owned(),
            right(field, credential).swap_remove(0),
        );
    }
    fields
}

/// Values that a field may have on a connection that has authenticated.
fn right(field: &Field, credential: &str) -> Vec<Value> {
    match field.kind {
        Kind::Credential => vec![json!(credential)],
        Kind::Filters(_) => vec![json!({}), json!({"any": null}), Value::Null],
        _ => field.right(),
    }
}

/// The offer that a field of `subscribe` is for, if it is not for all.
fn home(shape: &Shape, field: &str) -> Option<&'static Offer> {
    let mut offers = shape.offers.iter();
    offers.find(|offer| offer.fields.contains(&field))
}

fn text(fields: &Map<String, Value>) -> String {
    serde_json::to_string(fields).unwrap()
}

/// The object with a key twice; `last` comes last.
fn twice(fields: &Map<String, Value>, key: &str, last: &Value) -> String {
    let text = text(fields);
    format!("{},{}:{last}}}", &text[..text.len() - 1], json!(key))
}

/// Every malformed message of a dialect.
fn matrix(shape: &Shape, credential: &str) -> Vec<Case> {
    let mut cases = no_messages();
    for message in shape.client {
        let valid = valid(message, credential);
        let kind = Field::required("type", TYPE, "");
        for field in std::iter::once(&kind).chain(message.fields.iter()) {
            let mut valid = valid.clone();
            if let Some(offer) = home(shape, field.name) {
                valid.insert("channel".to_owned(), json!(offer.channel.name()));
            }
            for wrong in field.wrong() {
                let case = |what: String, text: String| Case {
                    of: (message.kind, wrong.field.clone()),
                    what,
                    text,
                    code: wrong.code,
                    field: Some(wrong.field.clone()),
                    ending: wrong.expected.clone(),
                };
                let mut broken = valid.clone();
                match &wrong.value {
                    None => broken.remove(field.name),
                    Some(value) => broken.insert(field.name.to_owned(), value.clone()),
                };
                cases.push(case(wrong.what.clone(), text(&broken)));
                if let Some(value) = &wrong.value {
                    let mut good = valid.clone();
                    let right = right(field, credential).swap_remove(0);
                    good.entry(field.name).or_insert(right);
                    let what = format!("last of two {}", wrong.what);
                    cases.push(case(what, twice(&good, field.name, value)));
                }
            }
        }
        for word in ["nope", "Type", " "] {
            let mut other = valid.clone();
            other.insert("type".to_owned(), json!(format!("{}{word}", message.kind)));
            cases.push(Case {
                of: (message.kind, "type".to_owned()),
                what: "unknown type".to_owned(),
                text: text(&other),
                code: ErrorCode::UnknownType,
                field: Some("type".to_owned()),
                ending: Some(types(shape)),
            });
        }
    }
    for offer in shape.offers {
        cases.extend(off_channel(shape, offer));
    }
    cases
}

/// How the refusal of an unknown type names the known ones.
fn types(shape: &Shape) -> String {
    let types: Vec<_> = shape.client.iter().map(|message| message.kind).collect();
    let (last, others) = types.split_last().unwrap();
    format!("expected {} or {last}", others.join(", "))
}

/// Text that is no message of any dialect.
fn no_messages() -> Vec<Case> {
    let case = |code, what: &str, text: String| Case {
        of: ("", String::new()),
        what: what.to_owned(),
        text,
        code,
        field: None,
        ending: None,
    };
    let deep = format!("{{\"type\":{}", "[".repeat(10_000));
    let broken = [
        "",
        " ",
        "{",
        "}",
        "nul",
        "{\"type\":\"ping\"",
        "{\"type\":\"ping\"} {}",
        "{'type':'ping'}",
        "{\"type\":\"\\ud800\"}",
        "{\"type\":\"ping\",}",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":1e999}",
        &deep,
    ];
    let others = [
        "null",
        "true",
        "7",
        "-1.5e3",
        "\"ping\"",
        "[]",
        "[{\"type\":\"ping\"}]",
    ];
    let broken = broken.map(|text| case(ErrorCode::InvalidJson, "no JSON", text.to_owned()));
    let others = others.map(|text| case(ErrorCode::InvalidMessage, "no object", text.to_owned()));
    broken.into_iter().chain(others).collect()
}

/// Subscriptions that ask a channel for what it does not have.
fn off_channel(shape: &Shape, offer: &'static Offer) -> Vec<Case> {
    let subscribe = shape.client("subscribe").unwrap();
    let channel = offer.channel.name();
    let case = |field: String, what: &str, more: (&str, Value), code, ending: String| Case {
        of: ("subscribe", field.split('.').next().unwrap().to_owned()),
        what: format!("{channel}: {what}"),
        text: text(
            json!({"type": "subscribe", "channel": channel, more.0: more.1})
                .as_object()
                .unwrap(),
        ),
        code,
        field: Some(field),
        ending: Some(ending),
    };
    let mut cases = Vec::new();
    for field in subscribe.fields.iter() {
        let elsewhere = home(shape, field.name).is_some() && !offer.fields.contains(&field.name);
        if elsewhere {
            let value = field.kind.samples().swap_remove(0);
            let ending = "no such field on this channel".to_owned();
            let code = ErrorCode::InvalidMessage;
            cases.push(case(
                field.name.to_owned(),
                "not for it",
                (field.name, value),
                code,
                ending,
            ));
        }
        if !matches!(field.kind, Kind::Filters(_)) {
            continue;
        }
        let own: Vec<_> = offer.filters.iter().map(|filter| filter.key).collect();
        let everywhere = shape.offers.iter().flat_map(|offer| offer.filters);
        let foreign = everywhere
            .map(|filter| filter.key)
            .filter(|key| !own.contains(key));
        for key in foreign.chain(["nope", "Severity", "", "type"]) {
            let known = match own.as_slice() {
                [] => format!("channel {channel} has no filters"),
                own => format!("channel {channel} has {}", own.join(", ")),
            };
            let more = (field.name, json!({key: ["x"]}));
            let name = format!("{}.{key}", field.name);
            cases.push(case(
                name,
                "unknown filter",
                more,
                ErrorCode::UnknownFilter,
                known,
            ));
        }
        for key in own {
            for (what, list) in Kind::Texts.strangers() {
                let more = (field.name, json!({key: list}));
                let name = format!("{}.{key}", field.name);
                let expected = Kind::Texts.expectation();
                cases.push(case(name, &what, more, ErrorCode::InvalidMessage, expected));
            }
        }
    }
    cases
}

/// Sends all cases, each with a ping behind it that forgives it; gives how
/// many there were of each message and field.
async fn refused(
    client: &mut WsClient,
    speech: &Speech,
    cases: &[Case],
) -> BTreeMap<(&'static str, String), usize> {
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    for batch in cases.chunks(BATCH) {
        for case in batch {
            client.send(Frame::text(case.text.clone())).await;
            client.send(Frame::text(r#"{"type":"ping"}"#)).await;
        }
        for case in batch {
            let answer = client.next_json(DEADLINE).await;
            client.expect("pong").await;
            *counts.entry(case.of.clone()).or_default() += 1;
            let told = speech.told(&answer);
            let ending = case.ending.as_deref().unwrap_or_default();
            let fits = told.as_ref().is_some_and(|told| {
                told.code == case.code.as_str()
                    && told.field == case.field
                    && told.message.ends_with(ending)
            });
            if !fits {
                let text: String = case.text.chars().take(200).collect();
                wrong.push(format!("{:?} {}: {text}\n    {answer}", case.of, case.what));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases, the first of them:\n{}",
        wrong.len(),
        cases.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    counts
}

/// Asserts that each message and field has cases, and each code that a
/// message by itself can provoke.
fn assert_covered(shape: &Shape, cases: &[Case], counts: &BTreeMap<(&'static str, String), usize>) {
    fn fields(prefix: &str, all: &[Field], names: &mut Vec<String>) {
        for field in all {
            names.push(format!("{prefix}{}", field.name));
            if let Kind::Object(inner) = field.kind {
                fields(&format!("{prefix}{}.", field.name), inner, names);
            }
        }
    }
    for message in shape.client {
        let mut names = vec!["type".to_owned()];
        fields("", &message.fields, &mut names);
        for name in names {
            let count = counts.get(&(message.kind, name.clone())).copied();
            // Each has at least a dozen: the wrong types of JSON, twice.
            assert!(count > Some(12), "{}.{name}: {count:?}", message.kind);
        }
    }
    let provoked: BTreeSet<_> = cases.iter().map(|case| case.code.as_str()).collect();
    for code in [
        "INVALID_JSON",
        "INVALID_MESSAGE",
        "UNKNOWN_TYPE",
        "UNKNOWN_CHANNEL",
        "UNKNOWN_FILTER",
    ] {
        let listed = shape
            .refusals
            .iter()
            .any(|refusal| refusal.code.as_str() == code);
        assert_eq!(provoked.contains(code), listed, "{code}");
    }
    eprintln!("{}: {} malformed messages", shape.dialect, cases.len());
}

async fn every_malformed_message_is_answered(speech: Speech) {
    let platform = platform().await;
    let key = platform.unlimited_token("analyst");
    let cases = matrix(speech.shape, &key);
    let mut client = speech.connect(&platform, &key).await;
    let counts = refused(&mut client, &speech, &cases).await;
    assert_covered(speech.shape, &cases, &counts);
    if speech.admits_strangers {
        let mut stranger = speech.stranger(&platform).await;
        refused(&mut stranger, &speech, &cases).await;
    }
}

#[tokio::test]
async fn every_malformed_message_of_threat_is_answered() {
    every_malformed_message_is_answered(Speech::threat()).await;
}

#[tokio::test]
async fn every_malformed_message_of_mesh_is_answered() {
    every_malformed_message_is_answered(Speech::mesh()).await;
}

/// Whatever fits the shape is served; fields that nobody knows are ignored,
/// and the last of two with one name counts.
async fn every_right_value_is_accepted(speech: Speech) {
    let platform = platform().await;
    let key = platform.unlimited_token("analyst");
    let _helper = speech.helper(&platform).await;
    let mut client = speech.connect(&platform, &key).await;
    let mut served = BTreeSet::new();
    for message in speech.shape.client {
        let mut good = vec![valid(message, &key)];
        for field in message.fields.iter() {
            let mut base = valid(message, &key);
            if let Some(offer) = home(speech.shape, field.name) {
                base.insert("channel".to_owned(), json!(offer.channel.name()));
            }
            for value in right(field, &key) {
                let mut other = base.clone();
                other.insert(field.name.to_owned(), value);
                good.push(other);
            }
        }
        if message.kind == "subscribe" {
            good.extend(filtered(speech.shape));
        }
        for mut fields in good {
            speech
                .prepare(&platform, &mut client, message, &mut fields)
                .await;
            let mut texts = vec![text(&fields)];
            if !speech.is_once(message) {
                let mut more = fields.clone();
                more.insert("unheard_of".to_owned(), json!([{"type": "nope"}, null]));
                texts.push(text(&more));
                for (key, value) in &fields {
                    let mut broken = fields.clone();
                    broken.insert(key.clone(), json!([7]));
                    texts.push(twice(&broken, key, value));
                }
            }
            for text in texts {
                client.send(Frame::text(text.clone())).await;
                let answer = client.next_json(DEADLINE).await;
                let kind = answer["type"].as_str().unwrap();
                assert!(message.answers.contains(&kind), "{text}: {answer}");
                speech.shape.server(kind).unwrap().check(&answer).unwrap();
                speech.tidy(&mut client, &answer).await;
                served.insert(message.kind);
            }
        }
    }
    let all: BTreeSet<_> = speech
        .shape
        .client
        .iter()
        .map(|message| message.kind)
        .collect();
    assert_eq!(served, all);
}

/// Subscriptions with each filter key of each channel.
fn filtered(shape: &Shape) -> impl Iterator<Item = Map<String, Value>> {
    shape.offers.iter().flat_map(|offer| {
        offer.filters.iter().flat_map(|filter| {
            Kind::Texts.samples().into_iter().map(|list| {
                let channel = offer.channel.name();
                let fields =
                    json!({"type": "subscribe", "channel": channel, "filters": {filter.key: list}});
                fields.as_object().unwrap().clone()
            })
        })
    })
}

#[tokio::test]
async fn every_right_value_of_threat_is_accepted() {
    every_right_value_is_accepted(Speech::threat()).await;
}

#[tokio::test]
async fn every_right_value_of_mesh_is_accepted() {
    every_right_value_is_accepted(Speech::mesh()).await;
}

/// Ten bad messages in a row close the connection, whatever is wrong with
/// them; a good one between them forgives those before it.
async fn ten_bad_messages_in_a_row_close(speech: Speech) {
    let platform = platform().await;
    let key = platform.unlimited_token("analyst");
    let cases = matrix(speech.shape, &key);
    let mut codes = BTreeMap::new();
    for case in &cases {
        codes.entry(case.code.as_str()).or_insert(&case.text);
    }
    for (code, text) in codes {
        let mut client = speech.connect(&platform, &key).await;
        for round in [STRIKES - 1, STRIKES] {
            for _ in 0..round {
                client.send(Frame::text(text.clone())).await;
                let answer = client.next_json(DEADLINE).await;
                assert_eq!(speech.told(&answer).unwrap().code, code);
            }
            if round < STRIKES {
                client.send_json(&json!({"type": "ping"})).await;
                client.expect("pong").await;
            }
        }
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{code}");
        assert_eq!(closed.reason, "too many bad messages");
    }
}

#[tokio::test]
async fn ten_bad_messages_in_a_row_close_threat() {
    ten_bad_messages_in_a_row_close(Speech::threat()).await;
}

#[tokio::test]
async fn ten_bad_messages_in_a_row_close_mesh() {
    ten_bad_messages_in_a_row_close(Speech::mesh()).await;
}

/// What a limit refuses is no bad message: the connection stays, however
/// often it asks.
#[tokio::test]
async fn refusals_by_a_limit_do_not_count() {
    const SUBSCRIPTIONS: usize = 1_024;
    let speech = Speech::threat();
    let platform = platform().await;
    let token = platform.unlimited_token("analyst");
    let mut client = speech.connect(&platform, &token).await;
    let subscribe = json!({"type": "subscribe", "channel": "threat_alerts"});
    for _ in 0..SUBSCRIPTIONS {
        client.send_json(&subscribe).await;
        client.expect("subscription_confirmed").await;
    }
    for _ in 0..2 * STRIKES {
        client.send_json(&subscribe).await;
        let answer = client.next_json(DEADLINE).await;
        assert_eq!(speech.told(&answer).unwrap().code, "RATE_LIMIT");
    }
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}

/// T1, T2, G6: messages that are right by themselves and come at the wrong
/// time.
#[tokio::test]
async fn threat_messages_out_of_order_are_answered() {
    let speech = Speech::threat();
    let platform = platform().await;
    let key = platform.api_key("analyst");
    let mut client = speech.stranger(&platform).await;
    let mut ask = async |text: &Value| {
        client.send_json(text).await;
        client.next_json(DEADLINE).await
    };
    let told = |answer: &Value| {
        let told = speech.told(answer).unwrap_or_else(|| panic!("{answer}"));
        (told.code, told.field)
    };
    let subscribe = json!({"type": "subscribe", "channel": "threat_alerts"});
    let unsubscribe = |id: &Value| json!({"type": "unsubscribe", "subscription_id": id});
    let no_such = ("NOT_FOUND".to_owned(), Some("subscription_id".to_owned()));

    // Before authentication.
    assert_eq!(told(&ask(&subscribe).await), ("FORBIDDEN".to_owned(), None));
    assert_eq!(told(&ask(&unsubscribe(&json!("sub-1"))).await), no_such);
    assert_eq!(ask(&json!({"type": "ping"})).await["type"], "pong");

    let decide = json!({"type": "action_decision", "action_id": "a", "decision": "approve"});
    assert_eq!(told(&ask(&decide).await), ("FORBIDDEN".to_owned(), None));

    // Subscribing twice gives two subscriptions; each ends once.
    ask(&json!({"type": "authenticate", "token": key})).await;
    let (first, second) = (ask(&subscribe).await, ask(&subscribe).await);
    let ids = [&first["subscription_id"], &second["subscription_id"]];
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        let ended = ask(&unsubscribe(id)).await;
        assert_eq!(ended["type"], "unsubscription_confirmed");
        assert_eq!(told(&ask(&unsubscribe(id)).await), no_such);
    }

    // Nobody announced the action.
    let unknown = ("NOT_FOUND".to_owned(), Some("action_id".to_owned()));
    assert_eq!(told(&ask(&decide).await), unknown);

    // The same user may authenticate again, another may not.
    let again = ask(&json!({"type": "authenticate", "token": key})).await;
    assert_eq!(again["type"], "auth_success");
    let other = json!({"type": "authenticate", "token": platform.api_key("viewer")});
    assert_eq!(told(&ask(&other).await), ("AUTH_FAILED".to_owned(), None));
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

/// M3, M6: the same for `mesh`.
#[tokio::test]
async fn mesh_messages_out_of_order_are_answered() {
    let speech = Speech::mesh();
    let platform = platform().await;
    let mut client = speech
        .connect(&platform, &platform.api_key("analyst"))
        .await;
    let mut ask = async |text: &Value| {
        client.send_json(text).await;
        client.next_json(DEADLINE).await
    };
    let subscribe = json!({"type": "subscribe", "channel": "network_events"});
    let unsubscribe = json!({"type": "unsubscribe", "channel": "network_events"});
    let told = |answer: &Value| {
        let told = speech.told(answer).unwrap_or_else(|| panic!("{answer}"));
        (told.code, told.field)
    };
    let no_such = ("NOT_FOUND".to_owned(), Some("channel".to_owned()));
    assert_eq!(told(&ask(&unsubscribe).await), no_such);
    // Subscribing again replaces, so that one end is the end.
    for _ in 0..2 {
        assert_eq!(ask(&subscribe).await["type"], "subscribed");
    }
    assert_eq!(ask(&unsubscribe).await["type"], "unsubscribed");
    assert_eq!(told(&ask(&unsubscribe).await), no_such);
    let other = json!({"type": "authenticate", "token": platform.api_key("viewer")});
    assert_eq!(told(&ask(&other).await), ("AUTH_FAILED".to_owned(), None));
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

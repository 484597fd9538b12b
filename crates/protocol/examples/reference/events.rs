//! The page of producers: every event type of the catalogue.

use std::fmt::Write as _;

use signalbox_protocol::Domain;
use signalbox_protocol::catalogue::{self, EventType, Slot};
use signalbox_protocol::frame::shape::{self, Field, Kind};

use super::examples;
use super::markdown::{self, NOTICE};

const MEMORY: &str = "memory can be written to";

/// The page of events.
pub(crate) fn page() -> String {
    let page = markdown::fill(
        include_str!("events.md"),
        &[("index", index()), ("types", types())],
    );
    format!("{NOTICE}\n{page}")
}

fn subject(kind: &EventType) -> String {
    format!("events.{}.{}", kind.domain, kind.name)
}

fn index() -> String {
    let mut text = String::from("| subject | says | channel | priority |\n|---|---|---|---|\n");
    for kind in catalogue::all() {
        let subject = subject(kind);
        writeln!(
            text,
            "| [`{subject}`](#{}) | {} | `{}` | {} |",
            markdown::anchor(&subject),
            kind.summary,
            kind.route.channel,
            kind.priority
        )
        .expect(MEMORY);
    }
    text
}

fn types() -> String {
    let mut text = String::new();
    for domain in Domain::ALL {
        let kinds: Vec<_> = catalogue::all()
            .filter(|kind| kind.domain == domain)
            .collect();
        if !kinds.is_empty() {
            writeln!(text, "## Domain `{domain}`\n").expect(MEMORY);
        }
        for kind in kinds {
            describe(&mut text, kind);
        }
    }
    text
}

fn describe(text: &mut String, kind: &'static EventType) {
    writeln!(text, "### `{}`\n\n{}\n", subject(kind), kind.summary).expect(MEMORY);
    let fields: Vec<_> = kind
        .fields
        .iter()
        .map(|field| Field::from(*field))
        .collect();
    if fields.is_empty() {
        text.push_str("No field is checked.\n\n");
    }
    text.push_str(&markdown::table(&fields));
    writeln!(
        text,
        "Goes to {}. Default source `{}`, default priority {}.{}\n",
        destination(kind),
        kind.source,
        kind.priority,
        shown(kind)
    )
    .expect(MEMORY);
    let example = examples::of_event(kind.domain.token(), kind.name);
    writeln!(text, "```json\n{}\n```\n", examples::pretty(&example)).expect(MEMORY);
}

/// Where an event goes, in words.
fn destination(kind: &EventType) -> String {
    let mut words = format!("channel `{}`", kind.route.channel);
    if let Slot::Field(field) = kind.route.object {
        write!(words, ", in it to the object that `{field}` names").expect(MEMORY);
    }
    match kind.route.user {
        Slot::Empty => {}
        Slot::Global => words.push_str(", to everyone"),
        Slot::Field(field) => {
            write!(words, ", to the user that `{field}` names").expect(MEMORY);
        }
        Slot::GlobalUnless(field) => {
            write!(words, "; without `{field}` to everyone").expect(MEMORY);
        }
    }
    words
}

/// How dialects write it.
fn shown(kind: &'static EventType) -> String {
    let words: Vec<_> = shape::ALL
        .iter()
        .filter_map(|shape| Some((shape, (shape.event)(kind)?)))
        .map(|(shape, message)| {
            let name = message.name();
            let page = format!("{}.md#{}", shape.dialect, markdown::anchor(&name));
            format!("[`{name}`]({page}) in dialect `{}`", shape.dialect)
        })
        .collect();
    match words.as_slice() {
        [] => String::new(),
        words => format!(" Clients see it as {}.", words.join(" and as ")),
    }
}

/// The schema of the data that a producer publishes.
pub(crate) fn data_schema(kind: &EventType) -> serde_json::Value {
    let data = Kind::Data {
        fields: kind.fields,
        without: &[],
    };
    let mut schema = data.schema();
    schema["description"] = kind.summary.into();
    schema
}

//! A dialect's page: prose by hand, with the tables in the places of
//! `<!-- name -->` lines.

use std::fmt::Write as _;

use signalbox_protocol::Dialect;
use signalbox_protocol::catalogue::{Category, EventType, Slot};
use signalbox_protocol::frame::shape::{Carrier, Fate, Field, Kind, Message, Offer, Shape};

use super::examples;

/// What stands in front of every generated page.
pub(crate) const NOTICE: &str =
    "<!-- Generated: cargo run -p signalbox-protocol --example reference -->\n";

/// The page of a dialect.
pub(crate) fn page(shape: &Shape) -> String {
    let prose = match shape.dialect {
        Dialect::Threat => include_str!("threat.md"),
        Dialect::Mesh => include_str!("mesh.md"),
        Dialect::Pipeline => include_str!("pipeline.md"),
        Dialect::Workspace => include_str!("workspace.md"),
        Dialect::Fleet => include_str!("fleet.md"),
    };
    let mut parts = vec![
        ("client", client(shape)),
        ("server", server(shape)),
        ("errors", errors(shape)),
    ];
    // A dialect without channels tells nothing of the catalogue.
    if shape.dialect != Dialect::Fleet {
        parts.push(("events", events(shape)));
    }
    match shape.dialect {
        Dialect::Pipeline => parts.push(("categories", categories(shape))),
        Dialect::Workspace => parts.push(("rooms", rooms(shape))),
        Dialect::Threat | Dialect::Mesh => {
            parts.extend([("channels", channels(shape)), ("closes", closes(shape))]);
        }
        Dialect::Fleet => parts.push(("closes", closes(shape))),
    }
    format!("{NOTICE}\n{}", fill(prose, &parts))
}

/// Puts each part in the place of its line.
pub(crate) fn fill(prose: &str, parts: &[(&str, String)]) -> String {
    parts.iter().fold(prose.to_owned(), |page, (name, part)| {
        let line = format!("<!-- {name} -->");
        assert_eq!(page.matches(&line).count(), 1, "{line}");
        page.replace(&line, part.trim_end())
    })
}

fn client(shape: &Shape) -> String {
    let mut text = String::new();
    for message in shape.client {
        heading(&mut text, message);
        text.push_str(&table(&message.fields));
        let mut answer: Vec<_> = message.answers.iter().map(|kind| code(kind)).collect();
        if !message.refusals.is_empty() {
            let words = message
                .refusals
                .iter()
                .map(|refusal| code(refusal.as_str()));
            let error = match (shape.dialect, shape.carrier) {
                (Dialect::Fleet, _) => "a refusal",
                (_, Carrier::WebSocket) => "an `error`",
                (_, Carrier::SocketIo) => "an [error](#errors)",
            };
            answer.push(format!("{error} with {}", alternatives(words)));
        }
        if !answer.is_empty() {
            writeln!(text, "Answered by {}.\n", answer.join(", or ")).expect(MEMORY);
        }
        show(&mut text, shape, "client", message);
    }
    text
}

fn server(shape: &Shape) -> String {
    let mut text = String::new();
    for message in shape.server {
        heading(&mut text, message);
        text.push_str(&table(&message.fields));
        show(&mut text, shape, "server", message);
    }
    text
}

const MEMORY: &str = "memory can be written to";

fn heading(text: &mut String, message: &Message) {
    writeln!(
        text,
        "### {}\n\n{}\n",
        code(&message.name()),
        message.summary
    )
    .expect(MEMORY);
}

fn show(text: &mut String, shape: &Shape, side: &str, message: &Message) {
    for (_, example) in examples::of_message(shape.dialect.name(), side, &message.name()) {
        writeln!(text, "```json\n{}\n```\n", examples::pretty(&example)).expect(MEMORY);
    }
}

fn channels(shape: &Shape) -> String {
    let mut text = String::new();
    for offer in shape.offers {
        let Offer {
            channel, summary, ..
        } = offer;
        write!(text, "### {}\n\n{summary}", code(channel.name())).expect(MEMORY);
        if let Some(permission) = offer.permission {
            write!(text, " Needs the permission {}.", code(permission)).expect(MEMORY);
        }
        text.push('\n');
        // Chats are no events.
        if carried(shape, offer).next().is_some() {
            writeln!(text, "Carries {}.", list(carried(shape, offer))).expect(MEMORY);
        }
        if !offer.fields.is_empty() {
            let fields = offer.fields.iter().map(|field| code(field));
            writeln!(text, "Only here may `subscribe` have {}.", list(fields)).expect(MEMORY);
        }
        text.push('\n');
        if !offer.filters.is_empty() {
            text.push_str("| filter | lets through |\n|---|---|\n");
            for filter in offer.filters {
                writeln!(text, "| {} | {} |", code(filter.key), filter.summary).expect(MEMORY);
            }
            text.push('\n');
        }
    }
    text
}

/// Links to the events of a channel.
fn carried(shape: &Shape, offer: &Offer) -> impl Iterator<Item = String> {
    shape
        .events()
        .filter(|(kind, _)| kind.route.channel == offer.channel)
        .map(|(_, message)| link(&message.name()))
}

/// What each category has, and who gets it.
fn categories(shape: &Shape) -> String {
    let mut text = String::from("| category | events | for |\n|---|---|---|\n");
    for category in Category::ALL {
        for channel in category.channels() {
            let mut offers = shape.offers.iter();
            let offer = offers.find(|offer| offer.channel == *channel);
            let offer = offer.expect("every channel is offered");
            let whom = match offer.permission {
                Some(permission) => format!("those with the permission {}", code(permission)),
                None => "the user that they name".to_owned(),
            };
            let events = list(carried(shape, offer));
            writeln!(text, "| `{category}` | {events} | {whom} |").expect(MEMORY);
        }
    }
    text
}

/// Which events come to which rooms.
fn rooms(shape: &Shape) -> String {
    let mut text = String::from("| event | rooms |\n|---|---|\n");
    for (kind, message) in shape.events() {
        writeln!(text, "| {} | {} |", link(&message.name()), rooms_of(kind)).expect(MEMORY);
    }
    text
}

/// The rooms of an event type, by the fields that name them.
fn rooms_of(kind: &EventType) -> String {
    let mut rooms = Vec::new();
    if let Slot::Field(field) = kind.route.object {
        // The room's kind is what the field is the id of.
        let room = field.trim_end_matches("_id");
        rooms.push(format!("`{room}:<{field}>`"));
    }
    match kind.route.user {
        Slot::Empty => {}
        Slot::Global => rooms.push("`global`".to_owned()),
        Slot::Field(field) => rooms.push(format!("`user:<{field}>`")),
        Slot::GlobalUnless(field) => rooms.push(format!("`global` where there is no `{field}`")),
    }
    rooms.join(", ")
}

fn events(shape: &Shape) -> String {
    let events: Vec<_> = shape.events().collect();
    let in_all = |field: &Field| {
        let mut messages = events.iter().map(|(_, message)| message);
        messages.all(|message| message.fields.contains(field))
    };
    let (_, first) = events.first().expect("a dialect has events");
    let common: Vec<_> = first.fields.iter().copied().filter(&in_all).collect();
    let besides = match shape.dialect {
        Dialect::Pipeline => "the fields of its data",
        _ => "`type`",
    };
    let mut text = format!("Every event has, beside {besides}:\n\n");
    // What `data` holds differs and is said below.
    let shared: Vec<_> = common
        .iter()
        .copied()
        .filter(|field| !matches!(field.kind, Kind::Data { .. }))
        .collect();
    text.push_str(&table(&shared));
    for (kind, message) in &events {
        heading(&mut text, message);
        let own: Vec<_> = message
            .fields
            .iter()
            .copied()
            .filter(|field| !shared.iter().any(|other| other.name == field.name))
            .filter(|field| !matches!(field.kind, Kind::Channel(_)))
            // There they are the same fields again.
            .filter(|field| {
                shape.dialect != Dialect::Pipeline || !matches!(field.kind, Kind::Data { .. })
            })
            .collect();
        text.push_str(&table(&own));
        let published = published(kind);
        match shape.dialect {
            Dialect::Pipeline => writeln!(text, "Published as {published}.\n"),
            Dialect::Workspace => {
                let rooms = rooms_of(kind);
                writeln!(text, "In {rooms}; published as {published}.\n")
            }
            Dialect::Threat | Dialect::Mesh | Dialect::Fleet => {
                let channel = link(kind.route.channel.name());
                writeln!(text, "On {channel}, published as {published}.\n")
            }
        }
        .expect(MEMORY);
        show(&mut text, shape, "server", message);
    }
    text
}

/// Where the page of events describes a type.
fn published(kind: &EventType) -> String {
    let subject = format!("events.{}.{}", kind.domain, kind.name);
    format!("[`{subject}`](events.md#{})", anchor(&subject))
}

fn errors(shape: &Shape) -> String {
    let mut text = String::from("| code | provoked by | the connection |\n|---|---|---|\n");
    for refusal in shape.refusals {
        let fate = match refusal.fate {
            Fate::Stays => "stays".to_owned(),
            Fate::Closed(codes) => format!(
                "is closed with {}",
                alternatives(codes.iter().map(u16::to_string))
            ),
            Fate::SentAway => "is disconnected from the namespace".to_owned(),
        };
        writeln!(
            text,
            "| {} | {} | {fate} |",
            code(refusal.code.as_str()),
            refusal.when
        )
        .expect(MEMORY);
    }
    text
}

fn closes(shape: &Shape) -> String {
    let mut text = String::from("| code | when | what to do |\n|---|---|---|\n");
    for close in shape.closes {
        writeln!(text, "| {} | {} | {} |", close.code, close.when, close.then).expect(MEMORY);
    }
    text
}

/// The table of some fields; nothing where there are none.
pub(crate) fn table(fields: &[Field]) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let mut rows = Vec::new();
    rows_of("", fields, &mut rows);
    let explained = rows.iter().any(|row| !row[3].is_empty());
    let mut text = String::from(if explained {
        "| field | | value | meaning |\n|---|---|---|---|\n"
    } else {
        "| field | | value |\n|---|---|---|\n"
    });
    for row in rows {
        let shown = if explained { &row[..] } else { &row[..3] };
        writeln!(text, "| {} |", shown.join(" | ")).expect(MEMORY);
    }
    text.push('\n');
    text
}

fn rows_of(path: &str, fields: &[Field], rows: &mut Vec<[String; 4]>) {
    for field in fields {
        let name = format!("{path}{}", field.name);
        let need = if field.required {
            "required"
        } else {
            "optional"
        };
        rows.push([
            code(&name),
            need.to_owned(),
            value(field.kind),
            field.summary.to_owned(),
        ]);
        let inner: Vec<Field> = match field.kind {
            Kind::Object(fields) => fields.to_vec(),
            Kind::Data { fields, without } => {
                let kept = fields.iter().filter(|field| !without.contains(&field.name));
                kept.map(|field| Field::from(*field)).collect()
            }
            _ => Vec::new(),
        };
        rows_of(&format!("{name}."), &inner, rows);
    }
}

/// What a value must be, for people.
fn value(kind: Kind) -> String {
    match kind {
        Kind::Channel([offer]) => code(offer.channel.name()),
        Kind::Channel(offers) => {
            let names = offers.iter().map(|offer| code(offer.channel.name()));
            alternatives(names)
        }
        Kind::Filters(_) => "an object of lists, see [channels](#channels)".to_owned(),
        Kind::Choice(_) => "an object, see [filters](#filters)".to_owned(),
        Kind::Room => "a room's name, see [rooms](#rooms)".to_owned(),
        Kind::Categories => "a list of [categories](#categories)".to_owned(),
        Kind::EventTypes => "a list of [events](#events)' names".to_owned(),
        Kind::Code => "a code, see [errors](#errors)".to_owned(),
        Kind::OneOf(words) => alternatives(words.iter().map(|word| code(word))),
        Kind::Integer { least: 0, most } if most == u32::MAX => "a whole number".to_owned(),
        other => other.expectation(),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn link(name: &str) -> String {
    format!("[`{name}`](#{})", anchor(name))
}

/// The anchor that a heading gets.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|letter| letter.is_alphanumeric() || "_- ".contains(*letter));
    kept.collect::<String>().replace(' ', "-").to_lowercase()
}

/// `a, b and c`.
fn list(items: impl Iterator<Item = String>) -> String {
    joined(items, "and")
}

/// `a, b or c`.
fn alternatives(items: impl Iterator<Item = String>) -> String {
    joined(items, "or")
}

fn joined(items: impl Iterator<Item = String>, last: &str) -> String {
    let items: Vec<_> = items.collect();
    match items.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., end] => format!("{} {last} {end}", others.join(", ")),
    }
}

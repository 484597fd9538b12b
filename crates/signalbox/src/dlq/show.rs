//! One dead letter in full.

use anyhow::Context as _;
use serde_json::Value;
use signalbox_bus::dead_letter::{self, DeadLetter};
use signalbox_bus::{Bus, header};

use super::{ShowArgs, printable, time_of};
use crate::output;

/// Headers that say how the message was read back, not what it is.
const OF_THE_READ: [&str; 5] = [
    "Nats-Stream",
    "Nats-Sequence",
    "Nats-Subject",
    "Nats-Last-Sequence",
    "Nats-Num-Pending",
];

pub(super) async fn run(bus: &Bus, args: &ShowArgs) -> anyhow::Result<()> {
    let sequence = args.sequence;
    let letter = dead_letter::read(bus, sequence)
        .await?
        .with_context(|| format!("there is no dead letter {sequence}"))?;
    if args.raw {
        output::bytes(&letter.payload)?;
        return Ok(());
    }
    output::line(in_full(&letter))?;
    Ok(())
}

/// The headers, an empty line, and the data: JSON indented, other text as it
/// is, and the size alone of what is no text.
fn in_full(letter: &DeadLetter) -> String {
    let mut lines = vec![
        format!("sequence: {}", letter.sequence),
        format!("refused at: {}", time_of(letter)),
    ];
    let mut headers: Vec<String> = letter
        .headers
        .iter()
        .filter(|(name, _)| {
            let name: &str = name.as_ref();
            name != header::STORED_AT && !OF_THE_READ.contains(&name)
        })
        .flat_map(|(name, values)| {
            let line = move |value: &str| format!("{name}: {}", printable(value));
            values.iter().map(move |value| line(value.as_str()))
        })
        .collect();
    headers.sort();
    lines.extend(headers);
    lines.push(String::new());
    let bytes = letter.payload.len();
    lines.push(match serde_json::from_slice::<Value>(&letter.payload) {
        Ok(value) => format!("{value:#}"),
        Err(_) => match std::str::from_utf8(&letter.payload) {
            Ok(text) => printable(text),
            Err(_) => format!("({bytes} bytes that are no text; --raw writes them)"),
        },
    });
    lines.join("\n")
}

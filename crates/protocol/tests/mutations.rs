//! Decoders under mutated input: what the fuzz targets do, for as long as a
//! test may take, and the same every time.

#[path = "../fuzz/entry.rs"]
mod entry;
#[path = "../fuzz/mutate.rs"]
mod mutate;

use mutate::Mutator;
use serde_json::value::RawValue;
use signalbox_protocol::Dialect;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::socketio::ClientEvent;
use signalbox_protocol::frame::threat::ClientFrame;

/// Mutations per decoder.
const ROUNDS: usize = 100_000;

#[test]
fn no_decoder_is_harmed_by_mutated_input() {
    for (number, (entry, seeds)) in (0..).zip(entry::seeds()) {
        Mutator::new(number).run(entry, &seeds, ROUNDS);
    }
}

/// Mutations that are all refused at the first byte would prove nothing.
fn assert_reaching(
    seeds: &[Vec<u8>],
    refusals: usize,
    decode: impl Fn(&str) -> Option<Result<(), Complaint>>,
) {
    let mut mutator = Mutator::new(7);
    let mut accepted = 0;
    let mut codes = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let mut input = seeds[mutator.below(seeds.len())].clone();
        mutator.mutate(&mut input);
        let text = String::from_utf8(input);
        match text.ok().and_then(|text| decode(&text)) {
            None => {}
            Some(Ok(())) => accepted += 1,
            Some(Err(complaint)) => {
                codes.insert((complaint.code, complaint.field));
            }
        }
    }
    assert!(accepted > 500, "{accepted} of 10000 accepted");
    assert!(codes.len() >= refusals, "{codes:?}");
}

#[test]
fn mutations_reach_all_parts_of_the_decoders() {
    let [(_, frames), _, (_, events), ..] = entry::seeds();
    assert_reaching(&frames, 8, |text| {
        Some(ClientFrame::decode(text).map(|_| ()))
    });
    assert_reaching(&events, 7, |text| {
        let (name, argument) = text.split_once('\n')?;
        let argument = RawValue::from_string(argument.to_owned()).ok()?;
        let read = ClientEvent::decode(Dialect::Pipeline, name, &[&argument]);
        Some(read.map(|_| ()))
    });
}

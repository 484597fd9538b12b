//! Decoders under mutated input: what the fuzz targets do, for as long as a
//! test may take, and the same every time.

#[path = "../fuzz/entry.rs"]
mod entry;
#[path = "../fuzz/mutate.rs"]
mod mutate;

use mutate::Mutator;
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
#[test]
fn mutations_reach_all_parts_of_the_decoders() {
    let [(_, frames), ..] = entry::seeds();
    let mut mutator = Mutator::new(7);
    let mut accepted = 0;
    let mut codes = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let mut input = frames[mutator.below(frames.len())].clone();
        mutator.mutate(&mut input);
        if let Ok(text) = String::from_utf8(input) {
            match ClientFrame::decode(&text) {
                Ok(_) => accepted += 1,
                Err(complaint) => {
                    codes.insert((complaint.code, complaint.field));
                }
            }
        }
    }
    assert!(accepted > 500, "{accepted} of 10000 accepted");
    assert!(codes.len() >= 8, "{codes:?}");
}

//! What is read from the bus under mutated input: what the fuzz targets do,
//! for as long as a test may take, and the same every time.

#[path = "../fuzz/entry.rs"]
mod entry;
#[path = "../../protocol/fuzz/mutate.rs"]
mod mutate;

use mutate::Mutator;

/// Mutations per decoder.
const ROUNDS: usize = 100_000;

#[test]
fn no_decoder_is_harmed_by_mutated_input() {
    for (number, (entry, seeds)) in (0..).zip(entry::seeds()) {
        Mutator::new(number).run(entry, &seeds, ROUNDS);
    }
}

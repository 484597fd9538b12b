//! Seeded mutations of valid inputs, for tests that have no fuzzer.

/// Bytes that decoders take for more than data.
const TELLING: &[u8] = b"{}[]\",:\\\n\r\0 -+.0eE9untfx\xff\xc3\x80";

/// A reproducible source of numbers (splitmix64).
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// Changes `input` in one to eight places.
    pub(crate) fn mutate(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(8) {
            let at = self.below(input.len() + 1);
            let telling = TELLING[self.below(TELLING.len())];
            match self.below(6) {
                0 => input.insert(at, telling),
                1 if at < input.len() => input[at] = telling,
                2 if at < input.len() => input[at] ^= 1 << self.below(8),
                3 => {
                    let end = (at + 1 + self.below(8)).min(input.len());
                    input.drain(at..end);
                }
                4 => {
                    let end = (at + 1 + self.below(16)).min(input.len());
                    let part = input[at..end].to_vec();
                    let to = self.below(input.len() + 1);
                    input.splice(to..to, part);
                }
                5 if self.below(8) == 0 => input.truncate(at),
                _ => {}
            }
        }
    }

    /// Feeds `entry` with this many mutations of `seeds`, and once with each
    /// of them as it is.
    #[allow(dead_code, reason = "some who mutate feed more than a function")]
    pub(crate) fn run(&mut self, entry: fn(&[u8]), seeds: &[Vec<u8>], rounds: usize) {
        seeds.iter().for_each(|seed| entry(seed));
        for _ in 0..rounds {
            let mut input = seeds[self.below(seeds.len())].clone();
            self.mutate(&mut input);
            entry(&input);
        }
    }
}

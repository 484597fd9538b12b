//! Finds values and matches in a buffer, and tells where one may have begun
//! that the buffer does not have whole.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, meta};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Look;

use super::{BadSecret, MAX_MATCH_BYTES};

/// What an expression may look at besides what it matches.
const LOOKS: &[Look] = &[
    Look::StartLF,
    Look::EndLF,
    Look::StartCRLF,
    Look::EndCRLF,
    Look::WordAscii,
    Look::WordAsciiNegate,
    Look::WordStartAscii,
    Look::WordEndAscii,
    Look::WordStartHalfAscii,
    Look::WordEndHalfAscii,
];

/// Secret values.
pub(super) struct Values {
    list: Vec<Vec<u8>>,
    longest: usize,
    /// Whether a value begins with a byte.
    first: [bool; 256],
    /// Finds the first occurrence, fast.
    any: AhoCorasick,
    /// Finds all occurrences from there on.
    all: AhoCorasick,
}

/// A regular expression of bounded length.
pub(super) struct Expression {
    regex: meta::Regex,
    /// The same, to be followed byte by byte.
    automaton: DFA,
    longest: usize,
}

/// How far the search for an expression is in a stream.
pub(super) struct ExpressionState {
    cache: Cache,
    /// Nothing that begins before this is still to be found.
    cursor: usize,
}

impl Values {
    pub(super) fn new(list: Vec<Vec<u8>>) -> Self {
        let build = |kind| {
            AhoCorasick::builder()
                .match_kind(kind)
                .build(&list)
                .expect("values are bounded in number and length")
        };
        let mut first = [false; 256];
        for value in &list {
            first[usize::from(value[0])] = true;
        }
        Self {
            longest: list.iter().map(Vec::len).max().unwrap_or(1),
            first,
            any: build(MatchKind::LeftmostFirst),
            all: build(MatchKind::Standard),
            list,
        }
    }

    /// All occurrences that begin at `from` or later.
    pub(super) fn find(&self, buffer: &[u8], from: usize, found: &mut Vec<Range<usize>>) {
        let Some(first) = self.any.find(&buffer[from..]) else {
            return;
        };
        let from = from + first.start();
        let all = self.all.find_overlapping_iter(&buffer[from..]);
        found.extend(all.map(|one| from + one.start()..from + one.end()));
    }

    /// The first place, at `from` or later, where a value begins that the buffer
    /// ends in.
    pub(super) fn first_open(&self, buffer: &[u8], from: usize) -> usize {
        let from = from.max((buffer.len() + 1).saturating_sub(self.longest));
        let opens = |&at: &usize| {
            let tail = &buffer[at..];
            self.first[usize::from(tail[0])]
                && self
                    .list
                    .iter()
                    .any(|value| value.len() > tail.len() && value.starts_with(tail))
        };
        (from..buffer.len()).find(opens).unwrap_or(buffer.len())
    }
}

impl Expression {
    pub(super) fn new(text: &str) -> Result<Self, BadSecret> {
        let invalid = |error: &dyn ToString| BadSecret::Invalid(text.to_owned(), error.to_string());
        let parsed = ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(text);
        let parsed = parsed.map_err(|error| invalid(&error))?;
        let properties = parsed.properties();
        let longest = properties
            .maximum_len()
            .filter(|&most| most <= MAX_MATCH_BYTES);
        let (Some(longest), Some(1..)) = (longest, properties.minimum_len()) else {
            return Err(BadSecret::Unbounded(text.to_owned()));
        };
        if properties
            .look_set()
            .iter()
            .any(|look| !LOOKS.contains(&look))
        {
            return Err(BadSecret::Look(text.to_owned()));
        }
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        let regex = meta::Regex::builder().syntax(syntax).build(text);
        let automaton = DFA::builder()
            .syntax(syntax)
            .thompson(thompson::Config::new().utf8(false))
            .build(text);
        Ok(Self {
            regex: regex.map_err(|error| invalid(&error))?,
            automaton: automaton.map_err(|error| invalid(&error))?,
            longest,
        })
    }

    pub(super) fn state(&self) -> ExpressionState {
        ExpressionState {
            cache: self.automaton.create_cache(),
            cursor: 0,
        }
    }

    /// Goes on with the search, up to where a match may begin that the buffer
    /// does not have whole.
    pub(super) fn find(
        &self,
        buffer: &[u8],
        ended: bool,
        state: &mut ExpressionState,
        found: &mut Vec<Range<usize>>,
    ) {
        let mut open = 0;
        loop {
            if ended {
                open = buffer.len();
            } else if open <= state.cursor {
                open = self.first_open(buffer, state);
            }
            let input = Input::new(buffer).range(state.cursor..);
            match self.regex.search(&input) {
                Some(one) if one.start() < open => {
                    found.push(one.range());
                    state.cursor = one.end();
                }
                _ => break,
            }
        }
        state.cursor = open.max(state.cursor);
    }

    /// The first place, at the cursor or later, where a match may begin whose
    /// end is not certain.
    fn first_open(&self, buffer: &[u8], state: &mut ExpressionState) -> usize {
        // The automaton tells of a match one byte late.
        let from = buffer
            .len()
            .saturating_sub(self.longest + 1)
            .max(state.cursor);
        (from..buffer.len())
            .find(|&at| self.is_open(buffer, at, &mut state.cache))
            .unwrap_or(buffer.len())
    }

    fn is_open(&self, buffer: &[u8], at: usize, cache: &mut Cache) -> bool {
        let input = Input::new(buffer).range(at..).anchored(Anchored::Yes);
        let Ok(mut place) = self.automaton.start_state_forward(cache, &input) else {
            return true;
        };
        for &byte in &buffer[at..] {
            match self.automaton.next_state(cache, place, byte) {
                Ok(next) if next.is_dead() => return false,
                Ok(next) => place = next,
                Err(_) => return true,
            }
        }
        true
    }
}

impl ExpressionState {
    /// Nothing that begins before this is still to be found.
    pub(super) const fn searched_to(&self) -> usize {
        self.cursor
    }

    /// So many bytes have left the buffer.
    pub(super) const fn shift(&mut self, gone: usize) {
        self.cursor -= gone;
    }
}

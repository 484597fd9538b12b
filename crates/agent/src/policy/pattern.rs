//! What a command line must look like to be allowed.

use std::fmt;
use std::str::FromStr;

use crate::words::{self, Malformed, Marked};

/// What a command line must look like; the rules are above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// `None` allows every program.
    program: Option<String>,
    words: Vec<Word>,
    open: bool,
}

/// One word of a pattern: what stands between its slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word(Vec<Component>);

/// Literal parts, with a `*` between each two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Component(Vec<String>);

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is no command line.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has a `*` where the program is.
    #[error("the program must be literal; `**` alone allows every program")]
    Program,
    /// It has a `**` somewhere else than as its last word.
    #[error("`**` may only be the last word")]
    Rest,
}

impl Pattern {
    /// Whether a command with these words is allowed.
    pub(super) fn matches(&self, words: &[String]) -> bool {
        let Some((program, rest)) = words.split_first() else {
            return false;
        };
        if self
            .program
            .as_ref()
            .is_some_and(|literal| literal != program)
        {
            return false;
        }
        let enough = match self.open {
            true => rest.len() >= self.words.len(),
            false => rest.len() == self.words.len(),
        };
        enough
            && self
                .words
                .iter()
                .zip(rest)
                .all(|(pattern, word)| pattern.matches(word))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let mut words = words::split_marked(text)?;
        let is_rest = |word: &Vec<Marked>| *word == [('*', false), ('*', false)];
        let open = words.last().is_some_and(is_rest);
        if open {
            words.pop();
        }
        let mut words = words.into_iter();
        let program = words.next();
        if program
            .iter()
            .flatten()
            .any(|&marked| marked == ('*', false))
        {
            return Err(BadPattern::Program);
        }
        let doubled = |word: &Vec<Marked>| word.windows(2).any(|two| two == [('*', false); 2]);
        let words: Vec<_> = words.collect();
        if words.iter().any(doubled) {
            return Err(BadPattern::Rest);
        }
        Ok(Self {
            text: text.to_owned(),
            program: program.map(|word| word.into_iter().map(|(letter, _)| letter).collect()),
            words: words.iter().map(|word| Word::new(word)).collect(),
            open,
        })
    }
}

impl Word {
    fn new(word: &[Marked]) -> Self {
        let components = word.split(|&(letter, _)| letter == '/');
        Self(components.map(Component::new).collect())
    }

    fn is_literal(&self) -> bool {
        self.0.iter().all(|component| component.0.len() == 1)
    }

    fn begins_with_star(&self) -> bool {
        let first = &self.0[0].0;
        first.len() > 1 && first[0].is_empty()
    }

    fn matches(&self, word: &str) -> bool {
        if !self.is_literal() && word.split('/').any(|component| component == "..") {
            return false;
        }
        if self.begins_with_star() && word.starts_with('-') {
            return false;
        }
        let mut components = word.split('/');
        let all = self.0.iter().all(|pattern| {
            components
                .next()
                .is_some_and(|component| pattern.matches(component))
        });
        all && components.next().is_none()
    }
}

impl Component {
    fn new(letters: &[Marked]) -> Self {
        let parts = letters.split(|&marked| marked == ('*', false));
        Self(
            parts
                .map(|part| part.iter().map(|(letter, _)| letter).collect())
                .collect(),
        )
    }

    fn matches(&self, text: &str) -> bool {
        let Some((last, front)) = self.0.split_last() else {
            return false;
        };
        let Some((first, middle)) = front.split_first() else {
            return last == text;
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        // The earliest place for each part leaves most to those behind it.
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str()) && !self.climbs(text)
    }

    /// Whether a star could stand for a `..`, or for a point that is one
    /// together with the literal one beside it.
    fn climbs(&self, text: &str) -> bool {
        let last = self.0.len() - 1;
        let could_stand_for = |from: usize, to: usize| {
            let (before, after) = (&text[..from], &text[to..]);
            self.0.windows(2).enumerate().any(|(star, around)| {
                let begins = match star {
                    0 => before == around[0],
                    _ => before.ends_with(&around[0]),
                };
                let ends = match star + 1 == last {
                    true => after == around[1],
                    false => after.starts_with(&around[1]),
                };
                begins && ends
            })
        };
        text.match_indices("..").any(|(at, _)| {
            // Three points are a name like any other.
            let alone = !text[..at].ends_with('.') && !text[at + 2..].starts_with('.');
            let spans = [(at, at + 2), (at, at + 1), (at + 1, at + 2)];
            alone && spans.iter().any(|&(from, to)| could_stand_for(from, to))
        })
    }
}

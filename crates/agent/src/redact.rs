//! Removes secrets from what processes write, before anything else sees it.
//!
//! A byte is removed if it belongs to an occurrence of a secret value, overlaps
//! among them included, or to a match of a regular expression, as a search
//! through the whole stream from its beginning would find them. Bytes that are
//! removed and next to each other become one `[redacted]`. How the stream is cut
//! into pieces on its way here makes no difference.
//!
//! For that, bytes are held back, but only those that may be the beginning of a
//! secret: a prompt comes through at once. They stay held back for as long as
//! that may be, since a secret that is written slowly is as secret; the end of
//! the stream releases them. No more than the longest value or match is held.
//!
//! Regular expressions are of ASCII bytes (`\w`, `\d` and `\b` too), of a
//! bounded length ([`MAX_MATCH_BYTES`], so `{1,64}` in place of `+`), and know
//! lines, but not where a stream begins or ends.

mod pattern;

use std::env;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use self::pattern::{Expression, ExpressionState, Values};

/// What is in place of a secret.
pub const MARKER: &[u8] = b"[redacted]";
/// A shorter value would be found where it is none.
pub const MIN_VALUE_BYTES: usize = 6;
/// The longest value.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;
/// The longest match of a regular expression.
pub const MAX_MATCH_BYTES: usize = 1024;
/// What is kept of bytes that went through, for `\b` and `^`.
const CONTEXT_BYTES: usize = 4;

/// One `--redact`: `env:NAME` (the value of that variable of the runner),
/// `re:REGEX`, or the value itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A value.
    Value(Vec<u8>),
    /// The value of a variable.
    Variable(String),
    /// Whatever matches.
    Expression(String),
}

/// Why a secret cannot be redacted. Never says the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// It would be found everywhere.
    #[error("a value to redact needs {MIN_VALUE_BYTES} to {MAX_VALUE_BYTES} bytes")]
    Length,
    /// The variable is not set.
    #[error("the variable `{0}` is not set")]
    NotSet(String),
    /// The expression is none.
    #[error("the regular expression `{0}` is invalid: {1}")]
    Invalid(String, String),
    /// It could match nothing, or without end.
    #[error(
        "the regular expression `{0}` must match 1 to {MAX_MATCH_BYTES} bytes: bound it with {{1,64}} in place of + or *"
    )]
    Unbounded(String),
    /// It asks for the beginning or end of the stream, or for Unicode words.
    #[error("the regular expression `{0}` may look at lines ((?m)^ and $) and ASCII words alone")]
    Look(String),
}

/// What is removed. Clones share it.
#[derive(Clone, Default)]
pub struct Redaction(Option<Arc<Compiled>>);

struct Compiled {
    values: Option<Values>,
    expressions: Vec<Expression>,
}

/// The redaction of one stream.
pub(crate) struct Redactor {
    compiled: Arc<Compiled>,
    states: Vec<ExpressionState>,
    /// A little of what was released, then what is held back.
    buffer: Vec<u8>,
    /// Where in the buffer that begins.
    held: usize,
    /// Up to where everything is removed, if that run reaches what is held and
    /// its marker is written.
    run: Option<usize>,
    /// Matches of expressions, until they are released.
    matched: Vec<Range<usize>>,
    /// What is to be removed, in a buffer that is used again.
    found: Vec<Range<usize>>,
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        Ok(match text.split_once(':') {
            Some(("env", name)) => Self::Variable(name.to_owned()),
            Some(("re", expression)) => Self::Expression(expression.to_owned()),
            _ => Self::Value(text.as_bytes().to_vec()),
        })
    }
}

/// Hides what is to be hidden.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value"),
            Self::Variable(name) => f.debug_tuple("Variable").field(name).finish(),
            Self::Expression(text) => f.debug_tuple("Expression").field(text).finish(),
        }
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = if self.0.is_some() { "on" } else { "off" };
        f.debug_tuple("Redaction").field(&on).finish()
    }
}

impl Redaction {
    /// Removes nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Removes these secrets. A line end at the end of a value is not part of
    /// it; a value of several lines is also found as a terminal writes it.
    ///
    /// # Errors
    /// When one of them cannot be redacted reliably.
    pub fn new(secrets: &[Secret]) -> Result<Self, BadSecret> {
        let mut values = Vec::new();
        let mut expressions = Vec::new();
        for secret in secrets {
            match secret {
                Secret::Value(value) => add_value(&mut values, value)?,
                Secret::Variable(name) => {
                    let value = env::var_os(name).ok_or_else(|| BadSecret::NotSet(name.clone()))?;
                    add_value(&mut values, value.as_encoded_bytes())?;
                }
                Secret::Expression(text) => expressions.push(Expression::new(text)?),
            }
        }
        if values.is_empty() && expressions.is_empty() {
            return Ok(Self::none());
        }
        let values = (!values.is_empty()).then(|| Values::new(values));
        Ok(Self(Some(Arc::new(Compiled {
            values,
            expressions,
        }))))
    }

    /// For one stream; `None` if nothing is removed.
    pub(crate) fn redactor(&self) -> Option<Redactor> {
        let compiled = Arc::clone(self.0.as_ref()?);
        Some(Redactor {
            states: compiled.expressions.iter().map(Expression::state).collect(),
            compiled,
            buffer: Vec::new(),
            held: 0,
            run: None,
            matched: Vec::new(),
            found: Vec::new(),
        })
    }

    /// A text without secrets, such as a reason.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let Some(mut redactor) = self.redactor() else {
            return text.to_owned();
        };
        let mut clean = Vec::with_capacity(text.len());
        redactor.push(text.as_bytes(), &mut clean);
        redactor.finish(&mut clean);
        String::from_utf8_lossy(&clean).into_owned()
    }
}

fn add_value(values: &mut Vec<Vec<u8>>, value: &[u8]) -> Result<(), BadSecret> {
    let value = value.trim_ascii_end();
    if !(MIN_VALUE_BYTES..=MAX_VALUE_BYTES).contains(&value.len()) {
        return Err(BadSecret::Length);
    }
    values.push(value.to_vec());
    if value.contains(&b'\n') {
        let mut in_terminal = Vec::new();
        for (at, &byte) in value.iter().enumerate() {
            if byte == b'\n' && value.get(at.wrapping_sub(1)) != Some(&b'\r') {
                in_terminal.push(b'\r');
            }
            in_terminal.push(byte);
        }
        values.push(in_terminal);
    }
    Ok(())
}

impl Redactor {
    /// Takes what comes next; appends to `out` what is certain.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.buffer.extend_from_slice(bytes);
        self.search(false);
        let mut certain = self.buffer.len();
        if let Some(values) = &self.compiled.values {
            certain = certain.min(values.first_open(&self.buffer, self.held));
        }
        for state in &self.states {
            certain = certain.min(state.searched_to());
        }
        self.release(certain, out);
        self.forget();
    }

    /// The stream has ended: appends what was held back.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.search(true);
        self.release(self.buffer.len(), out);
    }

    /// Finds what is to be removed of what is held.
    fn search(&mut self, ended: bool) {
        for (expression, state) in self.compiled.expressions.iter().zip(&mut self.states) {
            expression.find(&self.buffer, ended, state, &mut self.matched);
        }
        self.found.clear();
        self.found.extend_from_slice(&self.matched);
        if let Some(values) = &self.compiled.values {
            values.find(&self.buffer, self.held, &mut self.found);
        }
        self.found.sort_unstable_by_key(|range| range.start);
    }

    /// Lets go of everything before `certain`: no range that is still to be
    /// found begins there.
    fn release(&mut self, certain: usize, out: &mut Vec<u8>) {
        let mut next = self.run.unwrap_or(self.held);
        for range in self.found.iter().take_while(|range| range.start < certain) {
            let end = match self.run {
                Some(end) if range.start <= end => end.max(range.end),
                _ => {
                    out.extend_from_slice(&self.buffer[next..range.start]);
                    out.extend_from_slice(MARKER);
                    range.end
                }
            };
            self.run = Some(end);
            next = end;
        }
        if next < certain {
            out.extend_from_slice(&self.buffer[next..certain]);
            self.run = None;
        }
        self.held = certain;
    }

    /// Drops what was released, but for the context of what follows.
    fn forget(&mut self) {
        let gone = self.held.saturating_sub(CONTEXT_BYTES);
        self.buffer.drain(..gone);
        self.held -= gone;
        self.run = self.run.map(|end| end - gone);
        // One that was released in part is in `run`.
        self.matched.retain_mut(|range| {
            let later = range.start >= self.held + gone;
            *range = range.start.saturating_sub(gone)..range.end.saturating_sub(gone);
            later
        });
        for state in &mut self.states {
            state.shift(gone);
        }
    }
}

#[cfg(test)]
mod tests;

//! What a tool server is, as `agents.toml` says it.

use std::sync::Arc;
use std::time::Duration;

use super::child::Program;
use super::http::Address;
use crate::tools::{Approval, Limits};

/// A tool server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What the names of its tools begin with.
    pub name: Arc<str>,
    /// Where it is.
    pub place: Place,
    /// Which of its tools there are, by the server's own names; `None` is all.
    pub tools: Option<Vec<Pattern>>,
    /// What one call may take.
    pub limits: Limits,
    /// Which calls people decide on.
    pub approval: Needed,
    /// How long they have.
    pub expires_in: Duration,
    /// What the user who asks must be permitted.
    pub permission: Option<String>,
}

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A program that we run, over its standard input and output.
    Program(Program),
    /// Over streamable HTTP.
    Address(Address),
}

/// Which tools of a server wait for approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// All.
    Always,
    /// None.
    Never,
    /// Those that match one of these.
    For(Vec<Pattern>),
}

/// A name, or how names begin and a `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    start: String,
    more: bool,
}

impl Pattern {
    /// Reads one; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (start, more) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        let fine = !start.contains('*') && (more || !start.is_empty());
        fine.then(|| Self {
            start: start.to_owned(),
            more,
        })
    }

    /// Whether a name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.more {
            true => name.starts_with(&self.start),
            false => name == self.start,
        }
    }
}

impl ServerConfig {
    /// Whether a tool of this name, which is the server's own, is to be there.
    pub(super) fn has(&self, tool: &str) -> bool {
        let patterns = self.tools.as_ref();
        patterns.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(tool)))
    }

    /// How people decide on calls of a tool, if they do: by the server's own name
    /// of it. What a server says of its tools plays no part.
    pub(super) fn approval(&self, tool: &str, name: &str) -> Option<Approval> {
        let needed = match &self.approval {
            Needed::Always => true,
            Needed::Never => false,
            Needed::For(patterns) => patterns.iter().any(|pattern| pattern.matches(tool)),
        };
        needed.then(|| Approval {
            action_type: name.to_owned(),
            expires_in: self.expires_in,
        })
    }
}

/// The times of all servers' connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a server may take to begin to talk, and to list its tools.
    pub begin: Duration,
    /// The wait before a server that went away is looked for again; doubled each
    /// time.
    pub first_wait: Duration,
    /// The longest such wait.
    pub longest_wait: Duration,
    /// How long a server must have been there for the waits to begin anew.
    pub settled: Duration,
    /// The least time from one listing of a server's tools to the next.
    pub listing_pause: Duration,
    /// How long a call waits for a server that is just being started.
    pub patience: Duration,
    /// How long a program may take to read a message, those before it included.
    pub write: Duration,
    /// How long a program has to end when its input ends, and again when it is
    /// told to, before it is killed.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            begin: Duration::from_secs(30),
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            settled: Duration::from_secs(60),
            listing_pause: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            write: Duration::from_secs(10),
            grace: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_or_beginnings() {
        let matches = |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().matches(name);
        assert!(matches("read", "read") && !matches("read", "read_all"));
        assert!(matches("read_*", "read_all") && !matches("read_*", "write"));
        assert!(matches("*", "anything"));
        for wrong in ["", "a*b", "**"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}

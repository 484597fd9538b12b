//! What is counted, and under which name Redis keeps it: every key is built
//! here.

use std::fmt;

/// What is counted, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    kind: &'static str,
    subject: String,
}

impl Key {
    /// Messages that a user sends over the connections of a dialect.
    #[must_use]
    pub fn messages(dialect: &str, user: &str) -> Self {
        Self {
            kind: "messages",
            subject: format!("{dialect}:{user}"),
        }
    }

    /// Messages that all connections of a dialect send together in a window of
    /// this name.
    #[must_use]
    pub fn dialect(dialect: &str, window: &str) -> Self {
        Self {
            kind: "dialect",
            subject: format!("{dialect}:{window}"),
        }
    }

    /// Chats that a user starts.
    #[must_use]
    pub fn chats(user: &str) -> Self {
        Self {
            kind: "chats",
            subject: user.to_owned(),
        }
    }
}

/// The name in Redis. A user's id comes last, so that none can be made up that
/// names another counter.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signalbox:limit:{}:{}", self.kind, self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_things_have_different_names() {
        let names = [
            Key::messages("threat", "ada"),
            Key::messages("mesh", "ada"),
            Key::messages("threat", "mesh:ada"),
            Key::dialect("fleet", "minute"),
            Key::dialect("fleet", "hour"),
            Key::messages("fleet", "minute"),
            Key::chats("ada"),
            Key::chats("threat:ada"),
        ]
        .map(|key| key.to_string());
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        assert_eq!(names[0], "signalbox:limit:messages:threat:ada");
    }
}

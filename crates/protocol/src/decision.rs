//! Decisions on response actions, as services and records have them.

use serde::{Deserialize, Serialize};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The action is to be carried out.
    Approve,
    /// The action is not to be carried out.
    Reject,
}

impl Verdict {
    /// Every word for a verdict.
    pub const WORDS: &'static [&'static str] = &["approve", "reject"];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }

    /// The verdict behind a word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Approve, Self::Reject]
            .into_iter()
            .find(|verdict| verdict.as_str() == word)
    }
}

/// A decision, made or attempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The action.
    pub action_id: String,
    /// What is to become of it.
    #[serde(rename = "decision")]
    pub verdict: Verdict,
    /// Why, in the decider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The user who decided.
    pub decided_by: String,
    /// The hash of the arguments that the decider has seen, if the decider said
    /// so: the decision is on these and on no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_hash: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_written_as_they_are_read() {
        for word in Verdict::WORDS {
            let verdict = Verdict::parse(word).unwrap();
            assert_eq!(verdict.as_str(), *word);
            assert_eq!(serde_json::to_value(verdict).unwrap(), *word);
        }
        assert_eq!(Verdict::parse("APPROVE"), None);
    }
}

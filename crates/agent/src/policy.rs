//! What may be run: nothing, unless it is allowed.

/// What may be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    #[default]
    Nothing,
    /// What matches one of the patterns.
    Matching(Vec<Pattern>),
    /// Any command line, by `sh -c`.
    Shell,
}

/// One `--allow`: `FromStr`, with a sentence as its error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

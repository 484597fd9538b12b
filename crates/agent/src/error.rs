//! Why the agent ends.

/// What ends the agent other than a signal. Nothing of it heals by starting
/// again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two runners fight for one place; this one gives way.
    #[error("another runner has connected as agent `{0}`, and this one gives way")]
    Replaced(String),
    /// The key is not good for this agent.
    #[error("the key is refused: {0}")]
    KeyRefused(String),
    /// The file with authorities cannot be used.
    #[error("{0}")]
    Authorities(String),
}

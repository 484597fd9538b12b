//! Which commands were executed, on disk before they are.

use std::time::Duration;

/// How much is remembered: every command that is not confirmed; of the others
/// those that ended within `age`, at most the newest `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a confirmed command is remembered.
    pub age: Duration,
    /// How many confirmed commands are remembered.
    pub count: usize,
}

//! One process: started in a session of its own, in a terminal or with pipes.

/// How a process is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To a terminal of this size.
    Terminal(Size),
    /// By three pipes.
    Pipes,
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

//! How a connection ended, for audit lines and metrics.

use std::borrow::Cow;

use crate::CloseCode;

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// Who ended it.
    pub by: ClosedBy,
    /// The code of the Close frame that began the closing; `None` if there was none, or one without
    /// a code.
    pub code: Option<CloseCode>,
    /// The reason given with the code, or a fixed sentence where the network ended the connection.
    pub reason: Cow<'static, str>,
    /// Whether both sides sent their Close frames, so that neither lost anything that the other had
    /// sent before.
    pub clean: bool,
}

/// The side, or the circumstance, that ended a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The peer sent a Close frame.
    Peer,
    /// This side sent a Close frame: a call of `Outbound::close`, a violation by the peer, or a
    /// peer that reads too slowly.
    Us,
    /// The connection broke, or the peer left without a Close frame.
    Network,
    /// The peer was silent and answered no ping.
    Timeout,
}

impl Closure {
    pub(crate) fn ours(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            by: ClosedBy::Us,
            code: Some(code),
            reason: reason.into(),
            clean: false,
        }
    }

    pub(crate) fn by_peer(code: Option<CloseCode>, reason: String) -> Self {
        Self {
            by: ClosedBy::Peer,
            code,
            reason: reason.into(),
            clean: false,
        }
    }

    pub(crate) const fn network(reason: &'static str) -> Self {
        Self {
            by: ClosedBy::Network,
            code: None,
            reason: Cow::Borrowed(reason),
            clean: false,
        }
    }
}

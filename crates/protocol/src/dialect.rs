//! The five public APIs by name.

use std::fmt;
use std::str::FromStr;

/// One of the five public APIs that a listener can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// JSON over WebSocket at `/v1/ws`, for security dashboards and chat.
    Threat,
    /// JSON over WebSocket at `/api/v1/ws`, for network operators.
    Mesh,
    /// Socket.IO namespace `/ws`, for CI/CD dashboards.
    Pipeline,
    /// Socket.IO namespace `/ws`, for web and mobile apps.
    Workspace,
    /// JSON over WebSocket at `/ws`, for dashboards and agents.
    Fleet,
}

impl Dialect {
    /// Every dialect, in the order in which documentation lists them.
    pub const ALL: [Self; 5] = [
        Self::Threat,
        Self::Mesh,
        Self::Pipeline,
        Self::Workspace,
        Self::Fleet,
    ];

    /// The name that configuration and logs use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threat => "threat",
            Self::Mesh => "mesh",
            Self::Pipeline => "pipeline",
            Self::Workspace => "workspace",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a dialect that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown dialect `{0}`, expected threat, mesh, pipeline, workspace or fleet")]
pub struct UnknownDialect(String);

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|dialect| dialect.name() == name)
            .ok_or_else(|| UnknownDialect(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.name().parse(), Ok(dialect));
        }
        assert!("Threat".parse::<Dialect>().is_err());
    }
}

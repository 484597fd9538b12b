//! The domains that producers publish in: the second token of a subject.

use std::fmt;
use std::str::FromStr;

/// A family of events with one order of arrival and one owner among routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// Threat detection, investigations and responses.
    Threat,
    /// The mesh's nodes and links.
    Network,
    /// Proposals and decisions of the mesh.
    Consensus,
    /// Intrusions and certificates of the mesh.
    Security,
    /// Metrics and alerts of the mesh.
    Monitoring,
    /// Builds, scans and deployments.
    Pipeline,
    /// Projects of a workspace.
    Project,
    /// Agents, as workspaces and fleets see them.
    Agent,
    /// Workflows of a workspace.
    Workflow,
    /// Pull requests.
    Pr,
    /// Issues.
    Issue,
    /// Insights that models produce.
    Ai,
}

impl Domain {
    /// Every domain.
    pub const ALL: [Self; 12] = [
        Self::Threat,
        Self::Network,
        Self::Consensus,
        Self::Security,
        Self::Monitoring,
        Self::Pipeline,
        Self::Project,
        Self::Agent,
        Self::Workflow,
        Self::Pr,
        Self::Issue,
        Self::Ai,
    ];

    /// The token that stands for the domain in subjects.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::Threat => "threat",
            Self::Network => "network",
            Self::Consensus => "consensus",
            Self::Security => "security",
            Self::Monitoring => "monitoring",
            Self::Pipeline => "pipeline",
            Self::Project => "project",
            Self::Agent => "agent",
            Self::Workflow => "workflow",
            Self::Pr => "pr",
            Self::Issue => "issue",
            Self::Ai => "ai",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A token that names no domain.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown domain `{0}`")]
pub struct UnknownDomain(String);

impl FromStr for Domain {
    type Err = UnknownDomain;

    fn from_str(token: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|domain| domain.token() == token)
            .ok_or_else(|| UnknownDomain(token.to_owned()))
    }
}

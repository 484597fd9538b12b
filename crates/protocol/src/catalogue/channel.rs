//! Channels: what clients subscribe to and the bus routes by.

use std::fmt;
use std::str::FromStr;

use crate::domain::Domain;

/// A stream of related events. Each belongs to exactly one domain, so that one
/// router at a time writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Threat detections.
    ThreatAlerts,
    /// Progress, presence and notes of investigations.
    InvestigationProgress,
    /// Health and throughput figures of the detection system.
    SystemMetrics,
    /// Automated responses, and decisions on them.
    ResponseActions,
    /// Nodes and links of the mesh.
    NetworkEvents,
    /// Proposals and decisions of the mesh.
    ConsensusEvents,
    /// Intrusions and certificates of the mesh.
    SecurityEvents,
    /// Metrics and alerts of the mesh.
    MonitoringEvents,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 8] = [
        Self::ThreatAlerts,
        Self::InvestigationProgress,
        Self::SystemMetrics,
        Self::ResponseActions,
        Self::NetworkEvents,
        Self::ConsensusEvents,
        Self::SecurityEvents,
        Self::MonitoringEvents,
    ];

    /// Its name, for clients and as a token of subjects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreatAlerts => "threat_alerts",
            Self::InvestigationProgress => "investigation_progress",
            Self::SystemMetrics => "system_metrics",
            Self::ResponseActions => "response_actions",
            Self::NetworkEvents => "network_events",
            Self::ConsensusEvents => "consensus_events",
            Self::SecurityEvents => "security_events",
            Self::MonitoringEvents => "monitoring_events",
        }
    }

    /// The domain whose events it carries.
    #[must_use]
    pub const fn domain(self) -> Domain {
        match self {
            Self::ThreatAlerts
            | Self::InvestigationProgress
            | Self::SystemMetrics
            | Self::ResponseActions => Domain::Threat,
            Self::NetworkEvents => Domain::Network,
            Self::ConsensusEvents => Domain::Consensus,
            Self::SecurityEvents => Domain::Security,
            Self::MonitoringEvents => Domain::Monitoring,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no channel's.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown channel `{0}`")]
pub struct UnknownChannel(String);

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|channel| channel.name() == name)
            .ok_or_else(|| UnknownChannel(name.to_owned()))
    }
}

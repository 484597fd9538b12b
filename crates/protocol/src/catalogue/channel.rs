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
    /// Users' chats with agents. They are logs: no event is on this channel.
    AgentChat,
    /// Nodes and links of the mesh.
    NetworkEvents,
    /// Proposals and decisions of the mesh.
    ConsensusEvents,
    /// Intrusions and certificates of the mesh.
    SecurityEvents,
    /// Metrics and alerts of the mesh.
    MonitoringEvents,
    /// Pipelines and their executions.
    PipelineEvents,
    /// Scans of what pipelines build, and vulnerabilities.
    PipelineSecurity,
    /// Debugging sessions, errors and patches.
    PipelineDebug,
    /// Status, metrics and alerts of the CI/CD system.
    PipelineSystem,
    /// Diagrams of what is built.
    PipelineArchitecture,
    /// What the CI/CD system tells single users.
    PipelineUserNotifications,
    /// What users do in the CI/CD system.
    PipelineUserActions,
    /// Projects of a workspace.
    ProjectEvents,
    /// Agents and how they are.
    AgentEvents,
    /// Workflows and their progress.
    WorkflowEvents,
    /// Pull requests.
    PrEvents,
    /// Issues.
    IssueEvents,
    /// Suggestions and analyses of models.
    AiEvents,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 22] = [
        Self::ThreatAlerts,
        Self::InvestigationProgress,
        Self::SystemMetrics,
        Self::ResponseActions,
        Self::AgentChat,
        Self::NetworkEvents,
        Self::ConsensusEvents,
        Self::SecurityEvents,
        Self::MonitoringEvents,
        Self::PipelineEvents,
        Self::PipelineSecurity,
        Self::PipelineDebug,
        Self::PipelineSystem,
        Self::PipelineArchitecture,
        Self::PipelineUserNotifications,
        Self::PipelineUserActions,
        Self::ProjectEvents,
        Self::AgentEvents,
        Self::WorkflowEvents,
        Self::PrEvents,
        Self::IssueEvents,
        Self::AiEvents,
    ];

    /// Its name, for clients and as a token of subjects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreatAlerts => "threat_alerts",
            Self::InvestigationProgress => "investigation_progress",
            Self::SystemMetrics => "system_metrics",
            Self::ResponseActions => "response_actions",
            Self::AgentChat => "agent_chat",
            Self::NetworkEvents => "network_events",
            Self::ConsensusEvents => "consensus_events",
            Self::SecurityEvents => "security_events",
            Self::MonitoringEvents => "monitoring_events",
            Self::PipelineEvents => "pipeline_events",
            Self::PipelineSecurity => "pipeline_security",
            Self::PipelineDebug => "pipeline_debug",
            Self::PipelineSystem => "pipeline_system",
            Self::PipelineArchitecture => "pipeline_architecture",
            Self::PipelineUserNotifications => "pipeline_user_notifications",
            Self::PipelineUserActions => "pipeline_user_actions",
            Self::ProjectEvents => "project_events",
            Self::AgentEvents => "agent_events",
            Self::WorkflowEvents => "workflow_events",
            Self::PrEvents => "pr_events",
            Self::IssueEvents => "issue_events",
            Self::AiEvents => "ai_events",
        }
    }

    /// The domain whose events it carries.
    #[must_use]
    pub const fn domain(self) -> Domain {
        match self {
            Self::ThreatAlerts
            | Self::InvestigationProgress
            | Self::SystemMetrics
            | Self::ResponseActions
            | Self::AgentChat => Domain::Threat,
            Self::NetworkEvents => Domain::Network,
            Self::ConsensusEvents => Domain::Consensus,
            Self::SecurityEvents => Domain::Security,
            Self::MonitoringEvents => Domain::Monitoring,
            Self::PipelineEvents
            | Self::PipelineSecurity
            | Self::PipelineDebug
            | Self::PipelineSystem
            | Self::PipelineArchitecture
            | Self::PipelineUserNotifications
            | Self::PipelineUserActions => Domain::Pipeline,
            Self::ProjectEvents => Domain::Project,
            Self::AgentEvents => Domain::Agent,
            Self::WorkflowEvents => Domain::Workflow,
            Self::PrEvents => Domain::Pr,
            Self::IssueEvents => Domain::Issue,
            Self::AiEvents => Domain::Ai,
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

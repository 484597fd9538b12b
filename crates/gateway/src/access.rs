//! Which permission opens which channel.

use signalbox_identity::{Permission, Permissions};
use signalbox_protocol::catalogue::Channel;

/// What a subscriber of a channel must hold, when it subscribes and for as
/// long as it is subscribed. `None` where nothing is asked beyond the right to
/// be in the rooms that its events are addressed to.
pub(crate) const fn required(channel: Channel) -> Option<Permission> {
    match channel {
        Channel::ThreatAlerts
        | Channel::InvestigationProgress
        | Channel::SystemMetrics
        | Channel::ResponseActions => Some(Permission::ReadThreats),
        Channel::NetworkEvents => Some(Permission::ReadNetwork),
        Channel::ConsensusEvents => Some(Permission::ReadConsensus),
        Channel::SecurityEvents => Some(Permission::ReadSecurity),
        Channel::MonitoringEvents => Some(Permission::ReadMonitoring),
        Channel::PipelineEvents => Some(Permission::ReadPipelines),
        Channel::PipelineSecurity => Some(Permission::ReadScans),
        Channel::PipelineDebug => Some(Permission::ReadDebug),
        Channel::PipelineSystem => Some(Permission::ReadSystem),
        Channel::PipelineArchitecture => Some(Permission::ReadArchitecture),
        Channel::PipelineUserActions => Some(Permission::Admin),
        Channel::PipelineUserNotifications
        | Channel::ProjectEvents
        | Channel::AgentEvents
        | Channel::WorkflowEvents
        | Channel::PrEvents
        | Channel::IssueEvents
        | Channel::AiEvents => None,
    }
}

/// The permission that a channel requires and that these lack.
pub(crate) fn missing(permissions: Permissions, channel: Channel) -> Option<Permission> {
    required(channel).filter(|required| !permissions.contains(*required))
}

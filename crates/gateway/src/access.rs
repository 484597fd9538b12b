//! Which permission opens which channel.

use signalbox_identity::Permission;
use signalbox_protocol::catalogue::Channel;

/// What a subscriber of a channel must hold, when it subscribes and for as
/// long as it is subscribed.
pub(crate) const fn required(channel: Channel) -> Permission {
    match channel {
        Channel::ThreatAlerts
        | Channel::InvestigationProgress
        | Channel::SystemMetrics
        | Channel::ResponseActions => Permission::ReadThreats,
        Channel::NetworkEvents => Permission::ReadNetwork,
        Channel::ConsensusEvents => Permission::ReadConsensus,
        Channel::SecurityEvents => Permission::ReadSecurity,
        Channel::MonitoringEvents => Permission::ReadMonitoring,
    }
}

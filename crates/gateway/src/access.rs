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
        Channel::AgentChat => Some(Permission::ChatAgents),
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

/// The channels whose events these permissions open, whatever rooms their
/// holder is in.
pub(crate) fn readable(permissions: Permissions) -> impl Iterator<Item = Channel> {
    Channel::ALL.into_iter().filter(move |channel| {
        // Chats are no events.
        *channel != Channel::AgentChat
            && required(*channel).is_some_and(|required| permissions.contains(required))
    })
}

/// The permission that a channel requires and that these lack.
pub(crate) fn missing(permissions: Permissions, channel: Channel) -> Option<Permission> {
    required(channel).filter(|required| !permissions.contains(*required))
}

#[cfg(test)]
mod tests {
    use signalbox_identity::Role;
    use signalbox_protocol::frame::shape;

    use super::*;

    /// What the reference documentation says of permissions is what is asked.
    #[test]
    fn every_channel_asks_for_the_permission_that_its_dialect_documents() {
        for channel in Channel::ALL {
            let mut offers = shape::ALL.iter().flat_map(|shape| shape.offers);
            let offer = offers.find(|offer| offer.channel == channel);
            let documented = offer.expect("every channel is documented").permission;
            let asked = required(channel).map(|permission| permission.to_string());
            assert_eq!(asked.as_deref(), documented, "{channel}");
        }
    }

    #[test]
    fn channels_of_rooms_are_not_readable_as_a_whole() {
        let viewer: Vec<_> = readable(Role::Viewer.permissions()).collect();
        assert!(viewer.contains(&Channel::ThreatAlerts));
        for channel in [
            Channel::PipelineDebug,
            Channel::ProjectEvents,
            Channel::PipelineUserNotifications,
            Channel::AgentChat,
        ] {
            assert!(!viewer.contains(&channel), "{channel}");
        }
    }

    #[test]
    fn what_is_missing_is_what_the_role_does_not_grant() {
        let viewer = Role::Viewer.permissions();
        assert_eq!(missing(viewer, Channel::PipelineEvents), None);
        assert_eq!(
            missing(viewer, Channel::PipelineDebug),
            Some(Permission::ReadDebug)
        );
        assert_eq!(
            missing(viewer, Channel::PipelineUserActions),
            Some(Permission::Admin)
        );
        let nothing = Permissions::default();
        assert_eq!(missing(nothing, Channel::PipelineUserNotifications), None);
        assert_eq!(missing(nothing, Channel::ProjectEvents), None);
    }
}

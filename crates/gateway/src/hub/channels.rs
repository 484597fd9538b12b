//! Small sets of channels.

use std::fmt;

use signalbox_protocol::catalogue::Channel;

/// A set of channels; equal sets are equal values.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Channels(u64);

const _: () = assert!(Channel::ALL.len() <= u64::BITS as usize);

impl Channels {
    /// The set of these.
    pub(crate) const fn of(channels: &[Channel]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < channels.len() {
            bits |= bit(channels[index]);
            index += 1;
        }
        Self(bits)
    }

    /// Whether a channel is in the set.
    pub(crate) const fn contains(self, channel: Channel) -> bool {
        self.0 & bit(channel) != 0
    }

    /// Whether the sets have a channel in common.
    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The channels, in the order of the catalogue.
    pub(crate) fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL
            .into_iter()
            .filter(move |channel| self.contains(*channel))
    }

    /// The one channel of a set of one.
    pub(crate) fn only(self) -> Option<Channel> {
        if self.0.count_ones() == 1 {
            self.iter().next()
        } else {
            None
        }
    }
}

const fn bit(channel: Channel) -> u64 {
    1 << channel as u32
}

impl From<Channel> for Channels {
    fn from(channel: Channel) -> Self {
        Self::of(&[channel])
    }
}

impl FromIterator<Channel> for Channels {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        Self(
            channels
                .into_iter()
                .fold(0, |bits, channel| bits | bit(channel)),
        )
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, channel) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            channel.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_equal_values() {
        let pair = Channels::of(&[Channel::ThreatAlerts, Channel::MonitoringEvents]);
        let other: Channels = [
            Channel::MonitoringEvents,
            Channel::ThreatAlerts,
            Channel::ThreatAlerts,
        ]
        .into_iter()
        .collect();
        assert_eq!(pair, other);
        assert_eq!(pair.to_string(), "threat_alerts+monitoring_events");
        assert!(pair.contains(Channel::ThreatAlerts) && !pair.contains(Channel::SystemMetrics));
        assert!(pair.overlaps(Channel::ThreatAlerts.into()));
        assert!(!pair.overlaps(Channel::SystemMetrics.into()));
        assert_eq!(pair.only(), None);
        assert_eq!(
            Channels::from(Channel::SystemMetrics).only(),
            Some(Channel::SystemMetrics)
        );
        assert_eq!(Channels::default().only(), None);
        let all: Channels = Channel::ALL.into_iter().collect();
        assert!(all.iter().eq(Channel::ALL));
    }
}

//! The permissions and sets of them.
//!
//! The vocabulary is closed: a word that this version does not know grants
//! nothing, so tokens of a newer issuer still work for the rest.

use std::fmt;
use std::str::FromStr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use signalbox_protocol::Domain;

/// The word that stands for publishing in every domain.
const PUBLISH_ALL: &str = "publish:*";
/// What precedes the domain in the word of a publish permission.
const PUBLISH_PREFIX: &str = "publish:";
/// The bit of the first domain; the bits below belong to named permissions.
const PUBLISH_BIT: u32 = 32;

/// Declares the enum and its words from one table, in the order of listings.
macro_rules! permissions {
    ($($(#[$doc:meta])+ $variant:ident = $bit:literal $word:literal,)+) => {
        /// One thing that a principal may do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission {
            $($(#[$doc])+ $variant,)+
            /// Publish events of one domain (`publish:<domain>`).
            Publish(Domain),
        }

        impl Permission {
            /// The permissions that have a fixed word, with that word.
            const NAMED: &[(Self, &str)] = &[$((Self::$variant, $word),)+];

            /// The place of the permission in a set.
            const fn bit(self) -> u32 {
                match self {
                    $(Self::$variant => $bit,)+
                    Self::Publish(domain) => PUBLISH_BIT + domain as u32,
                }
            }
        }
    };
}

permissions! {
    /// See threats, investigations, system metrics and response actions.
    ReadThreats = 0 "read_threats",
    /// Chat with analysis agents.
    ChatAgents = 1 "chat_agents",
    /// Approve or reject response actions.
    ExecuteActions = 2 "execute_actions",
    /// See network events.
    ReadNetwork = 3 "read_network",
    /// See consensus events.
    ReadConsensus = 4 "read_consensus",
    /// See security events.
    ReadSecurity = 5 "read_security",
    /// See monitoring events.
    ReadMonitoring = 6 "read_monitoring",
    /// See builds and deployments.
    ReadPipelines = 7 "read_pipelines",
    /// See security scans of pipelines.
    ReadScans = 8 "read_scans",
    /// See debugging events of pipelines.
    ReadDebug = 9 "read_debug",
    /// See system events of pipelines.
    ReadSystem = 10 "read_system",
    /// See architecture events of pipelines.
    ReadArchitecture = 11 "read_architecture",
    /// See agents and the output of their commands.
    ReadAgents = 12 "read_agents",
    /// Run, feed, interrupt and clear commands on agents.
    RunCommands = 13 "run_commands",
    /// Move files from and to agents.
    TransferFiles = 14 "transfer_files",
    /// Stop all agents at once, and let them resume.
    EmergencyStop = 15 "emergency_stop",
    /// Administer users, keys and projects.
    Admin = 63 "admin",
}

impl Permission {
    /// The permission at a place in a set, the inverse of [`Permission::bit`].
    fn from_bit(bit: u32) -> Option<Self> {
        let named = Self::NAMED.iter().map(|(permission, _)| *permission);
        let publish = Domain::ALL.into_iter().map(Self::Publish);
        named
            .chain(publish)
            .find(|permission| permission.bit() == bit)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Publish(domain) = self {
            return write!(f, "{PUBLISH_PREFIX}{domain}");
        }
        Self::NAMED
            .iter()
            .filter(|(permission, _)| permission == self)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

/// A word that names no permission.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown permission `{0}`")]
pub struct UnknownPermission(String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if let Some(domain) = word.strip_prefix(PUBLISH_PREFIX) {
            return domain
                .parse()
                .map(Self::Publish)
                .map_err(|_| UnknownPermission(word.to_owned()));
        }
        Self::NAMED
            .iter()
            .find(|(_, named)| *named == word)
            .map(|(permission, _)| *permission)
            .ok_or_else(|| UnknownPermission(word.to_owned()))
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of permissions. In JSON it is a list of words in a fixed order, with
/// `publish:*` in place of every domain; unknown words in a list are skipped.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u64);

impl Permissions {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Publishing in every domain.
    pub const PUBLISH: Self = {
        let mut set = Self::NONE;
        let mut index = 0;
        while index < Domain::ALL.len() {
            set.0 |= 1 << Permission::Publish(Domain::ALL[index]).bit();
            index += 1;
        }
        set
    };

    /// Every permission.
    pub const ALL: Self = {
        let mut set = Self::PUBLISH;
        let mut index = 0;
        while index < Permission::NAMED.len() {
            set.0 |= 1 << Permission::NAMED[index].0.bit();
            index += 1;
        }
        set
    };

    /// The set of the listed permissions.
    #[must_use]
    pub const fn of(listed: &[Permission]) -> Self {
        let mut set = Self::NONE;
        let mut index = 0;
        while index < listed.len() {
            set.0 |= 1 << listed[index].bit();
            index += 1;
        }
        set
    }

    /// The set that a list of words grants; unknown words grant nothing.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words
            .into_iter()
            .fold(Self::NONE, |set, word| set.union(Self::granted_by(word)))
    }

    /// Whether the set holds `permission`.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission.bit()) != 0
    }

    /// Whether the set holds nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What either set holds.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets hold.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The permissions of the set, in the order of listings.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        (0..u64::BITS)
            .filter_map(Permission::from_bit)
            .filter(move |permission| self.contains(*permission))
    }

    /// The words of the set as they are written, in the order of listings.
    pub fn words(self) -> impl Iterator<Item = String> {
        let publishes_all = self.intersection(Self::PUBLISH) == Self::PUBLISH;
        self.iter().filter_map(move |permission| match permission {
            Permission::Publish(domain) if publishes_all => {
                (domain == Domain::ALL[0]).then(|| PUBLISH_ALL.to_owned())
            }
            other => Some(other.to_string()),
        })
    }

    fn granted_by(word: &str) -> Self {
        if word == PUBLISH_ALL {
            return Self::PUBLISH;
        }
        word.parse()
            .map_or(Self::NONE, |permission| Self::of(&[permission]))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::NONE, |set, permission| {
            set.union(Self::of(&[permission]))
        })
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.words()).finish()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Permissions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of permission words")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Permissions, A::Error> {
                let mut set = Permissions::NONE;
                while let Some(word) = words.next_element::<String>()? {
                    set = set.union(Permissions::granted_by(&word));
                }
                Ok(set)
            }
        }

        deserializer.deserialize_seq(Words)
    }
}

#[cfg(test)]
mod tests;

//! The roles and what each may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::permission::{Permission, Permissions};

/// A named set of permissions that keys, users and tokens carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May do everything.
    Admin,
    /// Runs agents and commands, decides on actions.
    Operator,
    /// Investigates: chats with agents and decides on actions.
    Analyst,
    /// Watches.
    Viewer,
    /// A machine that executes commands; connects as the agent it is.
    Agent,
    /// A system that publishes events.
    Producer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::Operator,
        Self::Analyst,
        Self::Viewer,
        Self::Agent,
        Self::Producer,
    ];

    /// What the role may do. This is the only place that says so.
    ///
    /// An agent holds no permission: what it may do follows from its role and
    /// its `agent_id`, on the dialect for agents alone.
    #[must_use]
    pub const fn permissions(self) -> Permissions {
        use Permission::*;

        const VIEWER: Permissions = Permissions::of(&[
            ReadThreats,
            ReadNetwork,
            ReadConsensus,
            ReadSecurity,
            ReadMonitoring,
            ReadPipelines,
            ReadScans,
            ReadSystem,
            ReadArchitecture,
            ReadAgents,
        ]);
        match self {
            Self::Admin => Permissions::ALL,
            Self::Operator => VIEWER.union(Permissions::of(&[
                ReadDebug,
                RunCommands,
                TransferFiles,
                EmergencyStop,
                ExecuteActions,
            ])),
            Self::Analyst => VIEWER.union(Permissions::of(&[ChatAgents, ExecuteActions])),
            Self::Viewer => VIEWER,
            Self::Agent => Permissions::NONE,
            Self::Producer => Permissions::PUBLISH,
        }
    }

    /// The word that stands for the role.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Analyst => "analyst",
            Self::Viewer => "viewer",
            Self::Agent => "agent",
            Self::Producer => "producer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown role `{0}`, expected admin, operator, analyst, viewer, agent or producer")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == word)
            .ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(role: Role) -> Vec<String> {
        role.permissions().words().collect()
    }

    #[test]
    fn the_table_grants_exactly_what_each_role_is_for() {
        let reads = [
            "read_threats",
            "read_network",
            "read_consensus",
            "read_security",
            "read_monitoring",
            "read_pipelines",
            "read_scans",
            "read_system",
            "read_architecture",
            "read_agents",
        ];
        let with = |more: &[&'static str]| Permissions::from_words([&reads, more].concat());

        assert_eq!(Role::Viewer.permissions(), with(&[]));
        assert_eq!(
            Role::Analyst.permissions(),
            with(&["chat_agents", "execute_actions"])
        );
        assert_eq!(
            Role::Operator.permissions(),
            with(&[
                "read_debug",
                "run_commands",
                "transfer_files",
                "emergency_stop",
                "execute_actions"
            ])
        );
        assert_eq!(words(Role::Producer), ["publish:*"]);
        assert!(words(Role::Agent).is_empty());
        assert_eq!(Role::Admin.permissions(), Permissions::ALL);
    }

    #[test]
    fn words_round_trip_and_agree_with_json() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            let json = serde_json::to_string(&role).unwrap();
            assert_eq!(json, format!("\"{role}\""));
            assert_eq!(serde_json::from_str::<Role>(&json).unwrap(), role);
        }
        assert!("Admin".parse::<Role>().is_err());
        assert!(serde_json::from_str::<Role>("\"root\"").is_err());
    }
}

//! How each dialect writes an event type. The encoders in the gateway follow
//! these descriptions; they know no event type by name.

use std::fmt;

use super::channel::Channel;

/// The words for one event type, one per dialect that has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Words {
    /// Dialect `threat`.
    pub threat: Option<ThreatWord>,
    /// Dialect `mesh`.
    pub mesh: Option<MeshWord>,
    /// Dialect `pipeline`.
    pub pipeline: Option<PipelineWord>,
    /// Dialect `workspace`.
    pub workspace: Option<WorkspaceWord>,
    /// Dialect `fleet`.
    pub fleet: Option<FleetWord>,
}

impl Words {
    /// No dialect has a word for it.
    pub const NONE: Self = Self {
        threat: None,
        mesh: None,
        pipeline: None,
        workspace: None,
        fleet: None,
    };

    /// Only `threat` has a word for it.
    #[must_use]
    pub const fn threat(word: ThreatWord) -> Self {
        Self {
            threat: Some(word),
            ..Self::NONE
        }
    }

    /// Only `mesh` has a word for it.
    #[must_use]
    pub const fn mesh(word: MeshWord) -> Self {
        Self {
            mesh: Some(word),
            ..Self::NONE
        }
    }

    /// Only `pipeline` has a word for it.
    #[must_use]
    pub const fn pipeline(category: Category) -> Self {
        Self {
            pipeline: Some(PipelineWord { category }),
            ..Self::NONE
        }
    }

    /// Only `workspace` has a word for it: this Socket.IO event.
    #[must_use]
    pub const fn workspace(event: &'static str) -> Self {
        Self {
            workspace: Some(WorkspaceWord { event }),
            ..Self::NONE
        }
    }
}

/// A frame `{type, channel, timestamp, data}` or a flat one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThreatWord {
    /// The frame's `type`.
    pub kind: &'static str,
    /// Which fields stand where.
    pub body: ThreatBody,
}

/// Where a `threat` frame has the fields of the event's data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ThreatBody {
    /// Under `data`, beside `channel`; those listed are moved to the top level.
    Nested {
        /// Fields that stand beside `data` rather than in it.
        lifted: &'static [&'static str],
    },
    /// At the top level: just those listed.
    Flat {
        /// The fields that the frame has.
        fields: &'static [&'static str],
    },
}

/// A frame `{type, event, data, timestamp}`; `event` is the type's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshWord {
    /// The frame's `type`.
    pub kind: &'static str,
}

/// A Socket.IO event under the type's own name, with the data at the top
/// level and again under `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineWord {
    /// The category that it belongs to.
    pub category: Category,
}

/// The categories of dialect `pipeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Builds and deployments.
    Pipeline,
    /// Scans and findings.
    Security,
    /// Debugging sessions.
    Debug,
    /// Health of the system.
    System,
    /// Structure of the code base.
    Architecture,
    /// What users are told, and what they do.
    User,
}

impl Category {
    /// Every category, in the order of documentation.
    pub const ALL: [Self; 6] = [
        Self::Pipeline,
        Self::Security,
        Self::Debug,
        Self::System,
        Self::Architecture,
        Self::User,
    ];
    /// The words of all categories.
    pub const WORDS: &[&str] = &[
        Self::Pipeline.as_str(),
        Self::Security.as_str(),
        Self::Debug.as_str(),
        Self::System.as_str(),
        Self::Architecture.as_str(),
        Self::User.as_str(),
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pipeline => "PIPELINE",
            Self::Security => "SECURITY",
            Self::Debug => "DEBUG",
            Self::System => "SYSTEM",
            Self::Architecture => "ARCHITECTURE",
            Self::User => "USER",
        }
    }

    /// The category behind a word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|category| category.as_str() == word)
    }

    /// The channels that carry its events.
    #[must_use]
    pub const fn channels(self) -> &'static [Channel] {
        match self {
            Self::Pipeline => &[Channel::PipelineEvents],
            Self::Security => &[Channel::PipelineSecurity],
            Self::Debug => &[Channel::PipelineDebug],
            Self::System => &[Channel::PipelineSystem],
            Self::Architecture => &[Channel::PipelineArchitecture],
            // What is for one user and what is for administrators.
            Self::User => &[
                Channel::PipelineUserNotifications,
                Channel::PipelineUserActions,
            ],
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A Socket.IO event `<domain>.<name>` with `{type, timestamp, source, data}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceWord {
    /// The Socket.IO event's name.
    pub event: &'static str,
}

/// A flat frame with the data at the top level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetWord {
    /// The frame's `type`.
    pub kind: &'static str,
}

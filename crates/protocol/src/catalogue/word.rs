//! How each dialect writes an event type. The encoders in the gateway follow
//! these descriptions; they know no event type by name.

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
    /// The category that grants access to it.
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
    /// Addressed to one user.
    User,
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

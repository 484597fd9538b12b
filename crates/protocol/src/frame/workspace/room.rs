//! The names of rooms.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::name;

/// Everyone's room.
const GLOBAL: &str = "global";

/// A room of dialect `workspace`, written `project:<id>`, `user:<id>`,
/// `agent:<id>` or `global`. Letters count as they are; an id may have colons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Room {
    /// What happens in a project.
    Project(String),
    /// What is for one user.
    User(String),
    /// What an agent does.
    Agent(String),
    /// What is for everyone.
    Global,
}

/// A text that is no room's name.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "project:<id>, user:<id>, agent:<id> or global, with an id of 1 to {} bytes without white space",
    name::MAX_NAME_BYTES
)]
pub struct InvalidRoom;

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(id) => write!(f, "project:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Global => f.write_str(GLOBAL),
        }
    }
}

impl FromStr for Room {
    type Err = InvalidRoom;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == GLOBAL {
            return Ok(Self::Global);
        }
        let (kind, id) = text.split_once(':').ok_or(InvalidRoom)?;
        if !name::is_valid(id) {
            return Err(InvalidRoom);
        }
        match kind {
            "project" => Ok(Self::Project(id.to_owned())),
            "user" => Ok(Self::User(id.to_owned())),
            "agent" => Ok(Self::Agent(id.to_owned())),
            _ => Err(InvalidRoom),
        }
    }
}

impl Serialize for Room {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        assert_eq!("global".parse(), Ok(Room::Global));
        assert_eq!("user:u-1".parse(), Ok(Room::User("u-1".into())));
        assert_eq!("agent:a:b".parse(), Ok(Room::Agent("a:b".into())));
        assert_eq!("project:global".parse(), Ok(Room::Project("global".into())));
        assert_eq!("project:büro".parse(), Ok(Room::Project("büro".into())));
        assert!(format!("user:{}", "x".repeat(128)).parse::<Room>().is_ok());
        for text in [
            "",
            "Global",
            "global:",
            "global:x",
            " global",
            "project",
            "project:",
            ":x",
            "Project:x",
            "project :x",
            "project: x",
            "project:x y",
            "project:x\n",
            "project:\u{0}",
            "project:\u{2003}",
            "team:x",
            "topics.=x",
            &format!("user:{}", "x".repeat(129)),
        ] {
            assert_eq!(text.parse::<Room>(), Err(InvalidRoom), "{text:?}");
        }
    }

    fn room() -> impl Strategy<Value = Room> {
        let id = "[^\\s\\pC]{1,32}";
        prop_oneof![
            Just(Room::Global),
            id.prop_map(Room::Project),
            id.prop_map(Room::User),
            id.prop_map(Room::Agent),
        ]
    }

    proptest! {
        #[test]
        fn round_trips(room in room()) {
            prop_assert_eq!(room.to_string().parse(), Ok(room));
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "(project|user|agent|global|team)?:?.{0,140}") {
            if let Ok(room) = text.parse::<Room>() {
                prop_assert_eq!(room.to_string(), text);
            }
        }

        #[test]
        fn different_rooms_have_different_names(one in room(), other in room()) {
            prop_assert_eq!(one.to_string() == other.to_string(), one == other);
        }
    }
}

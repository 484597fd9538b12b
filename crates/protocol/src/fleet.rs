//! How agents are spread over relays, and what commands are called.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// How many shards there are. Command ids say their shard, so this stays.
const SHARDS: u8 = 16;
/// What every command's id begins with.
const COMMAND: &str = "cmd-";
/// Hexadecimal digits of a command's id.
const DIGITS: usize = 32;

/// A part of all agents, which one relay at a time looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// Every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// How many there are.
    pub const COUNT: usize = SHARDS as usize;

    /// The shard of an agent: FNV-1a of its id, the same for ever.
    #[must_use]
    pub fn of_agent(agent_id: &str) -> Self {
        let hash = agent_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self((hash % u32::from(SHARDS)) as u8)
    }

    /// The shard that a command's id names; `None` where it is no such id.
    #[must_use]
    pub fn of_command(command_id: &str) -> Option<Self> {
        let digits = command_id.strip_prefix(COMMAND)?;
        is_hex(digits).then_some(())?;
        Self::parse(digits.get(..1)?)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 1).then_some(())?;
        u8::from_str_radix(text, 16).ok().map(Self)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The id of a command on an agent of this shard: the digits, of which the
/// first gives way to the shard's. `None` unless these are 32 hexadecimal
/// digits in lower case.
#[must_use]
pub fn command_id(shard: Shard, digits: &str) -> Option<String> {
    is_hex(digits).then(|| format!("{COMMAND}{shard}{}", &digits[1..]))
}

/// The id of the command that a user asks for with an idempotency key: the same
/// user, agent and key are the same command, whoever asks the relay.
#[must_use]
pub fn keyed_command_id(agent_id: &str, by: &str, idempotency_key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [agent_id, by, idempotency_key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let digits: String = digest
        .iter()
        .take(DIGITS / 2)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let shard = Shard::of_agent(agent_id);
    format!("{COMMAND}{shard}{}", &digits[1..])
}

fn is_hex(digits: &str) -> bool {
    digits.len() == DIGITS
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_agent_stays_in_its_shard() {
        let shards = ["agent-123", "agent-1", "", "ä"].map(|id| Shard::of_agent(id).number());
        assert_eq!(shards, [15, 0, 5, 2]);
    }

    #[test]
    fn what_is_no_id_has_no_shard() {
        let digits = "0".repeat(DIGITS);
        assert_eq!(Shard::of_command(&digits), None);
        assert_eq!(Shard::of_command(&format!("cmd-{}", &digits[1..])), None);
        assert_eq!(Shard::of_command(&format!("cmd-g{}", &digits[1..])), None);
        assert_eq!(Shard::of_command("cmd-"), None);
        assert_eq!(command_id(Shard(1), "0"), None);
        assert_eq!(command_id(Shard(1), &"é".repeat(16)), None);
        assert_eq!(Shard::parse("10"), None);
    }

    /// A log is found by this id for as long as it is kept: it must not change.
    #[test]
    fn a_key_makes_the_same_id_for_ever() {
        let id = keyed_command_id("agent-1", "ada", "k-1");
        assert_eq!(id, "cmd-0087fe9e1c000359b7c3771eeeef1ee8");
        assert_eq!(Shard::of_command(&id), Some(Shard::of_agent("agent-1")));
        assert_ne!(id, keyed_command_id("agent-1", "adak", "-1"));
    }

    proptest! {
        #[test]
        fn a_command_says_its_shard(agent in "\\PC{0,20}", digits in "[0-9a-f]{32}") {
            let shard = Shard::of_agent(&agent);
            let id = command_id(shard, &digits).unwrap();
            prop_assert_eq!(Shard::of_command(&id), Some(shard));
            prop_assert_eq!(Shard::parse(&shard.to_string()), Some(shard));
            prop_assert!(Shard::all().any(|one| one == shard));
        }
    }
}

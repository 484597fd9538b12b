//! The ids of sessions, which say where a session began.

use signalbox_bus::subject::GatewayId;
use signalbox_socketio::random_id;

/// Characters of the part that nobody can guess.
const SECRET_CHARS: usize = 24;

/// Where a session began. One that has moved keeps its id, and is known to
/// nobody but the engine that has it: it needs no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) gateway: GatewayId,
    pub(super) shard: usize,
}

impl Place {
    /// A new id: gateway, shard, and 144 random bits that make it a secret.
    pub(super) fn session_id(self) -> String {
        format!("{}-{}-{}", self.gateway, self.shard, random_id())
    }

    /// The place in an id; `None` for anything that no gateway made.
    pub(super) fn of(sid: &str) -> Option<Self> {
        let mut parts = sid.splitn(3, '-');
        let (gateway, shard, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let number = shard.parse::<u16>().ok()?;
        let of_secret = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if number.to_string() != shard
            || secret.len() != SECRET_CHARS
            || !secret.bytes().all(of_secret)
        {
            return None;
        }
        Some(Self {
            gateway: gateway.parse().ok()?,
            shard: number.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place {
        gateway: GatewayId::new(0xab),
        shard: 3,
    };

    #[test]
    fn ids_name_their_place_and_are_secret() {
        let id = PLACE.session_id();
        assert_eq!(Place::of(&id), Some(PLACE));
        assert_ne!(id, PLACE.session_id());
        assert!(id.starts_with("00000000000000ab-3-"));
        assert_eq!(id.len(), 16 + 3 + SECRET_CHARS);
    }

    #[test]
    fn what_no_gateway_made_is_nowhere() {
        let secret = "x".repeat(SECRET_CHARS);
        assert!(Place::of(&format!("00000000000000ab-0-{secret}")).is_some());
        for sid in [
            String::new(),
            secret.clone(),
            format!("ab-0-{secret}"),
            format!("00000000000000AB-0-{secret}"),
            format!("*000000000000000-0-{secret}"),
            format!("00000000000000ab-00-{secret}"),
            format!("00000000000000ab-+0-{secret}"),
            format!("00000000000000ab--{secret}"),
            format!("00000000000000ab-65536-{secret}"),
            format!("00000000000000ab-0-{secret}x"),
            format!("00000000000000ab-0-{}.", &secret[1..]),
            format!("00000000000000ab-0-{}é", &secret[2..]),
        ] {
            assert_eq!(Place::of(&sid), None, "{sid}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_none(text in "\\PC{0,60}", like in "[0-9a-f]{16}-[0-9]{1,6}-[ -~]{24}") {
            for text in [text, like] {
                if let Some(place) = Place::of(&text) {
                    let ask = place.gateway.ask();
                    prop_assert_eq!(ask.split('.').count(), 4);
                    prop_assert!(ask.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'));
                }
            }
        }
    }
}

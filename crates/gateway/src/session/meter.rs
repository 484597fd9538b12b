//! Counts a connection's messages against the limit that holds for it.

use signalbox_identity::Principal;
use signalbox_limits::{Key, Limits, Quota, Usage};
use signalbox_protocol::Dialect;
use tokio::time::Instant;

use crate::dialect::{Excess, Metering};

/// The name of the limit, as clients know it.
const MESSAGES: &str = "messages_per_minute";

/// One connection's share in counting.
#[derive(Debug)]
pub(crate) struct Meter {
    dialect: Dialect,
    metering: Metering,
    /// Messages a minute where the connection is what counts; 0 = any number.
    per_connection: u32,
    /// When the connection's window ends, and what was sent in it.
    window: Option<(Instant, u64)>,
}

impl Meter {
    pub(crate) const fn new(dialect: Dialect, metering: Metering, per_connection: u32) -> Self {
        Self {
            dialect,
            metering,
            per_connection,
            window: None,
        }
    }

    /// Counts a message. Of strangers none are counted per user: they are held
    /// back by other means.
    ///
    /// # Errors
    /// By how much the limit is exceeded.
    pub(crate) async fn count(
        &mut self,
        limits: &Limits,
        principal: Option<&Principal>,
    ) -> Result<(), Excess> {
        let usage = match (self.metering, principal) {
            (Metering::User, Some(principal)) => {
                let quota = Quota::per_minute(principal.limits.messages_per_minute);
                let user = principal.subject.to_string();
                let key = Key::messages(&self.dialect.to_string(), &user);
                limits.count(&key, quota, 1).await
            }
            (Metering::User, None) => return Ok(()),
            (Metering::Connection, _) if self.per_connection == 0 => return Ok(()),
            (Metering::Connection, _) => self.count_here(),
        };
        if !usage.is_exceeded() {
            return Ok(());
        }
        Err(Excess {
            limit_type: MESSAGES,
            used: usage.used,
            limit: usage.limit,
            resets_in: usage.resets_in,
        })
    }

    fn count_here(&mut self) -> Usage {
        let quota = Quota::per_minute(self.per_connection);
        let now = Instant::now();
        let (ends, used) = match self.window {
            Some((ends, used)) if ends > now => (ends, used + 1),
            _ => (now + quota.window, 1),
        };
        self.window = Some((ends, used));
        Usage {
            used,
            limit: quota.limit,
            resets_in: ends - now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_counted_by_the_minute() {
        let limits = Limits::local();
        let mut meter = Meter::new(Dialect::Mesh, Metering::Connection, 2);
        for expected in [None, None, Some(3), Some(4)] {
            let used = meter.count(&limits, None).await.err().map(|it| it.used);
            assert_eq!(used, expected);
        }
        tokio::time::advance(Quota::per_minute(2).window).await;
        assert!(meter.count(&limits, None).await.is_ok());
    }

    #[tokio::test]
    async fn no_limit_limits_nothing() {
        let limits = Limits::local();
        let mut meter = Meter::new(Dialect::Mesh, Metering::Connection, 0);
        for _ in 0..1_000 {
            assert!(meter.count(&limits, None).await.is_ok());
        }
    }
}

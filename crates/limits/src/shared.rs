//! Counts in Redis, for all processes together.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, IntoConnectionInfo, RedisError, Script};
use tokio::time::timeout;

use crate::{Counter, Key, Quota, Usage};

/// How long Redis may take to answer. A client waits for it with each message,
/// so this is short.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a connection to Redis may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Adds to a counter and begins its window with the first attempt. The two
/// steps are one in Redis; a counter without an end (which only a person can
/// have made) is given one.
const COUNT: &str = r"
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    left = tonumber(ARGV[2])
end
return {used, left}
";

/// A counter in Redis. Clones share one connection.
#[derive(Clone)]
pub struct Shared {
    redis: ConnectionManager,
    script: Script,
}

/// Redis did not count.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// It answered with an error, or the connection is broken.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// It did not answer in time.
    #[error("redis did not answer within {0:?}")]
    Late(Duration),
}

impl Shared {
    /// A counter in the Redis at `url`, which need not be there yet.
    ///
    /// # Errors
    /// When the URL is none of Redis.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let client = Client::open(url.into_connection_info()?)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            // The next attempt to count is the next attempt to connect.
            .set_number_of_retries(1);
        Ok(Self {
            redis: ConnectionManager::new_lazy_with_config(client, config)?,
            script: Script::new(COUNT),
        })
    }
}

impl Counter for Shared {
    type Error = SharedError;

    async fn count(&self, key: &Key, quota: Quota, attempts: u32) -> Result<Usage, SharedError> {
        let window = u64::try_from(quota.window.as_millis()).unwrap_or(u64::MAX);
        let mut redis = self.redis.clone();
        let mut invocation = self.script.key(key.to_string());
        invocation.arg(attempts).arg(window);
        let counting = invocation.invoke_async::<(u64, u64)>(&mut redis);
        // The library's own limits begin once it is connected.
        let (used, left) = timeout(RESPONSE_TIMEOUT, counting)
            .await
            .map_err(|_| SharedError::Late(RESPONSE_TIMEOUT))??;
        Ok(Usage {
            used,
            limit: quota.limit,
            resets_in: Duration::from_millis(left),
        })
    }
}

//! Settings of the limits.

use clap::Args;

use crate::{Limits, Shared};

/// Where limits are counted.
#[derive(Args, Clone, Debug, Default)]
pub struct LimitsArgs {
    /// Redis that counts for all gateways together, as redis://HOST:PORT; without it each gateway counts for itself
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        value_name = "URL",
        value_parser = parse
    )]
    pub redis_url: Option<String>,
}

/// A URL that is none of Redis. It may hold a password, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]")]
pub struct InvalidRedisUrl;

fn parse(url: &str) -> Result<String, InvalidRedisUrl> {
    redis::Client::open(url)
        .map(|_| url.to_owned())
        .map_err(|_| InvalidRedisUrl)
}

impl LimitsArgs {
    /// The limits as set, within a runtime.
    ///
    /// # Errors
    /// When the URL is none of Redis.
    pub fn open(&self) -> Result<Limits, InvalidRedisUrl> {
        match &self.redis_url {
            None => Ok(Limits::local()),
            Some(url) => Shared::new(url)
                .map(Limits::shared)
                .map_err(|_| InvalidRedisUrl),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        limits: LimitsArgs,
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        let error = Cli::try_parse_from(["x", "--redis-url", "http://me:hunter2@there"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected redis://"), "{error}");
    }

    #[tokio::test]
    async fn the_url_decides_who_counts() {
        let limits = |arguments: &[&str]| {
            let arguments = std::iter::once("x").chain(arguments.iter().copied());
            Cli::try_parse_from(arguments)
                .unwrap()
                .limits
                .open()
                .unwrap()
        };
        assert!(!limits(&[]).is_shared());
        assert!(limits(&["--redis-url", "redis://:secret@127.0.0.1:6379/2"]).is_shared());
    }
}

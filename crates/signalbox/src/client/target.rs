//! Where a gateway with a dialect is, and the credential to show there. Both are
//! looked up at each connect: a gateway that was restarted may have another
//! address, and a file another token.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use signalbox_auth::bootstrap::Credentials;
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use signalbox_service::ExitError;

use super::connection::{Connection, Failure};
use crate::cli::DataArgs;
use crate::runtime::Runtime;
use crate::services::CREDENTIALS;

/// Which gateway, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The gateway, such as http://127.0.0.1:8080 or wss://HOST [default: that of a running `up`]
    #[arg(long, env = "SIGNALBOX_URL")]
    pub(crate) url: Option<String>,
    /// An access token or API key [default: a key that `up` made]
    #[arg(
        long,
        env = "SIGNALBOX_TOKEN",
        hide_env_values = true,
        conflicts_with = "key_file"
    )]
    pub(crate) token: Option<String>,
    /// A file with the access token or API key, read at each connect
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Seconds to try to return for once the connection is lost
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    patience: u64,
}

impl ConnectArgs {
    /// How long to try to return once the connection is lost.
    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    args: ConnectArgs,
    dialect: Dialect,
    /// Whose key is shown where no credential is named.
    role: Role,
}

/// The path of a dialect on WebSocket.
const fn path(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Threat => "/v1/ws",
        Dialect::Mesh => "/api/v1/ws",
        Dialect::Fleet | Dialect::Pipeline | Dialect::Workspace => "/ws",
    }
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whether the connection is encrypted.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The request's target.
    pub(crate) path: String,
    /// What is to be spoken there.
    pub(crate) dialect: Dialect,
}

impl Place {
    /// Reads a URL with or without a path.
    ///
    /// # Errors
    /// Says what is expected.
    pub(crate) fn parse(url: &str, dialect: Dialect) -> Result<Self, String> {
        let wrong =
            || format!("--url {url}: expected http://HOST:PORT, ws://HOST:PORT or wss://HOST");
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(format!(
                "--url {}: it ends up in logs, give the credential by --token or --key-file",
                uri.host().unwrap_or_default()
            ));
        }
        let path = match uri.path() {
            "" | "/" => path(dialect),
            path => path,
        };
        Ok(Self {
            tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_owned(),
            dialect,
        })
    }

    /// It as people write it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    /// The host as a name to look up: an address without its brackets.
    pub(crate) fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl Target {
    /// Checks what the arguments say.
    ///
    /// # Errors
    /// When they contradict each other.
    pub(crate) fn new(args: &ConnectArgs, dialect: Dialect, role: Role) -> Result<Self, ExitError> {
        if let Some(url) = &args.url {
            Place::parse(url, dialect).map_err(ExitError::config)?;
            if args.token.is_none() && args.key_file.is_none() {
                return Err(ExitError::config(
                    "--url needs a credential: --token or --key-file",
                ));
            }
        }
        let args = args.clone();
        Ok(Self {
            args,
            dialect,
            role,
        })
    }

    /// Connects to the first place that speaks the dialect.
    ///
    /// # Errors
    /// Says why there is no connection, and whether another attempt may succeed.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let passing = |error: ExitError| Failure::Passing(error.line());
        let places = self.places().map_err(passing)?;
        let credential = self.credential().map_err(passing)?;
        let mut failure = Failure::Passing("the gateway has no listener".to_owned());
        for place in places {
            match Connection::open(&place, &credential).await {
                Err(Failure::Elsewhere(why)) => failure = Failure::Elsewhere(why),
                outcome => return outcome,
            }
        }
        Err(failure)
    }

    /// The places to try, in this order.
    ///
    /// # Errors
    /// When nothing runs on the data directory.
    fn places(&self) -> Result<Vec<Place>, ExitError> {
        if let Some(url) = &self.args.url {
            return Ok(vec![
                Place::parse(url, self.dialect).map_err(ExitError::config)?,
            ]);
        }
        let runtime = Runtime::read(&self.args.data.data_dir)?;
        let places = runtime.listeners.iter().map(|addr| Place {
            tls: false,
            host: match addr.ip() {
                ip if ip.is_ipv6() => format!("[{ip}]"),
                ip => ip.to_string(),
            },
            port: addr.port(),
            path: path(self.dialect).to_owned(),
            dialect: self.dialect,
        });
        Ok(places.collect())
    }

    /// The token or key.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn credential(&self) -> Result<String, ExitError> {
        if let Some(token) = &self.args.token {
            return Ok(token.clone());
        }
        if let Some(path) = &self.args.key_file {
            let text = fs::read_to_string(path).map_err(|error| {
                ExitError::config(format!("--key-file {}: {error}", path.display()))
            })?;
            return Ok(text.trim().to_owned());
        }
        let role = self.role;
        let path = self.args.data.data_dir.join(CREDENTIALS);
        let credentials = Credentials::read(&path)
            .map_err(|error| ExitError::config(format!("{error}; name one with --token")))?;
        let key = credentials.key(role).ok_or_else(|| {
            ExitError::config(format!("{}: it has no key for role {role}", path.display()))
        })?;
        Ok(key.expose().expose().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let url = |text| Place::parse(text, Dialect::Fleet).map(|place| place.url());
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(url("http://127.0.0.1:8080"), ok("ws://127.0.0.1:8080/ws"));
        assert_eq!(url("ws://h:3001/ws"), ok("ws://h:3001/ws"));
        assert_eq!(url("wss://h/fleet/ws"), ok("wss://h:443/fleet/ws"));
        assert_eq!(url("https://[::1]"), ok("wss://[::1]:443/ws"));
        assert_eq!(
            Place::parse("https://[::1]", Dialect::Fleet)
                .unwrap()
                .name(),
            "::1"
        );
        for wrong in ["h:80", "ftp://h", "", "http://"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        let place = Place::parse("http://h", Dialect::Threat).unwrap();
        assert_eq!(place.url(), "ws://h:80/v1/ws");
    }

    #[test]
    fn a_credential_in_a_url_is_refused_and_not_repeated() {
        for url in ["ws://user:secret@h/ws", "ws://h/ws?token=secret"] {
            let error = Place::parse(url, Dialect::Fleet).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

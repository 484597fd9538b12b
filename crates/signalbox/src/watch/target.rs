//! Where a gateway with dialect `fleet` is, and the credential to show there.
//! Both are looked up at each connect: a gateway that was restarted may have
//! another address, and a file another token.

use std::fs;

use signalbox_auth::bootstrap::Credentials;
use signalbox_identity::Role;
use signalbox_service::ExitError;

use super::options::WatchArgs;
use crate::runtime::Runtime;
use crate::services::CREDENTIALS;

/// The path of the dialect.
const PATH: &str = "/ws";

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    args: WatchArgs,
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whether the connection is encrypted.
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The request's target.
    pub(super) path: String,
}

impl Place {
    /// Reads a URL with or without a path.
    ///
    /// # Errors
    /// Says what is expected.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
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
            "" | "/" => PATH,
            path => path,
        };
        Ok(Self {
            tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_owned(),
        })
    }

    /// It as people write it.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    /// The host as a name to look up: an address without its brackets.
    pub(super) fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl Target {
    /// Checks what the arguments say.
    ///
    /// # Errors
    /// When they contradict each other.
    pub(super) fn new(args: &WatchArgs) -> Result<Self, ExitError> {
        if let Some(url) = &args.url {
            Place::parse(url).map_err(ExitError::config)?;
            if args.token.is_none() && args.key_file.is_none() {
                return Err(ExitError::config(
                    "--url needs a credential: --token or --key-file",
                ));
            }
        }
        Ok(Self { args: args.clone() })
    }

    /// The places to try, in this order.
    ///
    /// # Errors
    /// When nothing runs on the data directory.
    pub(super) fn places(&self) -> Result<Vec<Place>, ExitError> {
        if let Some(url) = &self.args.url {
            return Ok(vec![Place::parse(url).map_err(ExitError::config)?]);
        }
        let runtime = Runtime::read(&self.args.data.data_dir)?;
        let places = runtime.listeners.iter().map(|addr| Place {
            tls: false,
            host: match addr.ip() {
                ip if ip.is_ipv6() => format!("[{ip}]"),
                ip => ip.to_string(),
            },
            port: addr.port(),
            path: PATH.to_owned(),
        });
        Ok(places.collect())
    }

    /// The token or key.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn credential(&self) -> Result<String, ExitError> {
        if let Some(token) = &self.args.token {
            return Ok(token.clone());
        }
        if let Some(path) = &self.args.key_file {
            let text = fs::read_to_string(path).map_err(|error| {
                ExitError::config(format!("--key-file {}: {error}", path.display()))
            })?;
            return Ok(text.trim().to_owned());
        }
        // No more than what is asked for needs.
        let role = if self.args.acts() {
            Role::Operator
        } else {
            Role::Viewer
        };
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
        let url = |text| Place::parse(text).map(|place| place.url());
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(url("http://127.0.0.1:8080"), ok("ws://127.0.0.1:8080/ws"));
        assert_eq!(url("ws://h:3001/ws"), ok("ws://h:3001/ws"));
        assert_eq!(url("wss://h/fleet/ws"), ok("wss://h:443/fleet/ws"));
        assert_eq!(url("https://[::1]"), ok("wss://[::1]:443/ws"));
        assert_eq!(Place::parse("https://[::1]").unwrap().name(), "::1");
        for wrong in ["h:80", "ftp://h", "", "http://"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_credential_in_a_url_is_refused_and_not_repeated() {
        for url in ["ws://user:secret@h/ws", "ws://h/ws?token=secret"] {
            let error = Place::parse(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

//! Where a gateway is, as people write it.

use std::fmt;

use url::{Host, Url};

/// The path of dialect `fleet`.
const PATH: &str = "/ws";
/// Where tokens are issued, below what stands in front of [`PATH`].
const TOKEN_PATH: &str = "/api/v1/auth/token";

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    tls: bool,
    /// Of the socket; ends in [`PATH`] unless somebody wants it otherwise.
    path: String,
}

impl Address {
    /// Reads `ws://`, `wss://`, `http://` or `https://`; without a path it is
    /// that of the dialect.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}`: expected a URL such as wss://host/ws");
        let url = Url::parse(text).map_err(|_| wrong())?;
        let tls = match url.scheme() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(wrong()),
        };
        if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(format!(
                "`{}://...`: credentials belong in the key file, not in the URL",
                url.scheme()
            ));
        }
        let host = url.host_str().ok_or_else(wrong)?;
        let path = match url.path() {
            "" | "/" => PATH,
            path => path,
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            tls,
            path: path.to_owned(),
        })
    }

    /// The host, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// Whether it is this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match Host::parse(&self.host) {
            Ok(Host::Ipv4(address)) => address.is_loopback(),
            Ok(Host::Domain(name)) => name == "localhost",
            // Without brackets an IPv6 address is no host.
            Ok(Host::Ipv6(_)) | Err(_) => self.host == "::1",
        }
    }

    /// Host and port, as they stand in a request.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The socket's URL.
    pub(crate) fn socket_url(&self) -> String {
        self.to_string()
    }

    /// The path at which tokens are issued.
    pub(crate) fn token_path(&self) -> String {
        let prefix = self.path.strip_suffix(PATH).unwrap_or_default();
        format!("{prefix}{TOKEN_PATH}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_addresses_in_many_ways() {
        let shown = |text: &str| Address::parse(text).map(|address| address.to_string());
        assert_eq!(
            shown("http://127.0.0.1:3001"),
            Ok("ws://127.0.0.1:3001/ws".into())
        );
        assert_eq!(
            shown("wss://fleet.example/ws"),
            Ok("wss://fleet.example:443/ws".into())
        );
        assert_eq!(shown("ws://[::1]:80/"), Ok("ws://[::1]:80/ws".into()));
        for wrong in [
            "",
            "host:80",
            "ftp://host",
            "ws://",
            "ws://u:p@host",
            "ws://host/ws?token=x",
        ] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
        let wrong = shown("wss://host/ws?token=secret").unwrap_err();
        assert!(!wrong.contains("secret"), "{wrong}");
    }

    #[test]
    fn tokens_are_issued_beside_the_socket() {
        let path = |text: &str| Address::parse(text).unwrap().token_path();
        assert_eq!(path("wss://host"), "/api/v1/auth/token");
        assert_eq!(path("wss://host/a/ws"), "/a/api/v1/auth/token");
        assert_eq!(path("wss://host/other"), "/api/v1/auth/token");
    }

    #[test]
    fn this_machine_is_known() {
        let local = |text: &str| Address::parse(text).unwrap().is_local();
        assert!(local("ws://127.0.0.1:1") && local("ws://[::1]:1") && local("ws://localhost"));
        assert!(!local("ws://10.0.0.1") && !local("ws://localhost.example"));
    }
}

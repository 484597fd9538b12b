//! Where a provider is.

use std::net::IpAddr;

use url::{Host, Url};

/// Where a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) path: String,
}

impl BaseUrl {
    /// Reads an address: https, or http on this machine; http elsewhere only
    /// when it is explicitly allowed.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, String> {
        let wrong = || "expected a URL such as https://models.example/v1".to_owned();
        let url = Url::parse(text).map_err(|_| wrong())?;
        let host = url.host().ok_or_else(wrong)?;
        let loopback = match &host {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
            Host::Domain(name) => *name == "localhost",
        };
        let tls = match url.scheme() {
            "https" => true,
            "http" if loopback || allow_http => false,
            "http" => {
                return Err(
                    "expected https: http is for this machine, or with allow_http = true"
                        .to_owned(),
                );
            }
            _ => return Err(wrong()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected no user or password: keys go into api_key_env".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected no query and no fragment".to_owned());
        }
        Ok(Self {
            host: host.to_string().trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            tls,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether requests go to this host.
    pub(in crate::provider) fn is_host(&self, host: &str) -> bool {
        self.host == host
    }

    /// What stands in the `Host` header.
    pub(crate) fn authority(&self) -> String {
        let standard = if self.tls { 443 } else { 80 };
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        if self.port == standard {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine() {
        for fine in [
            "https://models.example/v1/",
            "http://127.0.0.1:11434/v1",
            "http://[::1]:1",
            "http://localhost:8000",
        ] {
            BaseUrl::parse(fine, false).unwrap();
        }
        for wrong in [
            "http://models.example/v1",
            "http://10.0.0.1/v1",
            "ftp://127.0.0.1",
            "models.example",
            "https://user:key@models.example",
            "https://models.example/?key=1",
        ] {
            BaseUrl::parse(wrong, false).unwrap_err();
        }
        BaseUrl::parse("http://10.0.0.1/v1", true).unwrap();
    }

    #[test]
    fn the_host_header_has_what_the_address_has() {
        let authority = |text| BaseUrl::parse(text, false).unwrap().authority();
        assert_eq!(authority("https://models.example/v1"), "models.example");
        assert_eq!(
            authority("https://models.example:8443"),
            "models.example:8443"
        );
        assert_eq!(authority("http://[::1]:9/v1"), "[::1]:9");
    }
}

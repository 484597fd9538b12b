//! Which pages may use a listener. A browser names the origin of the page
//! that makes a request; what is no browser names none, or whatever it likes,
//! and is judged by its credential alone.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, header};
use url::Url;

/// Hosts whose pages a listener on loopback serves if it is told to.
const LOCAL_HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// The origin of a page: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    scheme: &'static str,
    host: String,
    /// `None` is the scheme's own.
    port: Option<u16>,
}

/// A text that is no origin.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidOrigin {
    /// It stands for every origin.
    #[error(
        "`*` would let every page on the web use the credentials that a browser holds, list the origins one by one"
    )]
    Any,
    /// It has another form.
    #[error(
        "expected an origin such as https://app.example.com or http://10.0.0.7:3000, without a path"
    )]
    Form,
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Err(InvalidOrigin::Any);
        }
        let (scheme, authority) = ["http", "https"]
            .into_iter()
            .find_map(|scheme| {
                let rest = text.strip_prefix(scheme)?.strip_prefix("://")?;
                Some((scheme, rest))
            })
            .ok_or(InvalidOrigin::Form)?;
        // The parser forgives what browsers forgive in links; an origin has
        // nothing but a host and a port.
        let bare = authority
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !br#"/\?#@%*""#.contains(&byte));
        if authority.is_empty() || authority.ends_with(':') || !bare {
            return Err(InvalidOrigin::Form);
        }
        let url = Url::parse(text).map_err(|_| InvalidOrigin::Form)?;
        let host = url.host_str().ok_or(InvalidOrigin::Form)?.to_owned();
        Ok(Self {
            scheme,
            host,
            port: url.port(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// One entry of the list of further origins. A blank one, as an empty variable
/// gives it, lists nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedOrigin(Option<Origin>);

impl ListedOrigin {
    /// The origin, if the entry is not blank.
    #[must_use]
    pub fn into_origin(self) -> Option<Origin> {
        self.0
    }
}

impl FromStr for ListedOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => text.parse().map(Some).map(Self),
        }
    }
}

/// A page that may not use the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pages of this origin may not use this server, unless --cors-origins lists it")]
pub(crate) struct Foreign;

/// The origins whose pages may use a listener. Clones share the list.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    listed: Arc<BTreeSet<Origin>>,
    /// Whether pages that this machine serves on any port may.
    local: bool,
}

impl Origins {
    pub(crate) fn new(listed: Arc<BTreeSet<Origin>>, local: bool) -> Self {
        Self { listed, local }
    }

    /// The origin of the page that makes a request; `None` when no page does.
    ///
    /// # Errors
    /// [`Foreign`] when it may not, or does not say clearly who it is.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<Option<Origin>, Foreign> {
        let Some(text) = only(headers, header::ORIGIN)? else {
            return Ok(None);
        };
        // `null`, as sandboxed pages and files have it, is nobody's.
        let origin: Origin = text.parse().map_err(|_| Foreign)?;
        let allowed = self.listed.contains(&origin)
            || (self.local && origin.is_local())
            || origin.is_own(headers);
        if allowed {
            Ok(Some(origin))
        } else {
            Err(Foreign)
        }
    }
}

impl Origin {
    fn is_local(&self) -> bool {
        self.scheme == "http" && LOCAL_HOSTS.contains(&self.host.as_str())
    }

    /// Whether it is where the request went. The scheme is not compared: a
    /// proxy may have taken TLS off.
    fn is_own(&self, headers: &HeaderMap) -> bool {
        let host = only(headers, header::HOST).ok().flatten();
        let own = host.and_then(|host| format!("{}://{host}", self.scheme).parse().ok());
        own.as_ref() == Some(self)
    }
}

/// The value of a header that may be there once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Foreign> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Foreign),
        (Some(_), Some(_)) => Err(Foreign),
    }
}

#[cfg(test)]
mod tests;

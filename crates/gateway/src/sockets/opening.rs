//! What is kept of the request that opened an Engine.IO session, and who is
//! asked to take part in the recovery of connections.

use std::net::IpAddr;

use http::header::USER_AGENT;
use http::request::Parts;
use signalbox_protocol::Dialect;
use url::form_urlencoded;

use crate::routes::Visitor;

/// Who sent a request, to which kind of listener.
#[derive(Clone)]
pub(crate) struct Guest {
    /// The other end of its HTTP connection.
    pub(crate) visitor: Visitor,
    /// Whether the listener serves dialect `pipeline`.
    pub(crate) pipeline: bool,
    /// Whether the listener serves dialect `workspace`.
    pub(crate) workspace: bool,
}

/// What is kept of the request that opened a session.
pub(crate) struct Opening {
    pub(super) guest: Guest,
    /// `token` of the query: there, if only by name.
    pub(super) token: Option<String>,
    /// `dialect` of the query.
    pub(super) dialect: Option<String>,
    /// Whether the client's library takes a further argument of events for
    /// what it is.
    pub(super) takes_offsets: bool,
}

impl Opening {
    /// Reads the request; `None` when it did not come through a listener's
    /// route.
    pub(super) fn read(request: &Parts) -> Option<Self> {
        let guest = request.extensions.get::<Guest>().cloned()?;
        let query = request.uri.query().unwrap_or_default();
        let find = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
        };
        let agent = request.headers.get(USER_AGENT);
        let agent = agent.and_then(|value| value.to_str().ok());
        Some(Self {
            guest,
            token: find("token"),
            dialect: find("dialect"),
            takes_offsets: !is_python(agent, query),
        })
    }

    /// Where the client is.
    pub(super) fn peer(&self) -> IpAddr {
        self.guest.visitor.peer.ip()
    }

    /// Whether the listener serves a dialect.
    pub(super) fn serves(&self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Pipeline => self.guest.pipeline,
            Dialect::Workspace => self.guest.workspace,
            Dialect::Threat | Dialect::Mesh | Dialect::Fleet => false,
        }
    }
}

/// Whether a client is python-socketio, whose handlers take just the arguments
/// that they name: a further one, the offset of connection state recovery,
/// would be an exception in each of them. Nothing names the library, so it is
/// known by its HTTP clients and, where its WebSocket client names none, by
/// the order in which it alone writes a query.
fn is_python(agent: Option<&str>, query: &str) -> bool {
    match agent {
        Some(agent) => {
            let agent = agent.to_ascii_lowercase();
            ["python", "aiohttp"]
                .iter()
                .any(|word| agent.contains(word))
        }
        None => {
            let query = query.split("&t=").next().unwrap_or_default();
            ["polling", "websocket"]
                .iter()
                .any(|transport| query.ends_with(&format!("transport={transport}&EIO=4")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen of the libraries themselves.
    #[test]
    fn python_is_told_from_others() {
        for (agent, query) in [
            (
                Some("python-requests/2.32.5"),
                "transport=polling&EIO=4&t=1732200000.5",
            ),
            (
                Some("Python/3.13 aiohttp/3.13.2"),
                "transport=websocket&EIO=4",
            ),
            (None, "token=a.b.c&transport=websocket&EIO=4"),
            (None, "transport=websocket&EIO=4&t=1732200000.5"),
        ] {
            assert!(is_python(agent, query), "{agent:?} {query}");
        }
        for (agent, query) in [
            (Some("node-XMLHttpRequest"), "EIO=4&transport=polling&t=x1"),
            (None, "EIO=4&transport=websocket"),
            (None, "token=a.b.c&EIO=4&transport=websocket"),
            (
                Some("Mozilla/5.0 (X11; Linux x86_64)"),
                "EIO=4&transport=websocket",
            ),
            (None, ""),
        ] {
            assert!(!is_python(agent, query), "{agent:?} {query}");
        }
    }
}

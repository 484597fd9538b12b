//! Listeners: which address serves which dialects.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;

use signalbox_protocol::Dialect;
use tracing::{info, warn};

/// Connections that the kernel queues ahead of `accept`.
const BACKLOG: i32 = 4_096;

/// An address and the dialects that it serves: `ADDR[=dialect,...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// Where; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Which dialects.
    pub dialects: BTreeSet<Dialect>,
    /// Whether a taken port is an error rather than a warning.
    pub required: bool,
}

/// A listener that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected ADDR[=dialect,...] such as 127.0.0.1:8080=threat,mesh: {0}")]
pub struct InvalidListenSpec(String);

impl ListenSpec {
    fn new(addr: SocketAddr, dialects: &[Dialect], required: bool) -> Self {
        Self {
            addr,
            dialects: dialects.iter().copied().collect(),
            required,
        }
    }

    /// The listeners that open when none is asked for: all dialects on 8080,
    /// and the ports that two of the documents name.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        vec![
            Self::new(local(8080), &Dialect::ALL, true),
            Self::new(local(8000), &[Dialect::Workspace], false),
            Self::new(local(3001), &[Dialect::Fleet], false),
        ]
    }
}

impl FromStr for ListenSpec {
    type Err = InvalidListenSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |cause: String| InvalidListenSpec(cause);
        let (addr, names) = match text.split_once('=') {
            None => (text, None),
            Some((addr, names)) => (addr, Some(names)),
        };
        let addr = addr
            .parse()
            .map_err(|_| invalid(format!("`{addr}` is no address")))?;
        let dialects = match names {
            None => Dialect::ALL.to_vec(),
            Some(names) => names
                .split(',')
                .map(|name| {
                    name.parse::<Dialect>()
                        .map_err(|error| invalid(error.to_string()))
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self::new(addr, &dialects, true))
    }
}

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    pub(crate) dialects: BTreeSet<Dialect>,
}

impl Listener {
    /// Binds a listener; `None` when its port is taken and that is no error.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn bind(spec: &ListenSpec) -> io::Result<Option<Self>> {
        match bind(spec.addr) {
            Ok(socket) => {
                let names: Vec<&str> = spec.dialects.iter().map(|dialect| dialect.name()).collect();
                info!(addr = %socket.local_addr()?, dialects = %names.join(","), "listening");
                Ok(Some(Self {
                    socket,
                    dialects: spec.dialects.clone(),
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !spec.required => {
                warn!(addr = %spec.addr, "port is taken, going on without this listener");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Another handle to the same socket, for another shard.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            dialects: self.dialects.clone(),
        })
    }

    /// The listener on the current runtime.
    pub(crate) fn into_tokio(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.socket)
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        None,
    )?;
    // A restarted gateway takes its port back while old connections linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_serves_all_dialects_or_those_named() {
        let all: ListenSpec = "127.0.0.1:0".parse().unwrap();
        assert_eq!(all.dialects.len(), 5);
        let some: ListenSpec = "[::1]:80=mesh,threat".parse().unwrap();
        assert_eq!(
            some.dialects.into_iter().collect::<Vec<_>>(),
            [Dialect::Threat, Dialect::Mesh]
        );
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let error = "localhost=mesh"
            .parse::<ListenSpec>()
            .unwrap_err()
            .to_string();
        assert!(error.contains("`localhost` is no address"), "{error}");
        let error = "127.0.0.1:1=nope"
            .parse::<ListenSpec>()
            .unwrap_err()
            .to_string();
        assert!(error.contains("`nope`"), "{error}");
    }

    #[test]
    fn an_optional_listener_gives_way_to_a_taken_port() {
        let mut spec: ListenSpec = "127.0.0.1:0".parse().unwrap();
        let first = Listener::bind(&spec).unwrap().unwrap();
        spec.addr = first.addr().unwrap();
        assert!(Listener::bind(&spec).is_err());
        spec.required = false;
        assert!(Listener::bind(&spec).unwrap().is_none());
    }
}

//! The admin listener: liveness and readiness for probes, and room for more.
//!
//! It has its own thread and runtime, so it answers however busy the service
//! is; that is what makes `/live` mean "the process runs" and nothing else.

use std::future::IntoFuture as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::health::Health;
use crate::own_thread;

/// What to do when the wanted port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminFallback {
    /// Fail.
    Fail,
    /// Warn once and take a free port of the same address.
    FreePort,
}

/// An admin listener that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("cannot bind the admin listener to {addr}")]
    Bind {
        /// The wanted address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thread or its runtime cannot be started.
    #[error("cannot start the admin listener")]
    Start(#[source] io::Error),
}

/// A running admin listener; it ends when it is dropped.
///
/// `GET /live` answers 200 from the start. `GET /ready` answers 200 or 503, with
/// the [`HealthSnapshot`](crate::health::HealthSnapshot) as JSON.
#[derive(Debug)]
pub struct AdminServer {
    addr: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// An admin listener to be started with more routes.
#[derive(Debug)]
pub struct AdminServerBuilder {
    health: Health,
    fallback: AdminFallback,
    routes: Router,
}

impl AdminServer {
    /// Listens on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`AdminError`] when the address cannot be bound, taken ports aside under
    /// [`AdminFallback::FreePort`], or the thread cannot be started.
    pub fn start(
        addr: SocketAddr,
        health: Health,
        fallback: AdminFallback,
    ) -> Result<Self, AdminError> {
        Self::builder(health).fallback(fallback).start(addr)
    }

    /// Prepares a listener that fails when its port is taken.
    #[must_use]
    pub fn builder(health: Health) -> AdminServerBuilder {
        AdminServerBuilder {
            health,
            fallback: AdminFallback::Fail,
            routes: Router::new(),
        }
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener and its connections. Returns when the port is free,
    /// which waits only for a handler that blocks its thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("admin listener panicked");
        }
    }
}

impl AdminServerBuilder {
    /// Sets what to do when the port is taken.
    #[must_use]
    pub fn fallback(mut self, fallback: AdminFallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// Adds routes beside `/live` and `/ready`. They run on the listener's one
    /// thread and must not block it.
    ///
    /// # Panics
    /// When a route was added before.
    #[must_use]
    pub fn merge(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Listens on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// As [`AdminServer::start`].
    ///
    /// # Panics
    /// When `/live` or `/ready` was added by [`AdminServerBuilder::merge`].
    pub fn start(self, addr: SocketAddr) -> Result<AdminServer, AdminError> {
        let listener = bind(addr, self.fallback)?;
        let addr = listener.local_addr().map_err(AdminError::Start)?;
        listener.set_nonblocking(true).map_err(AdminError::Start)?;
        let routes = self
            .routes
            .route("/live", get(async || "live\n"))
            .merge(ready_route(self.health));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let setup = move || {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(serve(listener, routes, stopped))
        };
        let thread = own_thread::spawn("admin", setup).map_err(AdminError::Start)?;
        Ok(AdminServer {
            addr,
            stop,
            thread: Some(thread),
        })
    }
}

fn ready_route(health: Health) -> Router {
    Router::new().route("/ready", get(ready)).with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    let snapshot = health.snapshot();
    let status = if snapshot.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(snapshot)).into_response()
}

async fn serve(listener: tokio::net::TcpListener, routes: Router, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        Err(error) = axum::serve(listener, routes).into_future() => {
            error!(%error, "admin listener failed");
        }
    }
}

fn bind(addr: SocketAddr, fallback: AdminFallback) -> Result<TcpListener, AdminError> {
    match TcpListener::bind(addr) {
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse && fallback == AdminFallback::FreePort =>
        {
            let listener = TcpListener::bind(SocketAddr::new(addr.ip(), 0));
            if let Ok(Ok(actual)) = listener.as_ref().map(TcpListener::local_addr) {
                warn!(wanted = %addr, %actual, "admin port is taken, using a free one");
            }
            listener
        }
        outcome => outcome,
    }
    .map_err(|source| AdminError::Bind { addr, source })
}

#[cfg(test)]
mod tests;

//! The gRPC listener for other systems: token verification, publishing,
//! health and reflection.
//!
//! Everything a stranger can make the service hold is bounded here: connections,
//! calls, headers, and bytes of bodies, of which none is read before its caller
//! is known. There is no TLS; the default address is of this machine.

mod caller;
mod events;
mod incoming;
mod status;
mod tokens;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::Bus;
use signalbox_service::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder as Reflection;
use tracing::{info, warn};

use self::caller::{Guard, Guarded};
use self::events::Events;
use self::tokens::Tokens;
use crate::api;
use crate::api::event_service_server::EventServiceServer;
use crate::api::token_service_server::TokenServiceServer;
use crate::config::GrpcOptions;
use crate::error::Error;
use crate::handler::Handler;

/// Calls of one connection at once; further ones wait at the client.
const MAX_STREAMS: u32 = 64;
/// How long a call may take in all; a client may ask for less. A call beyond it
/// is dropped and answered as cancelled.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long a probed client may take to answer before it is cut.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest metadata of a call, in bytes; a call with more is refused.
const MAX_METADATA_BYTES: u32 = 16 * 1024;
/// Bytes of one body that may arrive before it is read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes of all bodies of a connection that may arrive before they are read.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// A bound listener with what it serves.
pub(crate) struct Grpc {
    listener: TcpListener,
    addr: SocketAddr,
    guard: Arc<Guard>,
    tokens: Tokens,
    events: Events,
    /// Whether events can be published.
    bus: Bus,
}

impl Grpc {
    /// Binds the listener; nothing is answered yet. `bus` is where events are
    /// published.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn bind(
        options: &GrpcOptions,
        bus: Bus,
        handler: &Arc<Handler>,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        let failed = |cause| Error::Grpc {
            addr: options.listen,
            cause,
        };
        let listener = listen(options).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            addr,
            guard: Arc::new(Guard::new(Arc::clone(handler), shutdown)),
            tokens: Tokens::new(Arc::clone(handler)),
            events: Events::new(bus.clone(), options.patience),
            bus,
        })
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown`, and the calls that are under way then to their
    /// end. `ready` tells whether credentials can be checked.
    ///
    /// # Errors
    /// When it cannot serve.
    pub(crate) async fn serve(
        self,
        ready: watch::Receiver<bool>,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        let (addr, unservable) = (self.addr, |cause| Error::Grpc {
            addr: self.addr,
            cause,
        });
        let (reporter, health) = health_reporter();
        let reflection = Reflection::configure()
            .register_encoded_file_descriptor_set(api::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| unservable(io::Error::other(error)))?;
        let tokens = TokenServiceServer::new(self.tokens)
            .max_decoding_message_size(tokens::MAX_MESSAGE_BYTES);
        let events = EventServiceServer::new(self.events)
            .max_decoding_message_size(events::MAX_MESSAGE_BYTES);
        let stop = shutdown.clone();
        let server = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .concurrency_limit_per_connection(MAX_STREAMS as usize)
            .timeout(CALL_TIMEOUT)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(MAX_METADATA_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(health)
            .add_service(reflection)
            .add_service(Guarded::new(tokens, Arc::clone(&self.guard)))
            .add_service(Guarded::new(events, self.guard))
            .serve_with_incoming_shutdown(incoming::connections(self.listener), async move {
                stop.wait().await;
            });
        info!(%addr, "listening for gRPC");
        let mut server = pin!(server);
        let served = tokio::select! {
            // What holds is known before the first connection is accepted.
            biased;
            () = follow_health(reporter, ready, self.bus, shutdown) => server.await,
            served = &mut server => served,
        };
        served.map_err(|error| unservable(io::Error::other(error)))
    }
}

/// Binds the address, or a free port of it where a taken one may give way.
async fn listen(options: &GrpcOptions) -> io::Result<TcpListener> {
    let wanted = options.listen;
    match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.gives_way => {
            let listener = TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await?;
            let actual = listener.local_addr()?;
            warn!(%wanted, %actual, "gRPC port is taken, using a free one");
            Ok(listener)
        }
        outcome => outcome,
    }
}

/// Tells health checks what holds, until `shutdown`; then ends the streams of
/// those who watch, or they would hold up the end.
async fn follow_health(
    mut reporter: HealthReporter,
    mut ready: watch::Receiver<bool>,
    bus: Bus,
    shutdown: Shutdown,
) {
    const TOKENS: &str = <TokenServiceServer<Tokens> as NamedService>::NAME;
    const EVENTS: &str = <EventServiceServer<Events> as NamedService>::NAME;
    let mut link = bus.link();
    loop {
        let running = !shutdown.is_triggered();
        let tokens = running && *ready.borrow_and_update();
        let events = tokens && link.borrow_and_update().up;
        for (service, serving) in [("", events), (TOKENS, tokens), (EVENTS, events)] {
            let status = match serving {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            reporter.set_service_status(service, status).await;
        }
        if !running {
            break;
        }
        tokio::select! {
            Ok(()) = ready.changed() => {}
            Ok(()) = link.changed() => {}
            () = shutdown.wait() => {}
        }
    }
    for service in ["", TOKENS, EVENTS] {
        reporter.clear_service_status(service).await;
    }
}

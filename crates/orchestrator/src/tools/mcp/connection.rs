//! The life of one server: begun, listed, listened to, and begun again when it
//! has gone, after longer and longer waits. It owns what runs for the server.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rmcp::ErrorData;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientRequest, ClientResult, ErrorCode, Implementation,
    ListToolsRequest, PaginatedRequestParams, ServerNotification, ServerRequest,
};
use rmcp::service::{
    NotificationContext, Peer, PeerRequestOptions, RequestContext, RequestHandle, RoleClient,
    Service, ServiceError, ServiceExt as _,
};
use rmcp::transport::Transport;
use serde_json::Value;
use signalbox_bus::assignment::Stop;
use signalbox_service::Shutdown;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::call::Remote;
use super::child::{self, Process, Program};
use super::config::{Place, ServerConfig, Timing};
use super::http::{Address, Http};
use super::listing::{Listing, MAX_TOOLS, Reading};
use super::stdio::{Stdio, log_errors};
use super::watched::Watched;
use super::wire;
use crate::provider::http::Client;

/// The most pages of a listing; more are left out.
const MAX_PAGES: usize = 32;
/// The most tools of a listing that are looked at, before patterns choose.
const MAX_LISTED: usize = 8 * MAX_TOOLS;
/// Calls that were dropped and wait to be cancelled; beyond that the server is
/// not told.
const GIVEN_UP_CAPACITY: usize = 64;

/// Whether a server is there.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// It is being started, or connected to.
    Beginning,
    /// It is there.
    Up(Link),
    /// It is not, and will be looked for later.
    Away,
}

/// What calls need of a connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) peer: Peer<RoleClient>,
    /// Takes calls that nobody waits for any more.
    pub(super) given_up: mpsc::Sender<RequestHandle<RoleClient>>,
}

/// A server, for as long as the orchestrator runs.
pub(super) struct Connection {
    pub(super) config: ServerConfig,
    pub(super) timing: Timing,
    pub(super) client: Client,
    /// The program that has the guard, where it is not our own.
    pub(super) launcher: Option<PathBuf>,
    pub(super) state: watch::Sender<State>,
    /// What it has, as of the last listing.
    pub(super) listing: Arc<RwLock<Arc<Listing>>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the program cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("the program cannot be started; its guard says why at debug")]
    NotStarted,
    #[error("the server does not begin to talk: {0}")]
    Begin(String),
    #[error("the server does not list its tools: {0}")]
    List(String),
    #[error("the server has gone")]
    Gone,
}

impl Connection {
    /// Runs until `shutdown`, and leaves nothing running.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let mut wait = self.timing.first_wait;
        loop {
            self.state.send_replace(State::Beginning);
            let begun = Instant::now();
            let Err(reason) = self.once(&shutdown).await else {
                return;
            };
            if begun.elapsed() >= self.timing.settled {
                wait = self.timing.first_wait;
            }
            let why = wire::line(&reason.to_string());
            warn!(server = %self.config.name, why, ?wait, "a tool server is not there");
            // Whoever was there until now is tried again at once; calls wait for it.
            let at_once = matches!(reason, Ended::Gone) && begun.elapsed() >= wait;
            if !at_once {
                self.state.send_replace(State::Away);
                tokio::select! {
                    () = sleep(wait) => {}
                    () = shutdown.wait() => return,
                }
            }
            wait = (wait * 2).min(self.timing.longest_wait);
        }
    }

    /// One connection; `Ok` when it ended because of the shutdown.
    async fn once(&self, shutdown: &Shutdown) -> Result<(), Ended> {
        match &self.config.place {
            Place::Program(program) => self.with_program(program, shutdown).await,
            Place::Address(address) => self.with_address(address, shutdown).await,
        }
    }

    async fn with_address(&self, address: &Address, shutdown: &Shutdown) -> Result<(), Ended> {
        let http = Http::new(&self.config.name, self.client.clone(), address.clone());
        self.talk(http, shutdown).await
    }

    async fn with_program(&self, program: &Program, shutdown: &Shutdown) -> Result<(), Ended> {
        let launcher = self.launcher.as_deref();
        let (process, pipes) = Process::start(program, launcher, self.timing.grace)
            .await
            .map_err(Ended::Start)?;
        let patience = self.timing.write;
        let stdio = Stdio::new(&self.config.name, pipes.stdin, pipes.stdout, patience);
        let errors = async {
            log_errors(&self.config.name, pipes.stderr).await;
            std::future::pending::<()>().await;
        };
        let ending = async {
            // Its input is closed by now, since whoever talked to it is gone.
            let outcome = self.talk(stdio, shutdown).await;
            (outcome, process.end().await)
        };
        let (outcome, status) = tokio::select! {
            ended = ending => ended,
            () = errors => return Err(Ended::Gone),
        };
        match (&outcome, status) {
            (Err(_), Ok(status)) if child::was_not_started(status) => Err(Ended::NotStarted),
            (Err(_), Ok(status)) => {
                info!(server = %self.config.name, %status, "a tool server has ended");
                outcome
            }
            _ => outcome,
        }
    }

    /// From the first word to the last.
    async fn talk<T>(&self, transport: T, shutdown: &Shutdown) -> Result<(), Ended>
    where
        T: Transport<RoleClient> + 'static,
    {
        let changed = Arc::new(Notify::new());
        let ears = Ears {
            changed: Arc::clone(&changed),
        };
        let ended = Stop::default();
        let transport = Watched::new(transport, ended.clone());
        let beginning = timeout(self.timing.begin, ears.serve(transport));
        let running = tokio::select! {
            begun = beginning => begun
                .map_err(|_| Ended::Begin(format!("no answer for {:?}", self.timing.begin)))?
                .map_err(|error| Ended::Begin(error.to_string()))?,
            () = shutdown.wait() => return Ok(()),
        };
        let outcome = self.serve(running.peer(), &changed, &ended, shutdown).await;
        self.state.send_replace(State::Beginning);
        // Calls that are under way end here.
        let ending = running.cancel();
        timeout(2 * self.timing.grace, ending).await.ok();
        outcome
    }

    async fn serve(
        &self,
        peer: &Peer<RoleClient>,
        changed: &Notify,
        ended: &Stop,
        shutdown: &Shutdown,
    ) -> Result<(), Ended> {
        let (given_up, mut dropped) = mpsc::channel(GIVEN_UP_CAPACITY);
        let link = Link {
            peer: peer.clone(),
            given_up,
        };
        let listing = async {
            loop {
                self.list(peer).await?;
                self.state.send_replace(State::Up(link.clone()));
                sleep(self.timing.listing_pause).await;
                changed.notified().await;
            }
        };
        let cancelling = async {
            while let Some(call) = dropped.recv().await {
                let call: RequestHandle<RoleClient> = call;
                call.cancel(None).await.ok();
            }
        };
        tokio::select! {
            failed = listing => failed,
            () = cancelling => Ok(()),
            () = ended.wait() => Err(Ended::Gone),
            () = shutdown.wait() => Ok(()),
        }
    }

    /// Asks for all tools, and replaces those that were known.
    async fn list(&self, peer: &Peer<RoleClient>) -> Result<(), Ended> {
        let mut reading = Reading::new(&self.config, |tool| {
            Arc::new(Remote {
                tool: tool.to_owned(),
                state: self.state.subscribe(),
                timing: self.timing,
            })
        });
        let pages = pages(peer, &self.config.name, |page| reading.page(page));
        timeout(self.timing.begin, pages)
            .await
            .map_err(|_| Ended::List(format!("no answer for {:?}", self.timing.begin)))??;
        let listing = reading.end();
        info!(server = %self.config.name, tools = listing.len(), "a tool server has listed its tools");
        *self.listing.write() = Arc::new(listing);
        Ok(())
    }
}

/// What a server lists: each page is read before the next one is asked for, as
/// there may be more in one than is kept of all.
async fn pages(
    peer: &Peer<RoleClient>,
    server: &str,
    mut read: impl FnMut(&[Value]),
) -> Result<(), Ended> {
    let mut listed = 0;
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let page = page(peer, cursor.clone()).await?;
        let tools = page.get("tools").and_then(Value::as_array);
        let tools = tools.ok_or_else(|| Ended::List("the answer is not a listing".to_owned()))?;
        read(tools);
        listed += tools.len();
        let next = page.get("nextCursor").and_then(Value::as_str);
        match next {
            Some(next) if listed < MAX_LISTED && cursor.as_deref() != Some(next) => {
                cursor = Some(next.to_owned());
            }
            Some(_) => break,
            None => return Ok(()),
        }
    }
    warn!(server, listed, "not reading a listing to its end");
    Ok(())
}

async fn page(peer: &Peer<RoleClient>, cursor: Option<String>) -> Result<Value, Ended> {
    let failed = |error: ServiceError| Ended::List(error.to_string());
    let params = PaginatedRequestParams::default().with_cursor(cursor);
    let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
    let options = PeerRequestOptions::no_options();
    let handle = peer.send_cancellable_request(request, options);
    let result = handle.await.map_err(failed)?.await_response().await;
    serde_json::to_value(result.map_err(failed)?).map_err(|error| Ended::List(error.to_string()))
}

/// What listens to a server of its own accord. It is told nothing and can ask
/// for nothing: sampling, roots and elicitation are refused.
#[derive(Debug)]
struct Ears {
    changed: Arc<Notify>,
}

impl Service<RoleClient> for Ears {
    async fn handle_request(
        &self,
        request: ServerRequest,
        _: RequestContext<RoleClient>,
    ) -> Result<ClientResult, ErrorData> {
        match request {
            ServerRequest::PingRequest(_) => Ok(ClientResult::empty(())),
            _ => Err(ErrorData::new(
                ErrorCode::METHOD_NOT_FOUND,
                "this client answers no requests",
                None,
            )),
        }
    }

    async fn handle_notification(
        &self,
        notification: ServerNotification,
        _: NotificationContext<RoleClient>,
    ) -> Result<(), ErrorData> {
        if let ServerNotification::ToolListChangedNotification(_) = notification {
            self.changed.notify_one();
        }
        Ok(())
    }

    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("signalbox", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
    }
}

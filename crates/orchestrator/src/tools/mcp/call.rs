//! One call of a tool of a server, to its end: an answer, the end of its time, a
//! cancellation, or the end of the connection, after which nobody knows.

use rmcp::model::{CallToolRequest, CallToolRequestParams, ClientRequest, ServerResult};
use rmcp::service::{PeerRequestOptions, RequestHandle, RoleClient, ServiceError};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::config::Timing;
use super::connection::{Link, State};
use super::content;
use super::stdio::SendError;
use crate::tools::{Call, Outcome, Runner, Running};

/// What models are told when a server is away.
pub const NOT_REACHABLE: &str = "the server is not reachable";
/// What models are told when a server went away while it worked.
const WENT_AWAY: &str = "the server went away during the call; it may have done it or not";
/// The reason that a server is given for a cancellation.
const CANCELLED: &str = "the call was cancelled";
/// The reason that a server is given when its time is over.
const TIMED_OUT: &str = "the call took too long";
/// The longest message of a server's error that is passed on, in bytes. The turn
/// bounds it as any result.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// Calls a tool of a server.
#[derive(Debug)]
pub(super) struct Remote {
    /// The server's own name of the tool.
    pub(super) tool: String,
    /// Whether the server is there.
    pub(super) state: watch::Receiver<State>,
    pub(super) timing: Timing,
}

impl Runner for Remote {
    fn run(&self, call: Call) -> Running {
        let (tool, timing) = (self.tool.clone(), self.timing);
        let state = self.state.clone();
        Box::pin(async move {
            // As long as it waits nothing has happened, so that it is simply over.
            let link = tokio::select! {
                link = find(state, timing) => link,
                () = call.cancel.wait() => return given_up(&call),
                () = sleep_until(call.deadline) => return Outcome::TimedOut,
            };
            match link {
                Some(link) => run(link, tool, call).await,
                None => Outcome::Error(NOT_REACHABLE.to_owned()),
            }
        })
    }
}

/// The connection, also when it is just being made.
async fn find(mut state: watch::Receiver<State>, timing: Timing) -> Option<Link> {
    let settled = state.wait_for(|state| !matches!(state, State::Beginning));
    let state = timeout(timing.patience, settled).await.ok()?.ok()?;
    match &*state {
        State::Up(link) => Some(link.clone()),
        State::Beginning | State::Away => None,
    }
}

async fn run(link: Link, tool: String, call: Call) -> Outcome {
    let params = match &call.arguments {
        Value::Object(arguments) => {
            CallToolRequestParams::new(tool).with_arguments(arguments.clone())
        }
        _ => return Outcome::Error("expected an object of arguments".to_owned()),
    };
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let options = PeerRequestOptions::no_options();
    let handle = match link.peer.send_cancellable_request(request, options).await {
        Ok(handle) => handle,
        // It was not taken for sending.
        Err(error) => {
            debug!(%error, "a call was not sent");
            return Outcome::Error(NOT_REACHABLE.to_owned());
        }
    };
    let mut waiting = Waiting {
        handle: Some(handle),
        given_up: link.given_up,
    };
    let reason = tokio::select! {
        outcome = waiting.outcome() => return outcome,
        () = call.cancel.wait() => CANCELLED,
        () = sleep_until(call.deadline) => TIMED_OUT,
    };
    waiting.give_up(reason).await;
    given_up(&call)
}

/// What became of a call that is not waited for any more.
fn given_up(call: &Call) -> Outcome {
    if Instant::now() >= call.deadline {
        Outcome::TimedOut
    } else {
        Outcome::Cancelled
    }
}

/// A request whose answer is waited for. Dropped, it is cancelled by the
/// connection.
struct Waiting {
    handle: Option<RequestHandle<RoleClient>>,
    given_up: mpsc::Sender<RequestHandle<RoleClient>>,
}

impl Waiting {
    async fn outcome(&mut self) -> Outcome {
        let Some(handle) = &mut self.handle else {
            return Outcome::Unknown(WENT_AWAY.to_owned());
        };
        let answer = (&mut handle.rx).await;
        self.handle = None;
        match answer {
            Ok(answer) => outcome(answer),
            Err(_) => Outcome::Unknown(WENT_AWAY.to_owned()),
        }
    }

    async fn give_up(&mut self, reason: &str) {
        if let Some(handle) = self.handle.take() {
            // A server that cannot be told has gone.
            handle.cancel(Some(reason.to_owned())).await.ok();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            // When too many wait, the server is left to itself with this one.
            self.given_up.try_send(handle).ok();
        }
    }
}

fn outcome(answer: Result<ServerResult, ServiceError>) -> Outcome {
    match answer {
        Ok(result) => match serde_json::to_value(&result) {
            Ok(result) => content::outcome(&result),
            Err(error) => Outcome::Error(error.to_string()),
        },
        Err(ServiceError::McpError(error)) => {
            let mut message = error.message.into_owned();
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            Outcome::Error(message)
        }
        Err(ServiceError::TransportSend(error)) => {
            let perhaps = match error.error.downcast_ref::<SendError>() {
                Some(error) => error.perhaps,
                None => true,
            };
            debug!(%error, perhaps, "a call was not answered");
            match perhaps {
                true => Outcome::Unknown(WENT_AWAY.to_owned()),
                false => Outcome::Error(NOT_REACHABLE.to_owned()),
            }
        }
        Err(ServiceError::Cancelled { .. }) => {
            Outcome::Unknown("the server has cancelled the call".to_owned())
        }
        Err(error) => {
            debug!(%error, "a call was not answered");
            Outcome::Unknown(WENT_AWAY.to_owned())
        }
    }
}

//! The HTTP side of a listener. Every path is one handler with its own
//! description: what is not in the OpenAPI document is not served.

mod admin;
mod answers;
mod auth;
mod body;
mod caller;
mod cors;
mod events;
mod failure;
mod jwks;
mod openapi;
mod request_id;
mod socket_io;
mod stats;
mod upgrade;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use signalbox_protocol::Dialect;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_transport::PendingUpgrade;
use tokio::sync::{mpsc, watch};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::openapi::Document;
use crate::admission::Ticket;
use crate::auth_service::AuthService;
use crate::authority::Authority;
use crate::ingest::Ingest;
use crate::listener::Listener;
use crate::origin::Origins;
use crate::shard::Shared;
use crate::sockets::Call;
use crate::statistics::Statistics;

/// The other end of an HTTP connection.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) peer: SocketAddr,
    /// What it was admitted with.
    pub(crate) ticket: Arc<Ticket>,
}

/// A connection that asked to become a WebSocket.
pub(crate) struct Arrival {
    pub(crate) upgrade: PendingUpgrade,
    pub(crate) visitor: Visitor,
    /// Which it wants to speak.
    pub(crate) dialect: Dialect,
    /// What came with the request, or what is wrong with it.
    pub(crate) credential: Result<Option<String>, Complaint>,
}

/// What the routes of one listener lead to.
#[derive(Clone)]
pub(crate) struct Doors {
    authority: Arc<Authority>,
    auth_service: Arc<AuthService>,
    ingest: Arc<Ingest>,
    statistics: Arc<Statistics>,
    /// False once the bus has been away for too long.
    bus_present: watch::Receiver<bool>,
    dialects: BTreeSet<Dialect>,
    origins: Origins,
    arrivals: mpsc::Sender<Arrival>,
    calls: mpsc::Sender<Call>,
    /// How long a body may take to arrive.
    body_timeout: Duration,
}

impl Doors {
    pub(crate) fn new(
        shared: &Shared,
        listener: &Listener,
        arrivals: mpsc::Sender<Arrival>,
        calls: mpsc::Sender<Call>,
    ) -> Self {
        let options = &shared.options;
        let local = options.local_origins
            && listener
                .addr()
                .is_ok_and(|address| address.ip().is_loopback());
        Self {
            authority: Arc::clone(&shared.authority),
            auth_service: Arc::clone(&shared.auth_service),
            ingest: Arc::clone(&shared.ingest),
            statistics: Arc::clone(&shared.statistics),
            bus_present: shared.bus_present.clone(),
            dialects: listener.dialects.clone(),
            origins: Origins::new(Arc::clone(&options.origins), local),
            arrivals,
            calls,
            body_timeout: options.http.header_read_timeout,
        }
    }
}

/// The routes of one listener.
pub(crate) fn router(doors: Doors) -> Router {
    let (router, document) = described();
    router
        .fallback(upgrade::nowhere)
        .method_not_allowed_fallback(failure::method_not_allowed)
        .layer(Extension(document))
        .layer(from_fn_with_state(doors.origins.clone(), cors::guard))
        // Outermost, so that refusals of any kind have their id, too.
        .layer(from_fn(request_id::tag))
        .with_state(doors)
}

/// Every route, and the document that describes them.
fn described() -> (Router<Doors>, Document) {
    let (router, document) = OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(auth::issue_token))
        .routes(routes!(auth::refresh_token))
        .routes(routes!(auth::revoke_token))
        .routes(routes!(admin::keys::list_keys, admin::keys::create_key))
        .routes(routes!(
            admin::keys::show_key,
            admin::keys::change_key,
            admin::keys::revoke_key
        ))
        .routes(routes!(admin::users::list_users, admin::users::create_user))
        .routes(routes!(
            admin::users::show_user,
            admin::users::change_user,
            admin::users::delete_user
        ))
        .routes(routes!(admin::users::set_password))
        .routes(routes!(admin::users::log_out))
        .routes(routes!(admin::revoke_token))
        .routes(routes!(admin::revoke_family))
        .routes(routes!(admin::list_roles))
        .routes(routes!(events::publish_events))
        .routes(routes!(jwks::signing_keys))
        .routes(routes!(openapi::document))
        .routes(routes!(upgrade::threat))
        .routes(routes!(upgrade::mesh))
        .routes(routes!(socket_io::receive, socket_io::send))
        .routes(routes!(stats::websocket_stats))
        .routes(routes!(upgrade::fleet))
        .split_for_parts();
    (router, Document::new(&document))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// The quoted paths in what axum tells of a router, up to its fallback.
    fn served(router: &Router<Doors>) -> BTreeSet<String> {
        let told = format!("{router:?}");
        let (paths, _) = told.split_once("fallback_router").unwrap();
        paths
            .split('"')
            .filter(|text| text.starts_with('/'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_document_has_the_routes_and_no_others() {
        let (router, document) = described();
        let document: Value = serde_json::from_slice(document.bytes()).unwrap();
        let documented: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert!(documented.contains("/api/v1/events"), "{documented:?}");
        assert_eq!(served(&router), documented);
    }

    #[test]
    fn every_operation_says_what_it_does_and_how_it_fails() {
        let (_, document) = described();
        let document: Value = serde_json::from_slice(document.bytes()).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let at = format!("{method} {path}");
                assert!(operation["operationId"].is_string(), "{at}");
                assert!(operation["summary"].is_string(), "{at}");
                // Pages of foreign origins are refused everywhere.
                assert!(operation["responses"]["403"].is_object(), "{at}");
            }
        }
    }
}

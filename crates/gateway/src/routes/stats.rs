//! Who of dialect `workspace` is where.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use signalbox_protocol::ErrorCode;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use super::Doors;
use super::caller::Administrator;
use super::failure::Failure;

/// Which gateways are asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// All.
    #[default]
    All,
    /// The one that answers.
    Local,
}

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// `local` for the gateway that answers, instead of all
    #[serde(default)]
    #[param(inline, required = false)]
    scope: Scope,
}

/// Connections of dialect `workspace`, and its rooms.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    /// Connections.
    connections: u64,
    /// Connections by room; rooms with nobody in them are not listed.
    #[schema(example = json!({"global": 2, "project:apollo": 1}))]
    rooms: BTreeMap<String, u64>,
    /// The gateways that were counted: those that answered in half a second.
    gateways: u64,
}

/// Connections and rooms of dialect `workspace`
///
/// Over all gateways. Rooms hold ids, so only administrators may ask.
#[utoipa::path(
    get,
    path = "/api/v1/websocket/stats",
    tag = "websocket",
    security(("bearer" = []), ("api_key" = [])),
    params(Asked),
    responses(
        (status = 200, description = "The counts", body = Stats),
        (status = 400, description = "An unknown scope", body = String, content_type = "text/plain"),
        (status = 401, description = "The credential is missing or not valid", body = Failure),
        (status = 403, description = "Not an administrator, or a page of a foreign origin", body = Failure),
        (status = 503, description = "The bus is away", body = Failure),
    )
)]
pub(super) async fn websocket_stats(
    State(doors): State<Doors>,
    _: Administrator,
    Query(asked): Query<Asked>,
) -> Result<Json<Stats>, Failure> {
    let (occupants, gateways) = match asked.scope {
        Scope::Local => (doors.statistics.here(), 1),
        Scope::All => match doors.statistics.everywhere().await {
            Ok(all) => (all.occupants, all.gateways),
            Err(error) => {
                warn!(%error, "statistics not gathered");
                let sentence = "the other gateways cannot be asked now, try again";
                return Err(Failure::plain(ErrorCode::Unavailable, sentence));
            }
        },
    };
    Ok(Json(Stats {
        connections: occupants.connections,
        rooms: occupants.rooms,
        gateways,
    }))
}

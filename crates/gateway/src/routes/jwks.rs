//! The public halves of the signing keys, for those who verify tokens
//! themselves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use signalbox_identity::KeySet;
use utoipa::ToSchema;

use super::Doors;
use super::failure::Failure;

/// How long the set may be kept. A new key signs a minute after it is here.
const CACHE_CONTROL: &str = "public, max-age=30";

/// A JSON Web Key Set (RFC 7517).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the key set writes")]
pub(super) struct JwkSet {
    keys: Vec<Jwk>,
}

/// An Ed25519 key (RFC 8037).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the key set writes")]
struct Jwk {
    #[schema(example = "OKP")]
    kty: String,
    #[schema(example = "Ed25519")]
    crv: String,
    /// The public key in base64url.
    x: String,
    /// What tokens name the key by.
    kid: String,
    #[schema(example = "EdDSA")]
    alg: String,
    #[schema(rename = "use", example = "sig")]
    usage: String,
}

/// The keys that access tokens are signed with
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    tag = "auth",
    responses(
        (status = 200, description = "The keys that are in use now", body = JwkSet),
        (status = 403, description = "A page of a foreign origin", body = Failure),
    )
)]
pub(super) async fn signing_keys(
    State(doors): State<Doors>,
) -> ([(HeaderName, &'static str); 1], Json<Arc<KeySet>>) {
    let caching = [(header::CACHE_CONTROL, CACHE_CONTROL)];
    (caching, Json(doors.authority.keys()))
}

//! Access tokens for API keys. The auth service decides; this is its door.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, header};
use serde::Serialize;
use signalbox_protocol::frame::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use signalbox_protocol::{ErrorCode, wire};
use utoipa::ToSchema;

use super::failure::Failure;
use super::{Doors, body};

/// The longest body that is read, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// The longest lifetime that may be asked for, in seconds.
const MAX_TTL_SECONDS: u32 = 31_536_000;

/// A request for an access token.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct TokenRequest {
    /// Whose rights the token gets.
    api_key: String,
    /// Seconds that it is valid; the service sets default and maximum.
    #[schema(minimum = 1, maximum = 31_536_000)]
    ttl: Option<u32>,
    /// Projects that it belongs to.
    projects: Option<Vec<String>>,
    /// The agent that it speaks for.
    agent_id: Option<String>,
}

/// An access token.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds from now.
    expires_in: u32,
}

/// An access token for an API key
#[utoipa::path(
    post,
    path = "/api/v1/auth/token",
    tag = "auth",
    request_body = TokenRequest,
    responses(
        (status = 200, description = "The token", body = Tokens),
        (status = 400, description = "A field is missing or wrong", body = Failure),
        (status = 401, description = "The key is not valid", body = Failure),
        (status = 403, description = "The key may not have such a token", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 429, description = "Too many connections from this address", body = Failure),
        (status = 503, description = "Cannot be decided now", body = Failure),
    )
)]
pub(super) async fn issue_token(
    State(doors): State<Doors>,
    body: Body,
) -> Result<([(HeaderName, &'static str); 1], Json<Tokens>), Failure> {
    let body = body::read(body, MAX_BODY_BYTES, doors.body_timeout).await?;
    let issued = doors.authority.issue_token(&asked(&body)?).await?;
    let tokens = Tokens {
        access_token: issued.access_token,
        token_type: "Bearer",
        expires_in: issued.expires_in,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(tokens)))
}

fn asked(body: &[u8]) -> Result<wire::IssueTokenRequest, Complaint> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Complaint::plain(ErrorCode::InvalidJson, "expected a JSON object"))?;
    let mut fields = Fields::parse(text)?;
    Ok(wire::IssueTokenRequest {
        api_key: fields.text("api_key", MAX_TOKEN_BYTES)?,
        ttl_seconds: fields
            .optional_integer("ttl", 1..=MAX_TTL_SECONDS)?
            .unwrap_or(0),
        projects: fields.optional_texts("projects")?.unwrap_or_default(),
        agent_id: fields.optional_id("agent_id")?.unwrap_or_default(),
        ..wire::IssueTokenRequest::default()
    })
}

//! Tokens for API keys and users, the next ones for refresh tokens, and their
//! end. The auth service decides; this is its door.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use signalbox_identity::API_KEY_PREFIX;
use signalbox_protocol::frame::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use signalbox_protocol::name::MAX_NAME_BYTES;
use signalbox_protocol::wire::revoke_request::Held;
use signalbox_protocol::{ErrorCode, wire};
use utoipa::ToSchema;

use super::caller::Caller;
use super::failure::Failure;
use super::{Doors, body};

/// The longest lifetime that may be asked for, in seconds.
const MAX_TTL_SECONDS: u32 = 31_536_000;
/// The longest password, in bytes.
pub(super) const MAX_PASSWORD_BYTES: usize = 1_024;

/// A request for tokens: with an API key, or with a username and a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct TokenRequest {
    /// Whose rights the tokens get.
    api_key: Option<String>,
    /// Who logs in; not together with an API key.
    username: Option<String>,
    /// The password of this user.
    password: Option<String>,
    /// Seconds that an access token is valid; the service sets default and
    /// maximum.
    #[schema(minimum = 1, maximum = 31_536_000)]
    ttl: Option<u32>,
    /// Projects that the tokens are narrowed to.
    projects: Option<Vec<String>>,
    /// The agent that they speak for.
    agent_id: Option<String>,
}

/// A request for the next tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct RefreshRequest {
    /// The one of the last answer; each is good for one exchange.
    #[schema(min_length = 1, max_length = 8192)]
    refresh_token: String,
}

/// What is to be revoked; one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct RevokeRequest {
    /// An access token or a refresh token. Ends what goes with it, too: all
    /// tokens since the login.
    token: Option<String>,
    /// A refresh token.
    refresh_token: Option<String>,
}

/// An access token and what to exchange for the next one.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds from now.
    expires_in: u32,
    /// To be exchanged once.
    refresh_token: String,
    /// Seconds from now, after which a login is needed.
    refresh_expires_in: u32,
}

impl From<wire::IssuedToken> for Tokens {
    fn from(issued: wire::IssuedToken) -> Self {
        Self {
            access_token: issued.access_token,
            token_type: "Bearer",
            expires_in: issued.expires_in,
            refresh_token: issued.refresh_token,
            refresh_expires_in: issued.refresh_expires_in,
        }
    }
}

/// Nothing more to say.
#[derive(Serialize, ToSchema)]
pub(super) struct Revoked {}

/// Tokens for an API key or a user
///
/// Repeated failures of an address or with a username are answered later and
/// later; unknown users, wrong passwords and disabled users all alike.
#[utoipa::path(
    post,
    path = "/api/v1/auth/token",
    tag = "auth",
    params(("X-Request-Id" = Option<String>, Header, description = "The request's name in the audit log; given back in the answer")),
    request_body = TokenRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokens),
        (status = 400, description = "A field is missing, wrong or unknown", body = Failure),
        (status = 401, description = "The key, or the username or the password, is not valid", body = Failure),
        (status = 403, description = "There is no right to such a token, or a page of a foreign origin", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 429, description = "Too many failures, or too many connections from this address", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        (status = 503, description = "Cannot be decided now", body = Failure),
    )
)]
pub(super) async fn issue_token(
    State(doors): State<Doors>,
    Caller(context): Caller,
    body: Body,
) -> Result<Json<Tokens>, Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    let mut request = asked(fields)?;
    request.context = Some(context);
    let issued = doors.auth_service.issue(&request).await?;
    Ok(Json(issued.into()))
}

/// The next tokens for a refresh token
///
/// A refresh token is good for one exchange. One that is used again ends all
/// tokens since the login: somebody else has it, too. For a client whose answer
/// was lost there is a grace of 30 seconds, within which it gets the same
/// successor again.
#[utoipa::path(
    post,
    path = "/api/v1/auth/refresh",
    tag = "auth",
    request_body = RefreshRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokens),
        (status = 400, description = "The field is missing or wrong, or another is unknown", body = Failure),
        (status = 401, description = "The refresh token is not, or no longer, valid: log in again", body = Failure),
        (status = 403, description = "Nothing is left of what the tokens were narrowed to, or a page of a foreign origin", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 429, description = "Too many failures, or too many connections from this address", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        (status = 503, description = "Cannot be decided now", body = Failure),
    )
)]
pub(super) async fn refresh_token(
    State(doors): State<Doors>,
    Caller(context): Caller,
    body: Body,
) -> Result<Json<Tokens>, Failure> {
    let mut fields = body::fields(body, doors.body_timeout).await?;
    let request = wire::RefreshTokenRequest {
        refresh_token: fields.text("refresh_token", MAX_TOKEN_BYTES)?,
        context: Some(context),
    };
    fields.finish()?;
    let issued = doors.auth_service.refresh(&request).await?;
    Ok(Json(issued.into()))
}

/// End a token and what goes with it
///
/// Possession is the authority. What is unknown, expired or revoked already is
/// answered like what was revoked now (in the spirit of RFC 7009).
#[utoipa::path(
    post,
    path = "/api/v1/auth/revoke",
    tag = "auth",
    request_body = RevokeRequest,
    responses(
        (status = 200, description = "It is good for nothing, now or before", body = Revoked),
        (status = 400, description = "A field is missing, wrong or unknown", body = Failure),
        (status = 403, description = "A page of a foreign origin", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 429, description = "Too many failures, or too many connections from this address", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        (status = 503, description = "Cannot be revoked now; it may be good still", body = Failure),
    )
)]
pub(super) async fn revoke_token(
    State(doors): State<Doors>,
    Caller(context): Caller,
    body: Body,
) -> Result<Json<Revoked>, Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    let request = wire::RevokeRequest {
        context: Some(context),
        held: Some(held(fields)?),
    };
    match doors.auth_service.revoke(&request).await {
        Ok(()) => Ok(Json(Revoked {})),
        Err(declined)
            if matches!(
                declined.complaint.code,
                ErrorCode::AuthFailed | ErrorCode::NotFound
            ) =>
        {
            Ok(Json(Revoked {}))
        }
        Err(declined) => Err(declined.into()),
    }
}

fn asked(mut fields: Fields) -> Result<wire::IssueTokenRequest, Complaint> {
    let by_password = fields.has("username") || fields.has("password");
    if by_password && fields.has("api_key") {
        return Err(Complaint::field(
            "api_key",
            "an API key, or a username and a password, and not both",
        ));
    }
    let mut request = wire::IssueTokenRequest::default();
    if by_password {
        request.username = fields.text("username", MAX_NAME_BYTES)?;
        request.password = fields.text("password", MAX_PASSWORD_BYTES)?;
    } else {
        request.api_key = fields.text("api_key", MAX_TOKEN_BYTES)?;
    }
    request.ttl_seconds = fields
        .optional_integer("ttl", 1..=MAX_TTL_SECONDS)?
        .unwrap_or(0);
    request.projects = fields.optional_texts("projects")?.unwrap_or_default();
    request.agent_id = fields.optional_id("agent_id")?.unwrap_or_default();
    fields.finish()?;
    Ok(request)
}

fn held(mut fields: Fields) -> Result<Held, Complaint> {
    let refresh_token = fields.optional_text("refresh_token", MAX_TOKEN_BYTES)?;
    let token = fields.optional_text("token", MAX_TOKEN_BYTES)?;
    let held = match (refresh_token, token) {
        (Some(token), None) => Held::RefreshToken(token),
        // Answering this with 200 would leave a good key behind.
        (None, Some(token)) if token.starts_with(API_KEY_PREFIX) => {
            return Err(Complaint::field(
                "token",
                "an access token or a refresh token; API keys are revoked by administrators",
            ));
        }
        (None, Some(token)) if token.contains('.') => Held::AccessToken(token),
        (None, Some(token)) => Held::RefreshToken(token),
        _ => {
            return Err(Complaint::field(
                "token",
                "an access token or a refresh token, or the latter as `refresh_token`",
            ));
        }
    };
    fields.finish()?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text).unwrap()
    }

    #[test]
    fn tokens_are_asked_for_with_a_key_or_a_password() {
        let by_key = asked(fields(r#"{"api_key":"k","ttl":5}"#)).unwrap();
        assert_eq!((by_key.api_key.as_str(), by_key.ttl_seconds), ("k", 5));
        let by_password = asked(fields(r#"{"username":"a","password":"p"}"#)).unwrap();
        assert_eq!(by_password.username, "a");
        for (text, field) in [
            ("{}", "api_key"),
            (r#"{"api_key":"k","password":"p"}"#, "api_key"),
            (r#"{"username":"a"}"#, "password"),
            (r#"{"password":"p"}"#, "username"),
            (r#"{"api_key":5}"#, "api_key"),
            (r#"{"api_key":"k","ttl":0}"#, "ttl"),
            (r#"{"api_key":"k","projects":"x"}"#, "projects"),
            (r#"{"api_key":"k","project":["x"]}"#, "project"),
        ] {
            let complaint = asked(fields(text)).unwrap_err();
            assert_eq!(complaint.field.as_deref(), Some(field), "{text}");
        }
    }

    #[test]
    fn what_is_held_is_told_apart_by_its_form() {
        let of = |text| held(fields(text)).map_err(|complaint| complaint.field);
        let refresh = Held::RefreshToken("r".to_owned());
        assert_eq!(of(r#"{"refresh_token":"r"}"#), Ok(refresh.clone()));
        assert_eq!(of(r#"{"token":"r"}"#), Ok(refresh));
        let access = Held::AccessToken("a.b.c".to_owned());
        assert_eq!(of(r#"{"token":"a.b.c"}"#), Ok(access));
        for text in [
            "{}",
            r#"{"token":"sbk_a_b"}"#,
            r#"{"token":"a.b.c","refresh_token":"r"}"#,
        ] {
            assert_eq!(of(text), Err(Some("token".to_owned())), "{text}");
        }
    }
}

//! From a request to a WebSocket of a dialect, or to a sentence that says
//! where it is.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_transport::upgrade::{self, UpgradeRejection};

use super::answers::UpgradeAnswers;
use super::failure::Failure;
use super::{Arrival, Doors, Visitor};

/// Dialect `threat`: JSON over WebSocket
///
/// A credential may come with the request or in the first frame.
#[utoipa::path(
    get,
    path = "/v1/ws",
    tag = "websocket",
    params(("token" = Option<String>, Query, description = "An access token; API keys are not taken from URLs")),
    security((), ("bearer" = []), ("api_key" = [])),
    responses(UpgradeAnswers)
)]
pub(super) async fn threat(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Response {
    enter(Dialect::Threat, &doors, visitor, request).unwrap_or_else(IntoResponse::into_response)
}

/// Dialect `mesh`: JSON over WebSocket
///
/// The credential must come with the request; without a good one the
/// connection is closed with code 1008 and the reason.
#[utoipa::path(
    get,
    path = "/api/v1/ws",
    tag = "websocket",
    params(("token" = Option<String>, Query, description = "An access token; API keys are not taken from URLs")),
    security((), ("bearer" = []), ("api_key" = [])),
    responses(UpgradeAnswers)
)]
pub(super) async fn mesh(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Response {
    enter(Dialect::Mesh, &doors, visitor, request).unwrap_or_else(IntoResponse::into_response)
}

/// Dialect `fleet`: JSON over WebSocket, for dashboards and agents
///
/// The credential must come with the request; without a good one the
/// connection is closed with code 1008 and the reason. The cookie `token` is
/// read here and nowhere else, from pages of allowed origins.
#[utoipa::path(
    get,
    path = "/ws",
    tag = "websocket",
    params(("token" = Option<String>, Query, description = "An access token; API keys are not taken from URLs")),
    security((), ("bearer" = []), ("api_key" = [])),
    responses(UpgradeAnswers)
)]
pub(super) async fn fleet(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Response {
    enter(Dialect::Fleet, &doors, visitor, request).unwrap_or_else(IntoResponse::into_response)
}

/// Takes a connection in as a WebSocket of `dialect`.
fn enter(
    dialect: Dialect,
    doors: &Doors,
    visitor: Visitor,
    mut request: Request,
) -> Result<Response, Failure> {
    if !doors.dialects.contains(&dialect) {
        return Err(unserved(request.uri().path(), &doors.dialects));
    }
    // A browser cannot read why an upgrade was refused, so a bad credential is
    // told on the connection.
    let mut credential = credential(request.headers(), request.uri());
    if dialect == Dialect::Fleet && credential == Ok(None) {
        credential = in_cookie(request.headers());
    }
    let (response, pending) = match upgrade::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(rejection) => return Ok(rejected(rejection, dialect, &doors.dialects)),
    };
    let arrival = Arrival {
        upgrade: pending,
        visitor,
        dialect,
        credential,
    };
    match doors.arrivals.try_send(arrival) {
        Ok(()) => Ok(response.map(Body::new)),
        Err(_) => Err(Failure::plain(
            ErrorCode::ConnectionFailed,
            "too many connections are arriving, try again",
        )),
    }
}

/// The answer to a handshake that is none. A plain request gets to know what
/// to do instead, which the standard's own words do not say.
fn rejected(
    rejection: UpgradeRejection,
    dialect: Dialect,
    dialects: &BTreeSet<Dialect>,
) -> Response {
    let mut sentence = format!("dialect {dialect}: {rejection}");
    if rejection == UpgradeRejection::NotUpgrade {
        sentence = format!("dialect {dialect} is served here, to WebSocket clients only");
        if dialect == Dialect::Fleet
            && let Some(also) = socket_io(dialects)
        {
            sentence = format!("{sentence}; {also}");
        }
    }
    let head = rejection.response().into_parts().0;
    Response::from_parts(head, Body::from(sentence))
}

/// Where the Socket.IO dialects of a listener are, if it has any.
fn socket_io(dialects: &BTreeSet<Dialect>) -> Option<String> {
    let names: Vec<&str> = [Dialect::Pipeline, Dialect::Workspace]
        .into_iter()
        .filter(|dialect| dialects.contains(dialect))
        .map(Dialect::name)
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "Socket.IO clients of {} connect at path /socket.io/ to namespace /ws",
            names.join(" and ")
        )
    })
}

/// The credential that came with an upgrade request: in a header, or
/// `?token=` for tokens.
fn credential(headers: &HeaderMap, uri: &Uri) -> Result<Option<String>, Complaint> {
    if let Some(credential) = in_headers(headers)? {
        return Ok(Some(credential));
    }
    let query = uri.query().unwrap_or_default();
    let token = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
    match token {
        // URLs end up in logs and histories; a key would live on there.
        Some((_, token)) if token.starts_with(signalbox_identity::API_KEY_PREFIX) => {
            Err(Complaint::plain(
                ErrorCode::AuthFailed,
                "API keys are not accepted in URLs, exchange them for a token",
            ))
        }
        Some((_, token)) => Ok(Some(token.into_owned())),
        None => Ok(None),
    }
}

/// The credential in `Authorization: Bearer` or `X-API-Key`.
pub(super) fn in_headers(headers: &HeaderMap) -> Result<Option<String>, Complaint> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text(header::AUTHORIZATION.as_str()) {
        return match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Some(token.trim().to_owned()))
            }
            _ => Err(Complaint::plain(
                ErrorCode::AuthFailed,
                "expected Authorization: Bearer",
            )),
        };
    }
    Ok(text("x-api-key").map(str::to_owned))
}

/// The credential in the cookie `token`. A browser sends it whoever made the
/// page: only with an origin, which is checked before, is it known to be meant.
fn in_cookie(headers: &HeaderMap) -> Result<Option<String>, Complaint> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let token = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == "token")
        .map(|(_, token)| token.trim_matches('"').to_owned());
    match token {
        Some(_) if !headers.contains_key(header::ORIGIN) => Err(Complaint::plain(
            ErrorCode::AuthFailed,
            "the cookie is read with an Origin only",
        )),
        token => Ok(token),
    }
}

/// Everything else.
pub(super) async fn nowhere(State(doors): State<Doors>, uri: Uri) -> Failure {
    unserved(uri.path(), &doors.dialects)
}

/// Says what is at `path` on other listeners, or that nothing is.
pub(super) fn unserved(path: &str, dialects: &BTreeSet<Dialect>) -> Failure {
    let not_here = |dialect: &str| format!("dialect {dialect} is not served on this port");
    let sentence = match path {
        "/v1/ws" => not_here("threat"),
        "/api/v1/ws" => not_here("mesh"),
        "/ws" => match socket_io(dialects) {
            Some(instead) => format!("{}; {instead}", not_here("fleet")),
            None => not_here("fleet"),
        },
        path if path == "/socket.io" || path.starts_with("/socket.io/") => socket_io(dialects)
            .unwrap_or_else(|| {
                "dialects pipeline and workspace are not served on this port".to_owned()
            }),
        _ => "nothing is served at this path".to_owned(),
    };
    Failure::plain(ErrorCode::NotFound, &sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_needs_an_origin() {
        let with = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            in_cookie(&headers)
        };
        let origin = ("origin", "http://a.example");
        let token = Ok(Some("a.b.c".to_owned()));
        assert_eq!(with(&[origin]), Ok(None));
        assert_eq!(with(&[origin, ("cookie", "x=1; token=a.b.c")]), token);
        assert_eq!(
            with(&[origin, ("cookie", "x=1"), ("cookie", "token=a.b.c")]),
            token
        );
        assert_eq!(with(&[origin, ("cookie", "xtoken=1; tokens=2")]), Ok(None));
        assert!(with(&[("cookie", "token=a.b.c")]).is_err());
    }

    #[test]
    fn credentials_come_in_headers_and_tokens_in_urls_too() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let none = HeaderMap::new();
        let found = |headers: &HeaderMap, text: &str| credential(headers, &uri(text));
        assert_eq!(found(&none, "/v1/ws"), Ok(None));
        let token = Ok(Some("a.b.c".to_owned()));
        assert_eq!(found(&none, "/v1/ws?x=1&token=a%2eb.c"), token);
        assert_eq!(found(&with("authorization", "bearer  a.b.c"), "/"), token);
        assert_eq!(found(&with("x-api-key", "a.b.c"), "/?token=other"), token);
        for (headers, text) in [
            (none.clone(), "/?token=sbk_id_secret"),
            (with("authorization", "Basic YTpi"), "/"),
            (with("authorization", "a.b.c"), "/"),
        ] {
            assert_eq!(
                found(&headers, text).unwrap_err().code,
                ErrorCode::AuthFailed
            );
        }
    }
}

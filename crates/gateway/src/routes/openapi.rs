//! The OpenAPI document of the REST endpoints: made from the descriptions of
//! their handlers, served by the gateway itself.

use axum::Extension;
use axum::http::{HeaderName, header};
use bytes::Bytes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Described};
use utoipa::{Modify, OpenApi};

use super::failure::Failure;

/// What all endpoints have in common.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Signalbox",
        description = "REST endpoints of the gateway. Events are received over WebSocket.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "auth", description = "Tokens and the keys that sign them. An `X-Request-Id` is given back, or a new one"),
        (name = "admin", description = "Keys, users and the end of either, for administrators"),
        (name = "events", description = "Publishing events"),
        (name = "websocket", description = "Receiving events"),
        (name = "about", description = "This document"),
    ),
    modifiers(&Credentials)
)]
struct Frame;

/// The ways to present a credential.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut Described) {
        let components = document.components.get_or_insert_with(Components::new);
        let bearer = SecurityScheme::Http(
            Http::builder()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("An access token or an API key"))
                .build(),
        );
        let key = ApiKeyValue::with_description("X-API-Key", "An API key or an access token");
        components.add_security_scheme("bearer", bearer);
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
}

/// The document without paths.
pub(super) fn frame() -> Described {
    Frame::openapi()
}

/// The finished document.
#[derive(Clone, Debug)]
pub(super) struct Document(Bytes);

impl Document {
    /// # Panics
    /// Never: the document has only text keys.
    pub(super) fn new(document: &Described) -> Self {
        let text = document
            .to_json()
            .expect("an OpenAPI document can be written as JSON");
        Self(text.into())
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "about",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object),
        (status = 403, description = "A page of a foreign origin", body = Failure),
    )
)]
pub(super) async fn document(
    Extension(document): Extension<Document>,
) -> ([(HeaderName, &'static str); 1], Bytes) {
    ([(header::CONTENT_TYPE, "application/json")], document.0)
}

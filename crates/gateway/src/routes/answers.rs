//! Answers that several endpoints share, as the OpenAPI document tells them.

use std::collections::BTreeMap;

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

use super::failure::Failure;

/// How requests of administrators are refused.
pub(super) enum AdminRefusals {}

impl IntoResponses for AdminRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([
            failure(401, "The credential is missing or not valid"),
            failure(403, "Not an administrator, or a page of a foreign origin"),
            failure(
                429,
                "Too many failures, or too many connections from this address",
            ),
            failure(503, "Cannot be done now"),
        ])
    }
}

/// What becomes of a request for a WebSocket.
pub(super) enum UpgradeAnswers {}

impl IntoResponses for UpgradeAnswers {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let upgraded = Response::new("The connection is a WebSocket now");
        BTreeMap::from([
            ("101".to_owned(), upgraded.into()),
            text(400, "The handshake is wrong"),
            failure(403, "A page of a foreign origin"),
            failure(404, "The dialect is not served on this port"),
            text(426, "The request asks for no WebSocket"),
            failure(429, "Too many connections from this address"),
            failure(503, "Too many connections"),
        ])
    }
}

fn failure(status: u16, description: &str) -> (String, RefOr<Response>) {
    let schema = Ref::from_schema_name(Failure::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", content);
    (status.to_string(), response.build().into())
}

fn text(status: u16, description: &str) -> (String, RefOr<Response>) {
    let schema = Object::with_type(Type::String);
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("text/plain", content);
    (status.to_string(), response.build().into())
}

//! Who sends a request: where it is from, and whom its credential stands for.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use signalbox_identity::{Permission, Principal};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::{ErrorCode, wire};
use tracing::debug;

use super::failure::Failure;
use super::request_id::RequestId;
use super::{Doors, Visitor, upgrade};
use crate::authority::Refusal;

/// Where a request is from, for the counts and the audit log of the auth
/// service.
pub(super) struct Caller(pub(super) wire::RequestContext);

impl FromRequestParts<Doors> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(head: &mut Parts, doors: &Doors) -> Result<Self, Failure> {
        // Else the client would wait for an answer that nobody can give.
        present(doors)?;
        Ok(Self(context(head)?))
    }
}

/// An administrator, recognised before anything else of a request is looked at.
pub(super) struct Administrator {
    /// What the auth service is to recognise it by once more: it knows at once
    /// what was revoked.
    pub(super) credential: String,
    pub(super) context: wire::RequestContext,
}

impl FromRequestParts<Doors> for Administrator {
    type Rejection = Failure;

    async fn from_request_parts(head: &mut Parts, doors: &Doors) -> Result<Self, Failure> {
        let visitor = visitor(head)?;
        let credential = credential(&head.headers)?;
        let principal = authenticate(doors, &visitor, &credential).await?;
        if !principal.permissions.contains(Permission::Admin) {
            let sentence = format!("the permission {} is needed", Permission::Admin);
            return Err(Failure::plain(ErrorCode::Forbidden, &sentence));
        }
        Ok(Self {
            credential,
            context: context(head)?,
        })
    }
}

/// The credential of a request that needs one.
///
/// # Errors
/// What to tell the client when there is none.
pub(super) fn credential(headers: &HeaderMap) -> Result<String, Complaint> {
    upgrade::in_headers(headers)?.ok_or_else(|| {
        Complaint::plain(
            ErrorCode::AuthFailed,
            "expected Authorization: Bearer or X-API-Key",
        )
    })
}

/// Finds out whom a credential stands for.
///
/// # Errors
/// What to tell the client.
pub(super) async fn authenticate(
    doors: &Doors,
    visitor: &Visitor,
    credential: &str,
) -> Result<Principal, Complaint> {
    // The credential might have been revoked meanwhile.
    present(doors)?;
    match doors.authority.authenticate(credential).await {
        Ok(principal) => {
            visitor.ticket.authenticated();
            Ok(principal)
        }
        Err(Refusal::Invalid(sentence)) => {
            debug!(peer = %visitor.peer, "credential refused");
            Err(Complaint::plain(ErrorCode::AuthFailed, sentence))
        }
        Err(Refusal::Unavailable) => Err(Complaint::plain(
            ErrorCode::Unavailable,
            "credentials cannot be checked now, try again",
        )),
    }
}

/// Refuses while the bus is away.
fn present(doors: &Doors) -> Result<(), Complaint> {
    match *doors.bus_present.borrow() {
        true => Ok(()),
        false => Err(Complaint::plain(
            ErrorCode::Unavailable,
            "the bus is out of reach, try again",
        )),
    }
}

fn visitor(head: &Parts) -> Result<Visitor, Failure> {
    let found = head.extensions.get::<Visitor>().cloned();
    found.ok_or_else(|| Failure::plain(ErrorCode::Internal, "internal error"))
}

fn context(head: &Parts) -> Result<wire::RequestContext, Failure> {
    let id = head.extensions.get::<RequestId>().cloned();
    Ok(wire::RequestContext {
        peer_address: visitor(head)?.peer.ip().to_string(),
        request_id: id.map(RequestId::into_text).unwrap_or_default(),
        // No connection of HTTP is one that lasts.
        connection_id: String::new(),
    })
}

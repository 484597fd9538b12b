//! Administration over HTTP: keys, users, tokens and the table of roles. Every
//! handler takes an [`Administrator`] before it reads anything else; the auth
//! service recognises the credential once more, does what is asked for and
//! writes the audit log.

pub(super) mod keys;
pub(super) mod users;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use signalbox_identity::Role;
use signalbox_protocol::frame::fields::{Complaint, Fields};
use signalbox_protocol::name::MAX_NAME_BYTES;
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target};
use signalbox_protocol::{ErrorCode, name};
use utoipa::ToSchema;

use super::Doors;
use super::answers::AdminRefusals;
use super::caller::Administrator;
use super::failure::Failure;
use crate::auth_service::Declined;

/// The most entries of one listing.
const MAX_PAGE: u32 = 1_000;
/// The longest name for people, in bytes.
const MAX_PERSON_NAME_BYTES: usize = 256;
/// The highest limit that may be set.
const MAX_LIMIT: u32 = 1_000_000_000;

/// What each role may do.
#[derive(Serialize, ToSchema)]
pub(super) struct Roles {
    roles: Vec<RoleInfo>,
}

/// What one role may do.
#[derive(Serialize, ToSchema)]
struct RoleInfo {
    #[schema(example = "viewer")]
    role: &'static str,
    /// `publish:*` stands for all domains.
    permissions: Vec<String>,
}

/// The roles and what each may do
#[utoipa::path(
    get,
    path = "/api/v1/admin/roles",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    responses(
        (status = 200, description = "All roles", body = Roles),
        (status = 401, description = "The credential is missing or not valid", body = Failure),
        (status = 403, description = "Not an administrator, or a page of a foreign origin", body = Failure),
        (status = 503, description = "Cannot be decided now", body = Failure),
    )
)]
pub(super) async fn list_roles(_: Administrator) -> Json<Roles> {
    let roles = Role::ALL.into_iter().map(|role| RoleInfo {
        role: role.as_str(),
        permissions: role.permissions().words().collect(),
    });
    Json(Roles {
        roles: roles.collect(),
    })
}

/// End an access token
///
/// By its `jti`, which the audit log names. Done as well where there is none.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/tokens/{token_id}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("token_id" = String, Path, description = "The token's `jti`")),
    responses(
        (status = 204, description = "It is good for nothing any more"),
        (status = 400, description = "Not an id", body = Failure),
        AdminRefusals,
    )
)]
pub(super) async fn revoke_token(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    revoke(&doors, admin, revocation_target::Target::TokenId(id)).await
}

/// End all tokens since a login
///
/// By the `sid` of one of them, which the audit log calls the family.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/families/{family_id}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("family_id" = String, Path, description = "The `sid` of the tokens")),
    responses(
        (status = 204, description = "They are good for nothing any more"),
        (status = 400, description = "Not an id", body = Failure),
        (status = 404, description = "No such family, or it has expired", body = Failure),
        AdminRefusals,
    )
)]
pub(super) async fn revoke_family(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    revoke(&doors, admin, revocation_target::Target::FamilyId(id)).await
}

async fn revoke(
    doors: &Doors,
    admin: Administrator,
    target: revocation_target::Target,
) -> Result<StatusCode, Failure> {
    let target = wire::RevocationTarget {
        target: Some(target),
    };
    match manage(doors, admin, Operation::Revoke(target)).await? {
        Outcome::Done(_) => Ok(StatusCode::NO_CONTENT),
        other => Err(unexpected(&other)),
    }
}

/// Has one thing done by the auth service.
async fn manage(
    doors: &Doors,
    admin: Administrator,
    operation: Operation,
) -> Result<Outcome, Declined> {
    let request = wire::ManageRequest {
        context: Some(admin.context),
        credential: admin.credential,
        actor: String::new(),
        operation: Some(operation),
    };
    doors.auth_service.manage(&request).await
}

/// An outcome that is none of what was asked for: a version that we do not know.
fn unexpected(_: &Outcome) -> Failure {
    Failure::plain(ErrorCode::Internal, "internal error")
}

/// Which part of a list is asked for.
struct Page {
    after: String,
    limit: u32,
}

impl Page {
    /// Reads `after` and `limit`.
    ///
    /// # Errors
    /// Names the parameter that is wrong or unknown.
    fn read(query: &str) -> Result<Self, Complaint> {
        let mut page = Self {
            after: String::new(),
            limit: 0,
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "after" if value.len() <= MAX_NAME_BYTES => page.after = value.into_owned(),
                "after" => {
                    let expected = format!("at most {MAX_NAME_BYTES} bytes");
                    return Err(Complaint::field("after", &expected));
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
                    page.limit = limit.ok_or_else(|| {
                        let expected = format!("a whole number from 1 to {MAX_PAGE}");
                        Complaint::field("limit", &expected)
                    })?;
                }
                unknown => return Err(Complaint::field(unknown, "no such parameter")),
            }
        }
        Ok(page)
    }
}

/// Reads a list of projects, which may be empty.
fn projects(fields: &mut Fields) -> Result<Option<Vec<String>>, Complaint> {
    if fields.has_empty_list("projects") {
        fields.optional_texts("projects").ok();
        return Ok(Some(Vec::new()));
    }
    let projects = fields.optional_texts("projects")?;
    match projects.iter().flatten().all(|one| name::is_valid(one)) {
        true => Ok(projects),
        false => Err(Complaint::field(
            "projects",
            "names of 1 to 128 bytes without white space",
        )),
    }
}

/// Reads a limit.
fn limit(fields: &mut Fields, field: &str) -> Result<Option<u32>, Complaint> {
    fields.optional_integer(field, 1..=MAX_LIMIT)
}

/// The path of an entry, for `Location`: what has a meaning in URLs is encoded.
fn location(collection: &str, id: &str) -> String {
    let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/admin/{collection}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_by_name_and_number() {
        let page = Page::read("after=a%2Fb&limit=7").unwrap();
        assert_eq!((page.after.as_str(), page.limit), ("a/b", 7));
        assert_eq!(Page::read("").unwrap().limit, 0);
        let long = format!("after={}", "x".repeat(129));
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("offset=1", "offset"),
            (long.as_str(), "after"),
        ] {
            let complaint = Page::read(query).err().unwrap();
            assert_eq!(complaint.field.as_deref(), Some(field), "{query}");
        }
    }

    #[test]
    fn projects_may_be_taken_away() {
        let read = |text| projects(&mut Fields::parse(text).unwrap());
        assert_eq!(read(r#"{"projects":[]}"#), Ok(Some(Vec::new())));
        assert_eq!(read("{}"), Ok(None));
        for text in [r#"{"projects":["a b"]}"#, r#"{"projects":[5]}"#] {
            assert_eq!(read(text).unwrap_err().field.as_deref(), Some("projects"));
        }
    }

    #[test]
    fn locations_are_one_segment() {
        assert_eq!(location("users", "a/b?"), "/api/v1/admin/users/a%2Fb%3F");
    }
}

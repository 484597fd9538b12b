//! API keys: list, make, look at, change, revoke.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use signalbox_protocol::frame::fields::{Complaint, Fields};
use signalbox_protocol::name::MAX_NAME_BYTES;
use signalbox_protocol::wire;
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::revocation_target::Target;
use utoipa::ToSchema;

use super::{MAX_PERSON_NAME_BYTES, Page};
use crate::routes::answers::AdminRefusals;
use crate::routes::caller::Administrator;
use crate::routes::failure::Failure;
use crate::routes::{Doors, body};

/// An API key that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewKey {
    /// admin, operator, analyst, viewer, agent or producer.
    #[schema(example = "viewer")]
    role: String,
    /// What people call it; absent, its id.
    name: Option<String>,
    /// The user or system that it acts as; absent, `key:` and its id.
    subject: Option<String>,
    /// The projects that it has access to.
    projects: Option<Vec<String>>,
    /// The agent that it speaks for.
    agent_id: Option<String>,
    /// Absent, the usual limit.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    messages_per_minute: Option<u32>,
    /// Absent, the usual limit.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    agent_chats_per_hour: Option<u32>,
}

/// What is to be changed of an API key; what is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct KeyChange {
    role: Option<String>,
    name: Option<String>,
    /// All of them; an empty list takes all away.
    projects: Option<Vec<String>>,
    /// `null` takes the agent away.
    agent_id: Option<String>,
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    messages_per_minute: Option<u32>,
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    agent_chats_per_hour: Option<u32>,
}

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Key {
    id: String,
    name: String,
    role: String,
    /// The user or system that it acts as.
    subject: String,
    projects: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    messages_per_minute: u32,
    agent_chats_per_hour: u32,
    #[schema(format = DateTime)]
    created_at: String,
    /// Revoked keys stay in the list.
    revoked: bool,
}

impl From<wire::Key> for Key {
    fn from(key: wire::Key) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role,
            subject: key.subject,
            projects: key.projects,
            agent_id: Some(key.agent_id).filter(|id| !id.is_empty()),
            messages_per_minute: key.messages_per_minute,
            agent_chats_per_hour: key.agent_chats_per_hour,
            created_at: key.created_at,
            revoked: key.revoked,
        }
    }
}

/// A part of the API keys, in the order of their ids.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Keys {
    keys: Vec<Key>,
    /// What to give as `after` for the next part; absent in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// An API key that was made.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct CreatedKey {
    key: Key,
    /// The key itself. It is told here and never again.
    api_key: String,
}

/// List API keys
#[utoipa::path(
    get,
    path = "/api/v1/admin/keys",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("after" = Option<String>, Query, description = "Only ids behind this one"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; absent, 1000"),
    ),
    responses(
        (status = 200, description = "A part of the keys", body = Keys),
        (status = 400, description = "A parameter is wrong or unknown", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn list_keys(
    State(doors): State<Doors>,
    admin: Administrator,
    RawQuery(query): RawQuery,
) -> Result<Json<Keys>, Failure> {
    let Page { after, limit } = Page::read(&query.unwrap_or_default())?;
    let operation = Operation::ListKeys(wire::ListKeys { after, limit });
    match super::manage(&doors, admin, operation).await? {
        Outcome::Keys(found) => {
            let keys: Vec<Key> = found.keys.into_iter().map(Key::from).collect();
            let last = keys.last().map(|key| key.id.clone());
            Ok(Json(Keys {
                keys,
                next: last.filter(|_| found.more),
            }))
        }
        other => Err(super::unexpected(&other)),
    }
}

/// Make an API key
///
/// The answer is the only place where the key itself is ever told.
#[utoipa::path(
    post,
    path = "/api/v1/admin/keys",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    request_body = NewKey,
    responses(
        (status = 201, description = "The key", body = CreatedKey, headers(("Location" = String, description = "Where it can be looked at"))),
        (status = 400, description = "A field is missing, wrong or unknown", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn create_key(
    State(doors): State<Doors>,
    admin: Administrator,
    body: Body,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<CreatedKey>), Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    let operation = Operation::CreateKey(new_key(fields)?);
    match super::manage(&doors, admin, operation).await? {
        Outcome::CreatedKey(made) => {
            let key = Key::from(made.key.unwrap_or_default());
            let location = [(header::LOCATION, super::location("keys", &key.id))];
            let api_key = made.api_key;
            Ok((
                StatusCode::CREATED,
                location,
                Json(CreatedKey { key, api_key }),
            ))
        }
        other => Err(super::unexpected(&other)),
    }
}

/// Look at an API key
#[utoipa::path(
    get,
    path = "/api/v1/admin/keys/{id}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "Its id, the part between the underscores")),
    responses(
        (status = 200, description = "The key, without its secret", body = Key),
        (status = 400, description = "The path is not text", body = Failure),
        (status = 404, description = "No such key", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn show_key(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(id): Path<String>,
) -> Result<Json<Key>, Failure> {
    one(&doors, admin, Operation::GetKey(wire::GetKey { id })).await
}

/// Change an API key
///
/// The next token has it; what an open connection loses it loses at once.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/keys/{id}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "Its id, the part between the underscores")),
    request_body = KeyChange,
    responses(
        (status = 200, description = "What has become of it", body = Key),
        (status = 400, description = "A field is wrong or unknown", body = Failure),
        (status = 404, description = "No such key, or it is revoked", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn change_key(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Key>, Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    one(&doors, admin, Operation::ChangeKey(change(id, fields)?)).await
}

/// Revoke an API key
///
/// Ends all tokens that were issued for it. It stays in the list, as revoked.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/keys/{id}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "Its id, the part between the underscores")),
    responses(
        (status = 204, description = "It is good for nothing any more"),
        (status = 400, description = "The path is not text", body = Failure),
        (status = 404, description = "No such key", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn revoke_key(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    super::revoke(&doors, admin, Target::KeyId(id)).await
}

/// Does what is answered with one key.
async fn one(
    doors: &Doors,
    admin: Administrator,
    operation: Operation,
) -> Result<Json<Key>, Failure> {
    match super::manage(doors, admin, operation).await? {
        Outcome::Key(key) => Ok(Json(key.into())),
        other => Err(super::unexpected(&other)),
    }
}

fn new_key(mut fields: Fields) -> Result<wire::CreateKey, Complaint> {
    let asked = wire::CreateKey {
        role: fields.text("role", MAX_NAME_BYTES)?,
        name: fields
            .optional_text("name", MAX_PERSON_NAME_BYTES)?
            .unwrap_or_default(),
        subject: fields.optional_id("subject")?.unwrap_or_default(),
        projects: super::projects(&mut fields)?.unwrap_or_default(),
        agent_id: fields.optional_id("agent_id")?.unwrap_or_default(),
        messages_per_minute: super::limit(&mut fields, "messages_per_minute")?.unwrap_or(0),
        agent_chats_per_hour: super::limit(&mut fields, "agent_chats_per_hour")?.unwrap_or(0),
    };
    fields.finish()?;
    Ok(asked)
}

fn change(id: String, mut fields: Fields) -> Result<wire::ChangeKey, Complaint> {
    let no_agent = fields.has_null("agent_id");
    let agent_id = fields.optional_id("agent_id")?;
    let asked = wire::ChangeKey {
        id,
        role: fields.optional_text("role", MAX_NAME_BYTES)?,
        name: fields.optional_text("name", MAX_PERSON_NAME_BYTES)?,
        projects: super::projects(&mut fields)?.map(|names| wire::Names { names }),
        agent_id: agent_id.or(no_agent.then(String::new)),
        messages_per_minute: super::limit(&mut fields, "messages_per_minute")?,
        agent_chats_per_hour: super::limit(&mut fields, "agent_chats_per_hour")?,
    };
    fields.finish()?;
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_unchanged_and_null_takes_the_agent_away() {
        let read = |text| change("k".to_owned(), Fields::parse(text).unwrap()).unwrap();
        let unchanged = read("{}");
        assert_eq!((unchanged.agent_id, unchanged.projects), (None, None));
        let emptied = read(r#"{"agent_id":null,"projects":[]}"#);
        assert_eq!(emptied.agent_id.as_deref(), Some(""));
        assert_eq!(emptied.projects, Some(wire::Names::default()));
        let set = read(r#"{"agent_id":"a-1"}"#);
        assert_eq!(set.agent_id.as_deref(), Some("a-1"));
    }
}

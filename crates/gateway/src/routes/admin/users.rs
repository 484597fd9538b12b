//! Users: list, make, look at, change, give a password, log out, delete.

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
use crate::routes::auth::MAX_PASSWORD_BYTES;
use crate::routes::caller::Administrator;
use crate::routes::failure::Failure;
use crate::routes::{Doors, body};

/// A user that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewUser {
    /// The login, and the `sub` of the user's tokens; without `|` and `:`.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[^\s|:]+$")]
    username: String,
    /// At least 12 characters.
    #[schema(min_length = 12, max_length = 1024)]
    password: String,
    /// admin, operator, analyst, viewer or producer.
    #[schema(example = "analyst")]
    role: String,
    /// The name shown to people; absent, the username.
    name: Option<String>,
    /// The projects that the user has access to.
    projects: Option<Vec<String>>,
    /// Absent, the usual limit.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    messages_per_minute: Option<u32>,
    /// Absent, the usual limit.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    agent_chats_per_hour: Option<u32>,
}

/// What is to be changed of a user; what is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct UserChange {
    role: Option<String>,
    name: Option<String>,
    /// All of them; an empty list takes all away.
    projects: Option<Vec<String>>,
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    messages_per_minute: Option<u32>,
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    agent_chats_per_hour: Option<u32>,
    /// Whether the user is kept out; `true` ends all tokens.
    disabled: Option<bool>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewPassword {
    /// At least 12 characters.
    #[schema(min_length = 12, max_length = 1024)]
    password: String,
}

/// A user, without the password.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct User {
    username: String,
    name: String,
    role: String,
    projects: Vec<String>,
    messages_per_minute: u32,
    agent_chats_per_hour: u32,
    disabled: bool,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<wire::User> for User {
    fn from(user: wire::User) -> Self {
        Self {
            username: user.username,
            name: user.name,
            role: user.role,
            projects: user.projects,
            messages_per_minute: user.messages_per_minute,
            agent_chats_per_hour: user.agent_chats_per_hour,
            disabled: user.disabled,
            created_at: user.created_at,
        }
    }
}

/// A part of the users, in the order in which they are kept.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Users {
    users: Vec<User>,
    /// What to give as `after` for the next part; absent in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// List users
#[utoipa::path(
    get,
    path = "/api/v1/admin/users",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("after" = Option<String>, Query, description = "Only users behind this one"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; absent, 1000"),
    ),
    responses(
        (status = 200, description = "A part of the users", body = Users),
        (status = 400, description = "A parameter is wrong or unknown", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn list_users(
    State(doors): State<Doors>,
    admin: Administrator,
    RawQuery(query): RawQuery,
) -> Result<Json<Users>, Failure> {
    let Page { after, limit } = Page::read(&query.unwrap_or_default())?;
    let operation = Operation::ListUsers(wire::ListUsers { after, limit });
    match super::manage(&doors, admin, operation).await? {
        Outcome::Users(found) => {
            let users: Vec<User> = found.users.into_iter().map(User::from).collect();
            let last = users.last().map(|user| user.username.clone());
            Ok(Json(Users {
                users,
                next: last.filter(|_| found.more),
            }))
        }
        other => Err(super::unexpected(&other)),
    }
}

/// Make a user
#[utoipa::path(
    post,
    path = "/api/v1/admin/users",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    request_body = NewUser,
    responses(
        (status = 201, description = "The user", body = User, headers(("Location" = String, description = "Where it can be looked at"))),
        (status = 400, description = "A field is missing, wrong or unknown", body = Failure),
        (status = 409, description = "There is a user of this name", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn create_user(
    State(doors): State<Doors>,
    admin: Administrator,
    body: Body,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<User>), Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    let Json(user) = one(&doors, admin, Operation::CreateUser(new_user(fields)?)).await?;
    let location = [(header::LOCATION, super::location("users", &user.username))];
    Ok((StatusCode::CREATED, location, Json(user)))
}

/// Look at a user
#[utoipa::path(
    get,
    path = "/api/v1/admin/users/{username}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("username" = String, Path, description = "The login")),
    responses(
        (status = 200, description = "The user, without the password", body = User),
        (status = 400, description = "Not a name of users", body = Failure),
        (status = 404, description = "No such user", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn show_user(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(username): Path<String>,
) -> Result<Json<User>, Failure> {
    one(
        &doors,
        admin,
        Operation::GetUser(wire::GetUser { username }),
    )
    .await
}

/// Change a user
///
/// The next token has it; what an open connection loses it loses at once.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/users/{username}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("username" = String, Path, description = "The login")),
    request_body = UserChange,
    responses(
        (status = 200, description = "What has become of the user", body = User),
        (status = 400, description = "A field is wrong or unknown", body = Failure),
        (status = 404, description = "No such user", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn change_user(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(username): Path<String>,
    body: Body,
) -> Result<Json<User>, Failure> {
    let fields = body::fields(body, doors.body_timeout).await?;
    let change = change(username, fields)?;
    one(&doors, admin, Operation::ChangeUser(change)).await
}

/// Give a user another password
///
/// Ends all tokens of the user.
#[utoipa::path(
    put,
    path = "/api/v1/admin/users/{username}/password",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("username" = String, Path, description = "The login")),
    request_body = NewPassword,
    responses(
        (status = 204, description = "The password is in force"),
        (status = 400, description = "A field is missing, wrong or unknown", body = Failure),
        (status = 404, description = "No such user", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn set_password(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(username): Path<String>,
    body: Body,
) -> Result<StatusCode, Failure> {
    let mut fields = body::fields(body, doors.body_timeout).await?;
    let password = fields.text("password", MAX_PASSWORD_BYTES)?;
    fields.finish()?;
    let change = wire::ChangeUser {
        username,
        password: Some(password),
        ..wire::ChangeUser::default()
    };
    let Json(_) = one(&doors, admin, Operation::ChangeUser(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Log a user out everywhere
///
/// Ends all that acts as this subject: the tokens of the user, of here or of an
/// external issuer, and the API keys with this subject. Done as well where
/// there is nothing.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/users/{username}/tokens",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("username" = String, Path, description = "The login, or the `sub` of an external user")),
    responses(
        (status = 204, description = "They are good for nothing any more"),
        (status = 400, description = "Not a name of users", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn log_out(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(username): Path<String>,
) -> Result<StatusCode, Failure> {
    super::revoke(&doors, admin, Target::Subject(username)).await
}

/// Delete a user
///
/// Ends all tokens of the user and forgets the password.
#[utoipa::path(
    delete,
    path = "/api/v1/admin/users/{username}",
    tag = "admin",
    security(("bearer" = []), ("api_key" = [])),
    params(("username" = String, Path, description = "The login")),
    responses(
        (status = 204, description = "There is no such user any more"),
        (status = 400, description = "Not a name of users", body = Failure),
        (status = 404, description = "No such user", body = Failure),
        AdminRefusals,
    )
)]
pub(in crate::routes) async fn delete_user(
    State(doors): State<Doors>,
    admin: Administrator,
    Path(username): Path<String>,
) -> Result<StatusCode, Failure> {
    let operation = Operation::DeleteUser(wire::DeleteUser { username });
    match super::manage(&doors, admin, operation).await? {
        Outcome::Done(_) => Ok(StatusCode::NO_CONTENT),
        other => Err(super::unexpected(&other)),
    }
}

/// Does what is answered with one user.
async fn one(
    doors: &Doors,
    admin: Administrator,
    operation: Operation,
) -> Result<Json<User>, Failure> {
    match super::manage(doors, admin, operation).await? {
        Outcome::User(user) => Ok(Json(user.into())),
        other => Err(super::unexpected(&other)),
    }
}

fn new_user(mut fields: Fields) -> Result<wire::CreateUser, Complaint> {
    let asked = wire::CreateUser {
        username: fields.id("username")?,
        password: fields.text("password", MAX_PASSWORD_BYTES)?,
        role: fields.text("role", MAX_NAME_BYTES)?,
        name: fields
            .optional_text("name", MAX_PERSON_NAME_BYTES)?
            .unwrap_or_default(),
        projects: super::projects(&mut fields)?.unwrap_or_default(),
        messages_per_minute: super::limit(&mut fields, "messages_per_minute")?.unwrap_or(0),
        agent_chats_per_hour: super::limit(&mut fields, "agent_chats_per_hour")?.unwrap_or(0),
    };
    fields.finish()?;
    Ok(asked)
}

fn change(username: String, mut fields: Fields) -> Result<wire::ChangeUser, Complaint> {
    let asked = wire::ChangeUser {
        username,
        password: None,
        role: fields.optional_text("role", MAX_NAME_BYTES)?,
        name: fields.optional_text("name", MAX_PERSON_NAME_BYTES)?,
        projects: super::projects(&mut fields)?.map(|names| wire::Names { names }),
        messages_per_minute: super::limit(&mut fields, "messages_per_minute")?,
        agent_chats_per_hour: super::limit(&mut fields, "agent_chats_per_hour")?,
        disabled: fields.optional_flag("disabled")?,
    };
    fields.finish()?;
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_changed_in_passing() {
        let fields = Fields::parse(r#"{"password":"correct horse battery"}"#).unwrap();
        let complaint = change("ada".to_owned(), fields).unwrap_err();
        assert_eq!(complaint.field.as_deref(), Some("password"));
    }
}

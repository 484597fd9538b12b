//! What administrators ask for: keys, users, and the end of either.

use std::sync::Arc;

use signalbox_identity::{
    AgentId, ApiKey, ApiKeyId, ApiKeyRecord, CredentialId, FamilyId, Limits, Role, Target, UserId,
};
use signalbox_protocol::name;
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::info;

use crate::AUDIT;
use crate::api_keys::ApiKeys;
use crate::rejection::Rejection;
use crate::revoker::{self, Revoker};
use crate::sessions::Sessions;
use crate::users::{self, UserRecord, Users};

/// Entries of one listing.
const MAX_PAGE: usize = 1_000;
/// Projects of one key or user.
const MAX_PROJECTS: usize = 1_000;
/// The longest name for people, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Does what administrators ask for.
pub(crate) struct Manager {
    api_keys: Arc<ApiKeys>,
    users: Arc<Users>,
    revoker: Arc<Revoker>,
    sessions: Arc<Sessions>,
}

impl Manager {
    pub(crate) fn new(
        api_keys: Arc<ApiKeys>,
        users: Arc<Users>,
        revoker: Arc<Revoker>,
        sessions: Arc<Sessions>,
    ) -> Self {
        Self {
            api_keys,
            users,
            revoker,
            sessions,
        }
    }

    /// Does one thing for `actor`, who is known to be an administrator.
    ///
    /// # Errors
    /// What is wrong with it, or that the bus does not answer: what was changed
    /// before that stays, and to ask again does the rest.
    pub(crate) async fn operate(
        &self,
        operation: Operation,
        actor: &str,
    ) -> Result<Outcome, Rejection> {
        match operation {
            Operation::CreateKey(asked) => self.create_key(asked, actor).await,
            Operation::ListKeys(asked) => {
                let limit = page_size(asked.limit);
                let (records, more) = self.api_keys.page(&asked.after, limit).await?;
                let keys = records.iter().map(key_info).collect();
                Ok(Outcome::Keys(wire::Keys { keys, more }))
            }
            Operation::ChangeKey(asked) => self.change_key(asked, actor).await,
            Operation::GetKey(asked) => {
                let found = self.api_keys.find(&key_id(&asked.id)?).await?;
                let record = found.ok_or(Rejection::NotFound("key"))?;
                Ok(Outcome::Key(key_info(&record)))
            }
            Operation::CreateUser(asked) => self.create_user(asked, actor).await,
            Operation::ListUsers(asked) => {
                let limit = page_size(asked.limit);
                let (records, more) = self.users.page(&asked.after, limit).await?;
                let users = records.iter().map(user_info).collect();
                Ok(Outcome::Users(wire::Users { users, more }))
            }
            Operation::ChangeUser(asked) => self.change_user(asked, actor).await,
            Operation::GetUser(asked) => {
                let username = users::username(&asked.username)?;
                let found = self.users.find(&username).await?;
                let record = found.filter(UserRecord::exists);
                let record = record.ok_or(Rejection::NotFound("user"))?;
                Ok(Outcome::User(user_info(&record)))
            }
            Operation::DeleteUser(asked) => {
                let username = users::username(&asked.username)?;
                let now = OffsetDateTime::now_utc();
                let deleted = self.users.change(&username, |record| {
                    record.password = None;
                    record.not_before = revoker::cut(now, record.not_before);
                    Ok(())
                });
                let deleted = deleted.await;
                // Also where it is gone already: the entry may be missing.
                self.revoker.announce_user(&username).await?;
                deleted?;
                info!(target: AUDIT, actor, user = %username, "user deleted");
                Ok(done())
            }
            Operation::Revoke(asked) => {
                self.revoke(asked, actor).await?;
                Ok(done())
            }
        }
    }

    async fn create_key(&self, asked: wire::CreateKey, actor: &str) -> Result<Outcome, Rejection> {
        let key = ApiKey::generate();
        let subject = match asked.subject.as_str() {
            "" => format!("key:{}", key.id()),
            subject => subject.to_owned(),
        };
        let record = ApiKeyRecord {
            id: key.id().clone(),
            hash: key.hash(),
            role: role(&asked.role)?,
            name: person_name(asked.name, key.id().as_str())?,
            subject: UserId::new(subject).map_err(|_| Rejection::NotAName("subject"))?,
            projects: projects(asked.projects)?,
            agent_id: agent(asked.agent_id)?,
            limits: limits(asked.messages_per_minute, asked.agent_chats_per_hour),
            created_at: OffsetDateTime::now_utc(),
            revoked: false,
        };
        self.api_keys.add(&record).await?;
        info!(
            target: AUDIT, actor, key = %record.id, role = %record.role,
            subject = %record.subject, "API key created"
        );
        Ok(Outcome::CreatedKey(wire::CreatedKey {
            key: Some(key_info(&record)),
            api_key: key.expose().expose().to_owned(),
        }))
    }

    async fn change_key(&self, asked: wire::ChangeKey, actor: &str) -> Result<Outcome, Rejection> {
        let id = key_id(&asked.id)?;
        let role = asked.role.as_deref().map(role).transpose()?;
        let name = asked.name.map(|name| person_name(name, &asked.id));
        let name = name.transpose()?;
        let projects = asked
            .projects
            .map(|list| projects(list.names))
            .transpose()?;
        let agent_id = asked.agent_id.map(agent).transpose()?;
        let record = self.api_keys.change(&id, |record| {
            if record.revoked {
                return Err(Rejection::NotFound("key"));
            }
            set(&mut record.role, role);
            set(&mut record.name, name.clone());
            set(&mut record.projects, projects.clone());
            set(&mut record.agent_id, agent_id.clone());
            let limits = &mut record.limits;
            set_limit(&mut limits.messages_per_minute, asked.messages_per_minute);
            set_limit(&mut limits.agent_chats_per_hour, asked.agent_chats_per_hour);
            Ok(())
        });
        let record = record.await?;
        self.revoker.announce_key(&id).await?;
        info!(target: AUDIT, actor, key = %id, role = %record.role, projects = ?record.projects,
            "API key changed");
        Ok(Outcome::Key(key_info(&record)))
    }

    async fn create_user(
        &self,
        asked: wire::CreateUser,
        actor: &str,
    ) -> Result<Outcome, Rejection> {
        let username = users::username(&asked.username)?;
        let now = OffsetDateTime::now_utc();
        let record = UserRecord {
            name: person_name(asked.name, username.as_str())?,
            role: user_role(&asked.role)?,
            projects: projects(asked.projects)?,
            limits: limits(asked.messages_per_minute, asked.agent_chats_per_hour),
            password: Some(self.users.hash(asked.password).await?),
            disabled: false,
            created_at: now,
            not_before: OffsetDateTime::UNIX_EPOCH,
            username,
        };
        let record = self.users.add(record).await?;
        info!(target: AUDIT, actor, user = %record.username, role = %record.role, "user created");
        Ok(Outcome::User(user_info(&record)))
    }

    async fn change_user(
        &self,
        asked: wire::ChangeUser,
        actor: &str,
    ) -> Result<Outcome, Rejection> {
        let username = users::username(&asked.username)?;
        let role = asked.role.as_deref().map(user_role).transpose()?;
        let name = asked.name.map(|name| person_name(name, username.as_str()));
        let name = name.transpose()?;
        let projects = asked
            .projects
            .map(|list| projects(list.names))
            .transpose()?;
        let password = match asked.password {
            Some(password) => Some(self.users.hash(password).await?),
            None => None,
        };
        let now = OffsetDateTime::now_utc();
        let ends_tokens = password.is_some() || asked.disabled == Some(true);
        let record = self.users.change(&username, |record| {
            set(&mut record.role, role);
            set(&mut record.name, name.clone());
            set(&mut record.projects, projects.clone());
            set(&mut record.disabled, asked.disabled);
            let limits = &mut record.limits;
            set_limit(&mut limits.messages_per_minute, asked.messages_per_minute);
            set_limit(&mut limits.agent_chats_per_hour, asked.agent_chats_per_hour);
            if let Some(password) = &password {
                record.password = Some(password.clone());
            }
            if ends_tokens {
                record.not_before = revoker::cut(now, record.not_before);
            }
            Ok(())
        });
        let record = record.await?;
        self.revoker.announce_user(&username).await?;
        info!(
            target: AUDIT, actor, user = %username, role = %record.role,
            projects = ?record.projects, disabled = record.disabled,
            password = password.is_some(), "user changed"
        );
        Ok(Outcome::User(user_info(&record)))
    }

    async fn revoke(&self, asked: wire::RevocationTarget, actor: &str) -> Result<(), Rejection> {
        use revocation_target::Target as Asked;

        let missing = Rejection::Unfit {
            field: "target",
            expected: "a key, a token, a family or a subject",
        };
        match asked.target.ok_or(missing)? {
            Asked::KeyId(id) => self.revoke_key(&key_id(&id)?, actor).await,
            Asked::TokenId(id) => {
                let id = CredentialId::new(id).map_err(|_| Rejection::NotAName("token_id"))?;
                self.revoker.end(&Target::Token(id.clone())).await?;
                info!(target: AUDIT, actor, token = %id, "token revoked");
                Ok(())
            }
            Asked::FamilyId(id) => {
                let id = FamilyId::new(id).map_err(|_| Rejection::NotAName("family_id"))?;
                self.sessions.revoke(&id).await?;
                info!(target: AUDIT, actor, family = %id, "family revoked");
                Ok(())
            }
            Asked::Subject(subject) => {
                let subject = UserId::new(subject).map_err(|_| Rejection::NotAName("subject"))?;
                self.end_tokens_of(&subject, actor).await?;
                for id in self.api_keys.of_subject(&subject).await? {
                    self.revoke_key(&id, actor).await?;
                }
                Ok(())
            }
        }
    }

    /// Ends all tokens of a user, of here or of an external issuer.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`]; to be tried again.
    pub(crate) async fn end_tokens_of(
        &self,
        subject: &UserId,
        actor: &str,
    ) -> Result<(), Rejection> {
        let now = OffsetDateTime::now_utc();
        let changed = self.users.change(subject, |record| {
            record.not_before = revoker::cut(now, record.not_before);
            Ok(())
        });
        match changed.await {
            Ok(_) => self.revoker.announce_user(subject).await?,
            // An external one, of whom nothing is kept here.
            Err(Rejection::NotFound(_)) => {
                self.revoker.end(&Target::User(subject.clone())).await?;
            }
            Err(other) => return Err(other),
        }
        info!(target: AUDIT, actor, subject = %subject, "all tokens revoked");
        Ok(())
    }

    async fn revoke_key(&self, id: &ApiKeyId, actor: &str) -> Result<(), Rejection> {
        let revoked = self.api_keys.change(id, |record| {
            record.revoked = true;
            Ok(())
        });
        revoked.await?;
        self.revoker.announce_key(id).await?;
        info!(target: AUDIT, actor, key = %id, "API key revoked");
        Ok(())
    }
}

fn done() -> Outcome {
    Outcome::Done(wire::Done {})
}

fn page_size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(asked @ 1..=MAX_PAGE) => asked,
        _ => MAX_PAGE,
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Sets a limit; 0 stands for the usual one, as when a key is made.
fn set_limit(field: &mut u32, value: Option<u32>) {
    set(field, value.filter(|value| *value > 0));
}

fn role(word: &str) -> Result<Role, Rejection> {
    word.parse().map_err(|_| Rejection::Unfit {
        field: "role",
        expected: "admin, operator, analyst, viewer, agent or producer",
    })
}

/// The role of a user, who is a person and no agent.
fn user_role(word: &str) -> Result<Role, Rejection> {
    let of_people = |found: &Role| *found != Role::Agent;
    role(word).ok().filter(of_people).ok_or(Rejection::Unfit {
        field: "role",
        expected: "admin, operator, analyst, viewer or producer",
    })
}

fn person_name(name: String, fallback: &str) -> Result<String, Rejection> {
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Rejection::Unfit {
            field: "name",
            expected: "at most 256 bytes without control characters",
        });
    }
    Ok(Some(name)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| fallback.to_owned()))
}

fn projects(names: Vec<String>) -> Result<Vec<String>, Rejection> {
    if names.len() > MAX_PROJECTS {
        return Err(Rejection::Unfit {
            field: "projects",
            expected: "at most 1000",
        });
    }
    match names.iter().all(|project| name::is_valid(project)) {
        true => Ok(names),
        false => Err(Rejection::NotAName("projects")),
    }
}

fn agent(id: String) -> Result<Option<AgentId>, Rejection> {
    match id.is_empty() {
        true => Ok(None),
        false => AgentId::new(id)
            .map(Some)
            .map_err(|_| Rejection::NotAName("agent_id")),
    }
}

fn limits(messages_per_minute: u32, agent_chats_per_hour: u32) -> Limits {
    let mut limits = Limits::default();
    set_limit(&mut limits.messages_per_minute, Some(messages_per_minute));
    set_limit(&mut limits.agent_chats_per_hour, Some(agent_chats_per_hour));
    limits
}

/// Reads a key's id. One that is none is answered as an unknown one.
fn key_id(text: &str) -> Result<ApiKeyId, Rejection> {
    ApiKeyId::parse(text).map_err(|_| Rejection::NotFound("key"))
}

fn key_info(record: &ApiKeyRecord) -> wire::Key {
    wire::Key {
        id: record.id.to_string(),
        name: record.name.clone(),
        role: record.role.to_string(),
        subject: record.subject.to_string(),
        projects: record.projects.clone(),
        agent_id: record
            .agent_id
            .as_ref()
            .map(AgentId::to_string)
            .unwrap_or_default(),
        messages_per_minute: record.limits.messages_per_minute,
        agent_chats_per_hour: record.limits.agent_chats_per_hour,
        created_at: rfc3339(record.created_at),
        revoked: record.revoked,
    }
}

fn user_info(record: &UserRecord) -> wire::User {
    wire::User {
        username: record.username.to_string(),
        name: record.name.clone(),
        role: record.role.to_string(),
        projects: record.projects.clone(),
        messages_per_minute: record.limits.messages_per_minute,
        agent_chats_per_hour: record.limits.agent_chats_per_hour,
        disabled: record.disabled,
        created_at: rfc3339(record.created_at),
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    let at = at.replace_millisecond(at.millisecond()).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

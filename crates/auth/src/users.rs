//! The records of users on the bus, and their passwords.

use serde::{Deserialize, Serialize};
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{CredentialId, Grant, Limits, Origin, Principal, Role, Secret, UserId};
use time::OffsetDateTime;

use crate::password::{Passwords, StoredPassword};
use crate::rejection::Rejection;
use crate::revoker::Standing;
use crate::table::{Change, Table};

/// Characters that no username has: they mark the subjects of external issuers
/// and of API keys.
const RESERVED: [char; 2] = ['|', ':'];

/// What is kept of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    /// The login and the subject of tokens.
    pub(crate) username: UserId,
    /// The name shown to people.
    pub(crate) name: String,
    /// What the user may do.
    pub(crate) role: Role,
    /// The user's projects.
    #[serde(default)]
    pub(crate) projects: Vec<String>,
    /// How much the user may send.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// The password; none once the user is deleted.
    pub(crate) password: Option<StoredPassword>,
    /// Whether the user is kept out for now.
    #[serde(default)]
    pub(crate) disabled: bool,
    /// When the user was made.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
    /// Tokens and lines of tokens from before this moment have ended. It stays
    /// when the user is deleted, so that one of the same name inherits nothing.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) not_before: OffsetDateTime,
}

impl UserRecord {
    /// Whether there is such a user, deleted ones aside.
    pub(crate) fn exists(&self) -> bool {
        self.password.is_some()
    }

    fn principal(self) -> Principal {
        let credential = CredentialId::new(self.username.as_str());
        Principal {
            credential: credential.expect("usernames and credentials are both ids"),
            subject: self.username,
            name: self.name,
            role: Some(self.role),
            permissions: self.role.permissions(),
            projects: self.projects,
            agent_id: None,
            limits: self.limits,
            expires_at: None,
            origin: Origin::default(),
        }
    }
}

/// A user who is let in.
pub(crate) struct Admitted {
    /// Who it is; the credential is replaced by a token's.
    pub(crate) principal: Principal,
    /// Tokens must not be dated before this moment.
    pub(crate) not_before: OffsetDateTime,
}

/// All users.
pub(crate) struct Users {
    table: Table<UserRecord>,
    passwords: Passwords,
}

impl Users {
    /// Opens the records.
    ///
    /// # Errors
    /// When the bucket does not exist or the bus does not answer.
    pub(crate) async fn open(bus: &Bus, passwords: Passwords) -> Result<Self, BusError> {
        Ok(Self {
            table: Table::open(bus, key::USERS).await?,
            passwords,
        })
    }

    /// Finds out who logs in. All refusals take as long as a success.
    ///
    /// # Errors
    /// [`Rejection::BadLogin`], or that nobody can tell now.
    pub(crate) async fn authenticate(
        &self,
        username: &UserId,
        password: Secret,
    ) -> Result<Admitted, Rejection> {
        let record = self.find(username).await?;
        let stored = record.as_ref().and_then(|record| record.password.clone());
        let known = stored.is_some();
        let right = self.passwords.verify(password, stored).await?;
        match record {
            Some(record) if right && !record.disabled => Ok(Admitted {
                not_before: record.not_before,
                principal: record.principal(),
            }),
            Some(_) if right => Err(Rejection::BadLogin("disabled user")),
            _ if known => Err(Rejection::BadLogin("wrong password")),
            _ => Err(Rejection::BadLogin("unknown user")),
        }
    }

    /// Who a user is that logged in at the time `since`; `None` when that has
    /// ended.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn principal(
        &self,
        username: &UserId,
        since: OffsetDateTime,
    ) -> Result<Option<Principal>, Rejection> {
        let record = self.find(username).await?;
        let admitted =
            |record: &UserRecord| record.exists() && !record.disabled && since >= record.not_before;
        Ok(record.filter(admitted).map(UserRecord::principal))
    }

    /// What holds of a user now.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn standing(&self, username: &UserId) -> Result<Standing, Rejection> {
        Ok(match self.find(username).await? {
            None => Standing::Gone,
            Some(record) => Standing::Since(
                record.not_before,
                Grant {
                    role: record.role,
                    projects: record.projects,
                    agent_id: None,
                    limits: record.limits,
                },
            ),
        })
    }

    /// Hashes a password for a record.
    ///
    /// # Errors
    /// When it is unfit, or too many wait.
    pub(crate) async fn hash(&self, password: String) -> Result<StoredPassword, Rejection> {
        self.passwords.hash(Secret::new(password)).await
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`Rejection::Taken`] when there is one of this name.
    pub(crate) async fn add(&self, record: UserRecord) -> Result<UserRecord, Rejection> {
        let key = key::user(record.username.as_str());
        self.table
            .change(&key, |found| {
                let mut record = record.clone();
                if let Some(found) = found {
                    if found.exists() {
                        return Err(Rejection::Taken("username"));
                    }
                    record.not_before = found.not_before;
                }
                Ok(Change::Write(record.clone(), record))
            })
            .await
    }

    /// Changes a user, and returns what has become of it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`], [`Rejection::Unavailable`], or what `change`
    /// refuses with.
    pub(crate) async fn change(
        &self,
        username: &UserId,
        mut change: impl FnMut(&mut UserRecord) -> Result<(), Rejection>,
    ) -> Result<UserRecord, Rejection> {
        let key = key::user(username.as_str());
        self.table
            .change(&key, |found| {
                let found = found.filter(UserRecord::exists);
                let mut record = found.ok_or(Rejection::NotFound("user"))?;
                change(&mut record)?;
                Ok(Change::Write(record.clone(), record))
            })
            .await
    }

    /// The users behind the name `after`, at most `limit`, and whether there
    /// are more.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn page(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<UserRecord>, bool), Rejection> {
        let after = key::user(after);
        self.table.page(&after, limit, UserRecord::exists).await
    }

    /// The record of a user, also of one that was deleted.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn find(&self, username: &UserId) -> Result<Option<UserRecord>, Rejection> {
        let key = key::user(username.as_str());
        Ok(self.table.read(&key).await?.record)
    }
}

/// Reads the name of a user.
///
/// # Errors
/// When no user can have it.
pub(crate) fn username(text: &str) -> Result<UserId, Rejection> {
    if text.contains(RESERVED) {
        return Err(Rejection::Unfit {
            field: "username",
            expected: "a name without `|` and `:`",
        });
    }
    UserId::new(text).map_err(|_| Rejection::NotAName("username"))
}

//! Access tokens and the lines of refresh tokens that they are issued along.

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{
    ApiKey, Claims, FamilyId, KeySet, Principal, Secret, Target, UserId, VerifyError,
};
use signalbox_protocol::wire;
use time::OffsetDateTime;

use crate::api_keys::ApiKeys;
use crate::config::Options;
use crate::family::{Family, Narrowing, Presented, RefreshToken, Source};
use crate::grant::{self, Terms};
use crate::keys::Keys;
use crate::rejection::Rejection;
use crate::revoker::Revoker;
use crate::table::{Table, WriteError};
use crate::users::Users;

/// How often a refresh is tried that others keep getting ahead of.
const ATTEMPTS: usize = 8;

/// What was issued, for the answer and the audit log.
pub(crate) struct Issued {
    /// What the access token says.
    pub(crate) claims: Claims,
    /// The key that signed it.
    pub(crate) kid: String,
    /// The answer.
    pub(crate) tokens: wire::IssuedToken,
}

/// Issues and refreshes tokens.
pub(crate) struct Sessions {
    api_keys: Arc<ApiKeys>,
    users: Arc<Users>,
    revoker: Arc<Revoker>,
    keys: Arc<Keys>,
    families: Table<Family>,
    terms: Terms,
    refresh_ttl: Duration,
    grace: Duration,
}

impl Sessions {
    /// Opens what is kept of the lines.
    ///
    /// # Errors
    /// When the bucket does not exist or the bus does not answer.
    pub(crate) async fn open(
        bus: &Bus,
        options: &Options,
        api_keys: Arc<ApiKeys>,
        users: Arc<Users>,
        revoker: Arc<Revoker>,
        keys: Arc<Keys>,
    ) -> Result<Self, BusError> {
        Ok(Self {
            api_keys,
            users,
            revoker,
            keys,
            families: Table::open(bus, key::REFRESH_FAMILIES).await?,
            terms: Terms::from(options),
            refresh_ttl: options.refresh_ttl,
            grace: options.refresh_grace,
        })
    }

    /// Exchanges an API key for the first tokens of a line.
    ///
    /// # Errors
    /// What is wrong with the key, or what it does not grant.
    pub(crate) async fn begin_with_key(
        &self,
        key: &ApiKey,
        request: wire::IssueTokenRequest,
    ) -> Result<Issued, Rejection> {
        let now = OffsetDateTime::now_utc();
        let principal = self.api_keys.authenticate(key).await?;
        let source = Source::Key(key.id().clone());
        self.begin(source, principal, request, now).await
    }

    /// Exchanges a password for the first tokens of a line.
    ///
    /// # Errors
    /// That it is wrong, or what the user is not granted.
    pub(crate) async fn begin_with_password(
        &self,
        username: UserId,
        mut request: wire::IssueTokenRequest,
    ) -> Result<Issued, Rejection> {
        // Before the record is read: a token that is issued while the user's are
        // being revoked must be dated before that.
        let now = OffsetDateTime::now_utc();
        let password = Secret::new(std::mem::take(&mut request.password));
        let admitted = self.users.authenticate(&username, password).await?;
        let now = now.max(admitted.not_before);
        let source = Source::User(username);
        self.begin(source, admitted.principal, request, now).await
    }

    async fn begin(
        &self,
        source: Source,
        principal: Principal,
        request: wire::IssueTokenRequest,
        now: OffsetDateTime,
    ) -> Result<Issued, Rejection> {
        let asked_for = request.projects.clone();
        let asks_for_agent = !request.agent_id.is_empty();
        let principal = grant::narrow(principal, request.projects, request.agent_id)?;
        let narrowing = Narrowing {
            projects: asked_for,
            agent_id: principal.agent_id.clone().filter(|_| asks_for_agent),
            ttl_seconds: request.ttl_seconds,
        };
        let (family, token) = Family::begin(source, narrowing, now, self.refresh_ttl);
        let issued = self.issue(&principal, &family, &token, now)?;
        let lifetime = Some(family.remaining(now));
        let stored = self
            .families
            .write(family.id.as_str(), &family, 0, lifetime);
        stored.await.map_err(|_| Rejection::Unavailable)?;
        Ok(issued)
    }

    /// Exchanges a refresh token for the next pair. One that was consumed by
    /// someone else ends its line.
    ///
    /// # Errors
    /// What is wrong with the token, or with what the line was begun with.
    pub(crate) async fn refresh(
        &self,
        token: &RefreshToken,
        connection: Option<&str>,
    ) -> Result<Issued, Rejection> {
        for _ in 0..ATTEMPTS {
            let now = OffsetDateTime::now_utc();
            let slot = self.families.read(token.family().as_str()).await?;
            let family = slot.record.ok_or(Rejection::BadRefresh("unknown family"))?;
            let presented = family.present(token, connection, now, self.grace);
            let (next, successor) = match presented {
                Presented::Current(next, successor) => (Some(*next), successor),
                Presented::Again(successor) => (None, successor),
                Presented::Foreign => return Err(Rejection::BadRefresh("made up")),
                Presented::Ended => return Err(Rejection::BadRefresh("ended family")),
                Presented::Reused => {
                    self.revoke(token.family()).await?;
                    return Err(Rejection::BadRefresh("used again, family revoked"));
                }
            };
            let principal = self.principal_of(&family).await?;
            let principal = principal.ok_or(Rejection::BadRefresh("its key or user has ended"))?;
            let principal = grant::narrow_again(principal, &family.narrowing)?;
            let now = now.max(family.started_at);
            let issued = self.issue(&principal, &family, &successor, now)?;
            let Some(next) = next else {
                return Ok(issued);
            };
            let (id, lifetime) = (next.id.as_str(), Some(next.remaining(now)));
            match self
                .families
                .write(id, &next, slot.revision, lifetime)
                .await
            {
                Ok(()) => return Ok(issued),
                // Another replica consumed it, or the family was revoked.
                Err(WriteError::Outdated) => {}
                Err(WriteError::Failed) => return Err(Rejection::Unavailable),
            }
        }
        Err(Rejection::Unavailable)
    }

    /// Ends a line and the access tokens along it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] when there is none, [`Rejection::Unavailable`].
    pub(crate) async fn revoke(&self, id: &FamilyId) -> Result<(), Rejection> {
        for _ in 0..ATTEMPTS {
            let slot = self.families.read(id.as_str()).await?;
            let mut family = slot.record.ok_or(Rejection::NotFound("family"))?;
            if family.revoked {
                break;
            }
            family.revoked = true;
            let lifetime = Some(family.remaining(OffsetDateTime::now_utc()));
            let written = self
                .families
                .write(id.as_str(), &family, slot.revision, lifetime);
            match written.await {
                Ok(()) => break,
                Err(WriteError::Outdated) => {}
                Err(WriteError::Failed) => return Err(Rejection::Unavailable),
            }
        }
        // Again also where it is revoked already: the entry may be missing.
        self.revoker.end(&Target::Family(id.clone())).await
    }

    /// Ends the line of a refresh token that its holder presents.
    ///
    /// # Errors
    /// [`Rejection::BadRefresh`] when it is none, [`Rejection::Unavailable`].
    pub(crate) async fn revoke_presented(&self, token: &RefreshToken) -> Result<(), Rejection> {
        let slot = self.families.read(token.family().as_str()).await?;
        let family = slot.record.ok_or(Rejection::BadRefresh("unknown family"))?;
        let now = OffsetDateTime::now_utc();
        match family.present(token, None, now, self.grace) {
            Presented::Foreign => Err(Rejection::BadRefresh("made up")),
            _ => self.revoke(token.family()).await,
        }
    }

    /// Who holds an access token of ours, and what it says.
    ///
    /// # Errors
    /// [`Rejection::BadToken`], [`Rejection::Unavailable`].
    pub(crate) async fn verify(&self, token: &str) -> Result<Principal, Rejection> {
        let published = self.keys.published().await?;
        let keys: KeySet = published.into_iter().collect();
        let verified = keys.verify(token, &self.terms.expectations());
        let claims = verified.map_err(|error| match error {
            VerifyError::UnknownKey { .. } => Rejection::BadToken("unknown key".to_owned()),
            other => Rejection::BadToken(other.to_string()),
        })?;
        let left = self.revoker.judge(claims.principal()).await?;
        left.ok_or_else(|| Rejection::BadToken("revoked".to_owned()))
    }

    async fn principal_of(&self, family: &Family) -> Result<Option<Principal>, Rejection> {
        match &family.source {
            Source::Key(id) => self.api_keys.principal(id).await,
            Source::User(id) => self.users.principal(id, family.started_at).await,
        }
    }

    fn issue(
        &self,
        principal: &Principal,
        family: &Family,
        refresh: &RefreshToken,
        now: OffsetDateTime,
    ) -> Result<Issued, Rejection> {
        let id = Some(family.id.clone());
        let ttl = family.narrowing.ttl_seconds;
        let claims = self.terms.claims(principal, ttl, now, id);
        let keyring = self.keys.keyring();
        let signer = keyring.signer(OffsetDateTime::now_utc());
        let access = signer.sign(&claims)?;
        let lifetime = (claims.exp - claims.iat).whole_seconds();
        let remaining = family.remaining(now).as_secs();
        Ok(Issued {
            kid: signer.kid().to_owned(),
            tokens: wire::IssuedToken {
                access_token: access.expose().to_owned(),
                expires_in: u32::try_from(lifetime).unwrap_or(u32::MAX),
                refresh_token: refresh.expose().expose().to_owned(),
                refresh_expires_in: u32::try_from(remaining).unwrap_or(u32::MAX),
            },
            claims,
        })
    }
}

//! What no longer holds of credentials that are in use.
//!
//! The auth service writes one [`Revocation`] per target, as JSON, to the bucket
//! `revocations`; gateways watch it. The contract:
//!
//! - A gateway reads the whole bucket before it admits anyone, and again when
//!   its watch was interrupted, before it delivers on.
//! - It asks [`Revocations::judge`] about every principal that it authenticates,
//!   however it did, and [`Revocation::judge`] about every open connection when
//!   an entry comes. [`Verdict::Ended`] closes the connection,
//!   [`Verdict::Narrowed`] takes the place of its principal and ends the
//!   subscriptions that this one is no longer entitled to.
//! - An entry for [`Target::Key`] also ends what is remembered of that key.
//! - An entry only ever replaces an earlier one of its target and includes what
//!   that said. It goes when no credential is left that it could concern, so its
//!   deletion needs no action but [`Revocations::remove`].
//!
//! API keys live longer than entries; for them the auth service answers
//! [`Verdict::Ended`] in effect for ever. A gateway that was without the bucket
//! for longer than an entry lives asks it again about its open API keys.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::api_key::ApiKeyId;
use crate::permission::Permission;
use crate::principal::{AgentId, CredentialId, FamilyId, Limits, Principal, UserId};
use crate::role::Role;

/// What a revocation is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "lowercase")]
pub enum Target {
    /// An API key, and all tokens that were issued for it.
    Key(ApiKeyId),
    /// One access token, by its `jti`.
    Token(CredentialId),
    /// All access tokens along a line of refresh tokens.
    Family(FamilyId),
    /// All tokens of a user, of here or of an external issuer; not the API keys
    /// that act as the same subject, which are targets of their own.
    User(UserId),
}

impl Target {
    /// Whether the target covers `principal`.
    #[must_use]
    pub fn covers(&self, principal: &Principal) -> bool {
        let origin = &principal.origin;
        match self {
            Self::Key(id) => origin.key.as_ref() == Some(id),
            Self::Token(id) => principal.credential == *id,
            Self::Family(id) => origin.family.as_ref() == Some(id),
            Self::User(id) => origin.key.is_none() && principal.subject == *id,
        }
    }
}

/// The most that credentials of a target grant from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The projects.
    pub projects: Vec<String>,
    /// The agent that an API key speaks for; `None` = any, where its role is
    /// that of agents.
    #[serde(default)]
    pub agent_id: Option<AgentId>,
    /// How much may be sent.
    pub limits: Limits,
}

/// What no longer holds for a target; in JSON an entry of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Whom it concerns.
    pub target: Target,
    /// Credentials issued before this moment are no longer accepted. For all
    /// targets but users it is beyond any time of issue: those never come back.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_before: Option<OffsetDateTime>,
    /// What the others grant at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// When it was written, for people.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
    /// When nothing is left that it could concern.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// What is left of a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it.
    Untouched,
    /// It may do less, or send another amount.
    Narrowed(Box<Principal>),
    /// Nothing: its credential is no longer accepted.
    Ended,
}

impl Revocation {
    /// What is left of `principal`.
    ///
    /// A grant narrows and never widens: more than a credential said when it
    /// was issued comes with the next one. Limits alone go both ways.
    #[must_use]
    pub fn judge(&self, principal: &Principal) -> Verdict {
        if !self.target.covers(principal) {
            return Verdict::Untouched;
        }
        if self.ends(principal) {
            return Verdict::Ended;
        }
        match &self.grant {
            Some(grant) => match principal.narrowed(grant) {
                None => Verdict::Ended,
                Some(narrowed) if narrowed == *principal => Verdict::Untouched,
                Some(narrowed) => Verdict::Narrowed(Box::new(narrowed)),
            },
            None => Verdict::Untouched,
        }
    }

    /// Whether it ends a covered principal, going by the time of issue.
    fn ends(&self, principal: &Principal) -> bool {
        match (self.not_before, &self.target, principal.origin.issued_at) {
            (None, ..) => false,
            (Some(not_before), Target::User(_), Some(issued)) => issued < not_before,
            // The other targets never come back, and a credential of unknown age
            // is taken for an old one.
            (Some(_), ..) => true,
        }
    }
}

impl Principal {
    /// Whether `revocation` ends or narrows this principal.
    #[must_use]
    pub fn is_hit_by(&self, revocation: &Revocation) -> bool {
        revocation.judge(self) != Verdict::Untouched
    }

    /// What `grant` leaves; `None` when the principal speaks for an agent that
    /// the grant does not cover.
    fn narrowed(&self, grant: &Grant) -> Option<Self> {
        let administers = grant.role.permissions().contains(Permission::Admin);
        let any_agent = administers || (grant.role == Role::Agent && grant.agent_id.is_none());
        if self.agent_id.is_some() && !any_agent && self.agent_id != grant.agent_id {
            return None;
        }
        let permissions = self.permissions.intersection(grant.role.permissions());
        let role = match self.role {
            Some(role) if role == grant.role => role,
            // What agents may do follows from the role and not from permissions,
            // so there is no narrower one.
            None | Some(Role::Agent) => return None,
            Some(_) if grant.role == Role::Agent => return None,
            Some(role) if permissions == self.permissions => role,
            Some(_) => grant.role,
        };
        let mut projects = self.projects.clone();
        if !administers {
            projects.retain(|project| grant.projects.contains(project));
        }
        Some(Self {
            role: Some(role),
            permissions,
            projects,
            limits: grant.limits,
            ..self.clone()
        })
    }
}

/// All revocations that are in force, as a watcher of the bucket knows them.
#[derive(Clone, Debug, Default)]
pub struct Revocations(HashMap<Target, Revocation>);

impl Revocations {
    /// Takes an entry in, in place of the earlier one of its target.
    pub fn insert(&mut self, revocation: Revocation) {
        self.0.insert(revocation.target.clone(), revocation);
    }

    /// Forgets the entry of a target.
    pub fn remove(&mut self, target: &Target) {
        self.0.remove(target);
    }

    /// Forgets what can no longer concern anyone.
    pub fn prune(&mut self, now: OffsetDateTime) {
        self.0.retain(|_, revocation| revocation.expires_at > now);
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What all entries together leave of `principal`.
    #[must_use]
    pub fn judge(&self, principal: &Principal) -> Verdict {
        let mut narrowed: Option<Box<Principal>> = None;
        for target in principal.targets() {
            let Some(revocation) = self.0.get(&target) else {
                continue;
            };
            match revocation.judge(narrowed.as_deref().unwrap_or(principal)) {
                Verdict::Untouched => {}
                Verdict::Narrowed(less) => narrowed = Some(less),
                Verdict::Ended => return Verdict::Ended,
            }
        }
        narrowed.map_or(Verdict::Untouched, Verdict::Narrowed)
    }
}

impl FromIterator<Revocation> for Revocations {
    fn from_iter<I: IntoIterator<Item = Revocation>>(entries: I) -> Self {
        let mut all = Self::default();
        for entry in entries {
            all.insert(entry);
        }
        all
    }
}

impl Principal {
    /// All that a revocation could be aimed at to reach this principal.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let origin = &self.origin;
        let mut targets = vec![Target::Token(self.credential.clone())];
        targets.extend(origin.family.clone().map(Target::Family));
        targets.push(match &origin.key {
            Some(key) => Target::Key(key.clone()),
            None => Target::User(self.subject.clone()),
        });
        targets
    }
}

#[cfg(test)]
mod tests;

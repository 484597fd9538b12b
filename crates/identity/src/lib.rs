//! Who a connection is and what it may do: credentials, claims, roles,
//! permissions and the verification of tokens.
//!
//! The crate does no I/O: keys, records and tokens come in as values. It keeps
//! no state and decides nothing about users, sessions or revocation; the auth
//! service does.
//!
//! | module | holds |
//! |---|---|
//! | [`permission`] | the permissions, and sets of them |
//! | [`role`] | the one table from roles to permissions |
//! | [`principal`] | an authenticated party, its ids and limits |
//! | [`claims`] | the body of a token |
//! | [`signing`] | the private key that signs tokens |
//! | [`key_set`] | the public keys that verify them |
//! | [`signature`] | signatures beside what they sign |
//! | [`api_key`] | long-lived keys and the records kept of them |
//! | [`credential`] | which kind of credential a client presented |
//! | [`secret`] | text that must not be logged |
//! | [`external`] | tokens of external issuers |
//! | [`revocation`] | what no longer holds of a credential in use |
//! | [`wire`] | principals as services send them to each other |
//!
//! From an API key to a token, and back to the same principal:
//!
//! ```
//! use std::time::Duration;
//!
//! use signalbox_identity::{
//!     ApiKey, ApiKeyRecord, Claims, CredentialId, Expectations, Issuance, KeySet, Limits,
//!     Permission, Role, SigningKey, UserId,
//! };
//! use time::OffsetDateTime;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = ApiKey::generate();
//! let record = ApiKeyRecord {
//!     id: key.id().clone(),
//!     hash: key.hash(),
//!     role: Role::Analyst,
//!     name: "Night shift".to_owned(),
//!     subject: UserId::new("user-7")?,
//!     projects: vec!["apollo".to_owned()],
//!     agent_id: None,
//!     limits: Limits::default(),
//!     created_at: OffsetDateTime::now_utc(),
//!     revoked: false,
//! };
//!
//! let presented = ApiKey::parse(key.expose().expose())?;
//! let principal = record.authenticate(&presented).ok_or("refused")?;
//!
//! let signing = SigningKey::generate()?;
//! let claims = Claims::issue(
//!     &principal,
//!     Issuance {
//!         issuer: "signalbox".to_owned(),
//!         audience: "signalbox".to_owned(),
//!         id: CredentialId::new("token-1")?,
//!         issued_at: OffsetDateTime::now_utc(),
//!         lifetime: Duration::from_secs(15 * 60),
//!         family: None,
//!     },
//! );
//! let token = signing.sign(&claims)?;
//!
//! let keys = KeySet::from_iter([signing.public_key().clone()]);
//! let expected = Expectations {
//!     issuer: "signalbox".to_owned(),
//!     audience: "signalbox".to_owned(),
//!     leeway: Duration::from_secs(5),
//! };
//! let verified = keys.verify(token.expose(), &expected)?.principal();
//! assert_eq!(verified.subject, principal.subject);
//! assert!(verified.permissions.contains(Permission::ChatAgents));
//! # Ok(())
//! # }
//! ```

pub mod api_key;
pub mod claims;
pub mod credential;
pub mod external;
pub mod key_set;
pub mod permission;
pub mod principal;
pub mod revocation;
pub mod role;
pub mod secret;
pub mod signature;
pub mod signing;
pub mod wire;

pub use crate::api_key::PREFIX as API_KEY_PREFIX;
pub use crate::api_key::{ApiKey, ApiKeyHash, ApiKeyId, ApiKeyRecord, InvalidApiKey};
pub use crate::claims::{Audience, Claims, Issuance};
pub use crate::credential::{Credential, UnknownCredential};
pub use crate::external::{ExternalIssuer, ExternalVerifier, Trust};
pub use crate::key_set::{Expectations, Flaw, KeySet, PublicKey, VerifyError};
pub use crate::permission::{Permission, Permissions, UnknownPermission};
pub use crate::principal::{
    AgentId, CredentialId, FamilyId, InvalidId, Limits, Origin, Principal, UserId,
};
pub use crate::revocation::{Grant, Revocation, Revocations, Target, Verdict};
pub use crate::role::{Role, UnknownRole};
pub use crate::secret::Secret;
pub use crate::signature::{Signature, UnusablePem};
pub use crate::signing::{SigningError, SigningKey};

//! Credentials that the auth service gives to nobody.

use std::time::Duration;

use signalbox_identity::{
    Claims, CredentialId, Issuance, Limits, Principal, Role, SigningKey, UserId,
};
use time::OffsetDateTime;

use crate::Platform;

/// How long such a token lives.
const LIFETIME: Duration = Duration::from_secs(3_600);

impl Platform {
    /// A token of a user that no limit holds back, signed with the key of the
    /// auth service.
    ///
    /// # Panics
    /// When there is no such role or no key.
    #[must_use]
    pub fn unlimited_token(&self, role: &str) -> String {
        let token = self.signing_key().sign(&self.claims(role));
        token.expect("claims can be signed").expose().to_owned()
    }

    /// The claims of such a token.
    ///
    /// # Panics
    /// When there is no such role.
    #[must_use]
    pub fn claims(&self, role: &str) -> Claims {
        let role: Role = role.parse().expect("the test names a role");
        let subject = format!("unlimited-{role}");
        let principal = Principal {
            subject: UserId::new(subject.as_str()).expect("it is an id"),
            name: subject,
            role: Some(role),
            permissions: role.permissions(),
            projects: Vec::new(),
            agent_id: None,
            limits: Limits {
                messages_per_minute: u32::MAX,
                agent_chats_per_hour: u32::MAX,
            },
            expires_at: None,
            credential: CredentialId::new("test").expect("it is an id"),
            origin: signalbox_identity::Origin::default(),
        };
        let issuance = Issuance {
            issuer: "signalbox".to_owned(),
            audience: "signalbox".to_owned(),
            id: CredentialId::new("test").expect("it is an id"),
            issued_at: OffsetDateTime::now_utc(),
            lifetime: LIFETIME,
            family: None,
        };
        Claims::issue(&principal, issuance)
    }

    /// The key of the auth service.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        let folder = self.dir.path().join("signing-keys");
        let files = std::fs::read_dir(&folder).expect("there are signing keys");
        let file = files
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|end| end == "pem"))
            .expect("there is a signing key");
        let pem = std::fs::read_to_string(file).expect("the key can be read");
        SigningKey::from_pkcs8_pem(&pem).expect("the key is one")
    }
}

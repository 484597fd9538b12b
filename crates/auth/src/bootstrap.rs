//! What a first start needs before anyone can administer anything: a key that
//! signs tokens, and one API key for each role.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use signalbox_bus::{Bus, key};
use signalbox_identity::{ApiKey, ApiKeyRecord, Limits, Role, SigningKey, UserId};
use signalbox_service::private_file;
use time::OffsetDateTime;
use tracing::info;

use crate::error::Error;
use crate::key_dir::failed;
use crate::{api_keys, key_dir};

/// Makes sure that a directory holds a signing key: creates the directory
/// (mode 0700) and a new key in it (mode 0600) where there is none. Returns the
/// id of the newest key.
///
/// # Errors
/// When the directory cannot be read or written, or one of its keys is unusable.
pub fn ensure_signing_key(dir: &Path) -> Result<String, Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed(dir))?;
    if let Some(newest) = key_dir::read(dir)?.first() {
        return Ok(newest.kid().to_owned());
    }
    make_signing_key(dir)
}

/// Adds a new signing key to a directory that has one. The services that watch
/// it publish the public half and sign with the key when all know that. Returns
/// its id.
///
/// # Errors
/// When the directory holds no key, or cannot be read or written.
pub fn rotate_signing_key(dir: &Path) -> Result<String, Error> {
    if key_dir::read(dir)?.is_empty() {
        return Err(Error::NoSigningKey(dir.to_owned()));
    }
    make_signing_key(dir)
}

fn make_signing_key(dir: &Path) -> Result<String, Error> {
    let key = SigningKey::generate().map_err(Error::Generate)?;
    let kid = key.kid().to_owned();
    let path = dir.join(format!("signing-{kid}.{}", key_dir::EXTENSION));
    private_file::write(&path, key.to_pkcs8_pem().expose()).map_err(failed(&path))?;
    info!(%kid, "signing key made");
    Ok(kid)
}

/// Makes sure that `path` names one API key for each role and that the bus
/// knows them. Keys that the file lacks are made; records that the bus lacks,
/// as when its data was deleted, are made again, and those that it has are left
/// as they are, revoked ones too. Needs the administrator's rights on the bus.
///
/// # Errors
/// When the file cannot be read or written, or the bus refuses.
pub async fn ensure_api_keys(bus: &Bus, path: &Path) -> Result<Credentials, Error> {
    let mut credentials = match Credentials::read(path) {
        Err(Error::File { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            Credentials::default()
        }
        outcome => outcome?,
    };
    let absent = credentials.add_absent();
    let bucket = bus.bucket(key::API_KEYS).await?;
    for (role, key) in &credentials.keys {
        api_keys::create(&bucket, &record(*role, key)).await?;
    }
    // Written last: whoever finds the file finds keys that work.
    if absent > 0 {
        private_file::write(path, &credentials.to_json()).map_err(failed(path))?;
        info!(keys = absent, file = %path.display(), "API keys made");
    }
    Ok(credentials)
}

/// The API keys of a single machine, one for each role.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// In the order of [`Role::ALL`].
    keys: Vec<(Role, ApiKey)>,
}

/// The file, as JSON.
#[derive(Serialize, Deserialize)]
struct Stored {
    keys: BTreeMap<String, String>,
}

impl Credentials {
    /// Reads the file that [`ensure_api_keys`] writes. Roles that this version
    /// does not know are passed over.
    ///
    /// # Errors
    /// When the file cannot be read, is not of that form, or holds what is no
    /// API key. The error does not repeat what the file holds.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(failed(path))?;
        Self::parse(&text).map_err(|problem| Error::Credentials {
            path: path.to_owned(),
            problem,
        })
    }

    /// The key of a role; `None` when the file was written by a version that
    /// did not know the role.
    #[must_use]
    pub fn key(&self, role: Role) -> Option<&ApiKey> {
        let found = self.keys.iter().find(|(of, _)| *of == role);
        found.map(|(_, key)| key)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let unreadable = |_| r#"expected {"keys": {"<role>": "<API key>", ...}}"#.to_owned();
        let stored: Stored = serde_json::from_str(text).map_err(unreadable)?;
        let mut keys = Vec::new();
        for role in Role::ALL {
            if let Some(text) = stored.keys.get(role.as_str()) {
                let key = ApiKey::parse(text).map_err(|error| format!("keys.{role}: {error}"))?;
                keys.push((role, key));
            }
        }
        Ok(Self { keys })
    }

    fn to_json(&self) -> String {
        let text =
            |(role, key): &(Role, ApiKey)| (role.to_string(), key.expose().expose().to_owned());
        let keys = self.keys.iter().map(text).collect();
        let mut json =
            serde_json::to_string_pretty(&Stored { keys }).expect("a map of strings is JSON");
        json.push('\n');
        json
    }

    /// Makes the keys that are not there, and says how many those were.
    fn add_absent(&mut self) -> usize {
        let before = self.keys.len();
        for role in Role::ALL {
            if self.key(role).is_none() {
                self.keys.push((role, ApiKey::generate()));
            }
        }
        self.keys.len() - before
    }
}

/// What the bus keeps of the key of a role.
fn record(role: Role, key: &ApiKey) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        role,
        name: format!("local {role}"),
        subject: UserId::new(format!("{role}@local")).expect("a role's name has no white space"),
        projects: Vec::new(),
        agent_id: None,
        limits: Limits::default(),
        created_at: OffsetDateTime::now_utc(),
        revoked: false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_signing_key_is_private_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/keys");
        let kid = ensure_signing_key(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let file = fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(ensure_signing_key(&dir).unwrap(), kid);
        assert_eq!(key_dir::read(&dir).unwrap().len(), 1);
    }

    #[test]
    fn credentials_survive_their_file() {
        let mut made = Credentials::default();
        assert_eq!(made.add_absent(), Role::ALL.len());
        let read = Credentials::parse(&made.to_json()).unwrap();
        for role in Role::ALL {
            let (made, read) = (made.key(role).unwrap(), read.key(role).unwrap());
            assert_eq!(made.expose().expose(), read.expose().expose());
        }
    }

    #[test]
    fn unknown_roles_are_passed_over() {
        let read = Credentials::parse(r#"{"keys": {"emperor": "x"}, "more": 1}"#).unwrap();
        assert!(Role::ALL.into_iter().all(|role| read.key(role).is_none()));
    }

    #[test]
    fn an_unusable_file_is_refused_without_repeating_it() {
        for text in [
            "hush",
            r#"{"keys": "hush"}"#,
            r#"{"keys": {"admin": "hush"}}"#,
        ] {
            let problem = Credentials::parse(text).unwrap_err();
            assert!(!problem.contains("hush"), "{problem}");
        }
        let broken = Credentials::parse(r#"{"keys": {"admin": "hush"}}"#);
        assert_eq!(broken.unwrap_err(), "keys.admin: not an API key");
    }
}

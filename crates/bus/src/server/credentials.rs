//! The passwords of a generated server configuration: new ones at every start,
//! so that none outlives the server that knew it.

use std::{collections::BTreeMap, fmt};

use rand::Rng;

use super::permission::User;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 43 characters of six random bits each are the first length over 256 bits.
const PASSWORD_LENGTH: usize = 43;

/// A random password for every [`User`].
#[derive(Clone)]
pub struct Credentials {
    passwords: BTreeMap<User, String>,
}

impl Credentials {
    /// Draws a password of over 256 bits for every user.
    #[must_use]
    pub fn generate() -> Self {
        let passwords = User::ALL.map(|user| (user, random_password()));
        Self {
            passwords: BTreeMap::from(passwords),
        }
    }

    /// The password of `user`, in the URL-safe base64 alphabet.
    #[must_use]
    pub fn password(&self, user: User) -> &str {
        &self.passwords[&user]
    }

    /// The URL with which `user` connects to the server on `port` of this machine.
    #[must_use]
    pub fn url(&self, user: User, port: u16) -> String {
        format!("nats://{user}:{}@127.0.0.1:{port}", self.password(user))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.passwords.keys()).finish()
    }
}

fn random_password() -> String {
    let mut bytes = [0; PASSWORD_LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    // 64 divides 256, so every character is equally likely.
    bytes
        .map(|byte| char::from(ALPHABET[usize::from(byte % 64)]))
        .iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_password_of_its_own() {
        let credentials = Credentials::generate();
        let again = Credentials::generate();
        let mut seen = std::collections::HashSet::new();
        for user in User::ALL {
            let password = credentials.password(user);
            assert_eq!(password.len(), PASSWORD_LENGTH);
            assert!(seen.insert(password.to_owned()));
            assert!(seen.insert(again.password(user).to_owned()));
        }
    }

    #[test]
    fn url_names_user_password_and_port() {
        let credentials = Credentials::generate();
        let url = url::Url::parse(&credentials.url(User::Router, 4321)).unwrap();
        assert_eq!(url.username(), "router");
        assert_eq!(url.password(), Some(credentials.password(User::Router)));
        assert_eq!(
            (url.host_str(), url.port()),
            (Some("127.0.0.1"), Some(4321))
        );
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let credentials = Credentials::generate();
        let text = format!("{credentials:?}");
        assert!(text.contains("Router") && !text.contains(credentials.password(User::Router)));
    }
}

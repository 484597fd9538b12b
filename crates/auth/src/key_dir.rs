//! The directory of private keys, which never leave it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use signalbox_identity::SigningKey;

use crate::error::Error;

/// What the name of a key's file ends with.
pub(crate) const EXTENSION: &str = "pem";

/// Reads all keys of a directory, the newest first: by the time of the file's
/// last change, then by name. Other files are passed over.
///
/// # Errors
/// Names the file or directory that cannot be read, or is no key: a key that
/// silently did not count would be missed only when it is needed.
pub(crate) fn read(dir: &Path) -> Result<Vec<SigningKey>, Error> {
    let mut files = files(dir).map_err(failed(dir))?;
    files.sort_unstable_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, path)| read_key(path)).collect()
}

/// The files of keys with the times of their last change. Links are followed:
/// mounted secrets are links.
fn files(dir: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == EXTENSION) {
            files.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    Ok(files)
}

fn read_key(path: PathBuf) -> Result<SigningKey, Error> {
    let pem = fs::read_to_string(&path).map_err(failed(&path))?;
    SigningKey::from_pkcs8_pem(&pem).map_err(|cause| Error::SigningKey { path, cause })
}

/// An error of this file or directory.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    |cause| Error::File {
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Writes a new key, changed so many seconds after the epoch.
    fn add(dir: &Path, name: &str, changed: u64) -> String {
        let key = SigningKey::generate().unwrap();
        fs::write(dir.join(name), key.to_pkcs8_pem().expose()).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(dir.join(name))
            .unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        file.set_modified(changed).unwrap();
        key.kid().to_owned()
    }

    #[test]
    fn the_newest_comes_first_and_names_decide_between_equals() {
        let dir = tempfile::tempdir().unwrap();
        let oldest = add(dir.path(), "z.pem", 10);
        let low = add(dir.path(), "a.pem", 20);
        let high = add(dir.path(), "b.pem", 20);
        let newest = add(dir.path(), "0.pem", 30);
        let keys = read(dir.path()).unwrap();
        let found: Vec<&str> = keys.iter().map(SigningKey::kid).collect();
        assert_eq!(found, [&newest, &high, &low, &oldest]);
    }

    #[test]
    fn other_files_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        fs::write(dir.path().join("README"), "no key").unwrap();
        fs::write(dir.path().join(".pem"), "a name without extension").unwrap();
        fs::create_dir(dir.path().join("..data")).unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..data")).unwrap();
        let kid = add(&dir.path().join("..data"), "a.pem", 10);
        std::os::unix::fs::symlink("..data/a.pem", dir.path().join("a.pem")).unwrap();
        assert_eq!(read(dir.path()).unwrap()[0].kid(), kid);
    }

    #[test]
    fn an_unusable_file_is_named_without_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), "good.pem", 10);
        fs::write(dir.path().join("bad.pem"), "hush").unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(matches!(error, Error::SigningKey { .. }));
        let text = error.to_string();
        assert!(text.contains("bad.pem") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn an_absent_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&dir.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}

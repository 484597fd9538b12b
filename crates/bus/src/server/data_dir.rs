//! The directory that holds all state of a single machine, used by one process
//! at a time.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

const LOCK_FILE: &str = "lock";

/// How long a lock that somebody holds is tried again: the server of a process
/// that was just killed may still be ending, and it holds the lock to its end.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A data directory that this process has locked.
///
/// The lock belongs to the open file: it is released when this value is gone
/// and every process that inherited the file has ended.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process uses it.
    #[error("the data directory {} is in use by another process: stop that one or choose another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be created, or the lock in it cannot be opened.
    #[error("the data directory {} cannot be used: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the directory where it is absent, for this user alone (mode
    /// 0700), and locks it. Blocks for up to two seconds while another process
    /// holds the lock.
    ///
    /// # Errors
    /// When another process keeps the lock, or the directory cannot be written.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, LockError> {
        Self::lock_within(path.as_ref(), LOCK_PATIENCE, || {
            thread::sleep(LOCK_RETRY_INTERVAL)
        })
    }

    fn lock_within(
        path: &Path,
        patience: Duration,
        mut pause: impl FnMut(),
    ) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let lock = open_lock(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let deadline = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => pause(),
                Err(TryLockError::WouldBlock) => return Err(LockError::InUse { path }),
                Err(TryLockError::Error(source)) => return Err(LockError::Io { path, source }),
            }
        }
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locked file once more, for a child process to inherit: the lock is
    /// then held until that process has ended too.
    pub(super) fn share_lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }
}

/// The bytes that an ordinary user may still write to the file system of `path`.
///
/// # Errors
/// When `path` does not exist or its file system cannot be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let status = statvfs(path)?;
    #[allow(
        clippy::useless_conversion,
        reason = "the field is narrower on some systems"
    )]
    let blocks = u64::from(status.blocks_available());
    Ok(blocks.saturating_mul(status.fragment_size()))
}

fn open_lock(directory: &Path) -> io::Result<File> {
    if !directory.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK_FILE))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn try_lock(path: &Path) -> Result<DataDir, LockError> {
        DataDir::lock_within(path, Duration::ZERO, || {
            unreachable!("there is no time to wait")
        })
    }

    #[test]
    fn directory_is_created_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::lock(&path).unwrap();
        assert_eq!(dir.path(), path.canonicalize().unwrap());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn second_lock_is_refused_with_a_sentence_that_names_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().canonicalize().unwrap();
        let _held = DataDir::lock(&path).unwrap();
        let error = try_lock(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the data directory {} is in use by another process: stop that one or choose another directory",
                path.display()
            )
        );
    }

    #[test]
    fn lock_is_waited_for_while_its_holder_ends() {
        let parent = tempfile::tempdir().unwrap();
        let mut held = Some(DataDir::lock(parent.path()).unwrap());
        DataDir::lock_within(parent.path(), Duration::from_secs(30), || drop(held.take())).unwrap();
    }

    #[test]
    fn lock_lasts_as_long_as_a_copy_that_was_handed_on() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(parent.path()).unwrap();
        let inherited = dir.share_lock().unwrap();
        drop(dir);
        assert!(matches!(
            try_lock(parent.path()),
            Err(LockError::InUse { .. })
        ));
        drop(inherited);
        try_lock(parent.path()).unwrap();
    }

    #[test]
    fn path_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            DataDir::lock(file.path()),
            Err(LockError::Io { .. })
        ));
    }

    #[test]
    fn free_space_is_that_of_the_paths_file_system() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
        assert!(free_bytes(Path::new("/nonexistent")).is_err());
    }
}

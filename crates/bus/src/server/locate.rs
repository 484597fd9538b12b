//! Finds a `nats-server` that is new enough: the one that `NATS_SERVER_BIN`
//! names, one on `PATH`, or the one in the project's cache. Installs nothing;
//! that is the job of `scripts/deps`.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

/// The oldest `nats-server` that Signalbox works with: consumer reset, which a
/// router needs when it takes over a domain, came with 2.14.
pub const MINIMUM_VERSION: Version = Version {
    major: 2,
    minor: 14,
    patch: 0,
};

const EXPLICIT_VARIABLE: &str = "NATS_SERVER_BIN";
const PROGRAM: &str = "nats-server";
const CACHED: &str = ".tools/nats/bin/nats-server";

/// A version of `nats-server`; a pre-release counts as the release it precedes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes with incompatibilities.
    pub major: u16,
    /// Changes with features.
    pub minor: u16,
    /// Changes with corrections.
    pub patch: u16,
}

/// The text is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version of the form 2.14.0")]
pub struct InvalidVersion;

/// Why no `nats-server` can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The program named by `NATS_SERVER_BIN` cannot be used. An explicit
    /// choice is never replaced by another program.
    #[error(
        "NATS_SERVER_BIN names a program that cannot be used, {found}, while nats-server {MINIMUM_VERSION} \
         or newer is needed: correct it, or unset it and run scripts/deps"
    )]
    Explicit {
        /// The program and what is wrong with it.
        found: String,
    },
    /// Neither `PATH` nor the cache has one that is new enough.
    #[error("no nats-server {MINIMUM_VERSION} or newer was found ({found}): run scripts/deps")]
    NotFound {
        /// The programs that were tried and what is wrong with each.
        found: String,
    },
}

/// Finds a `nats-server` of at least [`MINIMUM_VERSION`].
///
/// Looks at `NATS_SERVER_BIN`, then along `PATH`, then for
/// `.tools/nats/bin/nats-server` above the running program and above the
/// current directory. Each candidate is asked for its version; one that is too
/// old is passed over, unless it was named by `NATS_SERVER_BIN`.
///
/// # Errors
/// When nothing usable is found; the message says what was tried and what to do.
pub fn locate() -> Result<PathBuf, LocateError> {
    if let Some(named) = env::var_os(EXPLICIT_VARIABLE).filter(|value| !value.is_empty()) {
        return locate_explicit(PathBuf::from(named));
    }
    let on_path = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        .map(|directory| directory.join(PROGRAM));
    let cached = [env::current_exe().ok(), env::current_dir().ok()]
        .into_iter()
        .flatten()
        .flat_map(|place| cached_above(&place));
    locate_among(on_path.chain(cached))
}

fn locate_explicit(path: PathBuf) -> Result<PathBuf, LocateError> {
    match check(&path) {
        Ok(()) => Ok(path),
        Err(fault) => Err(LocateError::Explicit {
            found: format!("{} {fault}", path.display()),
        }),
    }
}

fn locate_among(candidates: impl Iterator<Item = PathBuf>) -> Result<PathBuf, LocateError> {
    let mut faults = Vec::new();
    for path in candidates.filter(|path| path.is_file()) {
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(fault) => {
                let fault = format!("{} {fault}", path.display());
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
    }
    let found = if faults.is_empty() {
        format!("none on PATH, none at {CACHED}")
    } else {
        faults.join("; ")
    };
    Err(LocateError::NotFound { found })
}

/// The places of the project's cache, nearest first.
fn cached_above(place: &Path) -> Vec<PathBuf> {
    place
        .ancestors()
        .skip(usize::from(place.is_file()))
        .map(|ancestor| ancestor.join(CACHED))
        .collect()
}

/// Asks the program for its version; an error continues the sentence "PATH …".
fn check(path: &Path) -> Result<(), String> {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .map_err(|err| format!("cannot be run ({err})"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let version = answer
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v')?.parse::<Version>().ok())
        .ok_or("does not tell its version")?;
    if version < MINIMUM_VERSION {
        return Err(format!("is {version}"));
    }
    Ok(())
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        Ok(())
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let release = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = release.split('.').map(str::parse::<u16>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(InvalidVersion);
        let version = Self {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        match numbers.next() {
            None => Ok(version),
            Some(_) => Err(InvalidVersion),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A stand-in that answers like a `nats-server` of the given version.
    fn fake(directory: &Path, name: &str, answer: &str) -> PathBuf {
        let path = directory.join(name);
        // Written by another process: a program that any fork of this one still
        // holds open for writing cannot be run.
        let script = r#"printf '#!/bin/sh\necho "%s"\n' "$1" > "$0" && chmod +x "$0""#;
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(&path)
            .arg(answer)
            .status();
        assert!(status.unwrap().success());
        path
    }

    #[test]
    fn too_old_server_is_passed_over_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "nats-server: v2.9.10");
        let new = fake(dir.path(), "new", "nats-server: v2.14.0-RC.1");
        assert_eq!(locate_among([old, new.clone()].into_iter()), Ok(new));
    }

    #[test]
    fn refusal_names_what_was_found_and_the_script() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "nats-server: v2.13.9");
        let mute = fake(dir.path(), "mute", "hello");
        let absent = dir.path().join("absent");
        let found = format!(
            "{} is 2.13.9; {} does not tell its version",
            old.display(),
            mute.display()
        );
        let error = locate_among([old.clone(), absent, mute, old].into_iter()).unwrap_err();
        assert_eq!(
            error,
            LocateError::NotFound {
                found: found.clone()
            }
        );
        assert_eq!(
            error.to_string(),
            format!("no nats-server 2.14 or newer was found ({found}): run scripts/deps")
        );
    }

    #[test]
    fn nothing_found_is_said_plainly() {
        let error = locate_among(std::iter::empty()).unwrap_err().to_string();
        assert!(
            error.contains("none on PATH") && error.ends_with("run scripts/deps"),
            "{error}"
        );
    }

    #[test]
    fn explicit_choice_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "nats-server: v2.9.10");
        let error = locate_explicit(old).unwrap_err().to_string();
        assert!(
            error.contains("NATS_SERVER_BIN") && error.contains("is 2.9.10"),
            "{error}"
        );

        let absent = dir.path().join("absent");
        let error = locate_explicit(absent).unwrap_err().to_string();
        assert!(error.contains("cannot be run"), "{error}");
    }

    #[test]
    fn cache_is_looked_for_in_every_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("target/debug/deps/program");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "").unwrap();
        let places = cached_above(&program);
        assert_eq!(places[0], dir.path().join("target/debug/deps").join(CACHED));
        assert!(places.contains(&dir.path().join(CACHED)));
    }

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let version: Version = "2.14.0".parse().unwrap();
        assert_eq!(version, MINIMUM_VERSION);
        assert!("2.9.10".parse::<Version>().unwrap() < version);
        assert!("2.15.1".parse::<Version>().unwrap() > version);
        assert!("3.0.0+build".parse::<Version>().unwrap() > version);
        for text in ["", "2", "2.14", "2.x.1", "2.14.0.1"] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text}");
        }
    }
}

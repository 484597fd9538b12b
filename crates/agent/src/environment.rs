//! What a process inherits: a short list of variables, and what is allowed by
//! name. The runner's own settings and secrets are not among them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;

/// What every process inherits, if the runner has it.
const BASE: &[&str] = &[
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER",
];
/// Where programs are if nobody says where.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What understands the terminal.
const TERM: &str = "xterm-256color";

/// One `--env-allow`: a variable's name, or how names begin and a `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    name: String,
    prefix: bool,
}

/// Why a name is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a variable's name, or how names begin and a `*`")]
pub struct BadName;

/// The variables of processes.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl FromStr for Allowed {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (name, prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if (name.is_empty() && !prefix) || name.contains(['=', '*', '\0']) {
            return Err(BadName);
        }
        Ok(Self {
            name: name.to_owned(),
            prefix,
        })
    }
}

impl Allowed {
    fn matches(&self, name: &OsStr) -> bool {
        match self.prefix {
            true => name.as_bytes().starts_with(self.name.as_bytes()),
            false => name == OsStr::new(&self.name),
        }
    }
}

impl Environment {
    /// Of processes whose runner has `inherited`, such as
    /// [`std::env::vars_os`].
    pub fn new(
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
        allowed: &[Allowed],
    ) -> Self {
        let passes = |name: &OsStr| {
            BASE.iter().any(|base| name == OsStr::new(base))
                || allowed.iter().any(|allowed| allowed.matches(name))
        };
        let mut variables: BTreeMap<_, _> = inherited
            .into_iter()
            .filter(|(name, _)| passes(name))
            .collect();
        variables
            .entry("PATH".into())
            .or_insert_with(|| DEFAULT_PATH.into());
        Self { variables }
    }

    /// Where programs are looked for.
    #[must_use]
    pub fn path(&self) -> &OsStr {
        self.variables
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str)
    }

    /// The variables of a process, in a terminal or not.
    pub(crate) fn variables(&self, terminal: bool) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let term = OsStr::new("TERM");
        let ours = terminal && !self.variables.contains_key(term);
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
            .chain(ours.then_some((term, OsStr::new(TERM))))
    }
}

/// Values may be secret: names alone.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(allowed: &[&str], terminal: bool) -> Vec<String> {
        let inherited = [
            "PATH",
            "HOME",
            "SIGNALBOX_API_KEY",
            "CARGO_HOME",
            "CARGO_NET",
            "LD_PRELOAD",
        ];
        let inherited = inherited.map(|name| (OsString::from(name), OsString::from("/x")));
        let allowed: Vec<Allowed> = allowed.iter().map(|name| name.parse().unwrap()).collect();
        Environment::new(inherited, &allowed)
            .variables(terminal)
            .map(|(name, _)| name.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn little_is_inherited_and_more_by_name() {
        assert_eq!(names(&[], false), ["HOME", "PATH"]);
        assert_eq!(names(&[], true), ["HOME", "PATH", "TERM"]);
        assert_eq!(
            names(&["CARGO_*"], false),
            ["CARGO_HOME", "CARGO_NET", "HOME", "PATH"]
        );
        assert_eq!(names(&["CARGO_N"], false), ["HOME", "PATH"]);
    }

    #[test]
    fn a_bad_name_is_refused() {
        for bad in ["", "A=B", "A*B"] {
            assert_eq!(bad.parse::<Allowed>(), Err(BadName), "{bad}");
        }
    }

    #[test]
    fn values_do_not_show() {
        let environment = Environment::new([("PATH".into(), "secret".into())], &[]);
        assert!(!format!("{environment:?}").contains("secret"));
    }
}

//! What may be run: nothing, unless it is allowed.
//!
//! A pattern is a command line, quoted like one, and is compared with the words
//! of a command, those of `args` among them, one by one. There is no shell, so
//! there is nothing to smuggle in by quotes, separators or variables:
//!
//! - The program is always literal. One without `/` is looked for in the
//!   runner's PATH (absolute folders of it) and nowhere else; a command must
//!   name it as the pattern does, so `--allow 'make'` does not allow `./make`.
//! - A word without `*` is literal. `*` stands for any characters but `/`.
//!   A word that has `..` between its slashes matches no pattern with a `*`, and
//!   one that begins with `-` none that begins with `*`: otherwise
//!   `--allow 'cat logs/*'` or `'git log *'` would allow more than they say.
//! - `**` as the last word stands for any further words, options too. Without
//!   it a command has as many words as the pattern.
//! - The pattern `**` alone allows every program.
//! - Quoted, `*` is itself.
//!
//! Whoever allows a program that starts others (`env`, `find`, `git`, an
//! interpreter) with `**` allows those as well.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Access, access};

use crate::words::{self, Malformed, Marked};

/// The shell of [`Policy::Shell`].
const SHELL: &str = "/bin/sh";
/// Of a word that is named in a sentence, in characters.
const NAMED_CHARS: usize = 80;

/// What may be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    #[default]
    Nothing,
    /// What matches one of the patterns.
    Matching(Vec<Pattern>),
    /// Any command line, by `sh -c`.
    Shell,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The file; never looked for again.
    pub program: PathBuf,
    /// What the process is told, its own name first.
    pub words: Vec<String>,
}

/// Why a command is not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// It is no command line.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such program.
    #[error("there is no program `{0}`")]
    NotFound(String),
}

/// What a command line must look like; the rules are above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// `None` allows every program.
    program: Option<String>,
    words: Vec<Word>,
    open: bool,
}

/// One word of a pattern: what stands between its slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word(Vec<Component>);

/// Literal parts, with a `*` between each two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Component(Vec<String>);

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is no command line.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has a `*` where the program is.
    #[error("the program must be literal; `**` alone allows every program")]
    Program,
    /// It has a `**` somewhere else than as its last word.
    #[error("`**` may only be the last word")]
    Rest,
}

impl Policy {
    /// Decides on a command. `path` is where programs are looked for, `workdir`
    /// where it is going to start.
    ///
    /// # Errors
    /// With what to tell whoever asked for it.
    pub fn permit(
        &self,
        command: &str,
        args: &[String],
        path: &OsStr,
        workdir: &Path,
    ) -> Result<Permit, Refusal> {
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(Malformed::Nul.into());
        }
        if matches!(self, Self::Shell) {
            if command.contains('\0') {
                return Err(Malformed::Nul.into());
            }
            let mut words = ["sh", "-c", command, "sh"].map(str::to_owned).to_vec();
            words.extend_from_slice(args);
            return Ok(Permit {
                program: SHELL.into(),
                words,
            });
        }
        let mut words = words::split(command)?;
        words.extend_from_slice(args);
        let program = &words[0];
        match self {
            Self::Nothing => return Err(Refusal::NotAllowed(nothing_allowed(program))),
            Self::Matching(patterns) if !patterns.iter().any(|pattern| pattern.matches(&words)) => {
                return Err(Refusal::NotAllowed(not_matched(program)));
            }
            Self::Matching(_) | Self::Shell => {}
        }
        let program =
            find(program, path, workdir).ok_or_else(|| Refusal::NotFound(named(program)))?;
        Ok(Permit { program, words })
    }
}

fn nothing_allowed(program: &str) -> String {
    format!(
        "`{0}` is not allowed, since nothing is: start the agent with --allow '{0} **', or another pattern, or with --shell",
        named(program)
    )
}

fn not_matched(program: &str) -> String {
    format!(
        "`{}` with these arguments matches no --allow pattern of the agent: start it with one that does, or with --shell",
        named(program)
    )
}

fn named(word: &str) -> String {
    let printable = |letter: char| if letter.is_control() { '?' } else { letter };
    word.chars().take(NAMED_CHARS).map(printable).collect()
}

/// Where a program is. Relative folders of `path` are left out: whoever may
/// write where commands start could plant programs there.
fn find(program: &str, path: &OsStr, workdir: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(workdir.join(program)).filter(|file| is_executable(file));
    }
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders
        .map(|folder| folder.join(program))
        .find(|file| !program.is_empty() && is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

impl Pattern {
    /// Whether a command with these words is allowed.
    fn matches(&self, words: &[String]) -> bool {
        let Some((program, rest)) = words.split_first() else {
            return false;
        };
        if self
            .program
            .as_ref()
            .is_some_and(|literal| literal != program)
        {
            return false;
        }
        let enough = match self.open {
            true => rest.len() >= self.words.len(),
            false => rest.len() == self.words.len(),
        };
        enough
            && self
                .words
                .iter()
                .zip(rest)
                .all(|(pattern, word)| pattern.matches(word))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let mut words = words::split_marked(text)?;
        let is_rest = |word: &Vec<Marked>| *word == [('*', false), ('*', false)];
        let open = words.last().is_some_and(is_rest);
        if open {
            words.pop();
        }
        let mut words = words.into_iter();
        let program = words.next();
        if program
            .iter()
            .flatten()
            .any(|&marked| marked == ('*', false))
        {
            return Err(BadPattern::Program);
        }
        let doubled = |word: &Vec<Marked>| word.windows(2).any(|two| two == [('*', false); 2]);
        let words: Vec<_> = words.collect();
        if words.iter().any(doubled) {
            return Err(BadPattern::Rest);
        }
        Ok(Self {
            text: text.to_owned(),
            program: program.map(|word| word.into_iter().map(|(letter, _)| letter).collect()),
            words: words.iter().map(|word| Word::new(word)).collect(),
            open,
        })
    }
}

impl Word {
    fn new(word: &[Marked]) -> Self {
        let components = word.split(|&(letter, _)| letter == '/');
        Self(components.map(Component::new).collect())
    }

    fn is_literal(&self) -> bool {
        self.0.iter().all(|component| component.0.len() == 1)
    }

    fn begins_with_star(&self) -> bool {
        let first = &self.0[0].0;
        first.len() > 1 && first[0].is_empty()
    }

    fn matches(&self, word: &str) -> bool {
        if !self.is_literal() && word.split('/').any(|component| component == "..") {
            return false;
        }
        if self.begins_with_star() && word.starts_with('-') {
            return false;
        }
        let mut components = word.split('/');
        let all = self.0.iter().all(|pattern| {
            components
                .next()
                .is_some_and(|component| pattern.matches(component))
        });
        all && components.next().is_none()
    }
}

impl Component {
    fn new(letters: &[Marked]) -> Self {
        let parts = letters.split(|&marked| marked == ('*', false));
        Self(
            parts
                .map(|part| part.iter().map(|(letter, _)| letter).collect())
                .collect(),
        )
    }

    fn matches(&self, text: &str) -> bool {
        let Some((last, front)) = self.0.split_last() else {
            return false;
        };
        let Some((first, middle)) = front.split_first() else {
            return last == text;
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        // The earliest place for each part leaves most to those behind it.
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, command: &str, args: &[&str]) -> bool {
        let mut words = words::split(command).unwrap();
        words.extend(args.iter().map(|&arg| arg.to_owned()));
        pattern.parse::<Pattern>().unwrap().matches(&words)
    }

    #[test]
    fn a_pattern_without_wildcards_is_one_command() {
        assert!(allows("cargo test", "cargo test", &[]));
        assert!(allows("cargo test", "'cargo'  te\"st\"", &[]));
        assert!(allows("cargo test", "cargo", &["test"]));
        assert!(!allows("cargo test", "cargo test --all", &[]));
        assert!(!allows("cargo test", "cargo test", &["--all"]));
        assert!(!allows("cargo test", "cargo", &[]));
        assert!(!allows("cargo test", "cargo 'test;id'", &[]));
    }

    #[test]
    fn the_program_is_named_as_in_the_pattern() {
        for other in [
            "/bin/ls",
            "./ls",
            "bin/../ls",
            "A=b ls",
            "env ls",
            "LS",
            "ls\u{200b}",
        ] {
            assert!(!allows("ls **", other, &[]), "{other}");
        }
        assert!(allows("/opt/run **", "/opt/run x", &[]));
        assert!(!allows("/opt/run **", "run x", &[]));
    }

    #[test]
    fn a_star_stays_within_its_component() {
        assert!(allows("cat logs/*.log", "cat logs/a.log", &[]));
        assert!(allows("cat logs/a*b*c", "cat logs/abbc", &[]));
        assert!(!allows("cat logs/a*b*c", "cat logs/acb", &[]));
        assert!(!allows("cat logs/*.log", "cat logs/x/a.log", &[]));
        assert!(!allows("cat logs/*", "cat logs/..", &[]));
        assert!(!allows("cat */*", "cat logs/..", &[]));
        assert!(!allows("cat *", "cat /etc/passwd", &[]));
        assert!(!allows("echo a*a", "echo a", &[]));
    }

    #[test]
    fn an_option_needs_to_be_allowed_as_one() {
        assert!(allows("git log *", "git log main", &[]));
        assert!(!allows("git log *", "git log", &["--output=/x"]));
        assert!(allows(
            "git log --max-count=*",
            "git log --max-count=3",
            &[]
        ));
        assert!(allows("git log **", "git log -p", &["x"]));
        assert!(allows("git log **", "git log", &[]));
    }

    #[test]
    fn a_quoted_star_is_a_star() {
        assert!(allows("expr 2 '*' 3", "expr 2 * 3", &[]));
        assert!(!allows("expr 2 '*' 3", "expr 2 + 3", &[]));
    }

    #[test]
    fn patterns_that_would_allow_more_than_they_say_are_refused() {
        assert_eq!("*".parse::<Pattern>(), Err(BadPattern::Program));
        assert_eq!("ca* test".parse::<Pattern>(), Err(BadPattern::Program));
        assert_eq!("a ** b".parse::<Pattern>(), Err(BadPattern::Rest));
        assert_eq!("a b**".parse::<Pattern>(), Err(BadPattern::Rest));
        assert!(allows("**", "anything at all", &[]));
    }

    #[test]
    fn a_refusal_says_how_to_allow() {
        let none = Policy::Nothing.permit("ls -l", &[], OsStr::new("/bin"), Path::new("/"));
        let Err(Refusal::NotAllowed(sentence)) = none else {
            panic!("allowed: {none:?}");
        };
        assert!(sentence.contains("--allow 'ls **'") && sentence.contains("--shell"));
        let some = Policy::Matching(vec!["cargo test".parse().unwrap()]);
        let refused = some.permit("cargo build", &[], OsStr::new("/bin"), Path::new("/"));
        assert!(refused.unwrap_err().to_string().contains("--allow"));
    }

    #[test]
    fn programs_are_looked_for_in_absolute_folders_alone() {
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join("ls");
        std::fs::copy("/bin/ls", &planted).unwrap();
        let all = Policy::Matching(vec!["**".parse().unwrap()]);
        let permit = |command: &str, path: &str| {
            all.permit(command, &[], OsStr::new(path), dir.path())
                .map(|permit| permit.program)
        };
        assert_eq!(permit("ls", ".::/bin").unwrap(), Path::new("/bin/ls"));
        assert_eq!(permit("./ls", "/bin").unwrap(), dir.path().join("./ls"));
        assert!(matches!(permit("ls", "."), Err(Refusal::NotFound(_))));
        assert!(matches!(permit("''", "/bin"), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn a_shell_gets_args_as_parameters() {
        let args = ["$(id)".to_owned()];
        let permit = Policy::Shell.permit("echo \"$1\"", &args, OsStr::new(""), Path::new("/"));
        assert_eq!(
            permit.unwrap().words,
            ["sh", "-c", "echo \"$1\"", "sh", "$(id)"]
        );
    }
}

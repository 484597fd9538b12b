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
//!   A word that has `..` between its slashes matches no pattern with a `*`, nor
//!   one in which a `*` would stand for `..`, and one that begins with `-` none
//!   that begins with `*`: otherwise `--allow 'cat logs/*'`, `'make -C*'` or
//!   `'git log *'` would allow more than they say.
//! - `**` as the last word stands for any further words, options too. Without
//!   it a command has as many words as the pattern.
//! - The pattern `**` alone allows every program.
//! - Quoted, `*` is itself.
//!
//! Whoever allows a program that starts others (`env`, `find`, `git`, an
//! interpreter) with `**` allows those as well.

mod pattern;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

pub use self::pattern::{BadPattern, Pattern};
use crate::words::{self, Malformed};

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

#[cfg(test)]
mod tests;

//! `[mcp.NAME]`: servers of the Model Context Protocol, whose tools are called
//! `NAME__TOOL`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use signalbox_identity::{Permission, Secret};

use super::document::{NamedText, Placed, Problems, Section, Texts};
use super::file::Source;
use super::tool_table::{MAX_EXPIRY, MAX_TIME, MIN_RESULT_BYTES};
use crate::tools::mcp::{
    Address, MAX_SERVER_NAME_BYTES, Needed, Pattern, Place, Program, ServerConfig,
};
use crate::tools::{DEFAULT_EXPIRY, DEFAULT_RESULT_BYTES, DEFAULT_TIME, Limits, MAX_RESULT_BYTES};

/// The longest path, address or argument, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// The most arguments of a program.
const MAX_ARGS: usize = 256;
/// The most variables of a program.
const MAX_VARIABLES: usize = 128;
/// The most patterns of a list.
const MAX_PATTERNS: usize = 256;
/// What may not be set: it would be in place before the program runs.
const REFUSED_VARIABLES: [&str; 2] = ["LD_PRELOAD", "LD_AUDIT"];

/// A server as the file has it.
#[derive(Clone, Debug)]
pub(super) struct ServerDraft {
    field: String,
    place: PlaceDraft,
    tools: Option<Vec<Pattern>>,
    limits: Limits,
    approval: Needed,
    expires_in: std::time::Duration,
    permission: Option<String>,
}

#[derive(Clone, Debug)]
enum PlaceDraft {
    Program {
        command: PathBuf,
        args: Vec<String>,
        env: Vec<(String, ValueDraft)>,
        directory: PathBuf,
    },
    Address {
        address: Address,
        token: Option<ValueDraft>,
    },
}

/// A value, or the variable of our environment that has it.
#[derive(Clone, Debug)]
enum ValueDraft {
    Given(Secret),
    From(Placed<String>),
}

/// Reads a table; `None` when it is too wrong to go on with.
pub(super) fn read(
    (name, at): (&str, &Range<usize>),
    mut section: Section<'_>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<ServerDraft> {
    if !is_server_name(name) {
        let message = format!(
            "expected a name of letters, digits, `-` and single `_` between them, at most \
             {MAX_SERVER_NAME_BYTES} bytes"
        );
        problems.error(at, &section.path, message);
    }
    // A file that is named without a directory is in the one that we run in.
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let place = read_place(at, &mut section, directory, problems);
    let time = value(section.seconds("timeout", MAX_TIME, problems));
    let bytes = MIN_RESULT_BYTES..MAX_RESULT_BYTES as u64 + 1;
    let result_bytes = value(section.count("result_bytes", bytes, problems));
    let tools = section.texts("tools", MAX_PATTERNS, problems);
    let tools = tools.map(|texts| patterns(&section.field("tools"), texts, problems));
    let approval = match section.flag_or_texts("approval", MAX_PATTERNS, problems) {
        // What a server has may change at any time: people decide unless told
        // otherwise.
        None | Some(Texts::Flag(true)) => Needed::Always,
        Some(Texts::Flag(false)) => Needed::Never,
        Some(Texts::List(texts)) => {
            Needed::For(patterns(&section.field("approval"), texts, problems))
        }
    };
    let expires_in = value(section.seconds("expires_in", MAX_EXPIRY, problems));
    let permission = read_permission(&mut section, problems);
    let field = section.path.clone();
    section.finish(problems);
    Some(ServerDraft {
        field,
        place: place?,
        tools,
        limits: Limits {
            time: time.unwrap_or(DEFAULT_TIME),
            result_bytes: result_bytes.map_or(DEFAULT_RESULT_BYTES, |count| count as usize),
        },
        approval,
        expires_in: expires_in.unwrap_or(DEFAULT_EXPIRY),
        permission,
    })
}

/// Whether names of tools can begin with a name so that they stay apart.
fn is_server_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_SERVER_NAME_BYTES).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('_')
        && !name.ends_with('_')
        && !name.contains("__")
}

fn read_place(
    at: &Range<usize>,
    section: &mut Section<'_>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<PlaceDraft> {
    let command = section.bounded_text("command", MAX_TEXT_BYTES, problems);
    let url = section.bounded_text("url", MAX_TEXT_BYTES, problems);
    match (command, url) {
        (Some((command, _)), None) => {
            refuse(section, &["token"], "a program has none", problems);
            let args = section.texts_as_given("args", MAX_ARGS, problems);
            let workdir = section.bounded_text("directory", MAX_TEXT_BYTES, problems);
            Some(PlaceDraft::Program {
                command: program(directory, command),
                args: args.into_iter().flatten().map(str::to_owned).collect(),
                env: read_env(section, problems),
                directory: match workdir {
                    Some((path, _)) => directory.join(path),
                    None => directory.to_owned(),
                },
            })
        }
        (None, Some((url, place))) => {
            let only = "it is for programs, which have a command";
            refuse(section, &["args", "env", "directory"], only, problems);
            let token = section.named_text("token", problems);
            let address = Address::parse(url);
            let address = address
                .inspect_err(|message| problems.error(&place, &section.field("url"), message));
            Some(PlaceDraft::Address {
                token: token.and_then(|(token, place)| match token {
                    NamedText::Given(_) => {
                        let message = "tokens do not belong into this file; expected \
                                       {from = \"VARIABLE\"}";
                        problems.error(&place, &section.field("token"), message);
                        None
                    }
                    NamedText::From(name) => Some(ValueDraft::From((name.to_owned(), place))),
                }),
                address: address.ok()?,
            })
        }
        (Some(_), Some((_, place))) => {
            let message = "expected either command or url, not both";
            problems.error(&place, &section.field("url"), message);
            skip_place(section, problems);
            None
        }
        (None, None) => {
            if !section.was_given("command") && !section.was_given("url") {
                let message = "expected command, a program, or url, an address";
                problems.error(at, &section.path, message);
            }
            skip_place(section, problems);
            None
        }
    }
}

/// Takes what belongs to a place that is not known.
fn skip_place(section: &mut Section<'_>, problems: &mut Problems) {
    section.texts_as_given("args", MAX_ARGS, problems);
    section.bounded_text("directory", MAX_TEXT_BYTES, problems);
    section.named_text("token", problems);
    read_env(section, problems);
}

fn refuse(section: &mut Section<'_>, keys: &[&'static str], why: &str, problems: &mut Problems) {
    for key in keys {
        if let Some(place) = section.place_of(key) {
            problems.error(&place, &section.field(key), format!("expected none: {why}"));
            section.forget(key);
        }
    }
}

/// A name is looked for on PATH; anything else is a path from the file on.
fn program(directory: &Path, command: &str) -> PathBuf {
    if command.contains('/') {
        let path = directory.join(command);
        std::path::absolute(&path).unwrap_or(path)
    } else {
        PathBuf::from(command)
    }
}

fn read_env(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, ValueDraft)> {
    let mut env = Vec::new();
    for ((name, place), text) in section.section("env", problems).named_texts(problems) {
        let field = format!("{}.{name}", section.field("env"));
        let fits = !name.is_empty() && !name.contains(['=', '\0']);
        if !fits || REFUSED_VARIABLES.contains(&name) {
            problems.error(&place, &field, "expected the name of another variable");
        } else if env.len() == MAX_VARIABLES {
            let message = format!("expected at most {MAX_VARIABLES} variables");
            problems.error(&place, &field, message);
        }
        env.push((
            name.to_owned(),
            match text {
                NamedText::Given(text) => ValueDraft::Given(Secret::new(text)),
                NamedText::From(variable) => ValueDraft::From((variable.to_owned(), place)),
            },
        ));
    }
    env
}

fn patterns(field: &str, texts: Vec<Placed<&str>>, problems: &mut Problems) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (number, (text, place)) in texts.into_iter().enumerate() {
        match Pattern::parse(text) {
            Some(pattern) => patterns.push(pattern),
            None => {
                let message = "expected a tool's name as the server has it, or how names begin \
                               and a `*`";
                problems.error(&place, &format!("{field}[{number}]"), message);
            }
        }
    }
    patterns
}

fn read_permission(section: &mut Section<'_>, problems: &mut Problems) -> Option<String> {
    let (word, place) = section.text("permission", problems)?;
    if word.parse::<Permission>().is_err() {
        let message =
            "expected a permission, such as read_threats; `signalbox key roles` lists them";
        problems.error(&place, &section.field("permission"), message);
    }
    Some(word.to_owned())
}

impl ServerDraft {
    /// The server, with what the environment has of it. What is not there is a
    /// warning, or an error if the server is about to be used.
    pub(super) fn build(
        self,
        name: &str,
        source: &Source<'_>,
        problems: &mut Problems,
    ) -> Option<ServerConfig> {
        let place = match self.place {
            PlaceDraft::Program {
                command,
                args,
                env,
                directory,
            } => {
                let mut values = BTreeMap::new();
                for (name, value) in env {
                    let field = format!("{}.env.{name}", self.field);
                    values.insert(name, value.look_up(&field, source, problems)?);
                }
                Place::Program(Program {
                    command,
                    args,
                    env: values,
                    directory,
                })
            }
            PlaceDraft::Address { address, token } => Place::Address(match token {
                None => address,
                Some(token) => {
                    let field = format!("{}.token", self.field);
                    let place = token.place();
                    let token = token.look_up(&field, source, problems)?;
                    address
                        .with_token(&token)
                        .inspect_err(|message| problems.error(&place, &field, message))
                        .ok()?
                }
            }),
        };
        Some(ServerConfig {
            name: name.into(),
            place,
            tools: self.tools,
            limits: self.limits,
            approval: self.approval,
            expires_in: self.expires_in,
            permission: self.permission,
        })
    }
}

impl ValueDraft {
    fn place(&self) -> Range<usize> {
        match self {
            Self::Given(_) => 0..0,
            Self::From((_, place)) => place.clone(),
        }
    }

    fn look_up(self, field: &str, source: &Source<'_>, problems: &mut Problems) -> Option<Secret> {
        let (variable, place) = match self {
            Self::Given(value) => return Some(value),
            Self::From(placed) => placed,
        };
        let value = (source.variable)(&variable);
        if value.is_none() {
            let message = format!("expected a value in the variable {variable}, which is not set");
            if source.keys_required {
                problems.error(&place, field, message);
            } else {
                problems.warn(&place, field, message);
            }
        }
        value.map(Secret::new)
    }
}

fn value<T>(placed: Option<Placed<T>>) -> Option<T> {
    placed.map(|(value, _)| value)
}

#[cfg(test)]
mod tests;

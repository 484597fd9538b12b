//! The settings file: TOML with a table for each subcommand, whose keys are
//! the subcommand's long flags. Its values become the flags' defaults, so that
//! environment and command line win.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use clap::builder::OsStr;
use clap::{Arg, Command, Id};

/// Values as the command line would have them, by section and key.
type Sections = HashMap<String, HashMap<String, Vec<String>>>;

/// A settings file that was read.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    sections: Sections,
}

/// Which settings a file has.
#[derive(Debug, Default)]
pub(crate) struct Defaults(Sections);

impl Defaults {
    /// Whether the file sets this key of this section.
    pub(crate) fn has(&self, section: &str, key: &str) -> bool {
        self.0
            .get(section)
            .is_some_and(|keys| keys.contains_key(key))
    }
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Says what is wrong, with the line where TOML itself is.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| error.to_string())?;
        let mut sections = Sections::new();
        for (section, content) in table {
            let toml::Value::Table(content) = content else {
                return Err(format!("{section}: expected a table such as [gateway]"));
            };
            let keys = content
                .into_iter()
                .map(|(key, value)| match texts(value) {
                    Some(values) => Ok((key, values)),
                    None => Err(format!(
                        "[{section}] {key}: expected a string, number, boolean or list of them"
                    )),
                })
                .collect::<Result<_, _>>()?;
            sections.insert(section, keys);
        }
        Ok(Self { sections })
    }

    /// The names of its tables.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// Which settings it has.
    pub(crate) fn defaults(&self) -> Defaults {
        Defaults(self.sections.clone())
    }

    /// What in the file fits no setting of any subcommand.
    pub(crate) fn problems(&self, command: &Command) -> Vec<String> {
        let mut problems = Vec::new();
        for (section, keys) in &self.sections {
            let Some(subcommand) = command.find_subcommand(section) else {
                problems.push(format!("[{section}]: there is no such subcommand"));
                continue;
            };
            for key in keys.keys() {
                if id_of(subcommand, key)
                    .or_else(|| id_of(command, key))
                    .is_none()
                {
                    problems.push(format!("[{section}] {key}: there is no such setting"));
                }
            }
        }
        problems.sort();
        problems
    }

    /// The command with the values of one section as defaults. Not to be built
    /// before: clap then has its arguments by number.
    pub(crate) fn apply(&self, mut command: Command, section: &str) -> Command {
        let keys = self.sections.get(section).into_iter().flatten();
        for (key, values) in keys {
            let values = values.clone();
            let change = |arg: Arg| {
                arg.required(false)
                    .default_values(values.into_iter().map(OsStr::from))
            };
            let Some(subcommand) = command.find_subcommand(section) else {
                break;
            };
            if let Some(id) = id_of(subcommand, key) {
                command =
                    command.mut_subcommand(section, |subcommand| subcommand.mut_arg(id, change));
            } else if let Some(id) = id_of(&command, key) {
                command = command.mut_arg(id, change);
            }
        }
        command
    }
}

/// The argument with this long flag.
fn id_of(command: &Command, key: &str) -> Option<Id> {
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key))?;
    Some(arg.get_id().clone())
}

/// A value as the command line would have it.
fn texts(value: toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Array(items) => items.into_iter().map(|item| texts(item)?.pop()).collect(),
        toml::Value::Table(_) | toml::Value::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::{self, Cli};

    fn parse(file: &str, arguments: &[&str]) -> Cli {
        let file = ConfigFile::parse(file).unwrap();
        assert_eq!(file.problems(&Cli::command()), Vec::<String>::new());
        let command = file.apply(Cli::command(), arguments[1]);
        let matches = command.try_get_matches_from(arguments).unwrap();
        Cli::from_arg_matches(&matches).unwrap()
    }

    fn gateway(cli: Cli) -> signalbox_gateway::EdgeArgs {
        match cli.command {
            cli::Command::Gateway(command) => command.gateway.edge,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "[gateway]\nshards = 3\nlisten = ['127.0.0.1:1=mesh', '127.0.0.1:2']\nlog-filter = 'warn'\n";
        let cli = parse(file, &["signalbox", "gateway"]);
        assert_eq!(cli.logs.log_filter.as_deref(), Some("warn"));
        let edge = gateway(cli);
        assert_eq!((edge.shards, edge.listen.len()), (3, 2));
        let edge = gateway(parse(
            file,
            &[
                "signalbox",
                "gateway",
                "--shards",
                "5",
                "--listen",
                "[::1]:9",
            ],
        ));
        assert_eq!((edge.shards, edge.listen.len()), (5, 1));
    }

    #[test]
    fn what_fits_nowhere_is_named() {
        let file = ConfigFile::parse("[gatewya]\n[gateway]\nshrads = 1\n").unwrap();
        assert_eq!(
            file.problems(&Cli::command()),
            [
                "[gateway] shrads: there is no such setting",
                "[gatewya]: there is no such subcommand"
            ]
        );
        assert!(
            ConfigFile::parse("shards = 1")
                .unwrap_err()
                .contains("expected a table")
        );
        assert!(
            ConfigFile::parse("[gateway]\nx = {y = 1}")
                .unwrap_err()
                .contains("[gateway] x")
        );
        assert!(
            ConfigFile::parse("[gateway\n")
                .unwrap_err()
                .contains("line 1")
        );
    }
}

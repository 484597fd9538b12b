//! From command line, environment and settings file to what a subcommand runs
//! with, in this order of precedence; and the commands that show it.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use signalbox_bus::connection::without_password;
use signalbox_service::ExitError;

use crate::cli::{Cli, ConfigCommand};
use crate::config_file::{ConfigFile, Defaults};
use crate::{config_check, output};

/// The environment variable that names the settings file.
const FILE_VARIABLE: &str = "SIGNALBOX_CONFIG";
/// What stands in for a secret.
const HIDDEN: &str = "(hidden)";

/// What is known of settings beyond the parsed command line.
pub(crate) struct Settings {
    /// The settings file in use.
    path: Option<PathBuf>,
}

/// Reads everything. `None` when help or the version was asked for and shown.
pub(crate) fn load() -> Result<Option<(Cli, Settings)>, ExitError> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Behind `--` stands what is somebody else's.
    let ours = arguments.split(|argument| argument == "--").next();
    let ours = ours.unwrap_or_default();
    let path = file_named_in(ours).or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    let checking = is_check(ours);
    let mut command = Cli::command();
    if let (Some(path), false) = (&path, checking) {
        let file = ConfigFile::read(path).map_err(ExitError::config)?;
        if let Some(problem) = file.problems(&command).first() {
            return Err(ExitError::config(problem.clone()));
        }
        if let Some(section) = subcommand_in(ours, &command) {
            command = file.apply(command, &section);
        }
    }
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Some((cli, Settings { path }))),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            let text = error.render();
            if std::io::stdout().is_terminal() {
                output::line(text.ansi())?;
            } else {
                output::line(text)?;
            }
            Ok(None)
        }
        Err(error) => Err(ExitError::config(short(&error))),
    }
}

/// Clap's complaint without its heading.
fn short(error: &clap::Error) -> String {
    error
        .to_string()
        .trim()
        .trim_start_matches("error: ")
        .to_owned()
}

/// The value of `--config`, which has to be known before the rest is parsed.
fn file_named_in(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str()?;
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The subcommand that will run.
fn subcommand_in(arguments: &[OsString], command: &Command) -> Option<String> {
    let mut words = arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str());
    words
        .find(|word| command.find_subcommand(word).is_some())
        .map(str::to_owned)
}

/// Whether this is `config check`, which reads the file by itself.
fn is_check(arguments: &[OsString]) -> bool {
    let words: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .collect();
    words.windows(2).any(|pair| pair == ["config", "check"])
}

impl Settings {
    /// Runs `config check` or `config print`.
    pub(crate) fn run(&self, command: &ConfigCommand) -> Result<(), ExitError> {
        match command {
            ConfigCommand::Check { file } => {
                let path = file
                    .as_ref()
                    .or(self.path.as_ref())
                    .ok_or_else(|| ExitError::config("name the file to check, or set --config"))?;
                check(path)
            }
            ConfigCommand::Print { command } => print(command, self.path.as_deref()),
        }
    }
}

fn check(path: &Path) -> Result<(), ExitError> {
    // What cannot be read is told below, as for any file.
    if let Ok(text) = std::fs::read_to_string(path)
        && signalbox_orchestrator::agents::is_agents_file(&text)
    {
        return config_check::agents(path, &text);
    }
    let file = ConfigFile::read(path).map_err(ExitError::config)?;
    let mut problems = file.problems(&Cli::command());
    for section in file.sections() {
        let command = file.apply(Cli::command(), section);
        if command.find_subcommand(section).is_none() {
            continue;
        }
        let attempt = command.try_get_matches_from(["signalbox", section]);
        match attempt {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                ) => {}
            Err(error) => problems.push(format!("[{section}] {}", short(&error))),
            Ok(_) => {}
        }
    }
    if problems.is_empty() {
        output::line(format_args!("{}: no problems", path.display()))?;
        return Ok(());
    }
    let list = problems.join("\n  ");
    Err(ExitError::config(format!("{}:\n  {list}", path.display())))
}

fn print(name: &str, path: Option<&Path>) -> Result<(), ExitError> {
    let file = path
        .map(ConfigFile::read)
        .transpose()
        .map_err(ExitError::config)?;
    let mut command = Cli::command();
    let mut defaults = Defaults::default();
    if let Some(file) = &file {
        command = file.apply(command, name);
        defaults = file.defaults();
    }
    command.build();
    let Some(subcommand) = command.find_subcommand(name).cloned() else {
        return Err(ExitError::config(format!(
            "there is no subcommand `{name}`"
        )));
    };
    let matches = command
        .try_get_matches_from(["signalbox", name])
        .map_err(|error| ExitError::config(short(&error)))?;
    let (_, matches) = matches
        .subcommand()
        .ok_or_else(|| ExitError::config("no such subcommand"))?;
    output::line(format_args!("[{name}]"))?;
    for line in lines(&subcommand, matches, &defaults, name) {
        if !output::line(line)? {
            break;
        }
    }
    Ok(())
}

/// One line per setting: key, value, where from.
fn lines(command: &Command, matches: &ArgMatches, file: &Defaults, section: &str) -> Vec<String> {
    command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version" | "config"))
        .filter_map(|arg| {
            let key = arg.get_long()?;
            let source = match matches.value_source(arg.get_id().as_str()) {
                Some(ValueSource::EnvVariable) => "environment",
                Some(_) if file.has(section, key) => "file",
                Some(_) => "default",
                None => return Some(format!("# {key} is not set")),
            };
            Some(format!("{key} = {}  # {source}", value(arg, matches)))
        })
        .collect()
}

fn value(arg: &Arg, matches: &ArgMatches) -> String {
    let raw: Vec<String> = matches
        .get_raw(arg.get_id().as_str())
        .into_iter()
        .flatten()
        .map(|raw| raw.to_string_lossy().into_owned())
        .collect();
    let shown = match arg.get_id().as_str() {
        "nats_url" => raw.iter().map(|url| without_password(url)).collect(),
        _ if arg.is_hide_env_values_set() => vec![HIDDEN.to_owned()],
        _ => raw,
    };
    match shown.as_slice() {
        [one] => quoted(one),
        many => {
            let items: Vec<String> = many.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// A TOML value: numbers and booleans as they are, the rest as strings.
fn quoted(text: &str) -> String {
    if text.parse::<f64>().is_ok() || text == "true" || text == "false" {
        text.to_owned()
    } else {
        toml::Value::String(text.to_owned()).to_string()
    }
}

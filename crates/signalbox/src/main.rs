//! The `signalbox` binary: every service by its own subcommand, all of them
//! together by `up`, and the tools to work with a running system.

mod administration;
mod bench;
mod cli;
mod config_file;
mod dlq;
mod key;
mod output;
mod publish;
mod runtime;
mod services;
mod settings;
mod tail;
mod token;
mod up;
mod user;

use std::process::ExitCode;

use signalbox_bus::server::{CHILD_SUBCOMMAND, child_main};
use signalbox_service::{ExitError, exit_code, telemetry};

use crate::cli::{Cli, Command};

/// How the process names itself in errors.
const PROGRAM: &str = "signalbox";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    if first == CHILD_SUBCOMMAND {
        let error = child_main(arguments);
        return exit_code(PROGRAM, Err(ExitError::runtime(error)));
    }
    if first == bench::CHILD_SUBCOMMAND {
        return exit_code(PROGRAM, Err(bench::become_program(arguments)));
    }
    exit_code(PROGRAM, run())
}

fn run() -> Result<(), ExitError> {
    let Some((cli, settings)) = settings::load()? else {
        return Ok(());
    };
    let Cli {
        logs,
        config: _,
        command,
    } = cli;
    if let Command::Config(command) = command {
        return settings.run(&command);
    }
    // A tool's output is its user's; it logs only when asked to.
    if command.is_service() || logs.log_filter.is_some() {
        telemetry::init(&logs).map_err(ExitError::config)?;
    }
    match command {
        Command::Up(args) => up::run(args),
        Command::Init(args) => services::init(args),
        Command::Gateway(args) => services::gateway(args),
        Command::Router(args) => services::router(args),
        Command::Auth(args) => services::auth(args),
        Command::Publish(args) => publish::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Key(command) => key::run(command),
        Command::User(command) => user::run(command),
        Command::Dlq(command) => dlq::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Config(_) => Ok(()),
    }
}

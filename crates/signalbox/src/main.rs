//! The `signalbox` binary: every service by its own subcommand, all of them
//! together by `up`, and the tools to work with a running system.

mod administration;
mod agent;
mod ask;
mod bench;
mod cli;
mod client;
mod config_check;
mod config_file;
mod decide;
mod dlq;
mod key;
mod output;
mod publish;
mod recording;
mod runtime;
mod services;
mod settings;
mod tail;
mod token;
mod up;
mod user;
mod watch;

use std::process::ExitCode;

use signalbox_bus::server::{CHILD_SUBCOMMAND, child_main};
use signalbox_orchestrator::tools::mcp::{GUARD_SUBCOMMAND, guard_main};
use signalbox_service::metrics::Registry;
use signalbox_service::{ExitError, Telemetry, exit_code, telemetry};

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
    if first == GUARD_SUBCOMMAND {
        return ExitCode::from(guard_main(arguments));
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
        otlp,
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
    let telemetry = command
        .telemetry_name()
        .map(|name| Telemetry::start(&otlp, name))
        .transpose()
        .map_err(ExitError::config)?;
    let registry = telemetry.as_ref().map(Telemetry::registry);
    let registry = registry.unwrap_or_default();
    let outcome = dispatch(command, registry);
    // Here, where no runtime is left that it could hold up.
    if let Some(telemetry) = telemetry {
        telemetry.flush();
    }
    outcome
}

/// Runs a subcommand; services show what is in `metrics`.
fn dispatch(command: Command, metrics: Registry) -> Result<(), ExitError> {
    match command {
        Command::Up(args) => up::run(*args, metrics),
        Command::Init(args) => services::init(args),
        Command::Gateway(args) => services::gateway(args, metrics),
        Command::Router(args) => services::router(args, metrics),
        Command::Relay(args) => services::relay(args, metrics),
        Command::Orchestrator(args) => services::orchestrator(args, metrics),
        Command::Auth(args) => services::auth(args, metrics),
        Command::Agent(command) => agent::run(*command),
        Command::Recording(command) => recording::run(&command),
        Command::Publish(args) => publish::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Decide(args) => decide::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Key(command) => key::run(command),
        Command::User(command) => user::run(command),
        Command::Dlq(command) => dlq::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Config(_) => Ok(()),
    }
}

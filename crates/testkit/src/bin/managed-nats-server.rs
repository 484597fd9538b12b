//! Owns a managed `nats-server` for as long as its standard input is open: a
//! process for tests to kill. Prints one line of JSON once the server is ready:
//! `pid` of the server, its `port`, and the `password` of the user `admin`.

use std::{
    env,
    error::Error,
    ffi::OsStr,
    fmt::Display,
    io::{self, Read, Write},
    process::ExitCode,
    sync::mpsc,
    thread,
};

use serde_json::json;
use signalbox_bus::server::{
    CHILD_SUBCOMMAND, DataDir, ManagedServer, ServerConfig, User, child_main,
};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(first) = arguments.next() else {
        return fail(&"a directory is needed");
    };
    if first == CHILD_SUBCOMMAND {
        return fail(&child_main(arguments));
    }
    match run(&first) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => fail(&err),
    }
}

fn run(directory: &OsStr) -> Result<(), Box<dyn Error>> {
    let dir = DataDir::lock(directory)?;
    let config = ServerConfig::default();
    let password = config.users.password(User::Admin).to_owned();
    let server = ManagedServer::start(config, dir)?;
    let ready = json!({ "pid": server.pid(), "port": server.port(), "password": password });
    writeln!(io::stdout(), "{ready}")?;

    let (sender, stop) = mpsc::channel();
    thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        drop(sender);
    });
    server.supervise(&stop);
    Ok(())
}

fn fail(reason: &dyn Display) -> ExitCode {
    writeln!(io::stderr(), "{reason}").ok();
    ExitCode::FAILURE
}

//! The step between our process and its `nats-server`: our own binary, started
//! again with [`CHILD_SUBCOMMAND`], asks the system to be ended with its parent
//! and then becomes the server.
//!
//! A process can only ask this for itself, hence the step. The system counts
//! the *thread* that started the child as its parent: that thread must live as
//! long as the process, so it must be the main one.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::process::{CommandExt, parent_id},
    path::Path,
    process::{self, Child, Command, Stdio},
};

use super::config::ServerFiles;

/// The hidden subcommand under which a binary that uses
/// [`ManagedServer`](super::ManagedServer) must call [`child_main`].
pub const CHILD_SUBCOMMAND: &str = "__nats-server";

/// The server names the file with its port after this.
const PROGRAM_NAME: &str = "nats-server";

/// Becomes the `nats-server` that the arguments after [`CHILD_SUBCOMMAND`]
/// describe. Returns only when that fails, with the reason.
///
/// The server is sent SIGTERM when its parent ends, however that ends. Not
/// SIGKILL: what a server writes down as it stops (among it the message ids
/// that a work queue remembers) is worth the moment that takes, and until then
/// the lock that it inherited keeps a successor out.
pub fn child_main(arguments: impl IntoIterator<Item = OsString>) -> io::Error {
    let mut arguments = arguments.into_iter();
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else {
        return io::Error::new(
            io::ErrorKind::InvalidInput,
            "this subcommand is for internal use",
        );
    };
    if let Err(err) = end_with_parent() {
        return err;
    }
    // Asked for too late if the parent ended before: then nobody would tell.
    if parent != OsStr::new(&parent_id().to_string()) {
        return io::Error::other("the process that wanted a nats-server has ended");
    }
    Command::new(program)
        .arg0(PROGRAM_NAME)
        .args(arguments)
        .exec()
}

/// Starts the server through [`child_main`]. It inherits the lock as its
/// standard input.
pub(super) fn spawn(
    server: &Path,
    files: &ServerFiles,
    port: Option<u16>,
    lock: File,
) -> io::Result<Child> {
    Command::new(own_program()?)
        .arg(CHILD_SUBCOMMAND)
        .arg(process::id().to_string())
        .arg(server)
        .args(files.arguments(port))
        .stdin(lock)
        .stdout(Stdio::null())
        .stderr(files.open_stderr()?)
        // Its own group, or a Ctrl-C in the terminal would stop the server
        // while the services still need it for their own ending.
        .process_group(0)
        .spawn()
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    Ok(())
}

/// Other systems have no such signal: there a server outlives a parent that
/// was killed, and holds the lock until somebody ends it.
#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// Our own program, also when its file was replaced since it was started.
fn own_program() -> io::Result<OsString> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    env::current_exe().map(OsString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_missing_are_refused() {
        assert_eq!(child_main([]).kind(), io::ErrorKind::InvalidInput);
    }
}

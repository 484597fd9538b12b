//! No process outlives the test program, even when that is killed.

use std::{env, process::Command};

use signalbox_testkit::{DEADLINE, NatsServer, Process, eventually};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// A test program of its own: starts a server, says where, and waits to be killed.
#[tokio::test]
#[ignore = "started by the other test, as a process to kill"]
async fn program_with_a_server() {
    let server = NatsServer::start().await;
    eprintln!("port={}", server.port());
    std::io::stdin().read_line(&mut String::new()).ok();
}

#[tokio::test]
async fn killed_test_program_leaves_no_process() {
    let mut command = Command::new(env::current_exe().expect("the test program knows its path"));
    command.args([
        "--exact",
        "program_with_a_server",
        "--ignored",
        "--nocapture",
    ]);
    // What a killed program cannot remove is removed with this.
    let files = TempDir::new().expect("a temporary directory can be created");
    command.env("TMPDIR", files.path());
    let program = Process::spawn(command);
    let line = program.wait_for_line("port=", DEADLINE).await;
    let port: u16 = line
        .rsplit('=')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("{line}"));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());

    program.kill9();
    eventually("the server to be gone", DEADLINE, async || {
        TcpStream::connect(("127.0.0.1", port)).await.err()
    })
    .await;
}

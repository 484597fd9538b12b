//! A real browser: headless Chromium on a page that this process serves.
//!
//! The page reports what it sees with `report(value)`, which every page gets;
//! the test reads the reports in order. No driver is between the two.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::child::GuardedChild;

/// The programs that are a Chromium, in the order in which they are looked
/// for.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// How it is started: alone, without a screen, and without calls home.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
];
/// Reports that may wait to be read; a page that reports more waits.
const REPORTS_CAPACITY: usize = 1_024;
/// Given to every page ahead of its own script.
const PRELUDE: &str = "let reports = Promise.resolve();\n\
    const report = value => reports = reports.then(() => \
    fetch('/report', {method: 'POST', body: JSON.stringify(value)}));\n";

/// A browser with one page open; dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    _child: GuardedChild,
    _profile: TempDir,
    server: JoinHandle<()>,
    origin: String,
    reports: mpsc::Receiver<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Browser {
    /// Opens a page with this script, served from a port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no Chromium.
    pub async fn open(script: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("there is a free port");
        let addr: SocketAddr = listener.local_addr().expect("a bound socket has one");
        let origin = format!("http://{addr}");
        let page = format!(
            "<!doctype html><meta charset=utf-8><title>test</title><link rel=icon href=data:,>\
             <script type=module>{PRELUDE}{script}</script>"
        );
        let (sender, reports) = mpsc::channel(REPORTS_CAPACITY);
        let server = tokio::spawn(serve(listener, page, sender));
        let profile = tempfile::tempdir().expect("a temporary directory can be created");
        let child = launch(&profile, &origin);
        Self {
            _child: child,
            _profile: profile,
            server,
            origin,
            reports,
        }
    }

    /// The page's origin, as the browser names it to servers.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The next value that the page reports.
    ///
    /// # Panics
    /// When none comes within `deadline`.
    pub async fn next(&mut self, deadline: Duration) -> Value {
        timeout(deadline, self.reports.recv())
            .await
            .unwrap_or_else(|_| panic!("the page reports nothing within {deadline:?}"))
            .expect("the page's server runs")
    }
}

fn launch(profile: &TempDir, url: &str) -> GuardedChild {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Ok((child, _)) = GuardedChild::spawn(&mut command) {
            return child;
        }
    }
    panic!("there is no Chromium, run: scripts/deps --test, or apt-get install chromium")
}

/// Serves the page and takes its reports until aborted.
async fn serve(listener: TcpListener, page: String, reports: mpsc::Sender<Value>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A browser opens connections ahead of need, so one must not wait for
        // another. They end with the browser.
        tokio::spawn(answer(stream, page.clone(), reports.clone()));
    }
}

/// Answers the requests of one connection until it is closed.
async fn answer(stream: TcpStream, page: String, reports: mpsc::Sender<Value>) {
    let mut stream = BufReader::new(stream);
    while let Some((path, body)) = request(&mut stream).await {
        let content = match path.as_str() {
            "/" => page.as_str(),
            _ => "",
        };
        if path == "/report"
            && let Ok(value) = serde_json::from_slice(&body)
            && reports.send(value).await.is_err()
        {
            return;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Path and body of the next request; `None` at the end of the connection.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, body))
}

//! The generated configuration of the server and the files around it. Whoever
//! starts a server, the supervisor or a test, starts it from these.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    credentials::Credentials,
    permission::{Permissions, User},
};

/// How much may be lost with the power: stored messages are written through to
/// the disk at this interval. The end of any process loses nothing.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// The largest message, 4 MiB: a frame of 1 MiB and what wraps it.
pub const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 4 * 1024 * 1024;

/// No server is told what its streams may hold, each stream is. This bound is
/// out of their way, and constant: the server's own default shrinks with the
/// free disk and could refuse tomorrow what it stored today.
const MAX_FILE_STORE_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// The bound of all streams and buckets in memory together.
const MAX_MEMORY_STORE_BYTES: u64 = 256 * 1024 * 1024;

/// How often a silent connection is asked for life; after two unanswered
/// questions it is closed, and what it held is free for another.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a write to one client may block before it is closed as too slow.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take to authenticate, on a machine that is busy starting.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a request its answer is let through.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10 * 60);

const LOG_FILE_BYTES: u64 = 16 * 1024 * 1024;
const LOG_FILES_KEPT: u32 = 4;

/// The part of a managed server's configuration that its owner decides.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The port on 127.0.0.1; `None` takes a free one.
    pub port: Option<u16>,
    /// The interval at which stored messages are written through to the disk.
    pub sync_interval: Duration,
    /// The size of the largest message, in bytes.
    pub max_payload_bytes: u32,
    /// The passwords of the users.
    pub users: Credentials,
}

/// Where a server keeps its files, all below one directory.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// The generated configuration; holds passwords.
    pub config: PathBuf,
    /// What the server logs.
    pub log: PathBuf,
    /// What the server says outside its log: why it could not start, or a crash.
    pub stderr: PathBuf,
    ports: PathBuf,
}

impl Default for ServerConfig {
    /// A free port, the default interval and size, and new passwords.
    fn default() -> Self {
        Self {
            port: None,
            sync_interval: DEFAULT_SYNC_INTERVAL,
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            users: Credentials::generate(),
        }
    }
}

impl ServerConfig {
    /// Writes the configuration of a server that keeps everything in the
    /// directory `nats` below `data_dir`. The file can be read by its owner only.
    ///
    /// # Errors
    /// When the files cannot be written, or the path is not Unicode.
    pub fn write(&self, data_dir: &Path) -> io::Result<ServerFiles> {
        let home = data_dir.join("nats");
        let files = ServerFiles {
            config: home.join("server.conf"),
            log: home.join("server.log"),
            stderr: home.join("stderr.log"),
            ports: home.join("ports"),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&files.ports)?;
        // A fresh file, since an old one would keep the mode that it has.
        remove_if_present(&files.config)?;
        let text = serde_json::to_string_pretty(&self.render(&home, &files)?)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&files.config)?
            .write_all(text.as_bytes())?;
        Ok(files)
    }

    /// The server's configuration format takes JSON, which settles all quoting.
    fn render(&self, home: &Path, files: &ServerFiles) -> io::Result<Value> {
        let users: Vec<Value> = User::ALL
            .into_iter()
            .map(|user| self.render_user(user))
            .collect();
        Ok(json!({
            "server_name": "signalbox",
            "host": "127.0.0.1",
            "max_payload": self.max_payload_bytes,
            "ping_interval": text_of(PING_INTERVAL),
            "write_deadline": text_of(WRITE_DEADLINE),
            "authorization": { "timeout": AUTH_TIMEOUT.as_secs() },
            "log_file": unicode(&files.log)?,
            "logfile_size_limit": LOG_FILE_BYTES,
            "logfile_max_num": LOG_FILES_KEPT,
            "jetstream": {
                "store_dir": unicode(home)?,
                "sync_interval": text_of(self.sync_interval),
                "max_file_store": MAX_FILE_STORE_BYTES,
                "max_memory_store": MAX_MEMORY_STORE_BYTES,
            },
            "accounts": {
                "SYS": {},
                "APP": { "jetstream": "enabled", "users": users },
            },
            "system_account": "SYS",
        }))
    }

    fn render_user(&self, user: User) -> Value {
        let mut entry = json!({ "user": user.name(), "password": self.users.password(user) });
        if let Some(permissions) = user.permissions() {
            entry["permissions"] = render_permissions(&permissions);
        }
        entry
    }
}

impl ServerFiles {
    /// The arguments that start `nats-server` with these files; without `port`
    /// it takes a free one.
    #[must_use]
    pub fn arguments(&self, port: Option<u16>) -> Vec<OsString> {
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        vec![
            "--config".into(),
            self.config.clone().into(),
            "--port".into(),
            port.into(),
            "--ports_file_dir".into(),
            self.ports.clone().into(),
        ]
    }

    /// The port on which the process `pid` accepts clients; `None` until it does.
    ///
    /// The server writes it once its streams are recovered, under a name made
    /// of the program's first argument, which must be `nats-server`, and its id.
    #[must_use]
    pub fn port(&self, pid: u32) -> Option<u16> {
        let text = fs::read_to_string(self.ports.join(format!("nats-server_{pid}.ports"))).ok()?;
        let ports: Value = serde_json::from_str(&text).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }

    /// Forgets the ports of servers that were killed, whose ids may come again.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_ports(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.ports)? {
            remove_if_present(&entry?.path())?;
        }
        Ok(())
    }

    /// Opens a new file for what the server says outside its log; what its
    /// predecessor said there, such as a crash's trace, is kept beside it.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn open_stderr(&self) -> io::Result<File> {
        if fs::metadata(&self.stderr).is_ok_and(|file| file.len() > 0) {
            fs::rename(&self.stderr, self.stderr.with_extension("log.old"))?;
        }
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.stderr)
    }

    /// Why the process `pid` ended, as far as the server has said it: how its
    /// standard error begins, or else its last complaint in the log.
    #[must_use]
    pub fn last_words(&self, pid: u32) -> Option<String> {
        let said = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let tag = format!("[{pid}]");
        let complaint = |line: &&str| {
            line.starts_with(&tag) && (line.contains("[FTL]") || line.contains("[ERR]"))
        };
        said(&self.stderr)
            .lines()
            .find(|line| !line.trim().is_empty())
            .or(said(&self.log).lines().rev().find(complaint))
            .map(str::to_owned)
    }
}

fn render_permissions(permissions: &Permissions) -> Value {
    let mut entry = json!({
        "publish": { "allow": permissions.publish },
        "subscribe": { "allow": permissions.subscribe },
    });
    if permissions.allow_responses {
        entry["allow_responses"] = json!({ "max": 1, "expires": text_of(ANSWER_WITHIN) });
    }
    entry
}

fn text_of(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn unicode(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "nats-server needs a path that is Unicode",
        )
    })
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn configuration_is_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerConfig::default().write(dir.path()).unwrap();
        // One that was left with a wider mode is replaced, not reused.
        fs::set_permissions(&files.config, fs::Permissions::from_mode(0o644)).unwrap();
        let files = ServerConfig::default().write(dir.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.config), 0o600);
        assert_eq!(mode(files.config.parent().unwrap()), 0o700);
    }

    #[test]
    fn configuration_opens_nothing_but_one_loopback_port() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerConfig::default().write(dir.path()).unwrap();
        let config: Value =
            serde_json::from_str(&fs::read_to_string(files.config).unwrap()).unwrap();
        assert_eq!(config["host"], "127.0.0.1");
        for key in [
            "http",
            "http_port",
            "https_port",
            "monitor_port",
            "cluster",
            "leafnodes",
            "websocket",
            "mqtt",
        ] {
            assert!(config.get(key).is_none(), "{key}");
        }
        assert!(config["accounts"]["SYS"].get("users").is_none());
    }

    #[test]
    fn configuration_holds_every_user_with_its_rights() {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerConfig::default();
        let files = config.write(dir.path()).unwrap();
        let written: Value =
            serde_json::from_str(&fs::read_to_string(files.config).unwrap()).unwrap();
        let users = written["accounts"]["APP"]["users"].as_array().unwrap();
        assert_eq!(users.len(), User::ALL.len());
        for (user, entry) in User::ALL.into_iter().zip(users) {
            assert_eq!(entry["user"], user.name());
            assert_eq!(entry["password"], config.users.password(user));
            assert_eq!(entry.get("permissions").is_none(), user == User::Admin);
        }
    }

    #[test]
    fn port_is_read_from_the_file_of_that_process() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerConfig::default().write(dir.path()).unwrap();
        assert_eq!(files.port(17), None);
        let text = r#"{"nats":["nats://127.0.0.1:36233"]}"#;
        fs::write(files.ports.join("nats-server_17.ports"), text).unwrap();
        assert_eq!(files.port(17), Some(36233));
        assert_eq!(files.port(18), None);
        files.forget_ports().unwrap();
        assert_eq!(files.port(17), None);
    }

    #[test]
    fn last_words_are_those_of_the_process_that_ended() {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerConfig::default().write(dir.path()).unwrap();
        assert_eq!(files.last_words(1), None);
        fs::write(
            &files.log,
            "[1] [FTL] no port\n[2] [FTL] no space\n[1] [INF] bye\n",
        )
        .unwrap();
        assert_eq!(files.last_words(1).as_deref(), Some("[1] [FTL] no port"));
        files
            .open_stderr()
            .unwrap()
            .write_all(b"\npanic: why\ngoroutine 1\n")
            .unwrap();
        assert_eq!(files.last_words(1).as_deref(), Some("panic: why"));
        files.open_stderr().unwrap();
        assert_eq!(files.last_words(1).as_deref(), Some("[1] [FTL] no port"));
    }
}

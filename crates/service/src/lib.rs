//! What every service process needs around its work: logs, traces and metrics on
//! their way out, signals, an orderly end, readiness, the admin listener and
//! owned tasks.
//!
//! The crate knows no service, no bus and no client; configuration is parsed by
//! the caller.
//!
//! A binary starts with [`telemetry::init`], then calls [`run()`] with its
//! service and ends with [`exit_code`]:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use signalbox_service::{AdminFallback, AdminServer, ExitError, Health, LogArgs};
//! use signalbox_service::{exit_code, run, telemetry};
//!
//! fn start(logs: &LogArgs) -> Result<(), ExitError> {
//!     telemetry::init(logs).map_err(ExitError::config)?;
//!     run("relay", Duration::from_secs(30), async |shutdown| {
//!         let health = Health::new(shutdown.clone());
//!         let bus = health.condition("bus");
//!         let address = "127.0.0.1:9090".parse().expect("a literal address");
//!         let _admin = AdminServer::start(address, health, AdminFallback::FreePort)?;
//!         // Connect, bind, and last of all:
//!         bus.set_ready();
//!         shutdown.wait().await;
//!         // Tell peers, flush, close.
//!         Ok::<_, signalbox_service::AdminError>(())
//!     })
//! }
//!
//! fn main() -> ExitCode {
//!     let logs = LogArgs::default();
//!     exit_code("signalbox", start(&logs))
//! }
//! ```

pub mod admin;
#[cfg(test)]
mod captured;
pub mod exit;
pub mod health;
pub mod metrics;
mod own_thread;
pub mod private_file;
pub mod run;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod tls;

pub use crate::admin::{AdminError, AdminFallback, AdminServer, AdminServerBuilder};
pub use crate::exit::{BoxError, ExitError, exit_code};
pub use crate::health::{Condition, ConditionState, Health, HealthSnapshot};
pub use crate::run::run;
pub use crate::shutdown::Shutdown;
pub use crate::tasks::Tasks;
pub use crate::telemetry::{LogArgs, LogFormat, OtlpArgs, Telemetry, TelemetryError};

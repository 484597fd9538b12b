//! The process's limit on open files, which is also one on connections.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors that are not clients': the bus, listeners, admin, runtimes, and
/// connections that are being refused.
const MARGIN: u64 = 512;
/// The least that is left to clients under a very small limit.
const LEAST_CONNECTIONS: usize = 16;

/// Raises the soft limit as far as `wanted` connections need and the hard
/// limit allows; gives how many connections there may be.
pub(crate) fn connections(wanted: usize) -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            warn!(%error, "limit on open files unknown");
            return wanted;
        }
    };
    let needed = (wanted as u64).saturating_add(MARGIN);
    let mut granted = soft;
    if soft < needed && soft < hard {
        let raised = needed.min(hard);
        match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
            Ok(()) => granted = raised,
            Err(error) => warn!(%error, soft, "limit on open files not raised"),
        }
    }
    let allowed = fitting(wanted, granted);
    if allowed < wanted {
        info!(
            max_connections = allowed,
            wanted,
            open_files = granted,
            "fewer connections than wanted: the limit on open files is low"
        );
    }
    allowed
}

/// How many of the `wanted` connections fit into `descriptors`.
fn fitting(wanted: usize, descriptors: u64) -> usize {
    let left = usize::try_from(descriptors.saturating_sub(MARGIN)).unwrap_or(usize::MAX);
    wanted.min(left.max(LEAST_CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_kept_free() {
        assert_eq!(fitting(100_000, 1_048_576), 100_000);
        assert_eq!(fitting(100_000, 20_000), 20_000 - 512);
        assert_eq!(fitting(100, 20_000), 100);
        assert_eq!(fitting(100_000, 256), LEAST_CONNECTIONS);
        assert_eq!(fitting(1, 256), 1);
    }
}

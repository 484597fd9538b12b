//! What a process has taken from the system, as Linux tells it.

use std::fs;

use crate::Process;

impl Process {
    /// Descriptors that the process holds.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        fs::read_dir(path).expect("the process runs").count()
    }

    /// Memory that the process occupies, in bytes.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse::<usize>().ok());
        kibibytes.expect("a running process has memory") * 1024
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_running_process_has_standard_streams_and_memory() {
        let process = Process::spawn(Command::new("cat"));
        process.write_line("ready");
        process.wait_for_line("ready", crate::DEADLINE).await;
        assert!(process.open_files() >= 3);
        assert!(process.resident_bytes() > 0);
    }
}

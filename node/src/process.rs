//! What this process uses, from `/proc`; zeros where there is none.

use std::time::Instant;

/// Clock ticks per second in `/proc`: 100 on every Linux of today (proc(5), sysconf(3)).
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes per page in `/proc/self/statm` on the machines that this is built for.
const PAGE_BYTES: u64 = 4_096;

/// Raises the number of files and sockets that this process may hold to the most it is allowed:
/// shells give 1,024, which a burst of calls uses up, and then the log cannot be written.
pub(crate) fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "files and sockets at once"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it was"),
    }
}

/// Samples the CPU and memory of this process.
pub(crate) struct Process {
    cores: f64,
    last: (Instant, f64),
}

impl Process {
    /// Begins to sample.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Self { cores, last: (Instant::now(), cpu_seconds().unwrap_or(0.0)) }
    }

    /// The share of the machine's CPU used since the last sample, 0 to 1.
    pub(crate) fn cpu(&mut self) -> f32 {
        let now = (Instant::now(), cpu_seconds().unwrap_or(0.0));
        let wall = now.0.duration_since(self.last.0).as_secs_f64();
        let used = (now.1 - self.last.1).max(0.0);
        self.last = now;
        if wall <= 0.0 { 0.0 } else { (used / wall / self.cores).clamp(0.0, 1.0) as f32 }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * PAGE_BYTES
    }
}

/// User and system time, fields 14 and 15 of `/proc/self/stat` (proc(5)).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process, in parentheses, may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_memory_and_time() {
        let mut process = Process::new();
        assert!(process.memory_bytes() > 100_000);
        assert!(cpu_seconds().is_some());
        assert!((0.0..=1.0).contains(&process.cpu()));
    }
}

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

/// What this process uses, as metrics show it; nothing where there is no `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// Resident memory.
    pub(crate) memory_bytes: u64,
    /// Files and sockets held.
    pub(crate) descriptors: u64,
    /// Files and sockets that may be held.
    pub(crate) descriptors_max: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// When it was started, in seconds since 1970.
    pub(crate) started: f64,
}

impl Figures {
    /// As they are now. Lists the process's descriptors, so it is for those who ask, not for every
    /// call.
    pub(crate) fn now() -> Self {
        // Listing holds a descriptor of its own.
        let listed = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            cpu_seconds: cpu_seconds().unwrap_or(0.0),
            memory_bytes: memory_bytes(),
            descriptors: (listed as u64).saturating_sub(1),
            descriptors_max: rlimit::Resource::NOFILE.get_soft().unwrap_or(0),
            threads: stat_field(20).unwrap_or(0.0) as u64,
            started: started().unwrap_or(0.0),
        }
    }
}

/// When this process was started, in seconds since 1970: ticks after the machine's start, field 22
/// (proc(5)).
fn started() -> Option<f64> {
    let ticks = stat_field(22)?;
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(booted.trim().parse::<f64>().ok()? + ticks / TICKS_PER_SECOND)
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
        memory_bytes()
    }
}

fn memory_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// User and system time, fields 14 and 15.
fn cpu_seconds() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) / TICKS_PER_SECOND)
}

/// A number of `/proc/self/stat`, by its place in proc(5); those behind the process's name only.
fn stat_field(place: usize) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, is the second field and may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    fields.nth(place.checked_sub(3)?)?.parse().ok()
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

    #[test]
    fn the_figures_are_those_of_this_process() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let with = Figures::now();
        drop(file);
        assert!(with.descriptors >= 1 && with.descriptors <= with.descriptors_max, "{with:?}");
        assert!(with.threads >= 1 && with.memory_bytes > 100_000, "{with:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - with.started;
        // The machine's start is told in whole seconds.
        assert!((-2.0..3_600.0).contains(&age), "{age} s old: {with:?}");
    }
}

//! How the disk below the log does: whether there is room, how long a sync takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A measurement counts as twice the average and this more at most, in µs: a single stall does not
/// make a slow disk, some twenty slow syncs do.
const STEP_MICROS: u64 = 5_000;

/// How the disk below the log does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// No segment can be reserved: what is appended beyond the one in use may find no room.
    pub full: bool,
    /// How long a sync takes: a moving average, or the time that a longer one already takes.
    pub sync: Duration,
    /// The first I/O error; the log takes no more writes.
    pub failed: Option<String>,
}

/// What the writer notes and others read. Times in µs since `began`.
#[derive(Debug)]
pub(super) struct Gauge {
    began: Instant,
    full: AtomicBool,
    average: AtomicU64,
    /// When the sync that is running began, plus one; 0: none is.
    running: AtomicU64,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            full: AtomicBool::new(false),
            average: AtomicU64::new(0),
            running: AtomicU64::new(0),
        }
    }

    pub(super) fn note_full(&self, full: bool) -> bool {
        self.full.swap(full, Relaxed) != full
    }

    pub(super) fn sync_begins(&self) {
        self.running.store(self.now() + 1, Relaxed);
    }

    pub(super) fn sync_ends(&self) {
        let began = self.running.swap(0, Relaxed).saturating_sub(1);
        self.add(self.now().saturating_sub(began));
    }

    fn add(&self, took: u64) {
        let average = match self.average.load(Relaxed) {
            0 => took.min(STEP_MICROS),
            before => (before * 7 + took.min(2 * before + STEP_MICROS)) / 8,
        };
        self.average.store(average.max(1), Relaxed);
    }

    pub(super) fn read(&self, failed: Option<String>) -> Health {
        let running = match self.running.load(Relaxed) {
            0 => 0,
            began => self.now().saturating_sub(began - 1),
        };
        let sync = Duration::from_micros(self.average.load(Relaxed).max(running));
        Health { full: self.full.load(Relaxed), sync, failed }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn average(samples: impl IntoIterator<Item = u64>) -> u64 {
        let gauge = Gauge::new();
        for took in samples {
            gauge.add(took);
        }
        gauge.average.load(Relaxed)
    }

    #[test]
    fn a_stall_is_no_slow_disk_and_a_slow_disk_is_soon_known() {
        assert!(average([200; 50].into_iter().chain([800_000])) < 1_500);
        assert!(average([200; 50].into_iter().chain([100_000; 30])) > 50_000);
        let healed = average([100_000; 60].into_iter().chain([200; 30]));
        assert!(healed < 10_000, "{healed}");
    }
}

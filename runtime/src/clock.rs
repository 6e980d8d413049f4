//! How long a slice of a guest ran: the two clocks, and which one is read when.

#![allow(unsafe_code, reason = "the thread's CPU clock has no safe interface")]

use std::time::{Duration, Instant};

/// A running measurement of one slice, on the thread that runs it.
///
/// Reading the thread's CPU clock is a system call, reading the wall clock is not: a guest's
/// short first slice is measured by the wall clock, later ones of a guest that was busy for a
/// whole tick by the CPU clock, so that waiting for a core is not charged to it.
pub(crate) enum Stopwatch {
    Wall(Instant),
    Cpu(Duration),
}

impl Stopwatch {
    /// Starts to measure.
    pub(crate) fn start(busy: bool) -> Self {
        if busy { Self::Cpu(thread_cpu()) } else { Self::Wall(Instant::now()) }
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Wall(start) => start.elapsed(),
            Self::Cpu(start) => thread_cpu().saturating_sub(*start),
        }
    }
}

/// CPU time that the current thread has used.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusively borrowed timespec that the call only writes to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    if failed {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_advances_with_work_and_stands_still_in_sleep() {
        let watch = Stopwatch::start(true);
        while watch.elapsed() < Duration::from_millis(5) {
            std::hint::black_box(0);
        }
        let before = thread_cpu();
        std::thread::sleep(Duration::from_millis(20));
        assert!(thread_cpu() - before < Duration::from_millis(15));
    }
}

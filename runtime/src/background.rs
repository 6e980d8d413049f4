//! The threads that compile: as many as there are cores, and the last of all to be given time.
//!
//! A compilation takes every core for seconds where it may. On threads of the lowest priority it
//! takes what calls leave: whoever wakes to serve one is run first.

#![allow(unsafe_code, reason = "the priority of a thread is set by a call of the system")]

use std::sync::OnceLock;
use std::thread::available_parallelism;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// How willing the threads are to let others go first: as much as the system knows. They still
/// get a sixtieth of a core on which somebody else never rests, so that a deploy ends at last.
const NICENESS: i32 = 19;

/// The threads that compile for one engine; made when first used.
#[derive(Debug, Default)]
pub(crate) struct Background {
    pool: OnceLock<Option<ThreadPool>>,
}

impl Background {
    /// Does a piece of work on these threads, and all that it does in parallel with rayon too;
    /// returns when it is done. A panic in it goes on in the caller.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self.pool.get_or_init(start) {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

fn start() -> Option<ThreadPool> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(available_parallelism().map_or(1, usize::from))
        .thread_name(|n| format!("compile-{n}"))
        .start_handler(|_| step_back_by(NICENESS))
        .build();
    if let Err(error) = &pool {
        tracing::warn!(%error, "no threads to compile on: compilations may delay calls");
    }
    pool.ok()
}

/// Lets all others go before this thread.
#[cfg(target_os = "linux")]
pub(crate) fn step_back_by(niceness: i32) {
    // SAFETY: the call reads three numbers and touches no memory. On Linux the 0 is this thread,
    // and no other.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, niceness) } != 0;
    if failed {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "what runs in the background has the priority of calls");
    }
}

/// Elsewhere the priority is that of the whole process, which must keep it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn step_back_by(_: i32) {}

/// The niceness of the thread that asks.
#[cfg(test)]
#[cfg(target_os = "linux")]
pub(crate) fn niceness() -> i32 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name of the thread stands in brackets and may hold spaces.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_ascii_whitespace().nth(16).unwrap().parse().unwrap()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn what_compiles_steps_back_and_who_asked_for_it_does_not() {
        let background = Background::default();
        let before = niceness();
        let all =
            background.run(|| (0..64).into_par_iter().map(|_| niceness()).collect::<Vec<_>>());
        assert!(all.iter().all(|nice| *nice == NICENESS), "{all:?}");
        assert_eq!(niceness(), before);
    }

    #[test]
    fn a_panic_comes_back_and_the_threads_go_on() {
        let background = Background::default();
        let work = || background.run(|| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        assert_eq!(background.run(|| 7), 7);
    }
}

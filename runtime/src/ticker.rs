//! The beat that interrupts guests: an OS thread, so that no busy guest can hold it up.
//!
//! It sleeps while nothing runs, and has not for a while: waking it is a system call, which short calls
//! that come one after the other would all make.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Relaxed, SeqCst},
};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::Error;

/// A guest that has just become busy gives its thread away after this …
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// … and as often as this while some guest goes on for longer: what comes meanwhile for others waits for it. Short calls,
/// of which there may be very many, are not interrupted so often.
const SHORT_TICK: Duration = Duration::from_micros(250);
/// So many short ticks after a guest has last gone on for longer.
const SHORT_TICKS: u32 = 16;

/// It sleeps when nothing was found running for so many ticks.
const IDLE_TICKS: u32 = 100;

/// Whether a guest was interrupted that had been before.
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// A guest was interrupted that had been before.
pub(crate) fn goes_on() {
    // Most often it is known.
    if !GOES_ON.load(Relaxed) {
        GOES_ON.store(true, Relaxed);
    }
}

/// The ticker's handle; the thread ends when it is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    engine: wasmtime::Engine,
    /// Instances running now.
    running: AtomicU32,
    parked: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engine: wasmtime::Engine) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            engine,
            running: AtomicU32::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let thread = thread::Builder::new()
            .name("guest-ticker".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run()
            })
            .map_err(|error| Error::Internal { why: format!("no thread: {error}") })?
            .thread()
            .clone();
        Ok(Self { shared, thread })
    }

    /// Instances running now.
    pub(crate) fn running(&self) -> u32 {
        self.shared.running.load(SeqCst)
    }

    /// An instance starts.
    pub(crate) fn enter(&self) {
        self.shared.running.fetch_add(1, SeqCst);
        // Either this sees that the thread parks, or the thread sees the new count.
        if self.shared.parked.load(SeqCst) {
            self.thread.unpark();
        }
    }

    /// An instance has ended.
    pub(crate) fn leave(&self) {
        self.shared.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self) {
        let (mut idle, mut short) = (0, 0);
        while !self.stop.load(SeqCst) {
            idle = if self.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                self.parked.store(true, SeqCst);
                if self.running.load(SeqCst) == 0 && !self.stop.load(SeqCst) {
                    thread::park();
                }
                self.parked.store(false, SeqCst);
                idle = 0;
            }
            short = if GOES_ON.swap(false, Relaxed) {
                SHORT_TICKS
            } else {
                u32::saturating_sub(short, 1)
            };
            thread::sleep(if short > 0 { SHORT_TICK } else { TICK });
            self.engine.increment_epoch();
        }
    }
}

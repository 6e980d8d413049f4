//! Begins to load what a caller is about to call: the host is known from the ClientHello, one or two
//! round trips before the first call. A cold start then hides in the handshake.
//!
//! Only what a call would load here as well: functions with a route of that host whose compiled
//! artifact is on this node. Nothing is fetched, compiled or run for a stranger's hello.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nigh_model::FunctionRef;
use tokio::sync::Semaphore;

use super::super::Gateway;
use crate::telemetry::Preloaded;

/// A host with routes to more functions than this says too little of what will be called.
const FUNCTIONS_MAX: usize = 4;
/// Loads at once that no call has asked for yet: each maps a file, and hellos cost a stranger little.
const LOADS_MAX: usize = 8;

/// The loads of a node that no call has asked for yet.
pub(crate) struct Preloads {
    room: Arc<Semaphore>,
}

impl Default for Preloads {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LOADS_MAX)) }
    }
}

/// What was begun for one connection, until its first call.
#[derive(Debug, Default)]
pub(crate) struct Preload {
    begun: Mutex<Vec<Begun>>,
}

impl Preload {
    /// Whether there is anything that a call can meet.
    pub(crate) fn has_begun(&self) -> bool {
        !self.begun.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[derive(Debug)]
struct Begun {
    function: FunctionRef,
    /// The load has ended, one way or the other.
    over: Arc<AtomicBool>,
}

impl Gateway {
    /// Begins to load the functions of a host that are ready here and not warm. Waits for nothing.
    pub(crate) fn preload(&self, host: &str) -> Preload {
        let core = self.core();
        let mut begun = Vec::new();
        // Who leaves has its calls run elsewhere where they can.
        let targets = if self.is_draining() {
            Vec::new()
        } else {
            core.decided.now().targets_of_host(host, FUNCTIONS_MAX)
        };
        for target in targets {
            let function = target.function.clone();
            if core.shelf.is_warm(&function) || !core.shelf.is_ready(&function) {
                continue;
            }
            let Ok(turn) = Arc::clone(&core.preloads.room).try_acquire_owned() else { break };
            core.metrics.preload_begun();
            let (shelf, over) = (core.shelf.clone(), Arc::new(AtomicBool::new(false)));
            begun.push(Begun { function, over: Arc::clone(&over) });
            tokio::spawn(async move {
                // Why it fails is said where it fails, and to the call that will ask for it.
                let _ = shelf.load(&target.function, target.spec.component).await;
                over.store(true, Relaxed);
                drop(turn);
            });
        }
        Preload { begun: Mutex::new(begun) }
    }

    /// The first call of the connection asks for this function: counts whether that helped.
    pub(crate) fn preload_met(&self, preload: &Preload, function: &FunctionRef) {
        let begun = mem::take(&mut *preload.begun.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(begun) = begun.iter().find(|begun| begun.function == *function) else { return };
        let core = self.core();
        if core.shelf.is_warm(function) {
            core.metrics.preload_met(Preloaded::Warm);
        } else if !begun.over.load(Relaxed) {
            core.metrics.preload_met(Preloaded::Joined);
        }
    }
}

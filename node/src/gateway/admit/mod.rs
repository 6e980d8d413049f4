//! Who may come in, so that a node that is asked for too much goes on doing what it can.
//!
//! Two things run out. A *thread of guests*: `lane` decides whether it takes on another call, from how
//! long it takes to go around all that waits for it, and `share` says which function takes too much of
//! it; `standing` tells an overload from a burst, and `lanes` is the shell around all three. And the *places of a function*: `door` lets so many in at once and
//! keeps a short queue. What is refused is refused at once, with a time to come back.
//!
//! It deliberately does not decide where else a refused call could go; `call` does.

mod door;
mod lane;
mod lanes;
mod share;
#[cfg(test)]
mod simulation;
mod standing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nigh_model::{FunctionRef, FunctionSpec};
use nigh_runtime::Threads;

pub(super) use door::{Door, Patience, Place};
use lanes::Lanes;
pub(super) use lanes::{Overloaded, Pass};

/// When a caller that found no place should try again: by then a call of a typical length has ended.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Doors kept before those that nobody stands at are let go (a few hundred bytes each).
const DOORS_MAX: usize = 4_096;
/// Calls that wait for a function to be loaded, of all functions: as many as there may be connections,
/// some 2 KiB each. A load takes milliseconds, and all that came meanwhile can run after it.
const LOADING_MAX: u32 = 16_384;

/// Who may come in to this node.
pub(crate) struct Admission {
    doors: RwLock<HashMap<FunctionRef, Arc<Door>>>,
    /// Calls that wait for a place, at all doors.
    waiting: Arc<AtomicU32>,
    /// Calls that wait for a load.
    loading: AtomicU32,
    lanes: Lanes,
}

/// As many calls wait for a load as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyLoading;

impl Admission {
    /// Nobody here yet; guests run on these threads, in so many slots.
    pub(super) fn new(threads: &Threads, slots: u32) -> Self {
        Self {
            doors: RwLock::default(),
            waiting: Arc::default(),
            loading: AtomicU32::new(0),
            lanes: Lanes::new(threads, slots),
        }
    }

    /// Calls that wait for a place, at all doors.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// How long a call that comes now waits for its turn on a thread of guests; on the slowest.
    pub(crate) fn turn(&self) -> Duration {
        self.lanes.turn()
    }

    /// The door of a function; its spec never changes, as it is part of a revision.
    pub(super) fn door(&self, function: &FunctionRef, spec: &FunctionSpec) -> Arc<Door> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(function) {
            return Arc::clone(door);
        }
        drop(doors);
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        if doors.len() >= DOORS_MAX {
            doors.retain(|_, door| Arc::strong_count(door) > 1);
        }
        let door = || Arc::new(Door::new(spec, Arc::clone(&self.waiting)));
        Arc::clone(doors.entry(function.clone()).or_insert_with(door))
    }

    /// Lets a call of a function onto a thread of guests: this one, or if this is none, whichever.
    ///
    /// # Errors
    /// The threads have too much to do, and this function takes no less of them than others.
    pub(super) fn pass(&self, door: &Door) -> Result<Pass, Overloaded> {
        self.lanes.pass(door.id())
    }

    /// Whether a call that was refused here may be sent to another node: only few are, as sending a
    /// call on costs no less than many calls do.
    pub(super) fn may_send_on(&self) -> bool {
        self.lanes.may_send_on()
    }

    /// Room to wait for a load.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn loading(&self) -> Result<Loading<'_>, TooManyLoading> {
        let loading = Loading(&self.loading);
        if self.loading.fetch_add(1, Relaxed) < LOADING_MAX {
            Ok(loading)
        } else {
            Err(TooManyLoading)
        }
    }
}

/// A call that waits for a load.
pub(super) struct Loading<'a>(&'a AtomicU32);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{Digest, FunctionName, RevisionId};
    use nigh_runtime::{Engine, EngineConfig};

    fn admission() -> (Engine, Admission) {
        let config = EngineConfig { slots: 1, threads: 1, ..EngineConfig::default() };
        let engine = Engine::new(config).unwrap();
        let admission = Admission::new(engine.threads(), engine.slots());
        (engine, admission)
    }

    #[test]
    fn doors_that_nobody_stands_at_are_let_go() {
        let (_engine, admission) = admission();
        let spec = FunctionSpec::new(Digest::of(b"x"), 1);
        let function =
            |n| FunctionRef { revision: RevisionId(n), function: FunctionName::new("f").unwrap() };
        let held = admission.door(&function(0), &spec);
        for n in 1..=DOORS_MAX as u64 {
            admission.door(&function(n), &spec);
        }
        assert_eq!(admission.doors.read().unwrap().len(), 2);
        assert!(Arc::ptr_eq(&held, &admission.door(&function(0), &spec)));
        assert_ne!(held.id(), admission.door(&function(1), &spec).id());
    }

    #[test]
    fn only_so_many_wait_for_a_load() {
        let (_engine, admission) = admission();
        let mut waiting: Vec<_> = (0..LOADING_MAX).map(|_| admission.loading().unwrap()).collect();
        assert_eq!(admission.loading().err(), Some(TooManyLoading));
        waiting.pop();
        assert!(admission.loading().is_ok());
        drop(waiting);
        assert_eq!(admission.loading.load(Relaxed), 0);
    }
}

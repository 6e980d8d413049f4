//! An instance: made for a call, and where a function wants that, kept for the next one.
//!
//! What a call leaves in memory the next one finds; what it leaves at the host it must not: an instance is
//! kept only when nothing of the call's own is left in its table, and never after a failure.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Store;
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostIncomingBody};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest,
};

use crate::answer::{Outgoing, Outparam};
use crate::engine::Slot;
use crate::host::Host;
use crate::load::Made;
use crate::pipe::Writer;

/// Handles that an instance may hold from one call to the next: those of its streams and the like. One
/// that holds more forgets to let go of them.
const HANDLES_KEPT_MAX: usize = 32;

/// An instance, or what one is made in.
pub(crate) struct Instance {
    // The store goes before the slot that it takes.
    pub(crate) store: Store<Host>,
    /// None until it was made.
    pub(crate) made: Option<Made>,
    /// Calls that it has begun.
    pub(crate) uses: u32,
    pub(crate) slot: Slot,
}

impl Instance {
    /// Whether nothing at the host is left of the last call.
    fn is_tidy(&mut self) -> bool {
        let mut handles = 0;
        self.store.data_mut().table.iter_mut().all(|entry| {
            handles += 1;
            handles <= HANDLES_KEPT_MAX && !is_of_a_call(entry)
        })
    }
}

/// Whether this belongs to one call alone.
fn is_of_a_call(entry: &(dyn Any + Send)) -> bool {
    entry.is::<HostIncomingRequest>()
        || entry.is::<HostIncomingBody>()
        || entry.is::<HostFutureTrailers>()
        || entry.is::<Outparam>()
        || entry.is::<Outgoing>()
        || entry.is::<Writer>()
        || entry.is::<HostOutgoingRequest>()
        || entry.is::<HostFutureIncomingResponse>()
        || entry.is::<HostIncomingResponse>()
}

/// Instances of one function that wait for their next call.
pub(crate) struct Instances {
    uses_max: u32,
    waiting_max: usize,
    /// The one that has served last comes first: its memory is the most likely to be in caches.
    waiting: Mutex<Vec<Instance>>,
}

impl Instances {
    /// None yet; each serves so many calls, and so many wait.
    pub(crate) fn new(uses_max: u32, waiting_max: u32) -> Self {
        Self { uses_max, waiting_max: waiting_max as usize, waiting: Mutex::default() }
    }

    /// Takes one that waits.
    pub(crate) fn take(&self) -> Option<Instance> {
        let mut instance = self.waiting().pop()?;
        instance.slot.wake();
        Some(instance)
    }

    /// Keeps one whose call has ended well, if it may serve another.
    pub(crate) fn keep(&self, mut instance: Instance) {
        if instance.uses >= self.uses_max || !instance.is_tidy() {
            return;
        }
        instance.store.data_mut().describe = None;
        let mut waiting = self.waiting();
        if waiting.len() < self.waiting_max {
            // Under the lock: who sees that it does not run finds it here.
            instance.slot.rest();
            waiting.push(instance);
        }
    }

    /// Lets go of the one that has waited the longest; whether there was one.
    pub(crate) fn let_go(&self) -> bool {
        let mut waiting = self.waiting();
        let oldest = (!waiting.is_empty()).then(|| waiting.remove(0));
        drop(waiting);
        oldest.is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("waiting", &self.waiting().len()).finish_non_exhaustive()
    }
}

/// All that keep instances in an engine, so that what waits gives way to what runs.
#[derive(Debug, Default)]
pub(crate) struct Keepers(Mutex<Vec<std::sync::Weak<Instances>>>);

impl Keepers {
    /// Adds one; it is forgotten when it goes.
    pub(crate) fn add(&self, keeper: &Arc<Instances>) {
        let mut keepers = self.keepers();
        keepers.retain(|keeper| keeper.strong_count() > 0);
        keepers.push(Arc::downgrade(keeper));
    }

    /// Lets go of an instance that waits; whether there was one.
    pub(crate) fn let_go(&self) -> bool {
        let keepers: Vec<_> = self.keepers().iter().filter_map(std::sync::Weak::upgrade).collect();
        keepers.iter().any(|keeper| keeper.let_go())
    }

    fn keepers(&self) -> MutexGuard<'_, Vec<std::sync::Weak<Instances>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

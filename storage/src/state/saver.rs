//! Saves states behind the one who makes them, the newest only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nigh_model::State;

use super::{RaftMark, StateStore};
use crate::error::{Context as _, Error};

/// The least time between two saves; states that come meanwhile replace each other.
const INTERVAL: Duration = Duration::from_millis(200);

/// A handle to the saving thread. When the last clone is dropped the newest state is saved and
/// synced, and the drop waits for that.
#[derive(Clone, Debug)]
pub struct StateSaver(
    #[expect(dead_code, reason = "its drop ends the thread")] Arc<Thread>,
    Arc<Shared>,
);

#[derive(Debug)]
struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    newest: Option<(State, Option<RaftMark>)>,
    closing: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateSaver {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(store: StateStore) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        let handle = thread::Builder::new()
            .name("nigh-state".to_owned())
            .spawn(move || run(store, &its))
            .on("start the saver of", "state".as_ref())?;
        let thread = Thread { shared: shared.clone(), handle: Some(handle) };
        Ok(Self(Arc::new(thread), shared))
    }

    /// Lets this state be saved soon. Returns at once. `mark` is none on nodes that follow the
    /// members without being one.
    pub fn save(&self, state: State, mark: Option<RaftMark>) {
        self.1.slot().newest = Some((state, mark));
        self.1.changed.notify_one();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.slot().closing = true;
        self.shared.changed.notify_one();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn run(mut store: StateStore, shared: &Shared) {
    loop {
        let idle = |slot: &mut Slot| slot.newest.is_none() && !slot.closing;
        let mut slot =
            shared.changed.wait_while(shared.slot(), idle).unwrap_or_else(PoisonError::into_inner);
        let Some((state, mark)) = slot.newest.take() else { break };
        drop(slot);
        if let Err(error) = store.save(&state, mark.as_ref()) {
            tracing::warn!(%error, "the state is not saved any more; a restart replays the log");
            return;
        }
        let pause = shared.changed.wait_timeout_while(shared.slot(), INTERVAL, |s| !s.closing);
        drop(pause);
    }
    if let Err(error) = store.sync() {
        tracing::warn!(%error, "the saved state could not be synced; a restart may replay the log");
    }
}

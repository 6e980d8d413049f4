//! Saves states behind the one who makes them, the newest only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nigh_model::State;

use super::{RaftMark, StateStore};
use crate::error::{Context as _, Error};

/// After a failure the store is opened anew this often: a full disk may have room again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(5);
/// The least time between two saves; states that come meanwhile replace each other.
const INTERVAL: Duration = Duration::from_millis(200);
/// At the end the newest state is saved by then, or a restart replays the log.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// A handle to the saving thread. When the last clone is dropped the newest state is saved and
/// synced, and the drop waits for that, but not for ever: the state is in the log too.
#[derive(Clone, Debug)]
pub struct StateSaver(
    #[expect(dead_code, reason = "its drop ends the thread")] Arc<Thread>,
    Arc<Shared>,
);

#[derive(Debug)]
struct Thread {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    newest: Option<(State, Option<RaftMark>)>,
    /// The last try failed, and that was said.
    failing: bool,
    closing: bool,
    /// The thread has ended.
    ended: bool,
}

/// Says so when the thread ends, however it does.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.slot().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is news.
    fn note_failing(&self, failing: bool) -> bool {
        std::mem::replace(&mut self.slot().failing, failing) != failing
    }
}

impl StateSaver {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(store: StateStore) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let ends = Ends(shared.clone());
        thread::Builder::new()
            .name("nigh-state".to_owned())
            .spawn(move || run(store, &ends.0))
            .on("start the saver of", "state".as_ref())?;
        Ok(Self(Arc::new(Thread { shared: shared.clone() }), shared))
    }

    /// Lets this state be saved soon. Returns at once. `mark` is none on nodes that follow the
    /// members without being one.
    pub fn save(&self, state: State, mark: Option<RaftMark>) {
        self.1.slot().newest = Some((state, mark));
        self.1.changed.notify_all();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut slot = self.shared.slot();
        slot.closing = true;
        self.shared.changed.notify_all();
        let ends = |slot: &mut Slot| !slot.ended;
        let ended = self.shared.changed.wait_timeout_while(slot, END_WAIT_MAX, ends);
        if ended.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!("the state could not be saved in time; a restart replays the log");
        }
    }
}

/// Lets go of a store whose disk has refused something, on a thread of its own: sled may wait for ever for that to be
/// written when it is dropped. As long as it does, the store cannot be opened anew.
fn abandon(store: StateStore) {
    let ends = thread::Builder::new().name("nigh-state-end".to_owned()).spawn(move || drop(store));
    if let Err(error) = ends {
        tracing::warn!(%error, "no thread to let go of the failed store of the state");
    }
}

fn run(store: StateStore, shared: &Shared) {
    let folder = store.folder().to_owned();
    let mut store = Some(store);
    loop {
        let idle = |slot: &mut Slot| slot.newest.is_none() && !slot.closing;
        let mut slot =
            shared.changed.wait_while(shared.slot(), idle).unwrap_or_else(PoisonError::into_inner);
        let closing = slot.closing;
        let Some((state, mark)) = slot.newest.take() else { break };
        drop(slot);
        let opened = match store.take() {
            Some(store) => Ok(store),
            None => StateStore::open(&folder).map(|(store, _)| store),
        };
        let saved = opened.and_then(|mut opened| match opened.save(&state, mark.as_ref()) {
            Ok(()) => Ok(opened),
            Err(error) => {
                abandon(opened);
                Err(error)
            }
        });
        let pause = match saved {
            Ok(saved) => {
                if shared.note_failing(false) {
                    tracing::info!("the state is saved again");
                }
                store = Some(saved);
                INTERVAL
            }
            Err(error) => {
                if shared.note_failing(true) {
                    tracing::warn!(%error, "the state is not saved now; a restart replays the log");
                }
                if closing {
                    return;
                }
                // The newest state waits for the next try, unless a newer one came.
                shared.slot().newest.get_or_insert((state, mark));
                REOPEN_INTERVAL
            }
        };
        drop(shared.changed.wait_timeout_while(shared.slot(), pause, |slot| !slot.closing));
    }
    if let Some(Err(error)) = store.map(|store| store.sync()) {
        tracing::warn!(%error, "the saved state could not be synced; a restart may replay the log");
    }
}

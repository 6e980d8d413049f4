//! For how long nodes have been dead, by the leader's own watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nigh_model::{NodeId, State};
use tokio::time::Instant;

use crate::seen::{Liveness, View};

/// Since when each dead node is dead, as far as this node saw while it led.
#[derive(Clone, Default)]
pub(crate) struct Absences {
    since: Arc<Mutex<BTreeMap<NodeId, Instant>>>,
}

impl Absences {
    /// Begins to watch anew: what was before was not seen.
    pub(crate) fn forget(&self) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes who is dead now.
    pub(crate) fn observe(&self, state: &State, view: &View) {
        let now = Instant::now();
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|id, _| state.nodes.contains_key(id) && view.liveness(*id) == Liveness::Dead);
        for id in state.nodes.keys().filter(|id| view.liveness(**id) == Liveness::Dead) {
            since.entry(*id).or_insert(now);
        }
    }

    /// For how long the node has been dead; zero when it is not, or not known to be.
    pub(crate) fn dead_for(&self, id: NodeId) -> Duration {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&id).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Whether the node is known to be dead.
    pub(crate) fn is_dead(&self, id: NodeId) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}

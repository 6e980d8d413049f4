//! For how long nodes have been dead, or alive, by the leader's own watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nigh_model::{NodeId, State};
use tokio::time::Instant;

use crate::seen::{Liveness, View};

/// Since when each node is dead or alive, as far as this node saw while it led.
#[derive(Clone, Default)]
pub(crate) struct Absences {
    watch: Arc<Mutex<Watch>>,
}

#[derive(Default)]
struct Watch {
    /// When it was looked last.
    now: Option<Instant>,
    dead: BTreeMap<NodeId, Instant>,
    alive: BTreeMap<NodeId, Instant>,
}

impl Absences {
    /// Begins to watch anew: what was before was not seen.
    pub(crate) fn forget(&self) {
        *self.watch() = Watch::default();
    }

    /// Notes who is dead and who is alive now.
    pub(crate) fn observe(&self, state: &State, view: &View, now: Instant) {
        let mut watch = self.watch();
        let Watch { dead, alive, .. } = &mut *watch;
        let is_dead = |id: &NodeId| view.liveness(*id) == Liveness::Dead;
        dead.retain(|id, _| state.nodes.contains_key(id) && is_dead(id));
        alive.retain(|id, _| state.nodes.contains_key(id) && !is_dead(id));
        for id in state.nodes.keys() {
            let since = if is_dead(id) { &mut *dead } else { &mut *alive };
            since.entry(*id).or_insert(now);
        }
        watch.now = Some(now);
    }

    /// For how long the node has been dead; zero when it is not, or not known to be.
    pub(crate) fn dead_for(&self, id: NodeId) -> Duration {
        let watch = self.watch();
        watch.since(watch.dead.get(&id))
    }

    /// For how long the node has been alive in one go; zero when it is not, or not known to be.
    pub(crate) fn alive_for(&self, id: NodeId) -> Duration {
        let watch = self.watch();
        watch.since(watch.alive.get(&id))
    }

    /// Whether the node is known to be dead.
    pub(crate) fn is_dead(&self, id: NodeId) -> bool {
        self.watch().dead.contains_key(&id)
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn since(&self, then: Option<&Instant>) -> Duration {
        let (Some(then), Some(now)) = (then, self.now) else { return Duration::ZERO };
        now.saturating_duration_since(*then)
    }
}

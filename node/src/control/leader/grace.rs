//! How long nodes have been dead: what is short changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use nigh_model::{NodeId, State};
use tokio::time::Instant;

use crate::seen::{Liveness, View};

/// A node that is dead for less keeps its assignments and its vote: it may just restart.
const GRACE: Duration = Duration::from_secs(15);

/// Since when each dead node is dead, as far as this leader saw.
#[derive(Default)]
pub(super) struct Grace {
    dead_since: BTreeMap<NodeId, Instant>,
}

impl Grace {
    /// Notes who is dead now.
    pub(super) fn observe(&mut self, state: &State, view: &View) {
        let now = Instant::now();
        self.dead_since
            .retain(|id, _| state.nodes.contains_key(id) && view.liveness(*id) == Liveness::Dead);
        for id in state.nodes.keys().filter(|id| view.liveness(**id) == Liveness::Dead) {
            self.dead_since.entry(*id).or_insert(now);
        }
    }

    /// Whether the node answers now.
    pub(super) fn answers(&self, id: NodeId) -> bool {
        !self.dead_since.contains_key(&id)
    }

    /// Whether the node is alive, or dead for so short a time that it counts as alive.
    pub(super) fn is_kept(&self, id: NodeId) -> bool {
        self.dead_since.get(&id).is_none_or(|since| since.elapsed() < GRACE)
    }
}

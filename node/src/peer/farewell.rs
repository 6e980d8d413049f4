//! Nodes that have just been removed: they are heard for a moment longer, so that they learn of it
//! and the calls that they have handed on end well.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nigh_model::{NodeId, State};
use tokio::time::Instant;

/// For so long after this node has learnt of it. Together with the time that takes it is less
/// than the five seconds after which a removed node is heard nowhere.
const GRACE: Duration = Duration::from_secs(3);

/// When nodes were removed, as far as this process has seen it.
#[derive(Clone, Default)]
pub(super) struct Farewell {
    left: Arc<Mutex<HashMap<NodeId, Instant>>>,
}

impl Farewell {
    /// Notes who is no longer registered that was before; whoever left long ago is forgotten.
    pub(super) fn observe(&self, before: &BTreeSet<NodeId>, state: &State) {
        let now = Instant::now();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, since| since.elapsed() < GRACE);
        for gone in before.iter().filter(|id| !state.nodes.contains_key(id)) {
            left.entry(*gone).or_insert(now);
        }
    }

    /// Whether the node was removed only a moment ago.
    pub(super) fn lasts(&self, id: NodeId) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.get(&id).is_some_and(|since| since.elapsed() < GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_removed_is_heard_for_a_moment_and_no_longer() {
        let farewell = Farewell::default();
        let before = BTreeSet::from([NodeId(7)]);
        assert!(!farewell.lasts(NodeId(7)), "nobody has seen it go");
        farewell.observe(&before, &State::default());
        assert!(farewell.lasts(NodeId(7)) && !farewell.lasts(NodeId(8)));
        tokio::time::advance(GRACE).await;
        assert!(!farewell.lasts(NodeId(7)));
        farewell.observe(&BTreeSet::new(), &State::default());
        assert!(!farewell.lasts(NodeId(7)));
    }
}

//! How long a node may be dead before anything follows from it: what is short changes nothing.

use std::time::Duration;

use nigh_model::NodeId;

use crate::control::Absences;

/// A node that is dead for less keeps its assignments and its vote: it may just restart.
const GRACE: Duration = Duration::from_secs(15);

/// Who counts as alive for the leader's decisions.
pub(super) struct Grace {
    pub(super) absences: Absences,
}

impl Grace {
    /// Whether the node answers now.
    pub(super) fn answers(&self, id: NodeId) -> bool {
        !self.absences.is_dead(id)
    }

    /// Whether the node is alive, or dead for so short a time that it counts as alive.
    pub(super) fn is_kept(&self, id: NodeId) -> bool {
        self.absences.dead_for(id) < GRACE
    }
}

//! What becomes of proposals, counted.

use std::time::Duration;

use crate::count::Count;
use crate::telemetry::Durations;

/// Proposals made by this node since its start.
pub(crate) struct Counts {
    /// Committed and carried out.
    pub(crate) committed: Count,
    /// Committed, and refused by the state.
    pub(crate) refused: Count,
    /// Not taken by a leader in time.
    pub(crate) unavailable: Count,
    /// How long each of them took.
    pub(crate) took: Durations,
}

/// How a proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Carried out.
    Committed,
    /// Refused by the state.
    Refused,
    /// Not taken.
    Unavailable,
}

impl Counts {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        Self {
            committed: Count::default(),
            refused: Count::default(),
            unavailable: Count::default(),
            took: Durations::new(),
        }
    }

    /// A proposal has ended.
    pub(super) fn note(&self, ended: Ended, took: Duration) {
        let count = match ended {
            Ended::Committed => &self.committed,
            Ended::Refused => &self.refused,
            Ended::Unavailable => &self.unavailable,
        };
        count.add();
        self.took.observe(took);
    }
}

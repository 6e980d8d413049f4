//! What the agent brings and makes, counted.

use super::cache::Why;
use super::copy::NotCopied;
use crate::count::Count;
use crate::identity::Unproven;
use crate::telemetry::Durations;

/// Functions unloaded since the start, by why, in the order of the label.
#[derive(Default)]
pub(crate) struct Unloads([Count; 2]);

impl Unloads {
    /// So many more were.
    pub(super) fn count(&self, why: Why, functions: u64) {
        let at = match why {
            Why::Idle => 0,
            Why::Room => 1,
        };
        self.0[at].add_many(functions);
    }

    /// How many were, by why.
    pub(crate) fn each(&self) -> [u64; 2] {
        self.0.each_ref().map(Count::get)
    }
}

/// What was brought and made since the start.
pub(crate) struct Counters {
    /// Components fetched from other nodes.
    pub(crate) fetched: Count,
    /// Transfers that failed.
    pub(crate) fetch_failed: Count,
    /// Bytes of what was fetched.
    pub(crate) fetched_bytes: Count,
    /// Components compiled.
    pub(crate) compiled: Count,
    /// Compilations that failed.
    pub(crate) compile_failed: Count,
    /// How long compilations took, those that failed left out.
    pub(crate) compile: Durations,
    /// Compiled artifacts loaded.
    pub(crate) loaded: Count,
    /// Loads that failed.
    pub(crate) load_failed: Count,
    /// Compiled artifacts copied from other nodes.
    pub(crate) copied: Count,
    /// Such copies that failed, those that were refused left out.
    pub(crate) copy_failed: Count,
    /// Bytes of what was copied.
    pub(crate) copied_bytes: Count,
    /// Copies that were refused, by why, in the order of the label.
    refused: [Count; 5],
}

impl Counters {
    /// A copy was refused.
    pub(super) fn refused(&self, why: &NotCopied) {
        let at = match why {
            NotCopied::Failed(_) => return,
            NotCopied::Unproven(Unproven::Malformed) => 0,
            NotCopied::Unproven(Unproven::Stranger) => 1,
            NotCopied::Unproven(Unproven::Removed) => 2,
            NotCopied::Unproven(Unproven::Forged) => 3,
            NotCopied::Damaged(_) => 4,
        };
        self.refused[at].add();
    }

    /// Copies that were refused, in the order of the label.
    pub(crate) fn refusals(&self) -> [u64; 5] {
        self.refused.each_ref().map(Count::get)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            fetched: Count::default(),
            fetch_failed: Count::default(),
            fetched_bytes: Count::default(),
            compiled: Count::default(),
            compile_failed: Count::default(),
            compile: Durations::new(),
            loaded: Count::default(),
            load_failed: Count::default(),
            copied: Count::default(),
            copy_failed: Count::default(),
            copied_bytes: Count::default(),
            refused: Default::default(),
        }
    }
}

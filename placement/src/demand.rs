//! What a node holds beyond its plan: it takes in what it keeps forwarding, and lets go of what
//! is not called any more.
//!
//! It only says what is wanted and what may go; the agent loads and unloads. Predicting the
//! next call is not done here yet.

pub mod room;

use std::collections::BTreeMap;

use nigh_model::FunctionRef;

/// Forwards within [`WINDOW_MS`] from which a node wants a function itself: fewer are chance,
/// and a fetch costs about what this many forwards do.
pub const FORWARDS_WANTED: usize = 5;

/// The window in which they are counted, in ms.
pub const WINDOW_MS: u64 = 10_000;

/// Functions that are watched at once, to bound memory (about 100 bytes each). A function
/// beyond that is not counted until another one's window has passed.
pub const WATCHED_MAX: usize = 10_000;

/// How often a full table is searched for windows that have passed, in ms: a search looks at
/// all of them.
const PRUNE_EVERY_MS: u64 = 1_000;

/// The forwards of one node, by function. Times are of one clock that does not go back.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    watched: BTreeMap<FunctionRef, Forwards>,
    pruned_ms: Option<u64>,
}

impl Demand {
    /// Takes note that a call of a function was forwarded.
    pub fn forwarded(&mut self, function: &FunctionRef, now_ms: u64) {
        if let Some(forwards) = self.watched.get_mut(function) {
            return forwards.push(now_ms);
        }
        if self.watched.len() >= WATCHED_MAX {
            self.prune(now_ms);
        }
        if self.watched.len() < WATCHED_MAX {
            let mut forwards = Forwards::default();
            forwards.push(now_ms);
            self.watched.insert(function.clone(), forwards);
        }
    }

    /// The functions that were forwarded [`FORWARDS_WANTED`] times within the last
    /// [`WINDOW_MS`], in order. The caller leaves out those that may not run here.
    pub fn wanted(&self, now_ms: u64) -> Vec<FunctionRef> {
        let wanted = self.watched.iter().filter(|(_, forwards)| forwards.wanted(now_ms));
        wanted.map(|(function, _)| function.clone()).collect()
    }

    /// Forgets a function that is here now, or that is no more.
    pub fn forget(&mut self, function: &FunctionRef) {
        self.watched.remove(function);
    }

    fn prune(&mut self, now_ms: u64) {
        if self.pruned_ms.is_some_and(|at| now_ms.saturating_sub(at) < PRUNE_EVERY_MS) {
            return;
        }
        self.pruned_ms = Some(now_ms);
        self.watched.retain(|_, forwards| !forwards.passed(now_ms));
    }
}

/// The times of the last few forwards, in a ring.
#[derive(Clone, Copy, Debug, Default)]
struct Forwards {
    at_ms: [u64; FORWARDS_WANTED],
    count: usize,
}

impl Forwards {
    fn push(&mut self, now_ms: u64) {
        self.at_ms[self.count % FORWARDS_WANTED] = now_ms;
        self.count += 1;
    }

    fn wanted(&self, now_ms: u64) -> bool {
        let oldest_ms = self.at_ms[self.count % FORWARDS_WANTED];
        self.count >= FORWARDS_WANTED && now_ms.saturating_sub(oldest_ms) <= WINDOW_MS
    }

    fn passed(&self, now_ms: u64) -> bool {
        let newest_ms = self.at_ms[(self.count + FORWARDS_WANTED - 1) % FORWARDS_WANTED];
        now_ms.saturating_sub(newest_ms) > WINDOW_MS
    }
}

/// Whether a function has been idle for long enough to be unloaded; `keep` holds it, because
/// a call runs or because it should stay warm however idle.
pub fn idle(last_call_ms: u64, idle_ms: u64, now_ms: u64, keep: bool) -> bool {
    !keep && now_ms.saturating_sub(last_call_ms) >= idle_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{FunctionName, RevisionId};

    fn function(revision: u64) -> FunctionRef {
        FunctionRef { revision: RevisionId(revision), function: FunctionName::new("f").unwrap() }
    }

    #[test]
    fn five_forwards_within_ten_seconds_are_wanted() {
        let mut demand = Demand::default();
        for at in [0, 2_500, 5_000, 7_500] {
            demand.forwarded(&function(1), at);
            demand.forwarded(&function(2), at / 10);
        }
        assert_eq!(demand.wanted(7_500), []);
        demand.forwarded(&function(1), 10_000);
        assert_eq!(demand.wanted(10_000), [function(1)]);
        assert_eq!(demand.wanted(10_001), [], "the first of the five is too old now");
        demand.forwarded(&function(1), 10_001);
        assert_eq!(demand.wanted(10_001), [function(1)]);
        demand.forget(&function(1));
        assert_eq!(demand.wanted(10_001), []);
    }

    #[test]
    fn slow_forwards_are_never_wanted() {
        let mut demand = Demand::default();
        for call in 0..1_000 {
            demand.forwarded(&function(1), call * (WINDOW_MS / 4 + 1));
            assert_eq!(demand.wanted(call * (WINDOW_MS / 4 + 1)), []);
        }
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let mut demand = Demand::default();
        for revision in 0..WATCHED_MAX as u64 + 10 {
            demand.forwarded(&function(revision), 1);
        }
        assert_eq!(demand.watched.len(), WATCHED_MAX);
        demand.forwarded(&function(1_000_000), 2 * WINDOW_MS);
        assert_eq!(demand.watched.len(), 1, "the windows of all others have passed");
    }

    #[test]
    fn an_idle_function_goes_unless_it_is_kept() {
        assert!(!idle(1_000, 500, 1_499, false));
        assert!(idle(1_000, 500, 1_500, false));
        assert!(!idle(1_000, 500, 9_999, true));
        assert!(!idle(1_000, 500, 0, false), "a clock behind unloads nothing");
    }
}

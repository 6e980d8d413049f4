//! When a call is over, and by whose will.

use std::time::Duration;

use nigh_model::NodeName;
use tokio::time::Instant;

use super::problem::Problem;
use super::reasons;

/// How long after its deadline a call that runs elsewhere is still waited for, so that the other
/// node's word on it arrives. A call ends before its deadline + 250 ms.
pub(crate) const GRACE: Duration = Duration::from_millis(100);
/// What a forwarded call is left with at least; it then ends there and says so.
const BUDGET_MIN: Duration = Duration::from_millis(1);

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Function,
    Caller,
}

/// When a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// The moment.
    pub(crate) at: Instant,
    limit: Duration,
    by: By,
}

impl Deadline {
    /// The function's limit, or the caller's where that is shorter.
    pub(crate) fn new(began: Instant, timeout_ms: u64, caller: Option<Duration>) -> Self {
        let function = Duration::from_millis(timeout_ms);
        let (limit, by) = match caller {
            Some(caller) if caller < function => (caller, By::Caller),
            _ => (function, By::Function),
        };
        Self { at: began + limit, limit, by }
    }

    /// The same, but for what another node has used up already.
    pub(crate) fn within(mut self, budget: Duration) -> Self {
        let began = self.at - self.limit;
        self.limit = self.limit.min(budget);
        self.at = began + self.limit;
        self
    }

    /// What another node may use up, so that its answer is back in time.
    pub(crate) fn budget(&self, now: Instant, rtt: Duration) -> Duration {
        self.at.saturating_duration_since(now).saturating_sub(rtt).max(BUDGET_MIN)
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// The problem of a call whose time was over on a node while it did something.
    pub(crate) fn problem(&self, node: &NodeName, doing: &str) -> Problem {
        let ms = self.limit.as_millis();
        let (reason, whose) = match self.by {
            By::Function => (reasons::TIME_LIMIT, "the function's time limit (limits.timeout)"),
            By::Caller => (reasons::CALLER_DEADLINE, "the caller's deadline (grpc-timeout)"),
        };
        let message = format!("{whose} of {ms} ms was over on node `{node}` while {doing}");
        Problem::new(reason, message).at(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_shorter_limit_counts_and_is_named() {
        let (began, node) = (Instant::now(), NodeName::new("n1").unwrap());
        let function = Deadline::new(began, 1_000, Some(2_000 * MS));
        assert_eq!(function.at, began + 1_000 * MS);
        assert_eq!(function.problem(&node, "it ran").reason(), reasons::TIME_LIMIT);
        let caller = Deadline::new(began, 1_000, Some(200 * MS));
        assert_eq!(caller.at, began + 200 * MS);
        let problem = caller.problem(&node, "it ran");
        assert_eq!(problem.reason(), reasons::CALLER_DEADLINE);
        assert!(problem.to_string().contains("200 ms was over on node `n1` while it ran"));
    }

    #[test]
    fn the_way_is_taken_off_the_budget() {
        let began = Instant::now();
        let deadline = Deadline::new(began, 1_000, None);
        assert_eq!(deadline.budget(began + 100 * MS, 80 * MS), 820 * MS);
        assert_eq!(deadline.budget(began + 990 * MS, 80 * MS), BUDGET_MIN);
        assert!(!deadline.is_over(began + 999 * MS) && deadline.is_over(began + 1_000 * MS));
    }
}

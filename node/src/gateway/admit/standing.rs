//! Which delay passes and which one stands (CoDel, RFC 8289): decided from times that are handed in.

use std::time::Duration;

use tokio::time::Instant;

/// Rounds that are too long for this long without a break are an overload (RFC 8289 §4.2).
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// Whether rounds have been too long for an interval; not any more once they were not for another.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) limit: Duration,
    pub(super) stands: bool,
    /// Since when it is the other way.
    since: Option<Instant>,
}

impl Standing {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, stands: false, since: None }
    }

    /// A round has lasted this long, and may not be over.
    pub(super) fn exceeds(&mut self, now: Instant, lasted: Duration) {
        if lasted < self.limit {
            return;
        }
        if self.stands {
            self.since = None;
        } else {
            let since = *self.since.get_or_insert_with(|| now.checked_sub(lasted).unwrap_or(now));
            self.turn_over(now, since);
        }
    }

    /// A round was short enough.
    pub(super) fn holds(&mut self, now: Instant) {
        if self.stands {
            let since = *self.since.get_or_insert(now);
            self.turn_over(now, since);
        } else {
            self.since = None;
        }
    }

    fn turn_over(&mut self, now: Instant, since: Instant) {
        if now.duration_since(since) >= INTERVAL {
            self.stands = !self.stands;
            self.since = None;
        }
    }
}

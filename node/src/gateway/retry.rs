//! Whether a call may be tried again on another node.

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderName, Method};
use nigh_model::limits::RETRY_BODY_BYTES_MAX;

/// Permits a retry of a call whose method does not.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Most tries of one call, the first included.
pub(crate) const TRIES_MAX: u32 = 3;
/// Most refusals of one call: a refused call goes to one other node.
const REFUSALS_MAX: u32 = 2;

/// What a forwarded call adds to the budget, in thousandths of a retry: one in five may be
/// tried again, so that retries never more than add a fifth to an overload.
const DEPOSIT: u64 = 200;
/// What a retry takes from it.
const RETRY: u64 = 1_000;
/// What a quiet node may spend at once: the calls to one node that fails under little load.
const BALANCE_MIN: u64 = 20 * RETRY;
/// What a busy node may save up.
const BALANCE_MAX: u64 = 200 * RETRY;

/// How a try ended that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing of the call left this node.
    Unreached,
    /// The other node says that no guest was started.
    Refused,
    /// The way broke: a guest may have been started.
    Broken,
}

/// What has become of a call so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Tries, the last one included.
    pub(crate) tries: u32,
    /// Of them refused.
    pub(crate) refusals: u32,
    /// Whether to call twice is as good as once.
    pub(crate) idempotent: bool,
    /// Body bytes that were sent.
    pub(crate) body_sent: u64,
    /// Whether all that was sent is still there.
    pub(crate) replayable: bool,
}

/// Whether the call may be tried again. No byte of an answer was passed on: else there is no
/// choice to make.
pub(crate) fn may_retry(ended: Ended, so_far: &Progress) -> bool {
    let &Progress { tries, refusals, idempotent, body_sent, replayable } = so_far;
    let harmless = match ended {
        Ended::Unreached => true,
        Ended::Refused => refusals < REFUSALS_MAX,
        Ended::Broken => idempotent && body_sent <= RETRY_BODY_BYTES_MAX as u64,
    };
    harmless && replayable && tries < TRIES_MAX
}

/// Whether to call twice is as good as once: by the method (RFC 9110 §9.2.2) or by the key.
pub(crate) fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    ) || headers.get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty())
}

/// Bounds how much retries add to what is forwarded.
pub(crate) struct Budget {
    balance: Mutex<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { balance: Mutex::new(BALANCE_MIN) }
    }
}

impl Budget {
    /// A call is forwarded for the first time.
    pub(crate) fn deposit(&self) {
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        *balance = (*balance + DEPOSIT).min(BALANCE_MAX);
    }

    /// Whether a retry can be afforded; if so, it is paid for.
    pub(crate) fn withdraw(&self) -> bool {
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        match balance.checked_sub(RETRY) {
            Some(rest) => {
                *balance = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Progress =
        Progress { tries: 1, refusals: 0, idempotent: false, body_sent: 0, replayable: true };

    #[test]
    fn a_call_that_reached_nobody_is_tried_again() {
        assert!(may_retry(Ended::Unreached, &FIRST));
        assert!(may_retry(Ended::Unreached, &Progress { tries: 2, ..FIRST }));
        assert!(!may_retry(Ended::Unreached, &Progress { tries: 3, ..FIRST }));
        assert!(!may_retry(Ended::Unreached, &Progress { replayable: false, ..FIRST }));
    }

    #[test]
    fn a_refused_call_goes_to_one_other_node() {
        assert!(may_retry(Ended::Refused, &Progress { refusals: 1, ..FIRST }));
        assert!(!may_retry(Ended::Refused, &Progress { tries: 2, refusals: 2, ..FIRST }));
        let much = Progress { refusals: 1, body_sent: 1 << 20, ..FIRST };
        assert!(may_retry(Ended::Refused, &much), "no guest saw it");
        assert!(!may_retry(Ended::Refused, &Progress { replayable: false, ..much }));
    }

    #[test]
    fn a_call_that_may_have_run_is_tried_again_only_when_it_is_idempotent_and_short() {
        assert!(!may_retry(Ended::Broken, &FIRST));
        let idempotent = Progress { idempotent: true, ..FIRST };
        assert!(may_retry(Ended::Broken, &idempotent));
        let most = RETRY_BODY_BYTES_MAX as u64;
        assert!(may_retry(Ended::Broken, &Progress { body_sent: most, ..idempotent }));
        assert!(!may_retry(Ended::Broken, &Progress { body_sent: most + 1, ..idempotent }));
    }

    #[test]
    fn a_method_or_a_key_makes_a_call_idempotent() {
        let mut headers = HeaderMap::new();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(is_idempotent(&method, &headers), "{method}");
        }
        assert!(!is_idempotent(&Method::POST, &headers));
        assert!(!is_idempotent(&Method::PATCH, &headers));
        headers.insert(IDEMPOTENCY_KEY, "".parse().unwrap());
        assert!(!is_idempotent(&Method::POST, &headers));
        headers.insert(IDEMPOTENCY_KEY, "k".parse().unwrap());
        assert!(is_idempotent(&Method::POST, &headers));
    }

    #[test]
    fn retries_add_no_more_than_a_fifth() {
        let budget = Budget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.deposit();
            retries += u64::from(budget.withdraw());
        }
        assert!(retries <= 2_000 + BALANCE_MIN / RETRY, "{retries}");
        assert!(retries >= 2_000, "{retries}");
    }
}

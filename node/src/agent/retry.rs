//! When to try again what failed, and when to say so. Pure.

use std::collections::BTreeMap;

use nigh_model::Digest;

/// Wait after the first failure, in ms; doubled after each further one …
const BACKOFF_MS: u64 = 100;
/// … up to this.
const BACKOFF_MS_MAX: u64 = 10_000;
/// Failures in a row from which a person should know: the first may be a node that restarts.
const FAILURES_TO_WARN: u32 = 5;

/// What failed, by component.
#[derive(Clone, Debug, Default)]
pub(super) struct Retries {
    failed: BTreeMap<Digest, Failed>,
    basis: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failed {
    count: u32,
    not_before_ms: u64,
    warned: bool,
}

impl Retries {
    /// The plan has changed: what failed is worth a try at once, and a word if it fails again.
    pub(super) fn decided(&mut self, basis: u64) {
        if basis != self.basis {
            self.basis = basis;
            for failed in self.failed.values_mut() {
                failed.not_before_ms = 0;
                failed.warned = false;
            }
        }
    }

    /// Whether work on a component may begin.
    pub(super) fn may_begin(&self, digest: &Digest, now_ms: u64) -> bool {
        self.failed.get(digest).is_none_or(|failed| now_ms >= failed.not_before_ms)
    }

    /// Work on a component failed; whether a person should know now.
    pub(super) fn failed(&mut self, digest: Digest, now_ms: u64) -> bool {
        let failed = self.failed.entry(digest).or_default();
        let wait_ms = BACKOFF_MS.saturating_mul(1 << failed.count.min(16)).min(BACKOFF_MS_MAX);
        failed.count += 1;
        failed.not_before_ms = now_ms + wait_ms;
        let warn = failed.count >= FAILURES_TO_WARN && !failed.warned;
        failed.warned |= warn;
        warn
    }

    /// Work on a component succeeded.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.failed.remove(digest);
    }

    /// Forgets what there is nothing to be done for.
    pub(super) fn retain(&mut self, keep: impl Fn(&Digest) -> bool) {
        self.failed.retain(|digest, _| keep(digest));
    }

    /// When the first of what waits may begin.
    pub(super) fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let times = self.failed.values().map(|failed| failed.not_before_ms);
        times.filter(|not_before_ms| *not_before_ms > now_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_one_warning_is_given_per_plan() {
        let mut retries = Retries::default();
        let digest = Digest::of(b"x");
        let mut warnings = 0;
        let mut now_ms = 0;
        for _ in 0..20 {
            warnings += u32::from(retries.failed(digest, now_ms));
            let next_ms = retries.next_ms(now_ms).unwrap();
            assert!(!retries.may_begin(&digest, next_ms - 1));
            assert!(retries.may_begin(&digest, next_ms));
            assert!(next_ms - now_ms <= BACKOFF_MS_MAX);
            now_ms = next_ms;
        }
        assert_eq!(warnings, 1);

        retries.decided(7);
        assert!(retries.may_begin(&digest, 0), "a new plan is tried at once");
        assert!(retries.failed(digest, now_ms), "and its failure said once");
        retries.forget(&digest);
        assert_eq!(retries.next_ms(0), None);
    }
}

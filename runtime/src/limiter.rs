//! Holds an instance to its memory: growth beyond the limit is refused and remembered.
//!
//! A refused guest may cope and go on; only when it then ends badly is the limit the reason.

use wasmtime::{ResourceLimiter, Result};

use crate::config::TABLE_ELEMENTS_MAX;

/// Core instances, memories and tables in one store; the pool bounds a component more tightly.
const ITEMS_MAX: usize = 1_000;

/// One instance's account of memory.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_max: usize,
    /// What the host has made an instance grow by before its first call: no reason to refuse it.
    grown: usize,
    bytes: usize,
    bytes_peak: usize,
    /// What the last permitted growth added, in case it fails after all.
    last_growth: usize,
    refused: bool,
}

impl Limiter {
    pub(crate) fn new(bytes_max: u64, grown: u64) -> Self {
        Self {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            grown: usize::try_from(grown).unwrap_or(usize::MAX),
            bytes: 0,
            bytes_peak: 0,
            last_growth: 0,
            refused: false,
        }
    }

    /// The next call of the same instance begins.
    pub(crate) fn begin(&mut self) {
        self.bytes_peak = self.bytes;
        self.refused = false;
    }

    /// Whether the guest was refused memory.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    /// Most linear memory at once, in bytes.
    pub(crate) fn bytes_peak(&self) -> u64 {
        self.bytes_peak as u64
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let growth = desired.saturating_sub(current);
        let bytes = self.bytes.saturating_add(growth);
        let is_first = current == 0 && self.bytes == 0;
        let grown = if is_first { self.grown } else { 0 };
        if bytes.saturating_sub(grown) > self.bytes_max {
            self.refused = true;
            return Ok(false);
        }
        // A memory's own declared maximum is the guest's choice, not the limit's doing.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.bytes = bytes;
        self.bytes_peak = self.bytes_peak.max(bytes);
        self.last_growth = growth;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut self.last_growth));
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        ITEMS_MAX
    }

    fn tables(&self) -> usize {
        ITEMS_MAX
    }

    fn memories(&self) -> usize {
        ITEMS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_together_stay_below_the_limit() {
        let mut limiter = Limiter::new(300, 0);
        assert!(limiter.memory_growing(0, 200, None).unwrap());
        assert!(limiter.memory_growing(0, 100, None).unwrap());
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(100, 101, None).unwrap());
        assert!(limiter.refused());
        assert_eq!(limiter.bytes_peak(), 300);
    }

    #[test]
    fn what_has_grown_ahead_is_let_in_and_counted() {
        let mut limiter = Limiter::new(300, 100);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert_eq!(limiter.bytes_peak(), 400);
        assert!(!limiter.memory_growing(400, 401, None).unwrap());
        assert!(!Limiter::new(300, 100).memory_growing(0, 401, None).unwrap());
    }

    #[test]
    fn a_growth_that_failed_is_given_back() {
        let mut limiter = Limiter::new(300, 0);
        assert!(limiter.memory_growing(0, 200, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(limiter.memory_growing(0, 300, None).unwrap());
    }

    #[test]
    fn a_guests_own_maximum_is_not_the_limit() {
        let mut limiter = Limiter::new(300, 0);
        assert!(!limiter.memory_growing(0, 200, Some(100)).unwrap());
        assert!(!limiter.refused());
    }
}

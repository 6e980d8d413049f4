//! What the agent brings and makes, counted.

use prometheus_client::metrics::histogram::Histogram;

use crate::count::Count;
use crate::telemetry::durations;

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
    pub(crate) compile: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            fetched: Count::default(),
            fetch_failed: Count::default(),
            fetched_bytes: Count::default(),
            compiled: Count::default(),
            compile_failed: Count::default(),
            compile: durations(),
        }
    }
}

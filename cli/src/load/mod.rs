//! The load generator: calls at given times, whatever becomes of the ones before.
//!
//! It is an open loop: each call has an intended start, drawn before the run, and its latency
//! is counted from there. A cluster that stalls is charged for every call that it keeps
//! waiting, not only for the one in flight ("coordinated omission"; Tene, "How NOT to Measure
//! Latency", 2013). What the client itself cannot start is counted as dropped, never delayed.

pub(crate) mod arrivals;
pub(crate) mod client;
pub(crate) mod ledger;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod target;
pub(crate) mod timing;
pub(crate) mod trace;
pub(crate) mod traced;

use std::sync::Arc;
use std::time::Duration;

/// A node that calls enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its region.
    pub(crate) region: String,
    /// `host:port` of its HTTP ingress.
    pub(crate) authority: String,
}

/// A call that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its intended start, from the start of the run.
    pub(crate) at: Duration,
    /// Which entry, by its place in the list.
    pub(crate) entry: usize,
    /// Which function, by its place in the list.
    pub(crate) function: usize,
    /// Path and query.
    pub(crate) path: Arc<str>,
}

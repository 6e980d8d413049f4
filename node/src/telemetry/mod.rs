//! What can be read of a node: what its guests print, and what it counts.
//!
//! `names` is the table of all metrics, `metrics` counts, `measured` is the rest of the page,
//! filled by `sources` when it is read. Nothing here decides anything; a reader that is slow loses
//! lines, never a call.

#[cfg(test)]
mod checks;
mod histogram;
mod logs;
mod measured;
mod metrics;
pub(crate) mod names;
mod sources;
mod tail;

pub(crate) use histogram::Durations;
pub(crate) use logs::{LogBook, Origin};
pub(crate) use metrics::{ApiRefusal, Metrics, Place, Preloaded, UnderWay};
pub(crate) use sources::Sources;
pub(crate) use tail::{peer_logs_service, public_logs_service};

//! What can be read of a node: what its guests print, and what it counts.
//!
//! Nothing here decides anything; a reader that is slow loses lines, never a call.

mod logs;
mod metrics;
mod tail;

pub(crate) use logs::{LogBook, Origin};
pub(crate) use metrics::{Metrics, UnderWay};
pub(crate) use tail::{peer_logs_service, public_logs_service};

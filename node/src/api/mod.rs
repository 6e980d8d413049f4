//! The public gRPC services besides the invoker, and what probes ask.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod cluster;
pub(crate) mod ready;
pub(crate) mod server;
mod status;

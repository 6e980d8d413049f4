//! The public gRPC services besides the invoker.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod cluster;
pub(crate) mod server;

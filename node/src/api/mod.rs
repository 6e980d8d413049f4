//! The API port: TLS (`listen`, `plain`), who may ask what (`authorize`, `roles`), the public gRPC
//! services besides the invoker, and what probes ask (`server`, `ready`).

pub(crate) mod access;
pub(crate) mod apps;
pub(crate) mod artifacts;
mod authorize;
pub(crate) mod cluster;
mod listen;
pub(crate) mod ready;
mod roles;
pub(crate) mod server;
mod status;

use nigh_model::{Kind, RequestId};
use tonic::Status;

/// The request id that a change was asked with, if any.
fn request_id(given: &str) -> Result<Option<RequestId>, Status> {
    if given.is_empty() {
        return Ok(None);
    }
    let bad =
        |error| nigh_proto::status::of_kind(Kind::Invalid, "BAD_REQUEST_ID", format!("{error}"));
    RequestId::new(given).map(Some).map_err(bad)
}

#[cfg(test)]
mod tests;

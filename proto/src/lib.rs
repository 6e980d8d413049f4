//! The wire: generated messages and services, and their conversions to and from the model.
//!
//! `v1` is public and stable; `peer` is spoken between nodes only.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the protos"
)]
pub mod v1 {
    tonic::include_proto!("nigh.v1");
}

/// Between nodes.
pub mod peer {
    #[allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated; documented in the protos"
    )]
    pub mod v1 {
        tonic::include_proto!("nigh.peer.v1");
    }
}

pub mod convert;
pub mod status;

/// The descriptors of all services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nigh.descriptors"));

/// The version of the protocol between nodes; a node speaks its own and the one before.
pub const PEER_PROTOCOL: u32 = 1;

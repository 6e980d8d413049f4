//! The daemon: it owns every socket, clock and task of a node.
//!
//! `gossip` says what is seen, `control` what is decided, `agent` closes the gap between
//! them on this node, `gateway` answers what is asked. `peer` carries what they say to other
//! nodes, `api` is what people and tools ask, `telemetry` what can be read of it all.

mod access;
pub mod agent;
pub mod api;
mod backup;
mod clock;
mod config;
mod control;
mod count;
mod daemon;
mod decided;
#[cfg(test)]
mod disks;
mod drain;
mod error;
pub mod gateway;
mod gossip;
mod identity;
mod listeners;
mod membership;
mod moving;
mod peer;
mod process;
pub mod recover;
mod report;
mod rest;
mod room;
mod seen;
mod stopping;
mod telemetry;

pub use config::{CERTIFICATE_LIFE, Config, Https, LOADED_BYTES_MAX, Start, TokenSource};
pub use daemon::Node;
pub use error::Error;
pub use gateway::{HttpsError, make_certificate};
pub use identity::IdentityError;
pub use nigh_storage::identity::NODE_NAME as IDENTITY_FILE;

//! The words of nigh and how its replicated state may change.
//!
//! Everything here is pure: no I/O, no async, no clock, no randomness. Time, ids and
//! randomness arrive inside [`Command`]s; the state changes only in [`apply`](apply::apply).
//!
//! It deliberately does not know how anything is stored, sent, placed or run.

pub mod access;
pub mod apply;
pub mod audit;
pub mod command;
pub mod digest;
pub mod encoding;
pub mod error;
pub mod gossip;
pub mod ids;
pub mod limits;
pub mod refusal;
pub mod route;
pub mod spec;
pub mod state;
pub mod suggest;
pub mod trust;

pub use apply::{Applied, Event, apply};
pub use command::{Command, Envelope, Outcome, Reply};
pub use digest::Digest;
pub use error::Kind;
pub use gossip::{AcceptedKey, GossipKeyId, GossipKeys};
pub use ids::{
    AppName, ClusterId, FunctionName, FunctionRef, NodeId, NodeName, Region, RequestId, RevisionId,
    Zone,
};
pub use refusal::Refusal;
pub use spec::{AppSpec, FunctionSpec};
pub use state::{Addresses, App, Assignment, Location, Node, Revision, State, Tier};

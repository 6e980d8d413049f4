//! What openraft stores: its types, log and vote over the write-ahead log, state machine and
//! snapshots.
//!
//! It deliberately knows nothing of the network, of time-outs or of who should be a voter.

mod log;
mod machine;
pub mod snapshot;
mod snapshots;

use std::fmt;

use bytes::Bytes;
use nigh_model::{Envelope, Outcome};
use serde::{Deserialize, Serialize};

pub use log::LogStore;
pub use machine::{Builder, Published, StateMachine, StatePublisher};
pub use snapshots::{Incoming, SnapshotData, Snapshots};

openraft::declare_raft_types!(
    /// The types that Raft runs on.
    ///
    /// Leader ids are openraft's advanced ones (term and node, totally ordered): two candidates
    /// of one term do not split the vote, the greater one wins. Elections between distant
    /// regions, where a second round costs seconds, end sooner. A log id names the node that led.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = RaftNode,
);

/// The id of a log entry: term and node of the leader that made it, and its index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// Voters and learners, with the id of the entry that made them so.
pub type Membership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// Up to which entry a snapshot goes.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// An encoded [`Envelope`]; it is decoded when it is applied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Bytes);

impl Proposal {
    /// Encodes a command.
    pub fn new(envelope: &Envelope) -> Self {
        Self(nigh_model::command::encode(envelope).into())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The answer to a proposal; none for entries that carry no command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Response(pub Option<Outcome>);

/// What Raft's membership says of a node: enough to reach it before the state is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Where other nodes reach it, as `host:port`.
    pub peer: String,
}

//! What is decided: the replicated state, how it is changed and how it reaches every node.
//!
//! Three or five nodes hold the Raft log; all others follow the state by a stream. Whoever
//! leads also carries out what follows from decisions: voters, plans and rollouts
//! (`leader/`). Deciding itself is pure and lives in `model` and `placement`.

mod absences;
mod acquaint;
mod authority;
mod compact;
mod counts;
mod departure;
mod feed;
mod follow;
mod gossip_keys;
mod handover;
mod health;
pub(crate) mod join;
mod leader;
mod network;
mod propose;
mod raft_service;
mod remove;
mod service;
mod start;
mod state_stream;

pub(crate) use absences::Absences;
pub(crate) use departure::Remains;
pub(crate) use handover::hand_over;
pub(crate) use health::{Health, HealthBook};
pub(crate) use leader::{prefix, progress, unaware};
pub(crate) use propose::{Control, Unavailable};
pub(crate) use raft_service::RaftService;
pub(crate) use service::{ControlService, raft_status};
pub(crate) use start::{ControlParts, bootstrap, start};

pub(crate) type Raft =
    openraft::Raft<nigh_storage::raft::TypeConfig, nigh_storage::raft::StateMachine>;

/// A leader sends heartbeats this often, in ms. Raft waits for the answer to one no longer than
/// this, so it is more than the round trip between most regions of the earth.
pub(crate) const HEARTBEAT_MS: u64 = 250;
/// Least and most time without a heartbeat before a voter stands for election, in ms. Disks of
/// busy machines stall for tens of ms and regions are a quarter of a second apart: less than
/// this would turn stalls into elections.
pub(crate) const ELECTION_MS: (u64, u64) = (600, 900);

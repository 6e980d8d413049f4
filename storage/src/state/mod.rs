//! The materialised state: what a node starts with, so that it need not replay its log.
//!
//! It is a cache in a sled database and never the truth: whatever is wrong with it, it is moved
//! aside and the state comes again from snapshot, log or peers. Therefore it is written behind
//! and without syncs; a check over all rows tells a torn database from a whole one.

mod database;
mod rows;
mod saver;

use std::path::PathBuf;

use nigh_model::State;
use serde::{Deserialize, Serialize};

use crate::raft::{LogId, Membership};

pub use database::StateStore;
pub use saver::StateSaver;

/// What Raft must know of a state: which entry it is of, and who the members were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMark {
    /// The last entry applied.
    pub last_applied: Option<LogId>,
    /// The last membership applied.
    pub membership: Membership,
}

/// What was found when the store was opened.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The state; empty when there was none or it was not whole.
    pub state: State,
    /// None when the state was saved by a node that follows the members without being one.
    pub mark: Option<RaftMark>,
    /// Says that the store was not usable as it was.
    pub recovered: Option<Recovered>,
}

/// The store was not usable and begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Why.
    pub why: String,
    /// Where the old one is kept for a person to look at; none when it was whole but not confirmed
    /// by log and snapshot.
    pub moved_to: Option<PathBuf>,
}

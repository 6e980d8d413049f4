//! What survives a restart: raft log and vote, snapshots, state, artifacts, identity.
//!
//! Everything goes to disk through one seam ([`disk::Disk`]), so that tests can fail it, fill it
//! and cut its power. The one exception is the state database (sled), which holds nothing that
//! log, snapshots or peers cannot bring again; no other crate knows sled.
//!
//! It deliberately does not know the network, the runtime, or why anything is stored.

pub mod artifacts;
pub mod disk;
pub mod error;
pub mod identity;
pub mod raft;
pub mod recover;
pub mod secret;
pub mod state;
pub mod stores;
pub mod usage;
pub mod wal;

pub use artifacts::ArtifactStore;
pub use disk::{Disk, RealDisk, WatchedDisk};
pub use error::Error;
pub use identity::{DataDir, Identity};
pub use raft::{LogStore, StateMachine, TypeConfig};
pub use secret::{SecretFile, SecretFolder};
pub use state::{StateSaver, StateStore};
pub use stores::{Options, Stores};

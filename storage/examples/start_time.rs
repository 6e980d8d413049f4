//! How long a node's storage takes to open with a large data folder.
//!
//! `cargo run --release -p nigh-storage --example start_time -- FOLDER`: fills the folder with
//! about 1 GB unless it is filled already, opens it a few times and prints how long each took.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a part of nigh")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nigh_model::{
    Addresses, ClusterId, Command, Digest, Envelope, NodeName, Region, command::NodeSpec,
};
use nigh_storage::raft::{Entry, LogId, Proposal, Published};
use nigh_storage::{Options, Stores, TypeConfig};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    IOFlushed, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderIdExt as _;

/// Components and their compiled artifacts, in bytes each.
const COMPONENTS: u64 = 100;
const COMPONENT_BYTES: usize = 3_000_000;
const COMPILED_BYTES: usize = 6_000_000;
/// Entries of the log, as many bytes each: what is kept before a snapshot is due.
const ENTRIES: u64 = 4_000;
const ENTRY_BYTES: usize = 16_000;
const OPENED: usize = 5;

fn open(path: &Path) -> Stores {
    Stores::open(path, Options::new(Arc::new(|_: Published| ()), [7; 32])).unwrap()
}

fn entry(index: u64) -> Entry {
    let node = NodeSpec {
        name: NodeName::new(format!("node-{}", index % 1_000)).unwrap(),
        region: Region::new("eu-west-1").unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: "x".repeat(ENTRY_BYTES),
        feature_level: 2,
    };
    let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
    let command = match index {
        1 => Command::Bootstrap { cluster, node, authority: None, tokens: Vec::new() },
        _ => Command::RegisterNode { node, replaces: None, token: None },
    };
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
    let envelope = Envelope { request_id: None, at_ms: 1, by: None, command };
    Entry::new_normal(LogId::new(leader, index), Proposal::new(&envelope))
}

async fn fill(path: &Path) {
    let mut stores = open(path);
    for index in 1..=ENTRIES {
        let (done, held) = TypeConfig::oneshot();
        stores.log.append([entry(index)], IOFlushed::signal(done)).await.unwrap();
        held.await.unwrap().unwrap();
        let applied = futures::stream::iter([Ok((entry(index), None))]);
        stores.machine.apply(applied).await.unwrap();
        if index == ENTRIES / 2 {
            stores.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        }
    }
    for number in 0..COMPONENTS {
        let component = number.to_le_bytes().repeat(COMPONENT_BYTES / 8);
        let digest = Digest::of(&component);
        stores.artifacts.put(digest, &component).unwrap();
        let compiled = number.to_be_bytes().repeat(COMPILED_BYTES / 8);
        stores.artifacts.put_compiled("engine", digest, &compiled).unwrap();
    }
}

#[tokio::main]
async fn main() {
    let path = std::env::args().nth(1).expect("the folder as argument");
    let path = Path::new(&path);
    if !path.join("format").exists() {
        fill(path).await;
    }
    for _ in 0..OPENED {
        let began = Instant::now();
        let stores = open(path);
        let opened = began.elapsed();
        println!("opened in {opened:?}, {} entries applied", stores.machine.state().applied);
    }
}

//! A survivor's data becomes the whole of its cluster, and another's fit to join it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use nigh_model::command::{Command, Envelope, NodeSpec};
use nigh_model::{Addresses, ClusterId, NodeId, NodeName, Region};
use nigh_storage::raft::{Entry, LogId, Proposal, Published};
use nigh_storage::recover::{Survivor, forget};
use nigh_storage::{Error, Identity, Options, Stores, TypeConfig};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderIdExt as _;

const OWN: NodeId = NodeId(3);
const TERM: u64 = 4;

fn log_id(index: u64) -> LogId {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(TERM, 1);
    LogId::new(leader, index)
}

/// Entry 1 begins the cluster, the others register a node each.
fn entry(index: u64) -> Entry {
    let node = NodeSpec {
        name: NodeName::new(format!("node-{index}")).unwrap(),
        region: Region::new("eu-west-1").unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: "0.1.0".to_owned(),
        feature_level: 1,
    };
    let command = match index {
        1 => Command::Bootstrap { cluster: cluster(), node, authority: None, tokens: Vec::new() },
        _ => Command::RegisterNode { node, replaces: None, token: None },
    };
    Entry::new_normal(
        log_id(index),
        Proposal::new(&Envelope { request_id: None, at_ms: 1, by: None, command }),
    )
}

fn cluster() -> ClusterId {
    ClusterId::new("0123456789abcdef0123456789abcdef").unwrap()
}

fn open(path: &Path) -> Stores {
    Stores::open(path, Options::new(Arc::new(|_: Published| ()), [7; 32])).unwrap()
}

/// A member with five entries, of which three are applied and four known to be decided.
async fn sample(path: &Path) {
    let mut stores = open(path);
    let name = NodeName::new("node-3").unwrap();
    stores.data.set_identity(&Identity { cluster: cluster(), node: OWN, name }).unwrap();
    let members = openraft::Membership::new_with_defaults(vec![[1, 2, 3].into()], []);
    let members = Entry::new_membership(log_id(5), members);
    let entries: Vec<Entry> = (1..=4).map(entry).chain([members]).collect();
    let (done, held) = TypeConfig::oneshot();
    stores.log.append(entries, IOFlushed::signal(done)).await.unwrap();
    held.await.unwrap().unwrap();
    stores.log.save_committed(Some(log_id(4))).await.unwrap();
    let applied: Vec<_> = (1..=3).map(|index| Ok((entry(index), None))).collect();
    stores.machine.apply(futures::stream::iter(applied)).await.unwrap();
    stores.artifacts.put(nigh_model::Digest::of(b"component"), b"component").unwrap();
}

#[tokio::test]
async fn a_survivor_is_made_the_only_member_with_all_that_its_log_holds() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    let survivor = Survivor::read(folder.path(), [7; 32]).unwrap();
    assert_eq!((survivor.state.applied, survivor.state.nodes.len()), (5, 4));
    assert_eq!(survivor.voters, [1, 2, 3].map(NodeId).into());
    assert_eq!((survivor.undecided, survivor.identity.node), (1, OWN));
    let aside = survivor.make_whole().unwrap();
    assert!(aside.join("raft/log").is_dir());

    let mut stores = open(folder.path());
    let state = stores.machine.state().clone();
    assert_eq!(state.nodes.keys().copied().collect::<Vec<_>>(), [OWN]);
    assert!(state.applied > 1_000_000 && state.plan_basis == state.applied);
    assert_eq!(state.cluster, Some(cluster()));
    let (applied, members) = stores.machine.applied_state().await.unwrap();
    assert_eq!(applied.unwrap().index, state.applied);
    assert_eq!(members.voter_ids().collect::<Vec<_>>(), [OWN.0]);
    assert!(stores.log.vote().unwrap().unwrap().leader_id().term > TERM);
    assert_eq!(stores.log.get_log_state().await.unwrap().last_log_id, applied);
    // It goes on after that.
    let (done, held) = TypeConfig::oneshot();
    let next = Entry::new_blank(log_id(state.applied + 1));
    stores.log.append([next], IOFlushed::signal(done)).await.unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_recovery_that_was_cut_short_is_ended_by_asking_again() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    Survivor::read(folder.path(), [7; 32]).unwrap().make_whole().unwrap();
    // The old data is away, the new one has not taken its place.
    std::fs::rename(folder.path().join("raft"), folder.path().join("raft.new")).unwrap();
    let survivor = Survivor::read(folder.path(), [7; 32]).unwrap();
    assert_eq!(survivor.voters, [OWN].into());
    assert!(survivor.state.applied > 1_000_000);
}

#[tokio::test]
async fn another_survivor_forgets_all_but_its_components() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    let aside = forget(folder.path()).unwrap();
    assert!(aside.join("node.json").is_file() && aside.join("raft").is_dir());
    let stores = open(folder.path());
    assert_eq!(stores.data.identity().unwrap(), None);
    assert_eq!(stores.state.applied, 0);
    assert!(stores.artifacts.has(nigh_model::Digest::of(b"component")).unwrap());
    drop(stores);
    assert!(matches!(forget(folder.path()), Err(Error::NoIdentity { .. })));
    assert!(matches!(Survivor::read(folder.path(), [7; 32]), Err(Error::NoIdentity { .. })));
}

#[tokio::test]
async fn a_running_node_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    let running = open(folder.path());
    assert!(matches!(Survivor::read(folder.path(), [7; 32]), Err(Error::Locked { .. })));
    assert!(matches!(forget(folder.path()), Err(Error::Locked { .. })));
    drop(running);
}

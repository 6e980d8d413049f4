//! A node's whole storage: restarts, damage, and what confirms what.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nigh_model::{
    Addresses, ClusterId, Command, Envelope, NodeName, Region, RequestId, State, command::NodeSpec,
};
use nigh_storage::raft::{Entry, LogId, Proposal, Published, SnapshotMeta};
use nigh_storage::{Error, Options, Stores, TypeConfig};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    IOFlushed, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderIdExt as _;

fn log_id(index: u64) -> LogId {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
    LogId::new(leader, index)
}

fn spec(name: &str) -> NodeSpec {
    NodeSpec {
        name: NodeName::new(name).unwrap(),
        region: Region::new("eu-west-1").unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: "0.1.0".to_owned(),
        feature_level: 1,
    }
}

/// Entry 1 begins the cluster, the others register a node each.
fn entry(index: u64) -> Entry {
    let node = spec(&format!("node-{index}"));
    let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
    let command = match index {
        1 => Command::Bootstrap { cluster, node, authority: None, tokens: Vec::new() },
        _ => Command::RegisterNode { node, replaces: None, token: None },
    };
    let request_id = Some(RequestId::new(format!("r{index}")).unwrap());
    Entry::new_normal(
        log_id(index),
        Proposal::new(&Envelope { request_id, at_ms: 1, by: None, command }),
    )
}

fn open(path: &Path) -> Result<Stores, Error> {
    Stores::open(path, Options::new(Arc::new(|_: Published| ()), [7; 32]))
}

async fn append(stores: &mut Stores, entries: impl IntoIterator<Item = Entry>) {
    let (done, held) = TypeConfig::oneshot();
    let entries: Vec<_> = entries.into_iter().collect();
    stores.log.append(entries, IOFlushed::signal(done)).await.unwrap();
    held.await.unwrap().unwrap();
}

async fn apply(stores: &mut Stores, entries: impl IntoIterator<Item = Entry>) {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    stores.machine.apply(futures::stream::iter(entries)).await.unwrap();
}

/// Ten entries in the log, all applied, closed in order.
async fn sample(path: &Path) -> State {
    let mut stores = open(path).unwrap();
    append(&mut stores, (1..=10).map(entry)).await;
    stores.log.save_committed(Some(log_id(10))).await.unwrap();
    apply(&mut stores, (1..=10).map(entry)).await;
    let state = stores.machine.state().clone();
    assert_eq!(state.nodes.len(), 10);
    state
}

#[tokio::test]
async fn a_restart_finds_state_and_mark_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let state = sample(folder.path()).await;
    let mut stores = open(folder.path()).unwrap();
    assert_eq!(stores.machine.applied_state().await.unwrap().0, Some(log_id(10)));
    assert_eq!((&*stores.state, stores.machine.state()), (&state, &state));
    assert_eq!(stores.recovered, None);
    assert_eq!(stores.log.read_committed().await.unwrap(), Some(log_id(10)));
}

#[tokio::test]
async fn entries_are_published_in_order_with_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let publisher = move |published: Published| sink.lock().unwrap().push(published);
    let mut stores =
        Stores::open(folder.path(), Options::new(Arc::new(publisher), [7; 32])).unwrap();
    let blank = Entry::new_blank(log_id(0));
    apply(&mut stores, [blank].into_iter().chain((1..=600).map(entry))).await;
    let seen = seen.lock().unwrap();
    let entries: Vec<_> = seen.iter().flat_map(|published| &published.entries).collect();
    assert_eq!(entries.len(), 601);
    assert!(entries.iter().enumerate().all(|(at, (index, _))| at as u64 == *index));
    assert!(entries[0].1.is_none() && entries[1].1.is_some());
    // A watcher that applies the same bytes has the same state.
    let mut state = State::default();
    for (index, proposal) in entries {
        match proposal {
            Some(bytes) => {
                let envelope = nigh_model::command::decode(bytes).unwrap();
                nigh_model::apply(&mut state, *index, &envelope);
            }
            None => nigh_model::apply::apply_blank(&mut state, *index),
        }
    }
    assert_eq!(state, *seen.last().unwrap().state);
    assert!(seen.iter().all(|published| published.entries.len() <= 256));
}

#[tokio::test]
async fn an_unknown_command_halts_and_is_not_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut stores = open(folder.path()).unwrap();
    let unknown = Entry::new_normal(log_id(2), Proposal(vec![0xc1, 7].into()));
    let entries = [entry(1), unknown, entry(3)].map(|entry| Ok((entry, None)));
    let error = stores.machine.apply(futures::stream::iter(entries)).await.unwrap_err();
    assert!(error.to_string().contains("does not know the command"), "{error}");
    assert_eq!(stores.machine.applied_state().await.unwrap().0, Some(log_id(1)));
}

#[tokio::test]
async fn a_damaged_state_database_is_moved_aside_and_the_state_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    let db = folder.path().join("state/db");
    let len = fs::metadata(&db).unwrap().len();
    fs::write(&db, vec![0xa5; len as usize]).unwrap();
    fs::write(folder.path().join("state/conf"), b"rubbish").unwrap();

    let mut stores = open(folder.path()).unwrap();
    let recovered = stores.recovered.clone().unwrap();
    assert_eq!(recovered.moved_to, Some(folder.path().join("state.broken-1")));
    assert!(folder.path().join("state.broken-1").is_dir());
    assert_eq!(stores.machine.applied_state().await.unwrap().0, None);
    // Raft applies what the log says is committed.
    apply(&mut stores, (1..=10).map(entry)).await;
    drop(stores);
    let stores = open(folder.path()).unwrap();
    assert_eq!((stores.machine.state().applied, stores.recovered), (10, None));
}

#[tokio::test]
async fn a_flipped_bit_in_the_state_database_is_never_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let state = sample(folder.path()).await;
    let db = folder.path().join("state/db");
    let whole = fs::read(&db).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..used).step_by(used / 15) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&db, &bytes).unwrap();
        let stores = open(folder.path()).unwrap();
        let found = stores.machine.state();
        assert!(*found == state || found.applied == 0, "byte {at}: {}", found.applied);
        drop(stores);
        fs::remove_dir_all(folder.path().join("state")).unwrap();
        let mut stores = open(folder.path()).unwrap();
        apply(&mut stores, (1..=10).map(entry)).await;
        drop(stores);
        fs::write(&db, &whole).unwrap();
    }
}

#[tokio::test]
async fn a_state_that_the_log_does_not_confirm_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path()).await;
    // The log comes from before: it has fewer entries than the state.
    fs::remove_dir_all(folder.path().join("raft/log")).unwrap();
    let mut stores = open(folder.path()).unwrap();
    append(&mut stores, (1..=5).map(entry)).await;
    assert_eq!(stores.machine.applied_state().await.unwrap().0, None);
    assert_eq!(stores.recovered.as_ref().unwrap().moved_to, None);
}

#[tokio::test]
async fn a_snapshot_carries_on_after_the_log_was_purged_and_the_state_lost() {
    let folder = tempfile::tempdir().unwrap();
    let state = sample(folder.path()).await;
    let mut stores = open(folder.path()).unwrap();
    let mut builder = stores.machine.get_snapshot_builder().await;
    let built = builder.build_snapshot().await.unwrap();
    stores.log.purge(log_id(10)).await.unwrap();
    drop((stores, builder));
    fs::remove_dir_all(folder.path().join("state")).unwrap();
    let mut stores = open(folder.path()).unwrap();
    assert_eq!(stores.machine.state(), &state);
    let current = stores.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, built.meta);
    assert_eq!(current.snapshot.decode().unwrap(), built.snapshot.decode().unwrap());
}

#[tokio::test]
async fn a_damaged_snapshot_is_moved_aside_while_the_state_holds_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let state = sample(folder.path()).await;
    let mut stores = open(folder.path()).unwrap();
    stores.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    stores.log.purge(log_id(10)).await.unwrap();
    drop(stores);
    flip_snapshot(folder.path());
    let mut stores = open(folder.path()).unwrap();
    assert_eq!(stores.machine.state(), &state);
    assert!(stores.machine.get_current_snapshot().await.unwrap().is_none());
    drop(stores);
    // Without the state nothing holds the purged entries any more.
    fs::remove_dir_all(folder.path().join("state")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("entries up to 10 were purged"), "{error}");
}

#[tokio::test]
async fn an_installed_snapshot_replaces_the_state_and_a_wrong_one_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = sample(from.path()).await;
    let mut leader = open(from.path()).unwrap();
    let built = leader.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut stores = open(to.path()).unwrap();
    let another = SnapshotMeta { last_log_id: Some(log_id(9)), ..built.meta.clone() };
    let same = leader.machine.get_current_snapshot().await.unwrap().unwrap().snapshot;
    let error = stores.machine.install_snapshot(&another, same).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(stores.machine.state().applied, 0);
    stores.machine.install_snapshot(&built.meta, built.snapshot).await.unwrap();
    assert_eq!(stores.machine.state(), &state);
    drop(stores);
    let mut stores = open(to.path()).unwrap();
    assert_eq!(stores.machine.applied_state().await.unwrap().0, Some(log_id(10)));
}

#[tokio::test]
async fn a_node_that_follows_starts_from_what_it_followed_and_raft_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stores = open(folder.path()).unwrap();
    let state = State { applied: 42, plan_basis: 7, ..State::default() };
    stores.saver.save(state.clone(), None);
    drop(stores);
    let mut stores = open(folder.path()).unwrap();
    assert_eq!(*stores.state, state);
    assert_eq!(stores.machine.applied_state().await.unwrap().0, None);
}

#[test]
fn a_second_opening_is_refused_with_the_folder_named() {
    let folder = tempfile::tempdir().unwrap();
    let _stores = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
}

fn flip_snapshot(path: &Path) {
    let files = fs::read_dir(path.join("raft/snapshots")).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }
}

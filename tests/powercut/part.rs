//! The parts of a data folder: how each is written, and what must be found of it afterwards.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nigh_model::{
    Addresses, ClusterId, Command, Digest, Envelope, NodeName, Region, RequestId, State,
    command::NodeSpec,
};
use nigh_storage::disk::FaultyDisk;
use nigh_storage::raft::{
    Entry, LogId, Membership, Proposal, Published, SnapshotMeta, Snapshots, Vote,
};
use nigh_storage::wal::Wal;
use nigh_storage::{
    ArtifactStore, Disk, Error, LogStore, Options, RealDisk, StateStore, Stores, TypeConfig,
};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _,
    RaftStateMachine as _,
};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderIdExt as _;

use super::writer::held;

/// Small, so that a round meets the change from one to the next.
const SEGMENT_BYTES: u64 = 256 << 10;
/// In which engine's folder compiled artifacts lie.
const ENGINE: &str = "engine-1";

/// A part of the data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Raft's log and vote.
    Log,
    /// Snapshots taken from a leader, and the log purged up to them.
    Snapshot,
    /// The state of a member: what its log, its snapshot and its database come to together.
    State,
    /// The database of a node that holds no log, when it was told to sync.
    Followed,
    /// Components and compiled artifacts.
    Artifacts,
}

type Looked = Result<bool, String>;

impl Part {
    pub(crate) const ALL: [Self; 5] =
        [Self::Log, Self::Snapshot, Self::State, Self::Followed, Self::Artifacts];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Log => "raft log and vote",
            Self::Snapshot => "snapshot install",
            Self::State => "state",
            Self::Followed => "state of a follower",
            Self::Artifacts => "artifacts",
        }
    }

    /// Writes without end.
    pub(crate) async fn write(self, folder: &Path, disk: Arc<dyn Disk>, syncs: bool, seed: u64) {
        match self {
            Self::Log => write_log(open_log(folder, disk).unwrap(), seed).await,
            Self::Snapshot => write_snapshots(open(folder, disk)).await,
            Self::State => write_state(open(folder, disk)).await,
            Self::Followed => write_followed(folder, syncs),
            Self::Artifacts => write_artifacts(folder, disk, seed),
        }
    }

    /// Opens what is on the disk as a node does: whether a cache had to be made again, or what is
    /// missing of what was acknowledged.
    pub(crate) fn look(self, folder: &Path, acknowledged: &[String]) -> Looked {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            match self {
                Self::Log => look_log(folder, acknowledged).await,
                Self::Snapshot => look_snapshot(reopen(folder)?, acknowledged),
                Self::State => look_state(reopen(folder)?, acknowledged).await,
                Self::Followed => look_followed(folder, acknowledged),
                Self::Artifacts => look_artifacts(folder, acknowledged),
            }
        })
    }
}

fn options(disk: Arc<dyn Disk>) -> Options {
    let options = Options::new(Arc::new(|_: Published| ()), [7; 32]);
    Options { disk, segment_bytes: SEGMENT_BYTES, ..options }
}

fn open_log(folder: &Path, disk: Arc<dyn Disk>) -> Result<LogStore, Error> {
    Ok(LogStore::new(Wal::open_sized(disk, folder, SEGMENT_BYTES)?))
}

fn open(folder: &Path, disk: Arc<dyn Disk>) -> Stores {
    Stores::open(folder, options(disk)).unwrap()
}

/// On this machine's disk.
pub(crate) fn open_real(folder: &Path) -> Result<Stores, Error> {
    Stores::open(folder, options(Arc::new(RealDisk)))
}

fn reopen(folder: &Path) -> Result<Stores, String> {
    open_real(folder).map_err(|error| format!("it does not open: {error}"))
}

fn log_id(index: u64) -> LogId {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
    LogId::new(leader, index)
}

/// Entry 1 begins the cluster, the others register a node each or give one another version.
fn envelope(index: u64) -> Envelope {
    let node = NodeSpec {
        name: NodeName::new(format!("node-{}", index % 50)).unwrap(),
        region: Region::new("eu-west-1").unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: format!("{index}:{}", "x".repeat((index * 7919 % 4_000) as usize)),
        feature_level: 1,
    };
    let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
    let command = match index {
        1 => Command::Bootstrap { cluster, node, authority: None, tokens: Vec::new() },
        _ => Command::RegisterNode { node, replaces: None, token: None },
    };
    let request_id = Some(RequestId::new(format!("r{index}")).unwrap());
    Envelope { request_id, at_ms: 1, by: None, command }
}

pub(crate) fn entry(index: u64) -> Entry {
    Entry::new_normal(log_id(index), Proposal::new(&envelope(index)))
}

/// The state after these entries.
fn state(last: u64) -> State {
    let mut state = State::default();
    for index in 1..=last {
        nigh_model::apply(&mut state, index, &envelope(index));
    }
    state
}

/// The highest number acknowledged after a word.
fn highest(acknowledged: &[String], word: &str) -> u64 {
    let numbers =
        acknowledged.iter().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    numbers.max().unwrap_or(0)
}

pub(crate) async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    let (done, is_held) = TypeConfig::oneshot();
    let entries: Vec<_> = entries.into_iter().collect();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    is_held.await.unwrap().unwrap();
}

pub(crate) async fn apply(stores: &mut Stores, entries: impl IntoIterator<Item = Entry>) {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    stores.machine.apply(futures::stream::iter(entries)).await.unwrap();
}

async fn write_log(mut log: LogStore, seed: u64) {
    let (mut next, mut term) = (1, 0);
    for step in seed.. {
        match step % 7 {
            3 => {
                term += 1;
                log.save_vote(&Vote::new(term, 1)).await.unwrap();
                held(format!("vote {term}"));
            }
            5 if next > 60 => {
                log.purge(log_id(next - 50)).await.unwrap();
                held(format!("purge {}", next - 50));
            }
            _ => {
                let last = next + step % 5;
                append(&mut log, (next..=last).map(entry)).await;
                held(format!("entry {last}"));
                next = last + 1;
            }
        }
    }
}

async fn look_log(folder: &Path, acknowledged: &[String]) -> Looked {
    let log = open_log(folder, Arc::new(RealDisk));
    let mut log = log.map_err(|error| format!("it does not open: {error}"))?;
    let wanted = highest(acknowledged, "entry ");
    let purged = log.purged().map_err(|error| error.to_string())?;
    let purged = purged.map_or(0, |id| id.index);
    let state = log.get_log_state().await.map_err(|error| error.to_string())?;
    let last = state.last_log_id.map_or(0, |id| id.index);
    if last < wanted {
        return Err(format!("entry {wanted} was acknowledged, the log ends at {last}"));
    }
    if purged < highest(acknowledged, "purge ") {
        return Err(format!("it is purged up to {purged} only"));
    }
    let found = log.try_get_log_entries(purged + 1..last + 1).await;
    let found = found.map_err(|error| error.to_string())?;
    if found != (purged + 1..=last).map(entry).collect::<Vec<_>>() {
        return Err("it holds other entries".to_owned());
    }
    let vote = log.read_vote().await.map_err(|error| error.to_string())?;
    let (term, wanted) =
        (vote.map_or(0, |vote| vote.leader_id.term), highest(acknowledged, "vote "));
    if term < wanted {
        return Err(format!("the vote of term {wanted} was acknowledged, it says {term}"));
    }
    Ok(false)
}

async fn write_snapshots(mut stores: Stores) {
    let disk = Arc::new(FaultyDisk::new());
    let (leader, _) = Snapshots::open(disk, Path::new("/leader")).unwrap();
    let mut state = State::default();
    for index in 1.. {
        nigh_model::apply(&mut state, index, &envelope(index));
        if index % 3 == 0 {
            let last_log_id = Some(log_id(index));
            let meta = SnapshotMeta { last_log_id, last_membership: Membership::default() };
            // As a leader's disk holds it, and as it comes from there.
            let sent = leader.save(&meta, &state).unwrap();
            let mut incoming = stores.machine.snapshots().receive().unwrap();
            incoming.write(&sent.piece(0, usize::MAX).unwrap()).unwrap();
            let arrived = incoming.finish(&meta).unwrap();
            stores.machine.install_snapshot(&meta, arrived).await.unwrap();
            // Raft does this next.
            stores.log.purge(log_id(index)).await.unwrap();
            held(format!("installed {index}"));
        }
    }
}

fn look_snapshot(stores: Stores, acknowledged: &[String]) -> Looked {
    let wanted = highest(acknowledged, "installed ");
    let found = stores.machine.state();
    if found.applied < wanted {
        return Err(format!("{wanted} was installed, {} is there", found.applied));
    }
    if *found != state(found.applied) {
        return Err(format!("another state at {}", found.applied));
    }
    Ok(stores.recovered.is_some())
}

async fn write_state(mut stores: Stores) {
    for index in 1.. {
        append(&mut stores.log, [entry(index)]).await;
        apply(&mut stores, [entry(index)]).await;
        held(format!("applied {index}"));
        if index % 40 == 0 {
            let mut builder = stores.machine.get_snapshot_builder().await;
            builder.build_snapshot().await.unwrap();
            stores.log.purge(log_id(index - 10)).await.unwrap();
        }
    }
}

async fn look_state(mut stores: Stores, acknowledged: &[String]) -> Looked {
    let wanted = highest(acknowledged, "applied ");
    let applied = stores.machine.state().applied;
    if *stores.machine.state() != state(applied) {
        return Err(format!("another state at {applied}"));
    }
    let log = stores.log.get_log_state().await.map_err(|error| error.to_string())?;
    let last = log.last_log_id.map_or(0, |id| id.index);
    if last.max(applied) < wanted {
        return Err(format!("{wanted} was applied, {last} is there"));
    }
    // The log brings what the database had not saved.
    let missing = stores.log.try_get_log_entries(applied + 1..last + 1).await;
    apply(&mut stores, missing.map_err(|error| error.to_string())?).await;
    match *stores.machine.state() == state(last.max(applied)) {
        true => Ok(stores.recovered.is_some()),
        false => Err("the log does not lead to the state".to_owned()),
    }
}

fn write_followed(folder: &Path, syncs: bool) {
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let (mut store, _) = StateStore::open(folder).unwrap();
    let mut state = State::default();
    for index in 1.. {
        nigh_model::apply(&mut state, index, &envelope(index));
        store.save(&state, None).unwrap();
        if syncs {
            store.sync().unwrap();
        }
        held(format!("synced {index}"));
    }
}

fn look_followed(folder: &Path, acknowledged: &[String]) -> Looked {
    let (_, found) = StateStore::open(folder).map_err(|error| error.to_string())?;
    if let Some(recovered) = found.recovered {
        return Err(format!("it was moved aside: {}", recovered.why));
    }
    let wanted = highest(acknowledged, "synced ");
    if found.state.applied < wanted || found.state != state(found.state.applied) {
        return Err(format!("{wanted} was synced, {} is there", found.state.applied));
    }
    Ok(false)
}

/// The bytes of a component, and what was compiled from it.
fn artifact(number: u64) -> (Vec<u8>, Vec<u8>) {
    let len = (number * 104_729 % 200_000) as usize;
    let component: Vec<u8> = (0..len).map(|at| (at as u64 * (number | 1)) as u8).collect();
    let compiled = component.iter().rev().map(|byte| byte ^ 0x55).collect();
    (component, compiled)
}

fn write_artifacts(folder: &Path, disk: Arc<dyn Disk>, seed: u64) {
    let store = ArtifactStore::open(folder, disk, [7; 32]).unwrap();
    for number in seed.. {
        let (component, compiled) = artifact(number);
        let digest = Digest::of(&component);
        store.put(digest, &component).unwrap();
        store.put_compiled(ENGINE, digest, &compiled).unwrap();
        held(format!("artifact {number}"));
    }
}

fn look_artifacts(folder: &Path, acknowledged: &[String]) -> Looked {
    let store = ArtifactStore::open(folder, Arc::new(RealDisk), [9; 32]);
    let store = store.map_err(|error| error.to_string())?;
    for line in acknowledged {
        let number = line.strip_prefix("artifact ").unwrap().parse().unwrap();
        let (component, compiled) = artifact(number);
        let digest = Digest::of(&component);
        match store.read(digest) {
            Ok(bytes) if bytes == component => {}
            Ok(_) => return Err(format!("component {number} is another")),
            Err(error) => return Err(format!("component {number}: {error}")),
        }
        let path = store.compiled_path(ENGINE, digest).map_err(|error| error.to_string())?;
        match path.map(fs::read) {
            Some(Ok(bytes)) if bytes == compiled => {}
            _ => return Err(format!("what was compiled from {number} is not there")),
        }
    }
    Ok(false)
}

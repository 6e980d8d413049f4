//! Data folders to be damaged, and what must be found in them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nigh_model::{
    Addresses, ClusterId, Command, Digest, Envelope, NodeId, NodeName, Region, RequestId, State,
    command::NodeSpec,
};
use nigh_storage::raft::{Entry, LogId, Proposal, Published, Vote};
use nigh_storage::{Error, Identity, Options, Stores, TypeConfig};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    IOFlushed, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderIdExt as _;

use super::damage::{Dice, Part};

/// Small, so that a short log has a head, a middle and an end.
const SEGMENT_BYTES: u64 = 8 << 10;
/// Entries in the log's life; the snapshot goes up to the second and is purged up to the first.
pub(crate) const PURGED: u64 = 20;
const SNAPSHOT: u64 = 30;
pub(crate) const LAST: u64 = 60;
/// In which engine's folder compiled artifacts lie.
pub(crate) const ENGINE: &str = "engine-1";

/// What must be found.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// The state after each entry.
    pub(crate) states: Arc<Vec<State>>,
    pub(crate) vote: Vote,
    pub(crate) identity: Identity,
    /// Components and what was compiled from them.
    pub(crate) artifacts: Arc<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The log may end here or later: nothing beyond proves to have been acknowledged.
    pub(crate) last_proven: u64,
}

/// A data folder.
pub(crate) struct Sample {
    folder: PathBuf,
    files: Vec<PathBuf>,
    pub(crate) expected: Expected,
}

pub(crate) fn log_id(index: u64) -> LogId {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(3, 1);
    LogId::new(leader, index)
}

/// Entry 1 begins the cluster, the others register a node each.
fn envelope(index: u64) -> Envelope {
    let node = NodeSpec {
        name: NodeName::new(format!("node-{index}")).unwrap(),
        region: Region::new("eu-west-1").unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: "x".repeat(index as usize * 13 % 400),
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

pub(crate) fn open(folder: &Path) -> Result<Stores, Error> {
    let options = Options::new(Arc::new(|_: Published| ()), [7; 32]);
    Stores::open(folder, Options { segment_bytes: SEGMENT_BYTES, ..options })
}

async fn append(stores: &mut Stores, entries: impl IntoIterator<Item = Entry>) {
    let (done, held) = TypeConfig::oneshot();
    let entries: Vec<_> = entries.into_iter().collect();
    stores.log.append(entries, IOFlushed::signal(done)).await.unwrap();
    held.await.unwrap().unwrap();
}

pub(crate) async fn apply(stores: &mut Stores, entries: impl IntoIterator<Item = Entry>) {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    stores.machine.apply(futures::stream::iter(entries)).await.unwrap();
}

fn expected() -> Expected {
    let mut state = State::default();
    let mut states = vec![state.clone()];
    for index in 1..=LAST {
        nigh_model::apply(&mut state, index, &envelope(index));
        states.push(state.clone());
    }
    let artifact = |len: usize, salt: u8| {
        let component: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(salt)).collect();
        let compiled = component.iter().rev().map(|byte| byte ^ 0x55).collect();
        (component, compiled)
    };
    let identity = Identity {
        cluster: ClusterId::new("0123456789abcdef0123456789abcdef").unwrap(),
        node: NodeId(17),
        name: NodeName::new("node-17").unwrap(),
    };
    Expected {
        states: Arc::new(states),
        vote: Vote::new(3, 1),
        identity,
        artifacts: Arc::new(vec![artifact(700, 3), artifact(9_000, 5), artifact(30_000, 7)]),
        last_proven: LAST,
    }
}

/// The folder of a node that was stopped in order.
pub(crate) fn closed(folder: &Path) -> Sample {
    let expected = expected();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stores = open(folder).unwrap();
        stores.data.set_identity(&expected.identity).unwrap();
        for index in 1..=LAST {
            if index == LAST {
                fs::copy(folder.join("raft/log/tail"), tail_before(folder)).unwrap();
            }
            append(&mut stores, [entry(index)]).await;
            apply(&mut stores, [entry(index)]).await;
            if index == SNAPSHOT {
                stores.log.save_vote(&expected.vote).await.unwrap();
                let mut builder = stores.machine.get_snapshot_builder().await;
                builder.build_snapshot().await.unwrap();
                stores.log.purge(log_id(PURGED)).await.unwrap();
                stores.log.save_committed(Some(log_id(index))).await.unwrap();
            }
        }
        for (component, compiled) in expected.artifacts.iter() {
            let digest = Digest::of(component);
            stores.artifacts.put(digest, component).unwrap();
            stores.artifacts.put_compiled(ENGINE, digest, compiled).unwrap();
        }
    });
    drop(runtime);
    Sample::new(folder, expected)
}

/// Where the tail mark from before the last entry is kept.
fn tail_before(closed: &Path) -> PathBuf {
    closed.with_extension("tail")
}

/// The same after a power cut: the log's tail mark was not yet on the disk for the last entry.
pub(crate) fn killed(below: &Path) -> Sample {
    let (from, folder) = (below.join("closed"), below.join("killed"));
    Sample::new(&from, expected()).copy_to(&folder);
    fs::copy(tail_before(&from), folder.join("raft/log/tail")).unwrap();
    Sample::new(&folder, Expected { last_proven: LAST - 1, ..expected() })
}

impl Sample {
    fn new(folder: &Path, expected: Expected) -> Self {
        let mut files = Vec::new();
        find(folder, Path::new(""), &mut files);
        files.retain(|file| !file.ends_with("lock"));
        files.sort();
        Self { folder: folder.to_owned(), files, expected }
    }

    pub(crate) fn copy_to(&self, to: &Path) {
        for file in &self.files {
            let target = to.join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(self.folder.join(file), target).unwrap();
        }
    }

    /// A file of a part, and where in it the part lies.
    pub(crate) fn places(&self, part: Part, dice: &mut Dice) -> (PathBuf, Range<usize>) {
        let segments = self.below("raft/log", ".wal");
        let one = |files: Vec<PathBuf>, dice: &mut Dice| {
            let file = files[dice.below(files.len() as u64) as usize].clone();
            let used = self.used(&file);
            (file, 0..used)
        };
        match part {
            Part::LogHead => (segments[0].clone(), 0..400),
            Part::LogMiddle => one(segments[..segments.len() - 1].to_vec(), dice),
            Part::LogTail => {
                let last = segments.last().unwrap();
                let used = self.used(last);
                // Its last record, or anywhere behind its head.
                let from = if dice.below(2) == 0 { used.saturating_sub(500) } else { 0 };
                (last.clone(), from..used)
            }
            Part::Vote => {
                let vote = rmp_serde::to_vec_named(&self.expected.vote).unwrap();
                let with = segments.iter().filter_map(|file| {
                    let bytes = fs::read(self.folder.join(file)).unwrap();
                    let at = bytes.windows(vote.len()).position(|window| window == vote)?;
                    // With the record's header.
                    Some((file.clone(), at - 32..at + vote.len()))
                });
                let with: Vec<_> = with.collect();
                with[dice.below(with.len() as u64) as usize].clone()
            }
            Part::TailMark => (PathBuf::from("raft/log/tail"), 0..32),
            Part::Snapshot => one(self.below("raft/snapshots", ".snapshot"), dice),
            Part::State => one(self.below("state", ""), dice),
            Part::Artifact => one(self.below("artifacts/components", ".wasm"), dice),
            Part::Compiled => {
                let mut files = self.below("artifacts/compiled", "");
                files.push(PathBuf::from("artifacts/compiled.key"));
                one(files, dice)
            }
            Part::Identity => one(vec![PathBuf::from("node.json"), PathBuf::from("format")], dice),
        }
    }

    /// Other files, of the same folder if asked for and there are such.
    pub(crate) fn others(&self, file: &Path, same_folder: bool) -> Vec<PathBuf> {
        let others = self.files.iter().filter(|other| *other != file);
        let same: Vec<_> =
            others.clone().filter(|other| other.parent() == file.parent()).cloned().collect();
        if same_folder && !same.is_empty() { same } else { others.cloned().collect() }
    }

    fn below(&self, folder: &str, end: &str) -> Vec<PathBuf> {
        let files = self
            .files
            .iter()
            .filter(|file| file.starts_with(folder) && file.to_string_lossy().ends_with(end));
        files.cloned().collect()
    }

    /// The length without the zeros at the end.
    fn used(&self, file: &Path) -> usize {
        let bytes = fs::read(self.folder.join(file)).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }
}

fn find(root: &Path, below: &Path, files: &mut Vec<PathBuf>) {
    for found in fs::read_dir(root.join(below)).unwrap() {
        let found = found.unwrap();
        let path = below.join(found.file_name());
        match found.file_type().unwrap().is_dir() {
            true => find(root, &path, files),
            false => files.push(path),
        }
    }
}

//! All of a node's storage, opened together and checked against each other.

use std::path::Path;
use std::sync::Arc;

use nigh_model::State;

use crate::artifacts::ArtifactStore;
use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::identity::DataDir;
use crate::raft::{LogStore, SnapshotMeta, Snapshots, StateMachine, StatePublisher};
use crate::state::{Held, RaftMark, Recovered, StateSaver, StateStore};
use crate::wal::{SEGMENT_BYTES, Wal};

/// Where in a data folder the log lies.
pub const LOG_FOLDER: &str = "raft/log";

/// How to open.
#[derive(Clone)]
pub struct Options {
    /// Where everything but the state database lies.
    pub disk: Arc<dyn Disk>,
    /// Hears of every change that Raft makes to the state.
    pub publisher: Arc<dyn StatePublisher>,
    /// Random: the key of compiled artifacts, where there is none yet.
    pub fresh_key: [u8; 32],
    /// The length of the log's segments in bytes.
    pub segment_bytes: u64,
}

impl Options {
    /// On this machine's disk. `fresh_key` is random.
    pub fn new(publisher: Arc<dyn StatePublisher>, fresh_key: [u8; 32]) -> Self {
        Self { disk: Arc::new(RealDisk), publisher, fresh_key, segment_bytes: SEGMENT_BYTES }
    }
}

/// A node's storage.
#[derive(Debug)]
pub struct Stores {
    /// Raft's log and vote.
    pub log: LogStore,
    /// Raft's state machine. Empty when the node has never been a member.
    pub machine: StateMachine,
    /// The state that the node held last, to serve from before it has spoken to anyone.
    pub state: Arc<State>,
    /// Saves the states that a node follows without being a member; members' are saved already.
    pub saver: StateSaver,
    /// Components and what was compiled from them.
    pub artifacts: Arc<ArtifactStore>,
    /// Set when the materialised state was not usable; it was said in the log.
    pub recovered: Option<Recovered>,
    /// The data folder. Last, so that it is let go of when all in it is closed; keep it until then.
    pub data: DataDir,
}

impl Stores {
    /// Opens everything in a data folder, made if missing. Blocking.
    ///
    /// # Errors
    /// As [`DataDir::open`] and [`Wal::open`], and [`Error::Corrupt`] when neither snapshot nor
    /// state reaches what was purged from the log.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let Options { disk, publisher, fresh_key, segment_bytes } = options;
        let data = DataDir::open_on(disk.clone(), path)?;
        check_log_is_there(&data, &path.join(LOG_FOLDER))?;
        let log = Wal::open_sized(disk.clone(), &path.join(LOG_FOLDER), segment_bytes)?;
        let log = LogStore::new(log);
        let snapshot_folder = path.join("raft/snapshots");
        let (snapshots, snapshot) = Snapshots::open(disk.clone(), &snapshot_folder)?;
        let artifacts = Arc::new(ArtifactStore::open(&path.join("artifacts"), disk, fresh_key)?);
        let (mut store, held) = StateStore::open(&path.join("state"))?;

        let Held { state, mark, mut recovered } = held;
        let start = start(&log, snapshot, state.clone(), mark.clone())?;
        if let Some(purged) = log.purged()?
            && start.mark.last_applied < Some(purged)
        {
            let why = format!(
                "entries up to {} were purged from the log and neither a snapshot nor the state \
                 holds what they did",
                purged.index
            );
            return Err(Error::corrupt(&snapshot_folder, 0, why));
        }
        if let Some(why) = start.unconfirmed {
            tracing::info!(why, "the stored state is not confirmed and is built again");
            store.clear()?;
            recovered = recovered.or(Some(Recovered { why, moved_to: None }));
        }
        // A node that was never a member starts from what it followed.
        let followed = mark.is_none() && state.applied > start.state.applied;
        let shown = Arc::new(if followed { state } else { start.state.clone() });
        let saver = StateSaver::start(store)?;
        let machine = StateMachine::new(
            start.state,
            start.mark,
            Arc::new(snapshots),
            Some(saver.clone()),
            publisher,
        );
        Ok(Self { log, machine, state: shown, saver, artifacts, recovered, data })
    }
}

/// A node that belongs to a cluster has a log, made before it did: with an empty one in its place
/// it could vote twice.
fn check_log_is_there(data: &DataDir, folder: &Path) -> Result<(), Error> {
    if data.identity()?.is_some() && !Wal::is_there(data.disk().as_ref(), folder)? {
        return Err(Error::corrupt(folder, 0, "the log of this node is gone"));
    }
    Ok(())
}

/// With what the state machine begins.
struct Start {
    state: State,
    mark: RaftMark,
    /// Why the stored state is not part of what log and snapshot say.
    unconfirmed: Option<String>,
}

/// The stored state if the log or the snapshot confirms that its last entry is the one they know;
/// else the snapshot's; else nothing. What is missing the log brings.
fn start(
    log: &LogStore,
    snapshot: Option<(SnapshotMeta, State)>,
    state: State,
    mark: Option<RaftMark>,
) -> Result<Start, Error> {
    let reached = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    let mut unconfirmed = None;
    if let Some(mark) = mark
        && let Some(applied) = mark.last_applied
        && Some(applied) >= reached
    {
        if Some(applied) == reached || log.log_id(applied.index)? == Some(applied) {
            return Ok(Start { state, mark, unconfirmed: None });
        }
        unconfirmed = Some(format!("its last entry {applied} is not in the log"));
    }
    let (mark, state) = match snapshot {
        Some((meta, state)) => {
            (RaftMark { last_applied: meta.last_log_id, membership: meta.last_membership }, state)
        }
        None => (RaftMark::default(), State::default()),
    };
    Ok(Start { state, mark, unconfirmed })
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("disk", &self.disk).finish_non_exhaustive()
    }
}

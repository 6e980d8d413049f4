//! What is seen of the nodes, as gossip last told: read by every call, without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use nigh_model::{GossipKeyId, NodeId, RevisionId};
use tokio::sync::watch;

use crate::gossip::Filter;

/// Whether a node is thought to be alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Heard of lately.
    Alive,
    /// Not heard of for longer than usual.
    Suspect,
    /// Given up; or never heard of.
    #[default]
    Dead,
}

/// What a node says of its load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Calls running.
    pub(crate) running: u32,
    /// Calls that can run at once.
    pub(crate) slots: u32,
    /// CPU used by the process, 0 to 1 of the machine.
    pub(crate) cpu: f32,
    /// Resident memory of the process.
    pub(crate) memory_bytes: u64,
    /// Functions whose compiled artifact is on disk.
    pub(crate) ready: u32,
    /// Functions loaded.
    pub(crate) warm: u32,
}

/// What a node says of its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdentityReport {
    /// When it ends, in ms since the Unix epoch.
    pub(crate) expires_ms: u64,
    /// The beginning of the fingerprint of the authority that signed it.
    pub(crate) issuer: u32,
    /// The same of the authority that the node came to trust last.
    pub(crate) newest: u32,
}

/// How the disk below a node's log does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DiskState {
    /// It takes writes.
    #[default]
    Fine,
    /// There is no room to be reserved.
    Full,
    /// A write failed: nothing more is written before a restart.
    Failed,
}

/// What a node says of the disk below its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskReport {
    /// Whether it takes writes.
    pub(crate) state: DiskState,
    /// How long a sync takes, in ms, rounded up to a power of two.
    pub(crate) sync_ms: u32,
}

impl DiskReport {
    /// What is to be said of a log.
    pub(crate) fn of(health: &nigh_storage::wal::Health) -> Self {
        let state = match health {
            health if health.failed.is_some() => DiskState::Failed,
            health if health.full => DiskState::Full,
            _ => DiskState::Fine,
        };
        let ms = u32::try_from(health.sync.as_millis()).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1);
        let sync_ms = if ms == 0 { 0 } else { ms.next_power_of_two() };
        Self { state, sync_ms }
    }
}

/// What a node says of the room that its data folder takes and has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// What the folder takes.
    pub(crate) data_bytes: u64,
    /// What can still be written on its disk.
    pub(crate) free_bytes: u64,
    /// The size of that disk.
    pub(crate) size_bytes: u64,
}

/// What a node says of itself by gossip.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Its load.
    pub(crate) load: Load,
    /// It takes no new work.
    pub(crate) draining: bool,
    /// The state index up to which it has everything assigned to it, but for `lag`.
    pub(crate) settled: u64,
    /// Revisions of which it lacks something at that index (at most a few are named).
    pub(crate) lag: Vec<RevisionId>,
    /// Which functions are loaded: no false negatives, few false positives.
    pub(crate) warm: Filter,
    /// Which functions are ready: the same.
    pub(crate) ready: Filter,
    /// Its build.
    pub(crate) version: String,
    /// Its certificate.
    pub(crate) identity: Option<IdentityReport>,
    /// The keys of gossip that it works with.
    pub(crate) keys: KeysInUse,
    /// The disk below its log.
    pub(crate) disk: DiskReport,
    /// The room of its data folder; none when it does not know, or does not say.
    pub(crate) room: Option<Room>,
    /// The fingerprint of its engine: nodes of the same one can run each other's compiled
    /// artifacts. Empty where a build does not say it.
    pub(crate) engine: String,
}

/// The keys of gossip that a node works with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeysInUse {
    /// The newest accepted key that it holds.
    pub(crate) newest: Option<GossipKeyId>,
    /// The key that it sends with.
    pub(crate) sending: Option<GossipKeyId>,
}

/// A node as it is seen from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeSeen {
    /// Whether it is thought to be alive.
    pub(crate) liveness: Liveness,
    /// What it last said.
    pub(crate) report: Report,
}

impl NodeSeen {
    /// Whether it had, at this index, everything that is assigned to it of this revision.
    pub(crate) fn has_settled(&self, index: u64, revision: RevisionId) -> bool {
        self.report.settled >= index && !self.report.lag.contains(&revision)
    }
}

/// All nodes as they are seen from here, this node included.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// By id.
    pub(crate) nodes: BTreeMap<NodeId, NodeSeen>,
}

impl View {
    /// Whether the node is thought to be alive.
    pub(crate) fn liveness(&self, id: NodeId) -> Liveness {
        self.nodes.get(&id).map_or(Liveness::Dead, |node| node.liveness)
    }
}

/// The last view, handed to all parts of a node.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    current: Arc<ArcSwap<View>>,
    version: Arc<watch::Sender<u64>>,
}

impl Seen {
    /// The view as it is now; keep it only for a moment.
    pub(crate) fn now(&self) -> Guard<Arc<View>> {
        self.current.load()
    }

    /// Publishes a newer view.
    pub(crate) fn publish(&self, view: View) {
        self.current.store(Arc::new(view));
        self.version.send_modify(|version| *version += 1);
    }

    /// Follows changes of the view.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

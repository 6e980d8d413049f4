//! A state as rows of a table, and what changes in the table from one state to the next. Pure.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use nigh_model::audit::AuditEntry;
use nigh_model::trust::Trust;
use nigh_model::{ClusterId, GossipKeys, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The first byte of a key says what kind of row it is.
const NODE: u8 = b'n';
const APP: u8 = b'a';
const ASSIGNMENT: u8 = b'p';
const REPLY: u8 = b'r';
const REPLY_INDEX: u8 = b'i';
const TOKEN: u8 = b't';
const AUDIT: u8 = b'u';

/// A changed row: its key, the bytes before and after.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub key: Vec<u8>,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// The fields of a state that are not maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scalars {
    pub applied: u64,
    pub cluster: Option<ClusterId>,
    pub plan_basis: u64,
    #[serde(default)]
    pub trust: Arc<Trust>,
    #[serde(default)]
    pub gossip: GossipKeys,
    #[serde(default)]
    pub feature_level: u32,
    #[serde(default)]
    pub revision_offset: u64,
}

impl Scalars {
    pub(super) fn of(state: &State) -> Self {
        Self {
            applied: state.applied,
            cluster: state.cluster.clone(),
            plan_basis: state.plan_basis,
            trust: state.trust.clone(),
            gossip: state.gossip.clone(),
            feature_level: state.feature_level,
            revision_offset: state.revision_offset,
        }
    }

    /// A state with these fields and no rows yet.
    pub(super) fn into_state(self) -> State {
        let Self { applied, cluster, plan_basis, trust, gossip, feature_level, revision_offset } =
            self;
        State {
            applied,
            cluster,
            plan_basis,
            trust,
            gossip,
            feature_level,
            revision_offset,
            ..State::default()
        }
    }
}

/// The sum over all rows of a table: equal for equal tables, cheap to carry forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        for (lane, hash) in self.0.iter_mut().zip(row_hash(key, value)) {
            *lane = lane.wrapping_add(hash);
        }
    }

    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) {
        for (lane, hash) in self.0.iter_mut().zip(row_hash(key, value)) {
            *lane = lane.wrapping_sub(hash);
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        if let Some(before) = &change.before {
            self.take(&change.key, before);
        }
        if let Some(after) = &change.after {
            self.add(&change.key, after);
        }
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    let bytes = hash.finalize();
    let mut lanes = [0; 4];
    for (lane, bytes) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
        *lane = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    lanes
}

/// The rows that differ between two states. Takes time with the difference, not with the size.
pub(super) fn changes(old: &State, new: &State) -> Vec<Change> {
    // Every field, so that a new one is not forgotten here.
    let State {
        applied: _,
        cluster: _,
        plan_basis: _,
        trust: _,
        gossip: _,
        feature_level: _,
        revision_offset: _,
        nodes,
        apps,
        assignments,
        replies,
        replies_by_index,
        tokens,
        audit,
        upkeep,
    } = new;
    let mut out = Vec::new();
    for item in old.nodes.diff(nodes) {
        out.push(change(NODE, item, |id| id.0.to_be_bytes().to_vec()));
    }
    for item in old.apps.diff(apps) {
        out.push(change(APP, item, |name| name.as_str().as_bytes().to_vec()));
    }
    for item in old.assignments.diff(assignments) {
        out.push(change(ASSIGNMENT, item, |function| function.to_string().into_bytes()));
    }
    for item in old.replies.diff(replies) {
        out.push(change(REPLY, item, |id| id.as_str().as_bytes().to_vec()));
    }
    for item in old.replies_by_index.diff(replies_by_index) {
        out.push(change(REPLY_INDEX, item, |index| index.to_be_bytes().to_vec()));
    }
    for item in old.tokens.diff(tokens) {
        out.push(change(TOKEN, item, |id| id.as_str().as_bytes().to_vec()));
    }
    // A log index is in one of them.
    for item in old.audit.diff(audit).chain(old.upkeep.diff(upkeep)) {
        out.push(change(AUDIT, item, |index| index.to_be_bytes().to_vec()));
    }
    out
}

/// Puts a row into a state. False when it is no row of this build.
pub(super) fn insert(state: &mut State, key: &[u8], value: &[u8]) -> bool {
    let Some((kind, key)) = key.split_first() else { return false };
    let text = || std::str::from_utf8(key).ok();
    let number = || Some(u64::from_be_bytes(key.try_into().ok()?));
    let inserted = match *kind {
        NODE => number().zip(read(value)).map(|(id, node)| {
            state.nodes.insert(nigh_model::NodeId(id), node);
        }),
        APP => text().and_then(|name| name.parse().ok()).zip(read(value)).map(|(name, app)| {
            state.apps.insert(name, app);
        }),
        ASSIGNMENT => {
            let function = text().and_then(|function| function.parse().ok());
            function.zip(read(value)).map(|(function, assignment)| {
                state.assignments.insert(function, assignment);
            })
        }
        REPLY => text().and_then(|id| id.parse().ok()).zip(read(value)).map(|(id, outcome)| {
            state.replies.insert(id, outcome);
        }),
        REPLY_INDEX => number().zip(read(value)).map(|(index, id)| {
            state.replies_by_index.insert(index, id);
        }),
        TOKEN => text().and_then(|id| id.parse().ok()).zip(read(value)).map(|(id, token)| {
            state.tokens.insert(id, token);
        }),
        AUDIT => number().zip(read::<Arc<AuditEntry>>(value)).map(|(index, entry)| {
            let asked_for = entry.actor.is_some();
            let kept = if asked_for { &mut state.audit } else { &mut state.upkeep };
            kept.insert(index, entry);
        }),
        _ => None,
    };
    inserted.is_some()
}

fn change<K, V: Serialize>(
    kind: u8,
    item: DiffItem<'_, '_, K, V>,
    name: impl Fn(&K) -> Vec<u8>,
) -> Change {
    let (key, before, after) = match item {
        DiffItem::Add(key, value) => (key, None, Some(value)),
        DiffItem::Update { old: (key, old), new: (_, new) } => (key, Some(old), Some(new)),
        DiffItem::Remove(key, value) => (key, Some(value), None),
    };
    let mut bytes = vec![kind];
    bytes.extend(name(key));
    Change { key: bytes, before: before.map(write), after: after.map(write) }
}

fn write<V: Serialize>(value: &V) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("rows are maps, strings and numbers")
}

fn read<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    rmp_serde::from_slice(bytes).ok()
}

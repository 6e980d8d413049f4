//! When the majority of the voters is lost for ever: one survivor's data made the whole of the
//! cluster again, and the data of the others made fit to join it anew.
//!
//! What is written is a snapshot of everything that the survivor holds, with itself as the only
//! member, far ahead of every index that anybody can have reached: whoever followed before takes
//! it whole, and no id is used twice. What was there before is moved aside and kept.
//!
//! It deliberately does not ask whether the others are really lost; only the network can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nigh_model::{Digest, NodeId, State, apply, command};
use openraft::entry::{EntryPayload, RaftEntry as _};
use openraft::vote::RaftLeaderIdExt as _;

use crate::disk::{Disk, RealDisk};
use crate::error::{Context as _, Error};
use crate::identity::{DataDir, Identity, NODE_NAME};
use crate::raft::{
    LogId, LogStore, Membership, Published, RaftNode, SnapshotMeta, Snapshots, TypeConfig, Vote,
};
use crate::stores::{Options, Stores};
use crate::wal::Wal;

/// Indices left out: more than any member can have been ahead of the survivor.
const INDEX_LEAP: u64 = 1_000_000;
/// Terms left out: more elections than the others can have held meanwhile.
const TERM_LEAP: u64 = 1_000;
/// Where what was there before is kept: this and a number.
const ASIDE_PREFIX: &str = "before-recovery-";
/// So often a cluster is recovered at most, before a person has to clean up.
const ASIDE_MAX: u32 = 1_000;
/// What is written before it takes its place.
const NEW_NAME: &str = "raft.new";
const RAFT_NAME: &str = "raft";
/// What says who the node is: the identity, and the certificates if there are any.
const IDENTITY_NAMES: [&str; 2] = [NODE_NAME, "identity"];
/// What a node that joins anew must not bring along.
const MEMBERSHIP_NAMES: [&str; 2] = [RAFT_NAME, "state"];

/// What a survivor holds.
#[derive(Debug)]
pub struct Survivor {
    /// Who it is.
    pub identity: Identity,
    /// The state with every entry of its log applied, also those of which it does not know
    /// whether a majority had them.
    pub state: State,
    /// Who voted, by its knowledge; empty when it was never a member.
    pub voters: BTreeSet<NodeId>,
    /// Entries at the end of its log of which it does not know that they were decided.
    pub undecided: u64,
    /// Components of deployed revisions that are not on its disk.
    pub missing: Vec<Digest>,
    term: u64,
    path: PathBuf,
}

impl Survivor {
    /// Reads everything. The node must not run. `fresh_key` as for [`Options::new`]. Blocking.
    ///
    /// # Errors
    /// As [`Stores::open`]; [`Error::NoIdentity`] when the folder belongs to no cluster, or what
    /// does not decode.
    pub fn read(path: &Path, fresh_key: [u8; 32]) -> Result<Self, Error> {
        finish(path)?;
        let publisher = Arc::new(|_: Published| {});
        let Stores { log, machine, state: followed, artifacts, data, .. } =
            Stores::open(path, Options::new(publisher, fresh_key))?;
        let identity = data.identity()?;
        let identity = identity.ok_or_else(|| Error::NoIdentity { path: path.to_owned() })?;
        let mut state = machine.state().clone();
        let mut members = machine.membership().clone();
        let mut term = log.vote()?.map_or(0, |vote| vote.leader_id().term);
        let decided = log.committed()?.map_or(state.applied, |id| id.index.max(state.applied));
        let mut undecided = 0;
        for entry in log.entries_after(state.applied)? {
            let id = entry.log_id();
            term = term.max(id.leader_id.term);
            undecided += u64::from(id.index > decided);
            match entry.payload {
                EntryPayload::Normal(proposal) => {
                    let envelope = command::decode(&proposal.0)
                        .map_err(|error| Error::Unreadable { why: error.to_string() })?;
                    apply(&mut state, id.index, &envelope);
                }
                EntryPayload::Membership(membership) => {
                    apply::apply_blank(&mut state, id.index);
                    members = Membership::new(Some(id), membership);
                }
                EntryPayload::Blank => apply::apply_blank(&mut state, id.index),
            }
        }
        if let Some(id) = members.log_id() {
            term = term.max(id.leader_id.term);
        }
        // A node that followed after it had been a member knows more by that.
        if followed.applied > state.applied {
            state = (*followed).clone();
            undecided = 0;
        }
        let mut missing = Vec::new();
        for digest in state.components() {
            if !artifacts.has(digest)? {
                missing.push(digest);
            }
        }
        let voters = members.voter_ids().map(NodeId).collect();
        Ok(Self { identity, state, voters, undecided, missing, term, path: path.to_owned() })
    }

    /// Makes this node the only member of its cluster, with all that it holds. The others are
    /// forgotten and have to join anew. Where the former data is kept. Blocking.
    ///
    /// # Errors
    /// What the disk answers; then nothing has changed, or asking again goes on.
    pub fn make_whole(self) -> Result<PathBuf, Error> {
        let Self { identity, mut state, term, path, .. } = self;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let data = DataDir::open_on(disk.clone(), &path)?;
        let own = identity.node;
        let (index, term) = (state.applied + INDEX_LEAP, term + TERM_LEAP);
        let Some(node) = state.nodes.get(&own).cloned() else {
            return Err(Error::NotRegistered { name: identity.name.to_string() });
        };
        apply::keep_only(&mut state, index, own);

        let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(term, own.0);
        let log_id = LogId::new(leader, index);
        let member = RaftNode {
            name: node.name.to_string(),
            region: node.region.to_string(),
            peer: node.addresses.peer.clone(),
        };
        let members = openraft::Membership::new(
            vec![BTreeSet::from([own.0])],
            BTreeMap::from([(own.0, member)]),
        );
        let members = members.map_err(|error| Error::Unreadable { why: error.to_string() })?;
        let meta = SnapshotMeta {
            last_log_id: Some(log_id),
            last_membership: Membership::new(Some(log_id), members),
        };

        let new = path.join(NEW_NAME);
        if disk.list(&path).on("list", &path)?.iter().any(|name| name == NEW_NAME) {
            std::fs::remove_dir_all(&new).on("remove", &new)?;
        }
        disk.create_dir(&new).on("create", &new)?;
        let (snapshots, _) = Snapshots::open(disk.clone(), &new.join("snapshots"))?;
        snapshots.save(&meta, &state)?;
        let log = LogStore::new(Wal::open(disk.clone(), &new.join("log"))?);
        log.begin_after(&Vote::new(term, own.0), log_id)?;
        drop(log);
        disk.sync_dir(&new).on("sync", &new)?;
        disk.sync_dir(&path).on("sync", &path)?;

        let aside = aside(&*disk, &path)?;
        move_to(&*disk, &path, &aside, &[RAFT_NAME])?;
        finish(&path)?;
        drop(data);
        Ok(aside)
    }
}

/// Forgets which cluster a node belongs to and keeps its components, so that it joins the
/// recovered cluster anew with them. Where the former data is kept. Blocking.
///
/// # Errors
/// The folder is in use, belongs to no cluster, or what the disk answers.
pub fn forget(path: &Path) -> Result<PathBuf, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let data = DataDir::open_on(disk.clone(), path)?;
    if data.identity()?.is_none() {
        return Err(Error::NoIdentity { path: path.to_owned() });
    }
    let aside = aside(&*disk, path)?;
    // The identity last: with it gone the folder belongs to no cluster.
    move_to(&*disk, path, &aside, &MEMBERSHIP_NAMES)?;
    move_to(&*disk, path, &aside, &IDENTITY_NAMES)?;
    Ok(aside)
}

/// Ends a recovery that was cut short between moving the old data away and the new data in.
fn finish(path: &Path) -> Result<(), Error> {
    let (new, raft) = (path.join(NEW_NAME), path.join(RAFT_NAME));
    if new.is_dir() && !raft.exists() {
        let disk = RealDisk;
        disk.rename(&new, &raft).on("rename", &new)?;
        disk.sync_dir(path).on("sync", path)?;
    }
    Ok(())
}

/// A folder for what was there before.
fn aside(disk: &dyn Disk, path: &Path) -> Result<PathBuf, Error> {
    let free = (1..=ASIDE_MAX).map(|n| path.join(format!("{ASIDE_PREFIX}{n}")));
    let mut free = free.filter(|folder| !folder.exists());
    let aside = free.next().ok_or_else(|| Error::Foreign {
        path: path.to_owned(),
        found: format!("{ASIDE_PREFIX}{ASIDE_MAX}"),
    })?;
    disk.create_dir(&aside).on("create", &aside)?;
    Ok(aside)
}

fn move_to(disk: &dyn Disk, path: &Path, aside: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let from = path.join(name);
        if from.exists() {
            disk.rename(&from, &aside.join(name)).on("rename", &from)?;
        }
    }
    disk.sync_dir(aside).on("sync", aside)?;
    disk.sync_dir(path).on("sync", path)
}

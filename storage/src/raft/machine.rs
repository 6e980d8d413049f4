//! Raft's state machine: applies committed entries to the state and publishes what came of it.
//!
//! The state is in memory. What is on disk is the snapshot, and the materialised state that a
//! thread of its own saves behind ([`StateSaver`]); applying waits for neither. A snapshot that
//! turns out to be damaged is made again from the state; one that finds no room waits for it, as
//! Raft would take an error for the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use nigh_model::{Kind, State, apply, command};
use openraft::OptionalSend;
use openraft::entry::{EntryPayload, RaftEntry as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

use super::{
    Entry, LogId, Membership, Response, SnapshotData, SnapshotMeta, Snapshots, TypeConfig,
};
use crate::error::Error;
use crate::state::{RaftMark, StateSaver};

/// A snapshot that finds the disk full is tried again this often.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Entries that are published together at most, so that watchers get pieces of bounded size.
const PUBLISHED_ENTRIES_MAX: usize = 256;

/// The state after some entries.
#[derive(Clone, Debug)]
pub struct Published {
    /// The state now.
    pub state: Arc<State>,
    /// The entries that led here from the state published before, each with its index and the
    /// proposal's bytes (none for an entry without a command). Empty when the state was not
    /// reached by entries: at the start, and after a snapshot was installed; watchers then need a
    /// snapshot too.
    pub entries: Vec<(u64, Option<Bytes>)>,
}

/// Hears of every change of the state, in order. Called while entries are applied: be quick.
pub trait StatePublisher: Send + Sync + 'static {
    /// The state has changed. Proposers are answered after this returns.
    fn publish(&self, published: Published);
}

impl<F: Fn(Published) + Send + Sync + 'static> StatePublisher for F {
    fn publish(&self, published: Published) {
        self(published);
    }
}

/// The state machine.
pub struct StateMachine {
    state: State,
    mark: RaftMark,
    snapshots: Arc<Snapshots>,
    saver: Option<StateSaver>,
    publisher: Arc<dyn StatePublisher>,
}

/// Builds a snapshot of the state at one entry.
#[derive(Debug)]
pub struct Builder {
    state: State,
    meta: SnapshotMeta,
    snapshots: Arc<Snapshots>,
}

impl StateMachine {
    /// Begins with a state and what Raft must know of it; both empty on a new node.
    pub fn new(
        state: State,
        mark: RaftMark,
        snapshots: Arc<Snapshots>,
        saver: Option<StateSaver>,
        publisher: Arc<dyn StatePublisher>,
    ) -> Self {
        Self { state, mark, snapshots, saver, publisher }
    }

    /// The state now.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Where its snapshots are.
    pub const fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Who the members are, as of the state now.
    pub const fn membership(&self) -> &Membership {
        &self.mark.membership
    }

    fn apply_one(&mut self, entry: Entry) -> io::Result<(Option<Bytes>, Response)> {
        let index = entry.log_id().index;
        let log_id = entry.log_id();
        let applied = match entry.payload {
            EntryPayload::Normal(proposal) => {
                let envelope = command::decode(&proposal.0).map_err(io::Error::other)?;
                let outcome = apply::apply(&mut self.state, index, &envelope).reply;
                (Some(proposal.0), Response(Some(outcome)))
            }
            EntryPayload::Membership(membership) => {
                apply::apply_blank(&mut self.state, index);
                self.mark.membership = Membership::new(Some(log_id), membership);
                (None, Response(None))
            }
            EntryPayload::Blank => {
                apply::apply_blank(&mut self.state, index);
                (None, Response(None))
            }
        };
        self.mark.last_applied = Some(log_id);
        Ok(applied)
    }

    fn publish(&self, entries: Vec<(u64, Option<Bytes>)>) {
        if let Some(saver) = &self.saver {
            saver.save(self.state.clone(), Some(self.mark.clone()));
        }
        self.publisher.publish(Published { state: Arc::new(self.state.clone()), entries });
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.mark.last_applied, self.mark.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut published = Vec::new();
            let mut answers = Vec::new();
            let mut ended = Ok(true);
            while published.len() < PUBLISHED_ENTRIES_MAX {
                let (entry, responder) = match entries.try_next().await {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(error) => {
                        ended = Err(error);
                        break;
                    }
                };
                let index = entry.log_id().index;
                match self.apply_one(entry) {
                    Ok((proposal, response)) => {
                        published.push((index, proposal));
                        answers.extend(responder.map(|responder| (responder, response)));
                    }
                    Err(error) => {
                        ended = Err(error);
                        break;
                    }
                }
            }
            if published.len() == PUBLISHED_ENTRIES_MAX {
                ended = ended.map(|_| false);
            }
            if !published.is_empty() {
                self.publish(published);
            }
            for (responder, response) in answers {
                responder.send(response);
            }
            if ended? {
                return Ok(());
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.mark.last_applied,
            last_membership: self.mark.membership.clone(),
        };
        Builder { state: self.state.clone(), meta, snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (found, state) = blocking(move || snapshot.decode()).await?;
        if found != *meta {
            let why = format!("it is of {found}, not of {meta}");
            return Err(Error::BadSnapshot { why }.into());
        }
        save(&self.snapshots, &found, &state).await?;
        self.state = state;
        self.mark = RaftMark { last_applied: found.last_log_id, membership: found.last_membership };
        self.publish(Vec::new());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let snapshots = self.snapshots.clone();
        let found = blocking(move || match snapshots.read() {
            Err(error @ Error::Corrupt { .. }) => {
                tracing::warn!(%error, "moved a damaged snapshot aside; another is made");
                snapshots.set_aside()?;
                Ok(Err(()))
            }
            read => Ok(Ok(read?)),
        });
        match found.await? {
            Ok(found) => Ok(found.map(|(meta, snapshot)| Snapshot { meta, snapshot })),
            Err(()) => Ok(Some(self.get_snapshot_builder().await.build_snapshot().await?)),
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let snapshot = save(&self.snapshots, &self.meta, &self.state).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

impl std::fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMachine").field("applied", &self.mark.last_applied).finish()
    }
}

/// Saves a snapshot; where there is no room for it, waits until there is or the node stops.
async fn save(
    snapshots: &Arc<Snapshots>,
    meta: &SnapshotMeta,
    state: &State,
) -> io::Result<SnapshotData> {
    let mut said = false;
    loop {
        let (snapshots, meta, state) = (snapshots.clone(), meta.clone(), state.clone());
        let saved = tokio::task::spawn_blocking(move || snapshots.save(&meta, &state)).await;
        match saved.map_err(io::Error::other)? {
            Err(error) if error.kind() == Kind::Exhausted => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "a snapshot waits for room on the disk");
                }
            }
            saved => return Ok(saved?),
        }
        tokio::time::sleep(ROOM_WAIT).await;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> io::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}

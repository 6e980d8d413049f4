//! Raft's messages from other nodes. Each must name this cluster and this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use nigh_model::{ClusterId, Kind, NodeId};
use nigh_proto::peer::v1::{RaftMessage, SnapshotChunk, raft_server};
use nigh_storage::raft::{LogStore, Snapshots, TypeConfig};
use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::AppendEntriesRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::Raft;
use super::propose::Unavailable;
use crate::peer::{Strangers, Turned, caller};

/// When a leader was last heard of.
#[derive(Clone)]
pub(crate) struct LastHeard {
    began: Instant,
    /// In ms after `began`, plus one; 0: never.
    at: Arc<AtomicU64>,
}

impl LastHeard {
    /// Never.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), at: Arc::default() }
    }

    fn note(&self) {
        self.at.store(self.began.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// The time since, or since the start when none was ever heard of.
    pub(crate) fn ago(&self) -> Duration {
        let at = self.at.load(Relaxed).saturating_sub(1);
        self.began.elapsed().saturating_sub(Duration::from_millis(at))
    }
}

/// Serves Raft's messages.
#[derive(Clone)]
pub(crate) struct RaftService {
    /// To whom messages are handed.
    pub(super) raft: Raft,
    /// This node.
    pub(super) own: NodeId,
    /// Its cluster.
    pub(super) cluster: ClusterId,
    /// When a leader last spoke.
    pub(super) heard: LastHeard,
    /// Counts who is turned away.
    pub(super) strangers: Arc<Strangers>,
    /// Whether there is room on its disk.
    pub(super) log: LogStore,
    /// Where a snapshot from the leader goes.
    pub(super) snapshots: Arc<Snapshots>,
}

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

impl RaftService {
    /// Raft takes a write that fails for the end. So what finds no room does not come to it; the
    /// leader tries again, as with a node that is not there.
    fn check_room(&self) -> Result<(), Status> {
        match self.log.health().full {
            true => Err(Unavailable::disk_full(self.own).into()),
            false => Ok(()),
        }
    }

    /// Works on the disk beside the other tasks.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, nigh_storage::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| {
            match error.kind() {
                Kind::Exhausted => Unavailable::disk_full(self.own).into(),
                _ => Status::data_loss(error.to_string()),
            }
        })
    }

    /// `caller`: the node whose certificate the message came with.
    fn check(&self, caller: NodeId, message: &RaftMessage) -> Result<(), Status> {
        if message.from != caller.0 {
            self.strangers.turned(Turned::OtherSender);
            return Err(Status::permission_denied(format!(
                "the message names node {} as its sender, its certificate node {caller}",
                message.from
            )));
        }
        if message.cluster_id != self.cluster.as_str() {
            return Err(Status::failed_precondition(format!(
                "this node belongs to cluster {} and not to {}",
                self.cluster, message.cluster_id
            )));
        }
        if message.to != self.own.0 {
            return Err(Status::failed_precondition(format!(
                "this is node {} and not {}",
                self.own, message.to
            )));
        }
        Ok(())
    }

    fn open<T: DeserializeOwned>(
        &self,
        caller: NodeId,
        message: &RaftMessage,
    ) -> Result<T, Status> {
        self.check(caller, message)?;
        rmp_serde::from_slice(&message.payload).map_err(|error| {
            Status::invalid_argument(format!("the message does not decode: {error}"))
        })
    }

    fn answer(&self, to: u64, payload: &impl Serialize) -> Result<RaftMessage, Status> {
        let payload = rmp_serde::to_vec_named(payload)
            .map_err(|error| Status::internal(format!("the answer does not encode: {error}")))?;
        let cluster_id = self.cluster.to_string();
        Ok(RaftMessage { cluster_id, from: self.own.0, to, payload: payload.into() })
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendStream = Answers;

    async fn append(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let from = caller(&request)?;
        let service = self.clone();
        // A message that does not open ends the stream: the sender starts it anew.
        let opened = service.clone();
        let requests = request.into_inner().scan((), move |(), message| {
            let request: Result<AppendEntriesRequest<TypeConfig>, Status> =
                message.and_then(|message| opened.open(from, &message));
            // A heartbeat has no entries and needs no room.
            let request = request.and_then(|request| match request.entries.is_empty() {
                true => Ok(request),
                false => opened.check_room().map(|()| request),
            });
            if let Err(status) = &request {
                tracing::debug!(%status, "append stream ended");
            }
            std::future::ready(request.ok())
        });
        let heard = self.heard.clone();
        let requests = requests.inspect(move |_| heard.note());
        let answers = self.raft.stream_append(requests);
        let answers = answers.map(move |result| match result {
            Ok(result) => service.answer(0, &result),
            Err(fatal) => Err(Status::unavailable(format!("raft has stopped: {fatal}"))),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let from = caller(&request)?;
        let message = request.into_inner();
        let vote = self.raft.vote(self.open(from, &message)?).await.map_err(stopped)?;
        Ok(Response::new(self.answer(message.from, &vote)?))
    }

    async fn pre_vote(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let from = caller(&request)?;
        let message = request.into_inner();
        let vote = self.raft.pre_vote(self.open(from, &message)?).await.map_err(stopped)?;
        Ok(Response::new(self.answer(message.from, &vote)?))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let from = caller(&request)?;
        self.check_room()?;
        let mut chunks = request.into_inner();
        let no_head = || Status::invalid_argument("the first chunk carries no head");
        let mut first = chunks.message().await?.ok_or_else(no_head)?;
        let head = first.head.take().ok_or_else(no_head)?;
        let (vote, meta): (VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>) =
            self.open(from, &head)?;
        let snapshots = self.snapshots.clone();
        let mut incoming = self.on_disk(move || snapshots.receive()).await?;
        let mut chunk = Some(first);
        while let Some(SnapshotChunk { data, .. }) = chunk {
            incoming = self.on_disk(move || incoming.write(&data).map(|()| incoming)).await?;
            chunk = chunks.message().await?;
        }
        let announced = meta.clone();
        let snapshot = self.on_disk(move || incoming.finish(&announced)).await?;
        self.heard.note();
        let snapshot = openraft::storage::Snapshot { meta, snapshot };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(self.answer(head.from, &answer)?))
    }

    async fn transfer_leader(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let from = caller(&request)?;
        let message = request.into_inner();
        let request = self.open(from, &message)?;
        let answer = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(Response::new(self.answer(message.from, &answer)?))
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft has stopped: {error}"))
}

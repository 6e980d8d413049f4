//! What other nodes ask of the control plane.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use nigh_model::audit::Actor;
use nigh_model::{Kind, NodeId};
use nigh_proto::peer::v1::{
    self as peer, AuthorityKeyRequest, AuthorityKeyResponse, GossipKeysRequest, GossipKeysResponse,
    IdentifyRequest, IdentifyResponse, JoinRequest, JoinResponse, PingRequest, PingResponse,
    ProposeRequest, ProposeResponse, RaftStatusRequest, RaftStatusResponse, ReadIndexRequest,
    ReadIndexResponse, RotateAuthorityRequest, RotateAuthorityResponse, SignRequest, SignResponse,
    TransferLeaderRequest, TransferLeaderResponse, WatchEvent, WatchRequest, control_server,
};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::authority;
use super::feed::{Feed, Next};
use super::propose::{Control, Unavailable};
use super::{gossip_keys, join, remove, state_stream};
use crate::config::Config;
use crate::identity::Own;
use crate::peer::caller;

/// A watcher without news hears this often that there is none.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Events waiting for a slow watcher; it gets the rest when it has taken these.
const WATCH_QUEUE: usize = 16;
/// A new leader is waited for this long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the control plane's part of the peer protocol.
#[derive(Clone)]
pub(crate) struct ControlService {
    /// The control plane.
    pub(crate) control: Control,
    /// Entries for those who follow.
    pub(crate) feed: Feed,
    /// This node as it was configured.
    pub(crate) config: Arc<Config>,
    /// Who this node is to the others.
    pub(crate) identity: Own,
}

impl ControlService {
    fn check_cluster(&self, given: &str) -> Result<(), Status> {
        let own = &self.control.cluster;
        if given == own.as_str() {
            return Ok(());
        }
        let message = format!("this node belongs to cluster {own} and not to {given}");
        Err(nigh_proto::status::of(Code::FailedPrecondition, "OTHER_CLUSTER", message))
    }
}

#[tonic::async_trait]
impl control_server::Control for ControlService {
    async fn identify(
        &self,
        _: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let config = &self.config;
        Ok(Response::new(IdentifyResponse {
            cluster_id: self.control.cluster.to_string(),
            node_id: self.control.own.0,
            name: config.name.to_string(),
            region: config.region.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: nigh_proto::PEER_PROTOCOL,
            gossip: config.advertised(config.gossip),
            peer: config.advertised(config.peer),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Ok(Response::new(join::admit(&self.control, &self.identity, request.into_inner()).await?))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        // What is once in the log must be known to every node that applies it.
        let known = nigh_model::command::decode(&request.envelope).map_err(|error| {
            nigh_proto::status::of_kind(Kind::Invalid, "UNKNOWN_COMMAND", error.to_string())
        })?;
        let (index, outcome) = match self.control.not_yet(&known.command) {
            Some(refusal) => (self.control.decided.state().applied, Err(refusal)),
            None => self.control.write_here(request.envelope.to_vec()).await?,
        };
        let outcome = rmp_serde::to_vec_named(&outcome)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ProposeResponse { index, outcome: outcome.into() }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        self.check_cluster(&request.into_inner().cluster_id)?;
        let index = self.control.read_index_here().await?;
        Ok(Response::new(ReadIndexResponse { index }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        if !self.control.is_fed() {
            return Err(Status::failed_precondition("this node follows others itself"));
        }
        let (events, stream) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(feed_watcher(self.clone(), request.after, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn raft_status(
        &self,
        request: Request<RaftStatusRequest>,
    ) -> Result<Response<RaftStatusResponse>, Status> {
        self.check_cluster(&request.into_inner().cluster_id)?;
        Ok(Response::new(raft_status(&self.control)))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let to = NodeId(request.to);
        let health = self.control.health.now();
        if health.leader != Some(self.control.own) {
            return Err(Unavailable::new("this node does not lead").into());
        }
        if !health.voters.contains(&to) {
            let message = format!("node {to} does not vote; only a voter can lead");
            return Err(nigh_proto::status::of(Code::FailedPrecondition, "NOT_A_VOTER", message));
        }
        if self.control.peers.is_ejected(to) {
            return Err(Unavailable::new(format!("node {to} does not answer")).into());
        }
        let transfer = self.control.raft.trigger().transfer_leader(to.0).await;
        transfer.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut changes = self.control.health.changes();
        let done = changes.wait_for(|health| health.leader == Some(to));
        let health = tokio::time::timeout(TRANSFER_TIMEOUT, done)
            .await
            .map_err(|_| {
                let message = format!("node {to} did not take over within 5 s");
                nigh_proto::status::of(Code::DeadlineExceeded, "TRANSFER_TIMED_OUT", message)
            })?
            .map_err(|_| Status::unavailable("the node is stopping"))?;
        Ok(Response::new(TransferLeaderResponse { leader: to.0, term: health.term }))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let asks = caller(&request)?;
        Ok(Response::new(
            authority::sign(&self.control, &self.identity, asks, request.get_ref()).await?,
        ))
    }

    async fn authority_key(
        &self,
        request: Request<AuthorityKeyRequest>,
    ) -> Result<Response<AuthorityKeyResponse>, Status> {
        let asks = caller(&request)?;
        Ok(Response::new(
            authority::key(&self.control, &self.identity, asks, request.get_ref()).await?,
        ))
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<RotateAuthorityResponse>, Status> {
        let by = actor_of(&request.into_inner().by)?;
        let id = authority::rotate(&self.control, &self.identity, by).await?;
        Ok(Response::new(RotateAuthorityResponse { authority: id.as_bytes().to_vec().into() }))
    }

    async fn gossip_keys(
        &self,
        request: Request<GossipKeysRequest>,
    ) -> Result<Response<GossipKeysResponse>, Status> {
        let asks = caller(&request)?;
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        gossip_keys::check_member(&self.control.decided.state(), asks)?;
        let keys = gossip_keys::given(&self.control.keys.ring(), &request.ids);
        Ok(Response::new(GossipKeysResponse { keys }))
    }

    async fn remove(
        &self,
        request: Request<peer::RemoveRequest>,
    ) -> Result<Response<peer::RemoveResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let node = NodeId(request.node_id);
        let by = actor_of(&request.by)?;
        let lost = remove::remove(&self.control, by, node, request.force).await?;
        Ok(Response::new(peer::RemoveResponse { lost }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse {}))
    }
}

/// Who stands behind a request that another node hands on, if anyone does.
fn actor_of(by: &[u8]) -> Result<Option<Actor>, Status> {
    if by.is_empty() {
        return Ok(None);
    }
    let by = rmp_serde::from_slice(by);
    by.map(Some).map_err(|error| Status::invalid_argument(format!("by: {error}")))
}

/// The Raft group as this node sees it.
pub(crate) fn raft_status(control: &Control) -> RaftStatusResponse {
    let metrics = control.raft.metrics().borrow_watched().clone();
    let applied = metrics.last_applied.as_ref().map_or(0, |log| log.index);
    let matched = metrics.replication.iter().flatten().map(|(id, log)| peer::Matched {
        node_id: *id,
        index: log.as_ref().map_or(0, |log| log.index),
    });
    RaftStatusResponse {
        health: Some(control.health.now().to_message(applied)),
        committed: metrics.cluster_committed.as_ref().map_or(0, |log| log.index),
        last_log: metrics.last_log_index.unwrap_or(0),
        matched: matched.collect(),
    }
}

/// Sends a watcher what follows `after`, from a snapshot where entries are no longer kept.
async fn feed_watcher(
    service: ControlService,
    mut after: u64,
    events: mpsc::Sender<Result<WatchEvent, Status>>,
) {
    let send = async |event| events.send(Ok(WatchEvent { event: Some(event) })).await;
    let mut news = service.feed.changes();
    let mut next_health = Instant::now();
    loop {
        if Instant::now() >= next_health {
            // A replica that is sent nothing any more would hold its watchers back unnoticed.
            if !service.control.is_fed() {
                return;
            }
            next_health = Instant::now() + HEALTH_INTERVAL;
            let health = service.control.health.now().to_message(after);
            if send(peer::watch_event::Event::Health(health)).await.is_err() {
                return;
            }
        }
        news.borrow_and_update();
        match service.feed.next(after) {
            Next::Entries(entries) => {
                after = entries.last().map_or(after, |(index, _)| *index);
                let entries = entries.into_iter().map(|(index, envelope)| peer::Entry {
                    index,
                    envelope: envelope.unwrap_or_default(),
                });
                let entries = peer::Entries { entries: entries.collect() };
                if send(peer::watch_event::Event::Entries(entries)).await.is_err() {
                    return;
                }
            }
            Next::Unknown => {
                match state_stream::send(service.control.decided.state(), &events).await {
                    Some(index) => after = index,
                    None => return,
                }
            }
            Next::UpToDate => {
                tokio::select! {
                    () = tokio::time::sleep_until(next_health) => {}
                    changed = news.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
            }
        }
    }
}

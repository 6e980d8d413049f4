//! The public `Cluster` service: what this node knows of the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::audit::Actor;
use nigh_model::command::{Command, Deed};
use nigh_model::refusal::Refusal;
use nigh_model::suggest::nearest;
use nigh_model::{App, Digest, Kind, Node, NodeId};
use nigh_proto::peer::v1 as peer;
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::v1::{self, cluster_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::authorize::actor;
use super::status;
use crate::agent::{Copies, Fetcher, Stock};
use crate::backup;
use crate::config::Config;
use crate::control::{Control, Remains, Unavailable, raft_status};
use crate::peer::Lane;
use crate::seen::View;

/// The leader answers by then or is passed over.
const LEADER_TIMEOUT: Duration = Duration::from_secs(6);
/// The keys of gossip are replaced by then; the leader waits for slow nodes twice for 1.5 s.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(6);
/// Pieces of a backup made ahead of the wire.
const PIECES_AHEAD: usize = 4;

/// Removing a node takes a change of the Raft group and one of the registry.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Leaders asked to remove a node: one that shall go itself hands over first.
const REMOVE_TRIES: usize = 3;
/// Between two of them.
const REMOVE_PAUSE: Duration = Duration::from_millis(300);

/// Serves `Cluster`.
#[derive(Clone)]
pub(crate) struct ClusterService {
    /// The control plane.
    pub(crate) control: Control,
    /// This node as it was configured.
    pub(crate) config: std::sync::Arc<Config>,
    /// Brings components from where they are.
    pub(crate) fetcher: Fetcher,
    /// What is on disk here.
    pub(crate) stock: Stock,
    /// Sees to it that components are on enough nodes.
    pub(crate) copies: Copies,
}

impl ClusterService {
    fn leader_client(&self) -> Result<(NodeId, ControlClient<Channel>), Status> {
        let leader = self.control.health.now().leader;
        let leader = leader.ok_or_else(|| unavailable("no leader is known"))?;
        let channel = self.control.peers.channel(leader, Lane::Control);
        let channel = channel.ok_or_else(|| unavailable("the leader is not registered"))?;
        Ok((leader, ControlClient::new(channel)))
    }

    async fn leaders_status(&self) -> Result<peer::RaftStatusResponse, Status> {
        if self.control.health.now().leader == Some(self.control.own) {
            return Ok(raft_status(&self.control));
        }
        let (_, mut client) = self.leader_client()?;
        let request = peer::RaftStatusRequest { cluster_id: self.control.cluster.to_string() };
        let answer = tokio::time::timeout(LEADER_TIMEOUT, client.raft_status(request)).await;
        Ok(answer.map_err(|_| unavailable("the leader did not answer"))??.into_inner())
    }

    /// Takes in an app whose components are here.
    async fn restore_app(&self, by: Actor, app: App) -> Result<(), Status> {
        let specs = || app.revisions.values().flat_map(|r| r.spec.functions.values());
        let components: BTreeSet<Digest> = specs().map(|spec| spec.component).collect();
        for digest in components {
            let allowed =
                |region: &_| specs().any(|s| s.component == digest && s.placement.allows(region));
            let copied = self.copies.ensure_copies(digest, allowed).await;
            copied.map_err(|error| error.status())?;
        }
        let (_, outcome) =
            self.control.propose_by(Some(by), None, Command::RestoreApp { app }).await?;
        outcome.map(|_| ()).map_err(|refusal| refused(&refusal))
    }

    /// Has the audit log name who is about to do something that changes nothing in the state;
    /// not while some node is of a build that would not know the entry.
    async fn note(&self, by: Actor, deed: Deed) -> Result<(), Status> {
        let command = Command::Note { deed };
        if self.control.not_yet(&command).is_some() {
            return Ok(());
        }
        let (_, outcome) = self.control.propose_by(Some(by), None, command).await?;
        outcome.map(|_| ()).map_err(|refusal| refused(&refusal))
    }

    /// The registered node of this name.
    fn named(&self, name: &str) -> Result<Arc<Node>, Status> {
        let state = self.control.decided.state();
        state.node_named(name).cloned().ok_or_else(|| {
            let names = state.nodes.values().map(|node| node.name.as_str());
            let hint = nearest(name, names)
                .map(|like| format!("; did you mean `{like}`?"))
                .unwrap_or_default();
            let message = format!("no node is named `{name}`{hint}");
            nigh_proto::status::of_kind(Kind::NotFound, "NO_SUCH_NODE", message)
        })
    }

    fn name_of(&self, id: NodeId) -> String {
        let state = self.control.decided.state();
        state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.to_string())
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let state = self.control.decided.state();
        let health = self.control.health.now();
        let (view, not_ready) = {
            let view = self.control.seen.now();
            (View::clone(&view), status::not_ready(&state, &view))
        };
        let applied_index = state.applied;
        let digested = state.clone();
        let digest = tokio::task::spawn_blocking(move || digested.digest())
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::StatusResponse {
            cluster_id: self.control.cluster.to_string(),
            node: self.config.name.to_string(),
            region: self.config.region.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            applied_index,
            state_digest: digest.to_string(),
            leader: health.leader.map(|id| self.name_of(id)).unwrap_or_default(),
            control_available: health.is_available(),
            term: health.term,
            quorum_lost_ms: health.lost_since.map(|_| health.lost_for().as_millis() as u64),
            nodes: status::nodes(&state, &view, &health),
            apps: state.apps.len() as u32,
            apps_not_ready_total: not_ready.len() as u32,
            apps_not_ready: not_ready.into_iter().take(status::APPS_NAMED_MAX).collect(),
        }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let state = self.control.decided.state();
        let health = self.control.health.now();
        let view = self.control.seen.now();
        let mut nodes: Vec<v1::Node> = state
            .nodes
            .values()
            .map(|node| {
                let seen = view.nodes.get(&node.id).cloned().unwrap_or_default();
                let load = seen.report.load;
                let state = status::word(&seen);
                let own = node.id == self.control.own;
                v1::Node {
                    name: node.name.to_string(),
                    id: node.id.0,
                    region: node.region.to_string(),
                    zone: node.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
                    state: state.to_owned(),
                    raft: health.role_of(node.id).to_owned(),
                    http: node.addresses.http.clone(),
                    api: node.addresses.api.clone(),
                    peer: node.addresses.peer.clone(),
                    ready: load.ready,
                    warm: load.warm,
                    running: load.running,
                    cpu: f64::from(load.cpu),
                    memory_bytes: load.memory_bytes,
                    rtt_ms: if own { Some(0.0) } else { self.control.peers.rtt_ms(node.id) },
                    version: node.version.clone(),
                }
            })
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn get_raft(&self, _: Request<v1::GetRaftRequest>) -> Result<Response<v1::Raft>, Status> {
        let raft = self.leaders_status().await?;
        let health = raft.health.unwrap_or_default();
        let state = self.control.decided.state();
        let member = |id: u64, role: &str| {
            let matched = raft.matched.iter().find(|matched| matched.node_id == id);
            let leads = id == health.leader;
            let matched_index =
                if leads { raft.last_log } else { matched.map_or(0, |matched| matched.index) };
            let node = state.nodes.get(&NodeId(id));
            v1::RaftMember {
                node: self.name_of(NodeId(id)),
                id,
                region: node.map(|node| node.region.to_string()).unwrap_or_default(),
                role: if leads { "leader" } else { role }.to_owned(),
                matched_index,
                lag: raft.last_log.saturating_sub(matched_index),
                applied_index: leads.then_some(health.applied),
            }
        };
        let voters = health.voters.iter().map(|id| member(*id, "voter"));
        let learners = health.learners.iter().map(|id| member(*id, "learner"));
        let mut members: Vec<_> = voters.chain(learners).collect();
        members.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Response::new(v1::Raft {
            leader: self.name_of(NodeId(health.leader)),
            term: health.term,
            members,
            committed_index: raft.committed,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let name = request.into_inner().node;
        let node = self.named(&name)?;
        let (leader, mut client) = self.leader_client()?;
        if leader == node.id {
            let term = self.control.health.now().term;
            return Ok(Response::new(v1::TransferLeaderResponse { leader: name, term }));
        }
        self.note(by, Deed::TransferLeader { to: node.id }).await?;
        let request = peer::TransferLeaderRequest {
            cluster_id: self.control.cluster.to_string(),
            to: node.id.0,
        };
        let answer = tokio::time::timeout(LEADER_TIMEOUT, client.transfer_leader(request)).await;
        let answer = answer.map_err(|_| unavailable("the leader did not answer"))??.into_inner();
        let leader = self.name_of(NodeId(answer.leader));
        Ok(Response::new(v1::TransferLeaderResponse { leader, term: answer.term }))
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::RotateAuthorityResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let by = rmp_serde::to_vec_named(&by).map_err(|e| Status::internal(e.to_string()))?;
        let (_, mut client) = self.leader_client()?;
        let asked = client.rotate_authority(peer::RotateAuthorityRequest { by: by.into() });
        let answer = tokio::time::timeout(LEADER_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| unavailable("the leader did not answer"))??.into_inner();
        let id: [u8; 32] = answer
            .authority
            .as_ref()
            .try_into()
            .map_err(|_| Status::internal("the leader named no authority"))?;
        let authority = nigh_model::Digest::from_bytes(id).to_string();
        Ok(Response::new(v1::RotateAuthorityResponse { authority }))
    }

    async fn rotate_gossip_keys(
        &self,
        request: Request<v1::RotateGossipKeysRequest>,
    ) -> Result<Response<v1::RotateGossipKeysResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let id = super::request_id(&request.into_inner().request_id)?;
        let command = Command::RotateGossipKeys;
        let (_, outcome) = self.control.propose_by(Some(by), id, command).await?;
        outcome.map_err(|refusal| {
            nigh_proto::status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string())
        })?;
        let replaced = async {
            let mut changes = self.control.decided.changes();
            loop {
                changes.borrow_and_update();
                let state = self.control.decided.state();
                if let [key] = state.gossip.accepted[..]
                    && !state.gossip.is_stale()
                {
                    return Ok::<_, Status>(key.id);
                }
                changes.changed().await.map_err(|_| unavailable("the node is stopping"))?;
            }
        };
        let key = tokio::time::timeout(ROTATE_TIMEOUT, replaced).await.map_err(|_| {
            let message = "the keys were not replaced within 6 s; the leader goes on with it";
            nigh_proto::status::of(Code::DeadlineExceeded, "ROTATION_TIMED_OUT", message.to_owned())
        })??;
        Ok(Response::new(v1::RotateGossipKeysResponse { key_id: key.to_string() }))
    }

    type BackupStream = ReceiverStream<Result<v1::BackupPiece, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.note(actor(&request, self.control.own)?, Deed::Backup).await?;
        // What was answered before this call is in it; and it is one state, whatever comes next.
        self.control.read_barrier().await?;
        let (pieces, coming) = mpsc::channel(PIECES_AHEAD);
        let state = self.control.decided.state();
        tokio::spawn(backup::write(state, self.fetcher.clone(), pieces));
        Ok(Response::new(ReceiverStream::new(coming)))
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::BackupPiece>>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        self.control.read_barrier().await?;
        let reading = backup::Reading::new(request.into_inner());
        let state = self.control.decided.state();
        let check = |apps: &[App]| backup::ready(&state, apps).map_err(|error| refused(&error));
        let read = reading.read(&self.stock, check).await?;
        let apps = read.apps.len() as u32;
        for app in read.apps {
            self.restore_app(by.clone(), app).await?;
        }
        tracing::info!(apps, components = read.components, "a backup was restored");
        Ok(Response::new(v1::RestoreResponse {
            apps,
            components: read.components as u32,
            apps_digest: read.apps_digest.to_string(),
        }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let v1::DrainRequest { node: name, undo } = request.into_inner();
        let mut node = self.named(&name)?;
        if node.draining == undo {
            let command = Command::SetDraining { id: node.id, draining: !undo };
            let (_, outcome) = self.control.propose_by(Some(by), None, command).await?;
            if let Err(refusal) = outcome {
                let message = refusal.to_string();
                return Err(nigh_proto::status::of_kind(refusal.kind(), refusal.reason(), message));
            }
            node = self.named(&name)?;
        }
        let state = self.control.decided.state();
        let health = self.control.health.now();
        let left = Remains::of(node.id, &state, &self.control.seen.now(), &health);
        Ok(Response::new(v1::DrainResponse {
            node: name,
            draining: node.draining,
            drained: node.draining && left.is_nothing(),
            leader: left.leads,
            voter: left.votes,
            running: left.running,
            moving: left.moving,
            stuck: left.stuck,
        }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let by = rmp_serde::to_vec_named(&by).map_err(|e| Status::internal(e.to_string()))?;
        let v1::RemoveRequest { node: name, force } = request.into_inner();
        let node = self.named(&name)?;
        let mut last = unavailable("no leader is known");
        for _ in 0..REMOVE_TRIES {
            match self.remove_once(node.id, force, &by).await {
                Ok(lost) => return Ok(Response::new(v1::RemoveResponse { node: name, lost })),
                Err(status) if nigh_proto::status::kind(&status) == Kind::Unavailable => {
                    last = status
                }
                Err(status) => return Err(status),
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        Err(last)
    }
}

fn refused(refusal: &Refusal) -> Status {
    nigh_proto::status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string())
}

impl ClusterService {
    /// Asks the leader to let a node go; what was lost by it.
    async fn remove_once(&self, id: NodeId, force: bool, by: &[u8]) -> Result<Vec<String>, Status> {
        let (_, mut client) = self.leader_client()?;
        let cluster_id = self.control.cluster.to_string();
        let request =
            peer::RemoveRequest { cluster_id, node_id: id.0, force, by: by.to_vec().into() };
        let asked = tokio::time::timeout(REMOVE_TIMEOUT, client.remove(request)).await;
        let answer = asked.map_err(|_| unavailable("the leader did not answer"))??.into_inner();
        // Who asked sees what came of it.
        let mut changes = self.control.decided.changes();
        let gone = async {
            while self.control.decided.state().nodes.contains_key(&id) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LEADER_TIMEOUT, gone).await;
        Ok(answer.lost)
    }
}

fn unavailable(message: &str) -> Status {
    Unavailable::new(message).into()
}

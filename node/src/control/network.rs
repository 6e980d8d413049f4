//! Raft's messages to other nodes: pipelined appends on a stream, everything else as calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use nigh_model::{ClusterId, NodeId};
use nigh_proto::peer::v1::raft_client::RaftClient;
use nigh_proto::peer::v1::{RaftMessage, SnapshotChunk};
use nigh_storage::raft::{RaftNode, SnapshotData, TypeConfig};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;

use crate::peer::{Lane, Peers};

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 256 << 10;
/// Largest Raft message: entries carry specs, of which a batch has several.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

type RpcError = RPCError<TypeConfig>;

/// Makes a connection for each target and purpose.
#[derive(Clone)]
pub(crate) struct Network {
    /// The connections of this node.
    pub(crate) peers: Peers,
    /// The sender.
    pub(crate) own: NodeId,
    /// The cluster that every message names.
    pub(crate) cluster: ClusterId,
}

/// A way to one target.
pub(crate) struct Connection {
    network: Network,
    to: u64,
    node: RaftNode,
    lane: Lane,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> Connection {
        self.connection(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &RaftNode) -> Connection {
        self.connection(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &RaftNode) -> Connection {
        self.connection(target, node, Lane::Bulk)
    }
}

impl Network {
    fn connection(&self, to: u64, node: &RaftNode, lane: Lane) -> Connection {
        Connection { network: self.clone(), to, node: node.clone(), lane }
    }
}

impl Connection {
    fn client(&self, lane: Lane) -> RaftClient<Channel> {
        let peers = &self.network.peers;
        let region = self.node.region.parse().ok();
        let channel = peers.channel_at(NodeId(self.to), lane, &self.node.peer, region.as_ref());
        RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn message(&self, payload: &impl Serialize) -> Result<RaftMessage, RpcError> {
        let payload = rmp_serde::to_vec_named(payload).map_err(|error| network_error(&error))?;
        Ok(envelope(&self.network, self.to, payload.into()))
    }

    /// Sends a vote or a hand-over on the heartbeat lane, where nothing is in its way.
    async fn unary<Q: Serialize, A: DeserializeOwned>(
        &self,
        request: &Q,
        option: &RPCOption,
        rpc: Unary,
    ) -> Result<A, RpcError> {
        let message = self.message(request)?;
        let mut client = self.client(Lane::Heartbeat);
        let call = async {
            match rpc {
                Unary::Vote => client.vote(message).await,
                Unary::PreVote => client.pre_vote(message).await,
                Unary::TransferLeader => client.transfer_leader(message).await,
            }
        };
        let answer = tokio::time::timeout(option.hard_ttl(), call).await;
        let answer = answer.map_err(|_| unreachable(&TimedOut(option.hard_ttl())))?;
        decode(&answer.map_err(|status| unreachable(&status))?.into_inner().payload)
    }
}

/// The calls that carry one small message each way.
enum Unary {
    Vote,
    PreVote,
    TransferLeader,
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let message = self.message(&rpc)?;
        let mut client = self.client(self.lane);
        let call = async {
            let requests = futures::stream::once(std::future::ready(message));
            let mut answers = client.append(requests).await?.into_inner();
            answers.message().await
        };
        let answer = tokio::time::timeout(option.hard_ttl(), call)
            .await
            .map_err(|_| unreachable(&TimedOut(option.hard_ttl())))?
            .map_err(|status| unreachable(&status))?
            .ok_or_else(|| unreachable(&Ended))?;
        let result: StreamAppendResult<TypeConfig> = decode(&answer.payload)?;
        Ok(result.into())
    }

    /// Connects once there is a first request: it comes when the sender has waited as long as it
    /// shall after failures. Connecting before would be refused again at once, for as long as the
    /// other node is down.
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let network = Arc::new((self.network.clone(), self.to));
        let mut client = self.client(self.lane);
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            let input = futures::stream::once(std::future::ready(first)).chain(input);
            // What does not encode ends the stream: the entry would be missing else.
            let requests = input.scan((), move |(), request| {
                let payload = rmp_serde::to_vec_named(&request).ok();
                let (network, to) = &*network;
                std::future::ready(payload.map(|payload| envelope(network, *to, payload.into())))
            });
            // Broken connections are noticed by keep-alive pings on the connection.
            let answers =
                client.append(requests).await.map_err(|status| unreachable(&status))?.into_inner();
            let answers = answers.map(|answer| match answer {
                Ok(message) => decode(&message.payload),
                Err(status) => Err(unreachable(&status)),
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.unary(&rpc, &option, Unary::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.unary(&rpc, &option, Unary::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head = self.message(&(vote, &snapshot.meta))?;
        let first = SnapshotChunk { head: Some(head), data: Bytes::new() };
        let rest =
            pieces(Arc::new(snapshot.snapshot)).map(|data| SnapshotChunk { head: None, data });
        let chunks = futures::stream::iter([first]).chain(rest);
        let mut client = self.client(self.lane);
        let call = tokio::time::timeout(option.hard_ttl(), client.snapshot(chunks));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = call => {
                let answer = answer.map_err(|_| unreachable(&TimedOut(option.hard_ttl())))?;
                let answer = answer.map_err(|status| unreachable(&status))?;
                Ok(decode(&answer.into_inner().payload)?)
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.unary(&req, &option, Unary::TransferLeader).await
    }
}

/// A snapshot as it is read from the disk, a piece at a time. One that cannot be read ends early,
/// and is refused by whom it is sent to.
fn pieces(snapshot: Arc<SnapshotData>) -> impl Stream<Item = Bytes> + Send + 'static {
    futures::stream::unfold(0, move |at| {
        let snapshot = snapshot.clone();
        async move {
            let read = tokio::task::spawn_blocking(move || snapshot.piece(at, CHUNK_BYTES)).await;
            let piece = match read.ok()? {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::warn!(%error, "a snapshot cannot be sent on");
                    return None;
                }
            };
            let next = at + piece.len() as u64;
            (!piece.is_empty()).then_some((piece, next))
        }
    })
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct TimedOut(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the stream ended without an answer")]
struct Ended;

fn envelope(network: &Network, to: u64, payload: Bytes) -> RaftMessage {
    RaftMessage { cluster_id: network.cluster.to_string(), from: network.own.0, to, payload }
}

fn decode<A: DeserializeOwned>(payload: &[u8]) -> Result<A, RpcError> {
    rmp_serde::from_slice(payload).map_err(|error| network_error(&error))
}

fn network_error(error: &(impl std::error::Error + 'static)) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

/// Unreachable rather than a network error: the sender backs off before it tries again.
fn unreachable(error: &(impl std::error::Error + 'static)) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&AnyError::new(error)))
}

//! The peer port: everything that other nodes ask of this one.

use std::sync::Arc;
use std::time::Duration;

use nigh_proto::peer::v1::artifacts_server::{Artifacts, ArtifactsServer};
use nigh_proto::peer::v1::control_server::ControlServer;
use nigh_proto::peer::v1::gossip_server::{Gossip, GossipServer};
use nigh_proto::peer::v1::invoke_server::{Invoke, InvokeServer};
use nigh_proto::peer::v1::logs_server::{Logs, LogsServer};
use nigh_proto::peer::v1::raft_server::RaftServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::accept::accept;
use super::farewell::Farewell;
use super::gate::Gate;
use super::pool::WINDOW_BYTES;
use super::strangers::Strangers;
use crate::control::{ControlService, RaftService};
use crate::decided::Decided;
use crate::identity::Tls;

/// Largest message from another node: a batch of log entries.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A silent connection is asked for a sign of life this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up when none has come by then.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is served on the peer port.
pub(crate) struct PeerServer<A, G, I: Invoke, L: Logs> {
    /// Consensus.
    pub(crate) raft: RaftService,
    /// The control plane.
    pub(crate) control: ControlService,
    /// Components.
    pub(crate) artifacts: A,
    /// Gossip that fits no datagram.
    pub(crate) gossip: G,
    /// Forwarded calls.
    pub(crate) invoke: InvokeServer<I>,
    /// Guest output.
    pub(crate) logs: LogsServer<L>,
    /// Who this node is, and whom it trusts.
    pub(crate) tls: Arc<Tls>,
    /// Who is a member.
    pub(crate) decided: Decided,
    /// Counts those who are turned away.
    pub(crate) strangers: Arc<Strangers>,
}

impl<A: Artifacts, G: Gossip, I: Invoke, L: Logs> PeerServer<A, G, I, L> {
    /// Serves until cancelled; then lets running calls finish.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let max = MESSAGE_BYTES_MAX;
        let (decided, strangers) = (self.decided, self.strangers);
        let farewell = Farewell::default();
        let incoming = accept(
            listener,
            self.tls,
            decided.clone(),
            strangers.clone(),
            farewell.clone(),
            stop.clone(),
        );
        let served = Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .layer(Gate { decided, strangers, farewell })
            .add_service(
                RaftServer::new(self.raft)
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add_service(ControlServer::new(self.control).max_decoding_message_size(max))
            .add_service(ArtifactsServer::new(self.artifacts))
            .add_service(GossipServer::new(self.gossip))
            .add_service(self.invoke)
            .add_service(self.logs)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "other nodes are no longer served");
        }
    }
}

//! The peer port: everything that other nodes ask of this one.
//!
//! A connection that brings calls moves to a thread of guests (`moving.rs`); each purpose has connections of
//! its own, so that nothing else is asked over it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nigh_proto::peer::v1::artifacts_server::{Artifacts, ArtifactsServer};
use nigh_proto::peer::v1::control_server::ControlServer;
use nigh_proto::peer::v1::gossip_server::{Gossip, GossipServer};
use nigh_proto::peer::v1::logs_server::{Logs, LogsServer};
use nigh_proto::peer::v1::raft_server::RaftServer;
use nigh_runtime::Threads;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer as _, Service, ServiceExt as _};

use super::accept::{PeerStream, accept};
use super::farewell::Farewell;
use super::gate::{Gate, Gated};
use super::pool::WINDOW_BYTES;
use super::strangers::Strangers;
use crate::control::{ControlService, RaftService};
use crate::decided::Decided;
use crate::identity::Tls;
use crate::moving::{self, Called, Control};

/// Largest message from another node: a batch of log entries.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A silent connection is asked for a sign of life this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up when none has come by then.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What brings a call.
const CALL: &str = "/nigh.peer.v1.Invoke/Call";

/// What takes forwarded calls.
pub(crate) trait Calls:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}
impl<S> Calls for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is served on the peer port.
pub(crate) struct PeerServer<A, G, I, L: Logs> {
    /// Consensus.
    pub(crate) raft: RaftService,
    /// The control plane.
    pub(crate) control: ControlService,
    /// Components.
    pub(crate) artifacts: A,
    /// Gossip that fits no datagram.
    pub(crate) gossip: G,
    /// Forwarded calls.
    pub(crate) invoke: I,
    /// Guest output.
    pub(crate) logs: LogsServer<L>,
    /// Who this node is, and whom it trusts.
    pub(crate) tls: Arc<Tls>,
    /// Who is a member.
    pub(crate) decided: Decided,
    /// Counts those who are turned away.
    pub(crate) strangers: Arc<Strangers>,
    /// Where calls run.
    pub(crate) threads: Threads,
}

/// What the connections have in common.
struct Serving<I> {
    builder: Builder<TokioExecutor>,
    routes: Gated<Routes>,
    invoke: Gated<I>,
    threads: Threads,
    control: Control,
    stop: CancellationToken,
}

impl<A: Artifacts, G: Gossip, I: Calls, L: Logs> PeerServer<A, G, I, L> {
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
        let routes = Routes::new(
            RaftServer::new(self.raft)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
        )
        .add_service(ControlServer::new(self.control).max_decoding_message_size(max))
        .add_service(ArtifactsServer::new(self.artifacts))
        .add_service(GossipServer::new(self.gossip))
        .add_service(self.logs)
        .prepare();
        let gate = Gate { decided, strangers, farewell };
        let serving = Arc::new(Serving {
            builder: http2(),
            routes: gate.layer(routes),
            invoke: gate.layer(self.invoke),
            control: Control::here(self.threads.clone()),
            threads: self.threads,
            stop: stop.clone(),
        });
        let connections = TaskTracker::new();
        // Cuts them off when this is dropped.
        let cut = CancellationToken::new();
        let _cut = cut.clone().drop_guard();
        let mut incoming = pin!(incoming.take_until(stop.cancelled_owned()));
        while let Some(stream) = incoming.next().await {
            let served = Arc::clone(&serving).connection(stream);
            connections.spawn(cut.clone().run_until_cancelled_owned(served));
        }
        connections.close();
        connections.wait().await;
    }
}

/// A server of connections between nodes.
fn http2() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        // Members bound themselves: calls by admission, all else by being few.
        .max_concurrent_streams(None)
        // A guest that does not read its request to the end resets its stream, and rightly so.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

impl<I: Calls> Serving<I> {
    /// Serves one connection to its end.
    async fn connection(self: Arc<Self>, stream: PeerStream) {
        let (caller, mover) = (stream.caller(), stream.mover());
        let called = Called::default();
        let (serving, now_called) = (Arc::clone(&self), called.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(caller);
            let is_call = request.uri().path() == CALL;
            if is_call {
                now_called.set();
            }
            let serving = Arc::clone(&serving);
            async move {
                match is_call {
                    true => serving.invoke.clone().oneshot(request).await,
                    false => Ok(serving.ask(request).await),
                }
            }
        });
        let io = TokioIo::new(stream);
        let connection = self.builder.serve_connection(io, service).into_owned();
        let ended = moving::serve(connection, called, mover, &self.threads, self.stop.clone());
        if let Err(error) = ended.await {
            tracing::debug!(peer = ?caller.node, %error, "connection of another node ended");
        }
    }

    /// Answers all but calls, on a thread of the control plane.
    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        match self.control.run(self.routes.clone().oneshot(request)).await {
            Some(Ok(answer)) => answer,
            None => Status::internal("the request broke off in the node").into_http(),
        }
    }
}

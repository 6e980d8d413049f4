//! Whole calls in one process: gateways with their own sockets, disks and guests.

mod forwarding;
mod grpc;
mod http;
mod https;
mod idle;
mod overload;
mod stops;
mod strain;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nigh_model::{
    Addresses, App, AppName, AppSpec, Assignment, ClusterId, Digest, FunctionName, FunctionRef,
    FunctionSpec, Node as Registered, NodeId, NodeName, Region, Revision, RevisionId, State, Tier,
};
use nigh_runtime::{Engine, EngineConfig};
use nigh_storage::{ArtifactStore, RealDisk};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{
    Gateway, GatewayParts, Transport, peer_invoke_service, public_invoke_service, serve_http,
};
use crate::agent::{Agent, Setup};
use crate::decided::Decided;
use crate::gossip::Filter;
use crate::identity::testing::Authority;
use crate::peer::{Link, Peers};
use crate::seen::{Liveness, NodeSeen, Seen, View};
use crate::stopping::Stopping;
use crate::telemetry::{LogBook, Metrics};

/// Longest wait for a condition.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A component of the examples or of the guests that misbehave.
macro_rules! component {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $path)).as_slice()
    };
}
pub(super) use component;

pub(super) const ECHO: &[u8] = component!("examples/echo/echo.wasm");
pub(super) const HELLO: &[u8] = component!("examples/hello/hello.wasm");
pub(super) const WORK: &[u8] = component!("examples/work/work.wasm");

/// A deployed function: an app of this name, and the nodes on which it is warm.
pub(super) struct Deployed {
    pub(super) app: &'static str,
    pub(super) component: &'static [u8],
    pub(super) nodes: &'static [u64],
    pub(super) change: fn(&mut FunctionSpec),
    pub(super) tier: Tier,
}

impl Deployed {
    pub(super) fn new(app: &'static str, component: &'static [u8], nodes: &'static [u64]) -> Self {
        Self { app, component, nodes, change: |_| (), tier: Tier::Warm }
    }
}

/// A node as far as calls need one.
pub(super) struct Node {
    pub(super) gateway: Gateway,
    pub(super) http: SocketAddr,
    pub(super) api: SocketAddr,
    pub(super) engine: Engine,
    pub(super) metrics: Metrics,
    pub(super) peers: Peers,
    decided: Decided,
    seen: Seen,
    agent: Agent,
    /// Cuts the connections from other nodes, as when the process is killed.
    pub(super) cut: CancellationToken,
    pub(super) stopping: Stopping,
    /// Ends all of it.
    pub(super) stop: CancellationToken,
    _folder: tempfile::TempDir,
}

/// Nodes of one cluster, each in a region of its own: node 1 in r1, and so on.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) client: Client<HttpConnector, Full<Bytes>>,
}

impl Cluster {
    /// So many nodes, with everything deployed and warm where it should be.
    pub(super) async fn new(nodes: u64, deployed: &[Deployed]) -> Self {
        let mut listeners = Vec::new();
        let mut state = state();
        for id in 1..=nodes {
            let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (wire, cut) = wire_to(peer.local_addr().unwrap()).await;
            register(&mut state, id, &wire.to_string());
            listeners.push((id, peer, cut));
        }
        for (at, app) in deployed.iter().enumerate() {
            deploy(&mut state, at as u64 + 10, app);
        }
        let state = Arc::new(state);
        let mut cluster = Vec::new();
        for (id, peer, cut) in listeners {
            cluster.push(Node::start(id, peer, cut, &state).await);
        }
        let this =
            Self { nodes: cluster, client: Client::builder(TokioExecutor::new()).build_http() };
        for node in &this.nodes {
            for app in deployed {
                node.put(app.component).await;
            }
        }
        this.gossip(None);
        for node in &this.nodes {
            node.decided.publish(Arc::clone(&state));
        }
        for node in &this.nodes {
            node.settled(&state).await;
        }
        this.gossip(None);
        this
    }

    /// Lets every node see what the others have, and which one is about to leave.
    pub(super) fn gossip(&self, leaving: Option<usize>) {
        let mut view = View::default();
        for (at, node) in self.nodes.iter().enumerate() {
            let present = node.agent.shelf.present();
            let mut seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
            seen.report.draining = leaving == Some(at);
            seen.report.load.slots = node.engine.slots();
            // Another one each: every node compiles for itself.
            seen.report.engine = at.to_string();
            seen.report.warm = Filter::of(present.warm.iter());
            seen.report.ready = Filter::of(present.ready.iter());
            view.nodes.insert(NodeId(at as u64 + 1), seen);
        }
        for node in &self.nodes {
            node.seen.publish(view.clone());
        }
    }

    /// Calls a function through a node.
    pub(super) async fn call(
        &self,
        node: usize,
        request: Request<Full<Bytes>>,
    ) -> Response<Incoming> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().unwrap().to_string();
        head.uri = format!("http://{}{path}", self.nodes[node].http).parse().unwrap();
        self.client.request(Request::from_parts(head, body)).await.unwrap()
    }

    /// The same without a body.
    pub(super) async fn get(&self, node: usize, path: &str) -> Response<Incoming> {
        self.call(node, Request::get(path).body(Full::default()).unwrap()).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.stop.cancel());
    }
}

impl Node {
    async fn start(id: u64, peer: TcpListener, cut: CancellationToken, state: &State) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
        let config = EngineConfig { slots: 64, threads: 1, ..EngineConfig::default() };
        let engine = Engine::new(config).unwrap();
        let decided = Decided::new(Arc::new(State::default()));
        let seen = Seen::default();
        let stop = CancellationToken::new();
        let (name, region) = (name(id), region(id));
        let peers = Peers::plain(decided.clone(), Link::new(region.clone(), None));
        let setup = Setup {
            own: NodeId(id),
            region: region.clone(),
            decided: decided.clone(),
            seen: seen.clone(),
            peers: peers.clone(),
            store: Arc::new(store),
            engine: engine.clone(),
            identity: Authority::new().own(id),
            compile_threads: 1,
            behind: nigh_runtime::Behind::start("behind").unwrap(),
        };
        let (agent, work) = Agent::new(setup, stop.clone()).unwrap();
        tokio::spawn(work);
        let metrics = Metrics::new();
        let logs = LogBook::new(name.clone(), metrics.clone());
        let gateway = Gateway::new(GatewayParts {
            own: NodeId(id),
            name,
            region,
            cluster: state.cluster.clone().unwrap(),
            decided: decided.clone(),
            seen: seen.clone(),
            peers: peers.clone(),
            shelf: agent.shelf.clone(),
            engine: engine.clone(),
            logs,
            metrics: metrics.clone(),
            slots: engine.slots(),
        });
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (http_at, api_at) = (http.local_addr().unwrap(), api.local_addr().unwrap());
        let stopping = Stopping::closing_with(stop.clone());
        let plain = Transport::Plain { redirect: None };
        tokio::spawn(serve_http(http, plain, gateway.clone(), stopping.clone()));
        tokio::spawn(
            Server::builder()
                .add_service(public_invoke_service(gateway.clone()))
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(api),
                    stop.clone().cancelled_owned(),
                ),
        );
        tokio::spawn(
            Server::builder()
                .add_service(peer_invoke_service(gateway.clone()))
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(peer),
                    stop.clone().cancelled_owned(),
                ),
        );
        Self {
            gateway,
            http: http_at,
            api: api_at,
            engine,
            metrics,
            peers,
            decided,
            seen,
            agent,
            cut,
            stopping,
            stop,
            _folder: folder,
        }
    }

    async fn put(&self, bytes: &'static [u8]) {
        let length = bytes.len() as u64;
        let mut incoming = self.agent.stock.receive(Digest::of(bytes), Some(length));
        assert!(incoming.push(bytes.into()).await);
        incoming.keep(true).await.unwrap();
    }

    async fn settled(&self, state: &State) {
        let mut settled = self.agent.settled.clone();
        let there = settled.wait_for(|at| at.index >= state.applied && at.lag.is_empty());
        let in_time = tokio::time::timeout(WAIT_MAX, there).await.map(|last| last.is_ok());
        assert_eq!(in_time, Ok(true), "still {:?}", self.agent.settled.borrow());
    }

    /// Waits until no guest runs here any more.
    pub(super) async fn idle(&self) {
        until("no guest runs", || self.engine.running() == 0).await;
    }
}

/// A way to an address that can be cut.
async fn wire_to(address: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (wire, cut) = (listener.local_addr().unwrap(), CancellationToken::new());
    let carry = cut.clone().run_until_cancelled_owned(async move {
        let mut ways = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            ways.spawn(async move {
                if let Ok(mut far) = TcpStream::connect(address).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    tokio::spawn(carry);
    (wire, cut)
}

/// Waits for a condition.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let ends = std::time::Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(std::time::Instant::now() < ends, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A response's body.
pub(super) async fn bytes(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// A problem's reason, hint and node.
pub(super) async fn problem(response: Response<Incoming>) -> serde_json::Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(response.headers().contains_key("proxy-status"));
    serde_json::from_slice(&bytes(response).await).unwrap()
}

fn name(id: u64) -> NodeName {
    NodeName::new(format!("n{id}")).unwrap()
}

fn region(id: u64) -> Region {
    Region::new(format!("r{id}")).unwrap()
}

fn state() -> State {
    let cluster = Some(ClusterId::new("0".repeat(32)).unwrap());
    State { applied: 100, cluster, ..State::default() }
}

fn register(state: &mut State, id: u64, peer: &str) {
    let node = Registered {
        id: NodeId(id),
        name: name(id),
        region: region(id),
        zone: None,
        location: None,
        addresses: Addresses { peer: peer.to_owned(), ..Addresses::default() },
        version: String::new(),
        feature_level: 1,
        draining: false,
    };
    state.nodes.insert(NodeId(id), Arc::new(node));
}

fn deploy(state: &mut State, revision: u64, deployed: &Deployed) {
    let &Deployed { app, component, nodes, change, tier } = deployed;
    let (app, id) = (AppName::new(app).unwrap(), RevisionId(revision));
    let mut spec = FunctionSpec::new(Digest::of(component), component.len() as u64);
    change(&mut spec);
    let function = FunctionName::new("main").unwrap();
    let functions = BTreeMap::from([(function.clone(), spec)]);
    let spec = AppSpec { functions, ..AppSpec::default() };
    let digest = spec.digest();
    let revision = Arc::new(Revision { id, spec, digest, created_ms: 0 });
    let deployed = App {
        name: app.clone(),
        active: Some(id),
        rollout: None,
        revisions: BTreeMap::from([(id, revision)]),
        changed: 1,
    };
    state.apps.insert(app, Arc::new(deployed));
    let nodes = nodes.iter().map(|id| (NodeId(*id), tier)).collect();
    let function = FunctionRef { revision: id, function };
    state.assignments.insert(function, Arc::new(Assignment { nodes }));
}

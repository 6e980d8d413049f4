//! States and nodes for the tests of this folder.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nigh_model::spec::RegionPattern;
use nigh_model::{
    Addresses, App, AppName, AppSpec, Assignment, ClusterId, Digest, FunctionName, FunctionRef,
    FunctionSpec, Node, NodeId, NodeName, Region, Revision, RevisionId, State, Tier,
};
use nigh_proto::peer::v1::artifacts_server::ArtifactsServer;
use nigh_runtime::{Engine, EngineConfig};
use nigh_storage::{ArtifactStore, RealDisk};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{Agent, Setup};
use crate::decided::Decided;
use crate::gossip::Filter;
use crate::identity::testing::Authority;
use crate::peer::{Link, Peers};
use crate::seen::{Liveness, NodeSeen, Seen, View};

pub(crate) fn region(name: &str) -> Region {
    Region::new(name).unwrap()
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

pub(crate) fn function(revision: u64) -> FunctionRef {
    FunctionRef { revision: RevisionId(revision), function: FunctionName::new("f").unwrap() }
}

pub(crate) fn spec(component: Digest, regions: &[&str]) -> FunctionSpec {
    let mut spec = FunctionSpec::new(component, 1);
    let pattern = |text: &&str| RegionPattern::try_from((*text).to_owned()).unwrap();
    spec.placement.regions = regions.iter().map(pattern).collect();
    spec
}

/// A state of a cluster without nodes and apps.
pub(crate) fn state() -> State {
    let cluster = Some(ClusterId::new("0".repeat(32)).unwrap());
    State { applied: 1, cluster, ..State::default() }
}

/// Registers a node.
pub(crate) fn add_node(state: &mut State, id: u64, at: &str, peer: &str) {
    let node = Node {
        id: NodeId(id),
        name: NodeName::new(format!("n{id}")).unwrap(),
        region: region(at),
        zone: None,
        location: None,
        addresses: Addresses { peer: peer.to_owned(), ..Addresses::default() },
        version: String::new(),
        feature_level: 0,
        draining: false,
    };
    state.nodes.insert(NodeId(id), Arc::new(node));
    state.applied += 1;
}

/// Adds a revision of one function to an app, kept but not active.
pub(crate) fn add_revision(state: &mut State, name: &str, id: u64, spec: FunctionSpec) {
    let functions = BTreeMap::from([(function(id).function, spec)]);
    let spec = AppSpec { functions, ..AppSpec::default() };
    let digest = spec.digest();
    let revision = Revision { id: RevisionId(id), spec, digest, created_ms: 0 };
    let known = state.apps.get(&app(name)).map(|known| known.as_ref().clone());
    let mut known = known.unwrap_or_else(|| App {
        name: app(name),
        active: None,
        rollout: None,
        revisions: BTreeMap::new(),
        changed: 0,
    });
    known.revisions.insert(RevisionId(id), Arc::new(revision));
    state.apps.insert(app(name), Arc::new(known));
    state.applied += 1;
    state.plan_basis = state.applied;
}

/// Lets a revision answer the calls of its app.
pub(crate) fn activate(state: &mut State, name: &str, id: u64) {
    let mut known = state.apps.get(&app(name)).unwrap().as_ref().clone();
    known.active = Some(RevisionId(id));
    state.apps.insert(app(name), Arc::new(known));
    state.applied += 1;
    state.plan_basis = state.applied;
}

/// Assigns a revision's function to nodes.
pub(crate) fn assign(state: &mut State, id: u64, nodes: &[(u64, Tier)]) {
    let nodes = nodes.iter().map(|(id, tier)| (NodeId(*id), *tier)).collect();
    state.assignments.insert(function(id), Arc::new(Assignment { nodes }));
    state.applied += 1;
    state.plan_basis = state.applied;
}

/// A component that runs.
pub(crate) const HELLO: &[u8] = include_bytes!("../../../examples/hello/hello.wasm");

/// Who signs the certificates of all nodes that say nothing else.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// The engine of all nodes that say nothing else.
pub(crate) static ENGINE: LazyLock<EngineConfig> =
    LazyLock::new(|| EngineConfig { slots: 2, threads: 1, ..EngineConfig::default() });

/// A node's agent on a disk of its own, and the service that other nodes ask.
pub(crate) struct Bench {
    pub(crate) id: NodeId,
    pub(crate) engine: Engine,
    pub(crate) decided: Decided,
    pub(crate) seen: Seen,
    pub(crate) agent: Agent,
    pub(crate) stop: CancellationToken,
    /// Where other nodes reach it.
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Starts to listen; the loop starts when what is returned with it is polled.
    pub(crate) async fn new(id: u64, at: &str) -> (Self, impl Future<Output = ()> + Send) {
        Self::of(&AUTHORITY, id, at, ENGINE.clone()).await
    }

    /// The same with an identity of this authority, and this engine.
    pub(crate) async fn of(
        authority: &Authority,
        id: u64,
        at: &str,
        engine: EngineConfig,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
        let engine = Engine::new(engine).unwrap();
        let decided = Decided::new(Arc::new(state()));
        let seen = Seen::default();
        let stop = CancellationToken::new();
        let setup = Setup {
            own: NodeId(id),
            region: region(at),
            decided: decided.clone(),
            seen: seen.clone(),
            peers: Peers::plain(decided.clone(), Link::new(region(at), None)),
            store: Arc::new(store),
            engine: engine.clone(),
            identity: authority.own(id),
            compile_threads: 1,
            behind: nigh_runtime::Behind::start("behind").unwrap(),
        };
        let (agent, work) = Agent::new(setup, stop.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = ArtifactsServer::new(agent.peer_service.clone());
        let ends = stop.clone().cancelled_owned();
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ends);
        tokio::spawn(serving);
        let id = NodeId(id);
        (Self { id, engine, decided, seen, agent, stop, address, _folder: folder }, work)
    }

    /// Puts bytes on this node's disk.
    pub(crate) async fn put(&self, bytes: &'static [u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut incoming = self.agent.stock.receive(digest, Some(bytes.len() as u64));
        assert!(incoming.push(bytes.into()).await);
        incoming.keep(true).await.unwrap();
        digest
    }

    /// Waits until everything assigned here at the index of this state is here.
    pub(crate) async fn settled(&self, state: &State) {
        let mut settled = self.agent.settled.clone();
        let there = settled.wait_for(|at| at.index >= state.applied && at.lag.is_empty());
        let in_time = tokio::time::timeout(Duration::from_secs(60), there).await;
        let in_time = in_time.map(|last| last.unwrap().clone());
        assert!(in_time.is_ok(), "still {:?}", self.agent.settled.borrow());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Lets nodes see each other alive, and what each of them has.
pub(crate) fn all_see_each_other(benches: &[&Bench]) {
    for bench in benches {
        let alive = |id: NodeId| {
            let mut seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
            // Others than these say that they can run what this one can.
            let known = benches.iter().find(|bench| bench.id == id).unwrap_or(bench);
            seen.report.engine = known.engine.fingerprint().to_owned();
            if known.id == id {
                seen.report.ready = Filter::of(known.agent.shelf.present().ready.iter());
            }
            (id, seen)
        };
        let nodes = bench.decided.state().nodes.keys().copied().map(alive).collect();
        bench.seen.publish(View { nodes });
    }
}

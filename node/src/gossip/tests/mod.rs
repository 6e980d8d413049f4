//! Nodes that gossip over real sockets.

mod hostile;
mod member;
mod replay;
mod rotation;
mod sight;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::{Addresses, ClusterId, Node, NodeId, NodeName, Region, State};
use nigh_placement::RttMatrix;
use nigh_proto::peer::v1::gossip_server::GossipServer;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::{Gossip, GossipConfig, GossipKey, GossipTiming, Keyring, Keys};
use crate::decided::Decided;
use crate::peer::{Link, Peers};
use crate::seen::{Liveness, Report, Seen};

/// By then a stopped node is seen dead.
const DETECTED_WITHIN: Duration = Duration::from_secs(3);
/// By then anything else has happened, on a busy machine too.
const HAPPENED_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn registered(id: u64, gossip: SocketAddr) -> Node {
    Node {
        id: NodeId(id),
        name: NodeName::new(format!("node-{id}")).unwrap(),
        region: Region::new(format!("region-{id}")).unwrap(),
        zone: None,
        location: None,
        addresses: Addresses { gossip: gossip.to_string(), ..Addresses::default() },
        version: String::new(),
        feature_level: 0,
        draining: false,
    }
}

pub(super) fn state_of(nodes: impl IntoIterator<Item = Node>) -> State {
    let nodes = nodes.into_iter().map(|node| (node.id, Arc::new(node))).collect();
    State { nodes, ..State::default() }
}

fn key(n: u8) -> GossipKey {
    GossipKey::new(Zeroizing::new([n; 32]))
}

fn cluster_id() -> ClusterId {
    ClusterId::new("0123456789abcdef0123456789abcdef").unwrap()
}

fn address_of(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

async fn free_socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn free_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A node with nothing but gossip and the peer service for it.
struct TestNode {
    gossip: Gossip,
    seen: Seen,
    keys: Keys,
    address: SocketAddr,
    _server: AbortOnDropHandle<()>,
}

impl TestNode {
    fn publish(&self, report: &Report) {
        self.gossip.publisher().publish(report);
    }
}

#[derive(Default)]
struct TestCluster {
    nodes: BTreeMap<u64, TestNode>,
    state: Arc<State>,
    matrix: Option<Arc<RttMatrix>>,
    seeds: Vec<String>,
}

impl TestCluster {
    /// Nodes 1 to `count`, which know each other from the registry alone.
    async fn start(count: u64) -> Self {
        Self::start_over(count, None).await
    }

    /// The same with emulated delays between them.
    async fn start_over(count: u64, matrix: Option<RttMatrix>) -> Self {
        Self::start_all(count, matrix, Vec::new()).await
    }

    /// The same with others registered that a test plays.
    async fn start_with(count: u64, others: impl IntoIterator<Item = Node>) -> Self {
        Self::start_all(count, None, others.into_iter().collect()).await
    }

    async fn start_all(count: u64, matrix: Option<RttMatrix>, others: Vec<Node>) -> Self {
        let mut sockets = Vec::new();
        let mut registry = others;
        for id in 1..=count {
            let (udp, tcp) = (free_socket().await, free_listener().await);
            let mut node = registered(id, address_of(&udp));
            node.addresses.peer = tcp.local_addr().unwrap().to_string();
            registry.push(node);
            sockets.push((id, udp, tcp));
        }
        let mut cluster = Self {
            state: Arc::new(state_of(registry)),
            matrix: matrix.map(Arc::new),
            ..Self::default()
        };
        for (id, udp, tcp) in sockets {
            cluster.add(id, udp, tcp, 1).await;
        }
        cluster
    }

    /// Nodes that no registry knows: all but the first are told of the first.
    async fn start_by_seeds(count: u64) -> Self {
        let mut cluster = Self::default();
        for id in 1..=count {
            let udp = free_socket().await;
            let address = address_of(&udp);
            cluster.add(id, udp, free_listener().await, 1).await;
            if cluster.seeds.is_empty() {
                cluster.seeds.push(format!("localhost:{}", address.port()));
            }
        }
        cluster
    }

    async fn add(&mut self, id: u64, socket: UdpSocket, peer: TcpListener, generation: u64) {
        let (address, decided, seen) =
            (address_of(&socket), Decided::new(self.state.clone()), Seen::default());
        let keys = Keys::in_memory(Keyring::new([key(1)]));
        let region = Region::new(format!("region-{id}")).unwrap();
        let link = Link::new(region.clone(), self.matrix.clone());
        let gossip = Gossip::start(GossipConfig {
            own: NodeId(id),
            name: NodeName::new(format!("node-{id}")).unwrap(),
            region,
            zone: None,
            cluster: cluster_id(),
            keys: keys.clone(),
            listen: address,
            socket: Some(socket),
            advertise: address,
            advertised: address.to_string(),
            generation,
            seeds: self.seeds.clone(),
            link: link.clone(),
            peers: Peers::plain(decided.clone(), link),
            decided,
            seen: seen.clone(),
            timing: GossipTiming::default(),
        });
        let gossip = gossip.await.unwrap();
        let service = GossipServer::new(gossip.service());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(peer);
        let server = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        self.nodes.insert(
            id,
            TestNode { gossip, seen, keys, address, _server: AbortOnDropHandle::new(server) },
        );
    }

    /// Waits until each running node sees what is asked; panics with the last views.
    async fn until(&self, what: &str, within: Duration, holds: impl Fn(&TestNode) -> bool) {
        let deadline = Instant::now() + within;
        for (id, node) in &self.nodes {
            let mut changes = node.seen.changes();
            while !holds(node) {
                if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                    let view = node.seen.now();
                    let counters = node.gossip.counters();
                    panic!(
                        "not seen within {within:?} by node {id}: {what}; {view:#?} {counters:#?}"
                    );
                }
            }
        }
    }

    async fn all_alive(&self) {
        let ids: Vec<_> = self.nodes.keys().map(|id| NodeId(*id)).collect();
        self.until("all alive", HAPPENED_WITHIN, |node| {
            let view = node.seen.now();
            ids.iter().all(|id| view.liveness(*id) == Liveness::Alive)
        })
        .await;
    }

    async fn dead(&self, id: u64) -> Duration {
        let began = Instant::now();
        let what = format!("node {id} dead");
        let is_dead = |node: &TestNode| node.seen.now().liveness(NodeId(id)) == Liveness::Dead;
        self.until(&what, DETECTED_WITHIN, is_dead).await;
        began.elapsed()
    }
}

fn report(settled: u64) -> Report {
    Report { settled, version: "1.2.3".into(), ..Report::default() }
}

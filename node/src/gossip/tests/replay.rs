//! What was recorded and is sent again changes nothing.

use std::collections::BTreeMap;

use super::*;
use crate::gossip::sessions::AGE_MAX_MS;
use crate::seen::View;

/// Datagrams kept of each incarnation of the node that dies.
const KEPT: usize = 6;
/// How often all of them are sent again, and how far apart: as a live node would gossip.
const ROUNDS: usize = 3;
const APART: Duration = Duration::from_millis(60);

/// A registered node that only listens: the others look for it, so it gets what they send.
struct Recorder {
    socket: UdpSocket,
    kept: BTreeMap<SocketAddr, Vec<Vec<u8>>>,
}

impl Recorder {
    /// Records until this many came from an address.
    async fn record(&mut self, from: SocketAddr, count: usize) {
        let deadline = Instant::now() + HAPPENED_WITHIN;
        let mut buffer = [0; 2_048];
        while self.kept.get(&from).is_none_or(|kept| kept.len() < count) {
            let received = tokio::time::timeout_at(deadline, self.socket.recv_from(&mut buffer));
            let (length, from) = received.await.expect("the nodes gossip").unwrap();
            self.kept.entry(from).or_default().push(buffer[..length].to_vec());
        }
    }

    /// Sends again all that came from these, in its order, to a node.
    async fn replay(&self, from: &[SocketAddr], to: &TestNode, mut check: impl FnMut(&View)) {
        let recorded: Vec<_> = from.iter().flat_map(|from| &self.kept[from]).collect();
        for _ in 0..ROUNDS {
            for datagram in &recorded {
                self.socket.send_to(datagram, to.address).await.unwrap();
                check(&to.seen.now());
                tokio::time::sleep(APART).await;
            }
        }
        check(&to.seen.now());
    }
}

async fn rebind(address: SocketAddr) -> UdpSocket {
    let deadline = Instant::now() + HAPPENED_WITHIN;
    loop {
        match UdpSocket::bind(address).await {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < deadline, "{address} is not free: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_stays_dead_whatever_was_recorded_of_it() {
    let mut recorder = Recorder { socket: free_socket().await, kept: BTreeMap::new() };
    let mut cluster =
        TestCluster::start_with(3, [registered(9, address_of(&recorder.socket))]).await;
    cluster.all_alive().await;
    let doomed = cluster.nodes[&3].address;

    // Two incarnations of node 3, both recorded, both dead.
    recorder.record(doomed, KEPT).await;
    drop(cluster.nodes.remove(&3));
    cluster.dead(3).await;
    cluster.add(3, rebind(doomed).await, free_listener().await, 2).await;
    cluster.all_alive().await;
    recorder.record(doomed, 2 * KEPT).await;
    drop(cluster.nodes.remove(&3));
    cluster.dead(3).await;

    // What is sent again sooner is no different from what the network has delayed.
    tokio::time::sleep(Duration::from_millis(AGE_MAX_MS)).await;
    let is_dead = |view: &View| assert_eq!(view.liveness(NodeId(3)), Liveness::Dead, "{view:#?}");
    for node in cluster.nodes.values() {
        recorder.replay(&[doomed], node, is_dead).await;
        let counters = node.gossip.counters();
        assert!(counters.stale.get() + counters.questions.get() > 0, "{counters:?}");
        assert_eq!(node.seen.now().nodes.len(), 3);
    }
    cluster.all_alive().await;

    // All are dead but one that has just started: it remembers nothing and hears nobody else.
    let others = [1, 2].map(|id| cluster.nodes[&id].address);
    recorder.record(others[0], KEPT).await;
    recorder.record(others[1], KEPT).await;
    cluster.nodes.clear();
    let (udp, tcp) = (free_socket().await, free_listener().await);
    cluster.add(4, udp, tcp, 1).await;
    let node = &cluster.nodes[&4];
    let before = node.gossip.counters().received.get();
    let alone = |view: &View| assert!(view.nodes.keys().eq([&NodeId(4)]), "{view:#?}");
    recorder.replay(&[doomed, others[0], others[1]], node, alone).await;
    let counters = node.gossip.counters();
    assert_eq!(counters.received.get(), before, "{counters:?}");
    assert!(counters.stale.get() > 0 && counters.questions.get() > 0, "{counters:?}");
}

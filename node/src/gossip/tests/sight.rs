//! What nodes see of each other.

use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::clock;
use crate::gossip::Filter;

/// Two full filters of random bits, which no compression makes fit a datagram.
fn large_report() -> Report {
    let seed = clock::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut filter = || {
        let mut bits = vec![0; 576];
        random.fill(&mut bits[..]);
        Filter::from_bytes(bits)
    };
    Report { warm: filter(), ready: filter(), ..report(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_see_all_and_what_they_say() {
    let cluster = TestCluster::start(3).await;
    for (id, node) in &cluster.nodes {
        node.publish(&report(100 + id));
    }
    cluster.all_alive().await;
    cluster
        .until("all reports", HAPPENED_WITHIN, |node| {
            let view = node.seen.now();
            (1..=3).all(|id| view.nodes[&NodeId(id)].report == report(100 + id))
        })
        .await;
    cluster.nodes[&2].publish(&Report { draining: true, ..report(7) });
    let told = Instant::now();
    cluster
        .until("the change", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes[&NodeId(2)].report.draining
        })
        .await;
    println!("an urgent change was seen everywhere after {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_seen_dead_and_its_next_incarnation_alive() {
    let mut cluster = TestCluster::start(5).await;
    cluster.all_alive().await;
    // Some more rounds, so that the failure detector has seen the usual pace.
    let heard = cluster.nodes[&1].gossip.counters();
    let enough = heard.received.get() + 200;
    let deadline = Instant::now() + HAPPENED_WITHIN;
    while heard.received.get() < enough {
        assert!(Instant::now() < deadline, "no more gossip: {heard:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let address = cluster.nodes.remove(&5).unwrap().address;
    println!("5 nodes: the killed one was seen dead after {:?}", cluster.dead(5).await);

    let deadline = Instant::now() + HAPPENED_WITHIN;
    let socket = loop {
        match UdpSocket::bind(address).await {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{address} is not free: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let peer = free_listener().await;
    cluster.add(5, socket, peer, 2).await;
    cluster.nodes[&5].publish(&report(55));
    cluster.all_alive().await;
    cluster
        .until("the new incarnation", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes[&NodeId(5)].report == report(55)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_says_so() {
    let mut cluster = TestCluster::start(3).await;
    cluster.all_alive().await;
    let TestNode { gossip, address, .. } = cluster.nodes.remove(&3).unwrap();
    let began = Instant::now();
    gossip.shutdown().await;
    println!("a goodbye took {:?}", began.elapsed());
    UdpSocket::bind(address).await.unwrap();
    println!("it was seen everywhere {:?} later", cluster.dead(3).await);
    assert!(cluster.nodes.values().all(|node| node.seen.now().nodes[&NodeId(3)].report.draining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_no_datagram_goes_over_the_peer_connection() {
    let cluster = TestCluster::start(3).await;
    let large = large_report();
    cluster.nodes[&1].publish(&large);
    cluster
        .until("the large report", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes.get(&NodeId(1)).is_some_and(|seen| seen.report == large)
        })
        .await;
    let counters = cluster.nodes.values().map(|node| node.gossip.counters());
    let overflowed: u64 = counters.map(|counters| counters.overflowed.get()).sum();
    assert!(overflowed > 0, "everything went by datagram");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emulated_way_takes_its_time() {
    let regions = ["region-1", "region-2"].map(|region| Region::new(region).unwrap());
    let matrix = RttMatrix::parse("region,region-1,region-2\nregion-1,1,200\nregion-2,200,1\n");
    let matrix = matrix.unwrap();
    assert_eq!(matrix.get(&regions[0], &regions[1]), Some(200.0));
    let cluster = TestCluster::start_over(2, Some(matrix)).await;
    cluster.all_alive().await;
    let began = Instant::now();
    cluster.nodes[&1].publish(&report(9));
    cluster
        .until("the report", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes[&NodeId(1)].report == report(9)
        })
        .await;
    // Whoever asked before the change was answered after it, one way later.
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_no_registry_knows_find_each_other_by_seeds() {
    let cluster = TestCluster::start_by_seeds(3).await;
    cluster.all_alive().await;
    // No peer connection leads to them: what is large goes as a large datagram.
    let large = large_report();
    cluster.nodes[&1].publish(&large);
    cluster
        .until("the large report", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes[&NodeId(1)].report == large
        })
        .await;
    assert_eq!(cluster.nodes[&1].gossip.counters().overflowed.get(), 0);
}

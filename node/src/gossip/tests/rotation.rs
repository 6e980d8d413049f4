//! Keys change under a running cluster, and nobody notices.

use nigh_model::{AcceptedKey, GossipKeys};

use super::*;

fn decided(accepted: &[u8], sending: u8) -> GossipKeys {
    let accepted = (1..).zip(accepted).map(|(since, n)| AcceptedKey { id: key(*n).id(), since });
    GossipKeys { accepted: accepted.collect(), sending: Some(key(sending).id()), stale: 0 }
}

/// Notes whenever a node sees another as anything but alive.
fn watch(cluster: &TestCluster) -> tokio::task::JoinSet<String> {
    let mut watching = tokio::task::JoinSet::new();
    for (id, node) in &cluster.nodes {
        let (id, seen) = (*id, node.seen.clone());
        watching.spawn(async move {
            let mut changes = seen.changes();
            while changes.changed().await.is_ok() {
                let view = seen.now();
                let lost = view.nodes.iter().find(|(_, seen)| seen.liveness != Liveness::Alive);
                if let Some((lost, seen)) = lost {
                    return format!("node {id} sees node {lost} as {:?}", seen.liveness);
                }
            }
            "the views have ended".to_owned()
        });
    }
    watching
}

/// Waits until every node has heard this many more messages.
async fn gossiped(cluster: &TestCluster, more: u64) {
    for node in cluster.nodes.values() {
        let counters = node.gossip.counters();
        let enough = counters.received.get() + more;
        let deadline = Instant::now() + HAPPENED_WITHIN;
        while counters.received.get() < enough {
            assert!(Instant::now() < deadline, "no more gossip: {counters:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lost_while_keys_are_rotated() {
    let cluster = TestCluster::start(4).await;
    cluster.all_alive().await;
    gossiped(&cluster, 40).await;
    let mut watching = watch(&cluster);
    for (old, new) in [(1, 2), (2, 3)] {
        // Each state comes to one node after the other, with gossip in between; a node gets the key
        // itself only after it was told of it.
        for keys in [decided(&[old, new], old), decided(&[old, new], new), decided(&[new], new)] {
            for node in cluster.nodes.values() {
                node.keys.follow(&keys).await.unwrap();
                gossiped(&cluster, 5).await;
                node.keys.take_in(vec![key(new)]).await.unwrap();
                node.publish(&Report { keys: node.keys.ring().in_use(), ..report(1) });
            }
            gossiped(&cluster, 5).await;
        }
        let expected = cluster.nodes[&1].keys.ring().in_use();
        assert_eq!(expected.sending, Some(key(new).id()));
        let reported = cluster.until("the keys in use", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes.values().skip(1).all(|seen| seen.report.keys == expected)
        });
        reported.await;
    }
    if let Some(lost) = watching.try_join_next() {
        panic!("{lost:?}");
    }
    let refused: u64 = cluster.nodes.values().map(|n| n.gossip.counters().unknown_key.get()).sum();
    println!("{refused} datagrams met a node without their key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_get_the_new_key_is_out() {
    let mut cluster = TestCluster::start(3).await;
    cluster.all_alive().await;
    // So that the failure detector has seen the usual pace.
    gossiped(&cluster, 100).await;
    let removed = cluster.nodes.remove(&3).unwrap();
    for keys in [decided(&[1, 2], 1), decided(&[1, 2], 2), decided(&[2], 2)] {
        for node in cluster.nodes.values() {
            node.keys.take_in(vec![key(2)]).await.unwrap();
            node.keys.follow(&keys).await.unwrap();
        }
    }
    println!("who lacks the key was seen dead after {:?}", cluster.dead(3).await);
    cluster.all_alive().await;
    let counters = removed.gossip.counters();
    assert!(counters.unknown_key.get() > 0, "{counters:?}");
    for node in cluster.nodes.values() {
        let counters = node.gossip.counters();
        assert!(counters.unknown_key.get() > 0, "{counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_key_says_nothing_until_it_has_one() {
    let cluster = TestCluster::start(2).await;
    cluster.all_alive().await;
    let node = &cluster.nodes[&2];
    node.keys.follow(&decided(&[2], 2)).await.unwrap();
    let counters = node.gossip.counters();
    let deadline = Instant::now() + HAPPENED_WITHIN;
    while counters.no_key.get() == 0 || counters.unknown_key.get() == 0 {
        assert!(Instant::now() < deadline, "{counters:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for node in cluster.nodes.values() {
        node.keys.take_in(vec![key(2)]).await.unwrap();
        node.keys.follow(&decided(&[2], 2)).await.unwrap();
    }
    cluster.all_alive().await;
}

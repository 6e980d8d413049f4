//! What strangers may send changes nothing.

use bytes::Bytes;
use chitchat::{ChitchatId, Serializable as _};
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::clock;
use crate::gossip::envelope::Envelope;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_disturbs_nothing() {
    let seed = clock::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let cluster = TestCluster::start(3).await;
    cluster.all_alive().await;
    let stranger = free_socket().await;
    let own = Envelope::new(&cluster_id());
    let other = Envelope::new(&ClusterId::new("f".repeat(32)).unwrap());
    for n in 0..600 {
        let mut noise = vec![0; random.random_range(0..1_200)];
        random.fill(&mut noise[..]);
        // A third gets past the envelope, and half of that past chitchat's header.
        if n % 6 == 0 && noise.len() > 4 {
            let kind = noise[3] % 4;
            noise[..4].copy_from_slice(&[0x53, 0xB0, 0, kind]);
        }
        let datagram = match n % 3 {
            0 => own.seal(&noise),
            1 => other.seal(&noise),
            _ => noise.into(),
        };
        for node in cluster.nodes.values() {
            stranger.send_to(&datagram, node.address).await.unwrap();
        }
        if n % 20 == 0 {
            let from = address_of(&stranger);
            cluster.nodes[&1].gossip.service().take(from, datagram);
            tokio::task::yield_now().await;
        }
    }
    cluster.nodes[&1].publish(&report(77));
    cluster
        .until("a report after the noise", HAPPENED_WITHIN, |node| {
            node.seen.now().nodes[&NodeId(1)].report == report(77)
        })
        .await;
    cluster.all_alive().await;
    for node in cluster.nodes.values() {
        let counters = node.gossip.counters();
        let counted = [&counters.not_ours, &counters.other_cluster, &counters.undecodable];
        assert!(counted.iter().all(|count| count.get() > 0), "{counters:?}");
        assert_eq!(counters.restarts.get(), 0, "{counters:?}");
        assert_eq!(node.seen.now().nodes.len(), 3);
    }
}

/// A message that decodes and then fails an assertion of chitchat 0.11.2: it first raises a
/// version and then takes it back.
fn forged(about: &ChitchatId) -> Vec<u8> {
    let mut operations = Vec::new();
    let numbers = |operations: &mut Vec<u8>, numbers: &[u64]| {
        numbers.iter().for_each(|number| number.serialize(operations));
    };
    operations.push(0);
    about.serialize(&mut operations);
    numbers(&mut operations, &[0, 0]);
    operations.push(1);
    "key".to_owned().serialize(&mut operations);
    "value".to_owned().serialize(&mut operations);
    numbers(&mut operations, &[u64::MAX - 1]);
    operations.push(0);
    operations.push(2);
    numbers(&mut operations, &[u64::MAX - 2]);
    let mut message = vec![0x53, 0xB0, 0, 2, 2];
    (operations.len() as u16).serialize(&mut message);
    message.extend(operations);
    message.push(0);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_inside_chitchat_is_survived() {
    let cluster = TestCluster::start(3).await;
    cluster.all_alive().await;
    let victim = &cluster.nodes[&1];
    let about = ChitchatId::new("2", 1, cluster.nodes[&2].address);
    let message = Envelope::new(&cluster_id()).seal(&forged(&about));
    victim.gossip.service().take(cluster.nodes[&2].address, Bytes::clone(&message));
    let counters = victim.gossip.counters();
    let deadline = Instant::now() + HAPPENED_WITHIN;
    while counters.restarts.get() == 0 {
        assert!(Instant::now() < deadline, "it did not fail: {counters:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    victim.publish(&report(3));
    cluster
        .until("a report after the failure", HAPPENED_WITHIN, |node| {
            let view = node.seen.now();
            let seen = &view.nodes[&NodeId(1)];
            seen.report == report(3) && seen.liveness == Liveness::Alive
        })
        .await;
    cluster.all_alive().await;
}

//! What strangers may send changes nothing.

use chitchat::{ChitchatId, Serializable as _};
use rand::{Rng as _, SeedableRng as _};

use super::member::{Member, Seal};
use super::*;
use crate::clock;
use crate::gossip::sessions::Content;

fn other_cluster() -> ClusterId {
    ClusterId::new("f".repeat(32)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_disturbs_nothing() {
    let seed = clock::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let cluster = TestCluster::start(3).await;
    cluster.all_alive().await;
    let member = Member::new().await;
    for node in cluster.nodes.values() {
        member.meet(node.address).await;
    }
    let (own, other) = (Seal::own(), Seal::of(&other_cluster(), key(9)));
    for n in 0..800 {
        let mut noise = vec![0; random.random_range(0..1_100)];
        random.fill(&mut noise[..]);
        // A quarter gets past the envelope, and half of that past chitchat's header.
        if n % 8 == 0 && noise.len() > 4 {
            let kind = noise[3] % 4;
            noise[..4].copy_from_slice(&[0x53, 0xB0, 0, kind]);
        }
        let datagram = match n % 4 {
            0 => member.message(&noise),
            1 => other.seal(1, 0, Content::Message(noise.into())),
            2 => {
                let mut changed = own.seal(1, 0, Content::Message(noise.into())).to_vec();
                let at = random.random_range(9..changed.len());
                changed[at] ^= 1 << random.random_range(0..8);
                changed.into()
            }
            _ => noise.into(),
        };
        for node in cluster.nodes.values() {
            member.socket.send_to(&datagram, node.address).await.unwrap();
        }
        if n % 20 == 0 {
            cluster.nodes[&1].gossip.service().take(member.address(), datagram);
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
        let refused = counters.refused();
        let counted = ["not_ours", "unknown_key", "forged", "undecodable"];
        let count = |kind| refused.iter().find(|(name, _)| *name == kind).unwrap().1;
        assert!(counted.into_iter().all(|kind| count(kind) > 0), "{counters:?}");
        assert_eq!(counters.restarts.get(), 0, "{counters:?}");
        assert_eq!(node.seen.now().nodes.len(), 3);
    }
}

/// A node that is alone sends nothing of itself: whatever it sends, a stranger has caused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stranger_is_counted_and_nothing_else_happens() {
    const EACH: u64 = 20;
    let cluster = TestCluster::start(1).await;
    let node = &cluster.nodes[&1];
    let counters = node.gossip.counters();
    let stranger = free_socket().await;
    let hello = || Content::Message(b"hello".to_vec().into());
    let other = Seal::of(&other_cluster(), key(9)).seal(1, 0, hello());
    let same_key = Seal::of(&other_cluster(), key(1)).seal(1, 0, hello());
    let old_key = Seal::of(&cluster_id(), key(7)).seal(1, 0, hello());
    let random: Vec<u8> = (0..300).map(|n| (n * 7) as u8).collect();
    let own = Seal::own().seal(1, 0, hello());
    let cut = own.slice(..own.len() - 1);
    let kinds: [(&[u8], &str); 6] = [
        (&random, "not_ours"),
        (&[], "not_ours"),
        (&other, "unknown_key"),
        (&old_key, "unknown_key"),
        (&same_key, "forged"),
        (&cut, "forged"),
    ];
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (datagram, kind) in kinds {
        *expected.entry(kind).or_default() += EACH;
        for _ in 0..EACH {
            stranger.send_to(datagram, node.address).await.unwrap();
        }
        let deadline = Instant::now() + HAPPENED_WITHIN;
        let count = |kind| counters.refused().into_iter().find(|(name, _)| *name == kind);
        while count(kind).unwrap().1 < expected[kind] {
            assert!(Instant::now() < deadline, "{kind} is not counted: {counters:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for (kind, count) in counters.refused() {
        assert_eq!(count, expected.get(kind).copied().unwrap_or(0), "{kind}: {counters:?}");
    }
    let caused = [&counters.sent, &counters.received, &counters.questions, &counters.restarts];
    assert!(caused.iter().all(|count| count.get() == 0), "{counters:?}");
    assert_eq!(node.seen.now().nodes.len(), 1);

    // A good seal, but nobody there who answers: one question, and the rest is dropped.
    for _ in 0..EACH {
        stranger.send_to(&own, node.address).await.unwrap();
    }
    let deadline = Instant::now() + HAPPENED_WITHIN;
    while counters.stale.get() + counters.questions.get() < EACH {
        assert!(Instant::now() < deadline, "{counters:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(counters.questions.get() <= 2 && counters.received.get() == 0, "{counters:?}");
    assert_eq!(counters.sent.get(), counters.questions.get());
    assert_eq!(node.seen.now().nodes.len(), 1);
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
    let member = Member::new().await;
    member.meet(victim.address).await;
    let counters = victim.gossip.counters();
    let deadline = Instant::now() + HAPPENED_WITHIN;
    while counters.restarts.get() == 0 {
        assert!(Instant::now() < deadline, "it did not fail: {counters:?}");
        // The answer that makes the member heard may still be on its way.
        let message = member.message(&forged(&about));
        victim.gossip.service().take(member.address(), message);
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

//! What seals gossip is handed out and replaced by itself.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Layout, Needs, Seen, run, wait_until};

/// By then keys are replaced, also when a node is slow: the leader waits for it twice for 1.5 s.
const ROTATED_WITHIN: Duration = Duration::from_secs(5);
/// The same where another leader has to be found first.
const ROTATED_BY_THE_NEXT_WITHIN: Duration = Duration::from_secs(12);

/// The ids of the keys that a node has on disk.
fn keys(cluster: &Cluster, index: usize) -> BTreeSet<String> {
    let path = cluster.node(index).data().join("identity/gossip.keys");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let ids = text.lines().skip(1).filter_map(|line| line.split_once(' '));
    ids.map(|(id, _)| id.to_owned()).collect()
}

/// Waits until these nodes hold one key, the same, and none of these; which.
async fn replaced(
    cluster: &Cluster,
    nodes: &[usize],
    old: &BTreeSet<String>,
    within: Duration,
) -> BTreeSet<String> {
    wait_until("one new key on every disk", within, || async {
        let all: BTreeSet<_> = nodes.iter().map(|node| keys(cluster, *node)).collect();
        let one = all.len() == 1 && all.first().is_some_and(|held| held.len() == 1);
        let new = all.iter().flatten().all(|id| !old.contains(id));
        Seen::when(one && new, format!("{all:?}"))
    })
    .await;
    keys(cluster, nodes[0])
}

/// Every node that anyone sees as not alive, until the future ends.
async fn lost_while<T>(cluster: &Cluster, nodes: &[usize], what: impl Future<Output = T>) -> T {
    let watch = async {
        loop {
            for index in nodes {
                let seen = cluster.api(*index).nodes().await.unwrap();
                if let Some(node) = seen.into_iter().find(|node| node.state != "alive") {
                    return format!("n{} sees {} {}", index + 1, node.name, node.state);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        lost = watch => panic!("{lost}"),
        done = what => done,
    }
}

#[test]
fn keys_are_rotated_under_a_running_cluster_and_the_next_leader_goes_on() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        cluster.expect_log(
            "openraft",
            "raft tells of each message that a dead member does not answer",
        );
        let all: Vec<usize> = (0..cluster.len()).collect();
        let first = replaced(&cluster, &all, &BTreeSet::new(), ROTATED_WITHIN).await;
        for index in &all {
            let folder = cluster.node(*index).data().join("identity");
            let mode = |path: &std::path::Path| {
                std::fs::metadata(path).unwrap().permissions().mode() & 0o777
            };
            assert_eq!(mode(&folder), 0o700);
            assert_eq!(mode(&folder.join("gossip.keys")), 0o600);
        }

        let began = Instant::now();
        let rotate = cluster.nigh(3, &["operator", "gossip", "rotate", "-o", "json"]);
        let rotated = lost_while(&cluster, &all, async {
            let ran = rotate.await;
            let took = began.elapsed();
            (ran, took, replaced(&cluster, &all, &first, ROTATED_WITHIN).await)
        });
        let (ran, took, second) = rotated.await;
        eprintln!(
            "the command took {took:?}, every disk had the new key after {:?}",
            began.elapsed()
        );
        assert_eq!(ran.json()["key"].as_str(), second.first().map(String::as_str));

        // The leader dies in the middle of it: it still waits for a node that stands still.
        let leader = cluster.leader().await;
        let rest: Vec<usize> = all.iter().copied().filter(|node| *node != leader).collect();
        let before = Instant::now();
        cluster.pause(rest[1]);
        let asked = cluster.nigh(rest[0], &["operator", "gossip", "rotate"]);
        let (_, ()) = tokio::join!(asked, async {
            let begun = wait_until("the leader has made a key", ROTATED_WITHIN, || async {
                let held = keys(&cluster, leader);
                Seen::when(held != second, format!("{held:?}"))
            });
            begun.await;
            cluster.pause(leader);
        });
        let half = keys(&cluster, leader);
        cluster.kill9(leader);
        cluster.unpause(rest[1]);
        eprintln!("the leader was killed when it held {half:?}");
        assert_eq!(half.len(), 2, "the rotation was over before the leader died");
        let third = replaced(&cluster, &rest, &second, ROTATED_BY_THE_NEXT_WITHIN).await;
        eprintln!("with a leader that died in the middle it took {:?}", before.elapsed());
        cluster.restart(leader);
        cluster.formed().await;
        let last = replaced(&cluster, &all, &second, ROTATED_WITHIN).await;
        let audit = cluster.nigh(rest[0], &["operator", "audit"]).await.stdout;
        assert_eq!(last, third, "rotated once more:\n{audit}");
        cluster.end().await;
    });
}

#[test]
fn a_node_that_lost_its_keys_gets_them_and_one_that_was_replaced_does_not() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        cluster.expect_log(
            "openraft",
            "raft tells of each message that a dead member does not answer",
        );
        let all: Vec<usize> = (0..cluster.len()).collect();
        let first = replaced(&cluster, &all, &BTreeSet::new(), ROTATED_WITHIN).await;

        let leader = cluster.leader().await;
        let (one, other) = ((leader + 1) % all.len(), (leader + 2) % all.len());
        cluster.kill9(one);
        std::fs::remove_file(cluster.node(one).data().join("identity/gossip.keys")).unwrap();
        cluster.restart(one);
        cluster.formed().await;
        assert_eq!(keys(&cluster, one), first);

        // Its disk is lost: who comes back under its name is another node, and the key that the
        // lost disk holds is replaced.
        cluster.kill9(other);
        let name = cluster.node(other).name().to_owned();
        let dead = wait_until("the node is seen dead", Duration::from_secs(10), || async {
            let nodes = cluster.api(leader).nodes().await.unwrap();
            let state = nodes.into_iter().find(|node| node.name == name).unwrap().state;
            Seen::when(state == "dead", state)
        });
        dead.await;
        cluster.rejoin(other, leader).await;
        // Its old self must have been dead for 30 s.
        cluster.formed_within(Duration::from_secs(75)).await;
        replaced(&cluster, &all, &first, ROTATED_WITHIN).await;
        cluster.end().await;
    });
}

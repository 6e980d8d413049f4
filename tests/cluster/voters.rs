//! Who votes in a cluster of seven.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Needs, Seen, component, run, wait_until};

/// Some in each region, unevenly.
const REGIONS: [&str; 7] = [
    "eu-west-1",
    "eu-west-1",
    "eu-west-1",
    "eu-west-1",
    "us-east-1",
    "us-east-1",
    "ap-northeast-1",
];

#[test]
fn seven_nodes_have_five_voters_spread_so_that_any_region_may_go() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::of(&REGIONS)).await;
        cluster.expect_log("openraft", "raft tells of each message that a dead member misses");
        let voters = cluster.voters().await;
        assert_eq!(voters.len(), 5, "{voters:?}");
        let mut by_region: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for voter in &voters {
            by_region.entry(cluster.node(*voter).region()).or_default().push(*voter);
        }
        let spread: BTreeMap<&str, usize> =
            by_region.iter().map(|(at, v)| (*at, v.len())).collect();
        let wanted = [("ap-northeast-1", 1), ("eu-west-1", 2), ("us-east-1", 2)];
        assert_eq!(spread, BTreeMap::from(wanted), "no region has a majority");
        assert_eq!(watchers(&cluster).await, 2, "the others watch");

        // A region with two voters goes, all of it at once: what is left decides.
        let lost: Vec<usize> =
            (0..cluster.len()).filter(|n| cluster.node(*n).region() == "us-east-1").collect();
        let left: Vec<usize> = (0..cluster.len()).filter(|n| !lost.contains(n)).collect();
        for node in &lost {
            cluster.kill9(*node);
        }
        let last = *left.last().unwrap();
        cluster.deploy(last, &App::new("page", component("hello"))).await;
        cluster.answers(&left, "/page", Duration::from_secs(5)).await;
        for node in &lost {
            cluster.restart(*node);
        }
        cluster.formed().await;
        cluster.answers(&lost, "/page", Duration::from_secs(10)).await;
        assert_eq!(cluster.voters().await.len(), 5);
        cluster.end().await;
    });
}

/// Nodes that have no vote, by their own word; waits until each has said it.
async fn watchers(cluster: &Cluster) -> usize {
    wait_until("every node says whether it votes", Duration::from_secs(10), || async {
        let nodes = cluster.api(0).nodes().await.unwrap();
        let roles: Vec<String> = nodes.into_iter().map(|node| node.raft).collect();
        let count = |role: &str| roles.iter().filter(|known| *known == role).count();
        match (count("leader"), count("voter")) {
            (1, 4) => Seen::Yes(roles.len() - 5),
            _ => Seen::NotYet(roles),
        }
    })
    .await
}

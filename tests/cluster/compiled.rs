//! Of the nodes of one build, one compiles a component; the others copy what it made.

use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Needs, Page, Seen, component, run, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const EVERYWHERE: &str = "placement = { replicas = 5 }";
/// Several of them, so that more than one node compiles.
const EXAMPLES: [&str; 5] = ["echo", "greet-c", "hello", "proxy", "work"];

const COMPILED: &str = "nigh_agent_compilations_total{result=\"ok\"}";
const COPIED: &str = "nigh_agent_copies_total{result=\"ok\"}";

async fn page(cluster: &Cluster, node: usize) -> Page {
    Page::of(cluster.node(node).api(), cluster.credentials()).await
}

/// What all nodes have counted together.
async fn sum(cluster: &Cluster, series: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..cluster.len() {
        sum += page(cluster, node).await.get(series);
    }
    sum
}

/// Waits until each of these nodes has so many functions ready, and lacks none.
async fn ready(cluster: &Cluster, nodes: &[usize], functions: f64) {
    for node in nodes {
        wait_until("everything is ready", LIMIT, || async {
            let page = page(cluster, *node).await;
            let (ready, lacks) = (page.get("nigh_agent_ready"), page.get("nigh_agent_lacking"));
            Seen::when(ready == functions && lacks == 0.0, (*node, ready, lacks))
        })
        .await;
    }
}

fn zoo() -> App {
    let zoo = App::named("zoo");
    EXAMPLES.iter().fold(zoo, |zoo, name| zoo.and(name, component(name)).with(EVERYWHERE))
}

#[test]
fn each_component_is_compiled_once_and_copied_to_the_others() {
    run(Needs::Room, Duration::from_secs(180), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        let all = [0, 1, 2, 3, 4];
        cluster.deploy(0, &App::new("page", component("hello")).with(EVERYWHERE)).await;
        ready(&cluster, &all, 1.0).await;
        assert_eq!((sum(&cluster, COMPILED).await, sum(&cluster, COPIED).await), (1.0, 4.0));
        cluster.answers(&all, "/page", LIMIT).await;

        // More of them; one is known already.
        cluster.deploy(1, &zoo()).await;
        ready(&cluster, &all, 6.0).await;
        assert_eq!((sum(&cluster, COMPILED).await, sum(&cluster, COPIED).await), (5.0, 20.0));
        let refused = "nigh_agent_copies_refused_total";
        for node in all {
            assert_eq!(page(&cluster, node).await.sum(refused), 0.0);
        }

        // What was copied is as good as what was compiled: a restart finds it, and runs it.
        let copier = {
            let mut copier = None;
            for node in all {
                let copied = page(&cluster, node).await.get(COPIED);
                copier = copier.or((copied > 0.0).then_some(node));
            }
            copier.unwrap()
        };
        cluster.expect_log("openraft", "raft tells of each message that a stopped member misses");
        cluster.stop(copier).await;
        cluster.restart(copier);
        cluster.formed().await;
        ready(&cluster, &[copier], 6.0).await;
        let again = page(&cluster, copier).await;
        assert_eq!((again.get(COMPILED), again.get(COPIED)), (0.0, 0.0));
        cluster.answers(&[copier], "/page", LIMIT).await;
        cluster.end().await;
    });
}

#[test]
fn a_node_that_dies_while_it_compiles_is_replaced_by_the_next() {
    run(Needs::Room, Duration::from_secs(180), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        cluster.expect_log("openraft", "raft tells of each message that a dead member misses");
        let leader = cluster.leader().await;
        let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
        let app = zoo();
        let deploy = cluster.deploy(leader, &app);
        let watch = wait_until("a node compiles that is not the leader", LIMIT, || async {
            for node in &others {
                if page(&cluster, *node).await.get("nigh_agent_compiling") > 0.0 {
                    cluster.signal(*node, "KILL");
                    return Seen::Yes(*node);
                }
            }
            Seen::NotYet("none does")
        });
        let (deployed, dead) = tokio::join!(deploy, watch);
        assert_eq!(deployed["changed"], true);
        let left: Vec<usize> = (0..cluster.len()).filter(|node| *node != dead).collect();
        ready(&cluster, &left, 5.0).await;
        cluster.answers(&left, "/zoo/hello", LIMIT).await;

        // It comes back, and finds that others have done its work.
        cluster.kill9(dead);
        cluster.restart(dead);
        cluster.formed().await;
        ready(&cluster, &[dead], 5.0).await;
        cluster.end().await;
    });
}

//! Nodes of two builds, whose commands differ, in one cluster.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Needs, Seen, Sticky, component, run, wait_until};

/// Where the build is that lacks the newest commands.
const PREVIOUS: &str = "NIGH_PREVIOUS_BUILD";
const LIMIT: Duration = Duration::from_secs(30);
/// What is called while nodes are upgraded, how often a second and by how many.
const WORK: &str = "/work?wait_ms=20";
const RATE: u32 = 200;
const CALLERS: usize = 40;

#[test]
fn a_command_that_one_build_lacks_waits_until_every_node_knows_it() {
    let Some(previous) = std::env::var_os(PREVIOUS).map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: {PREVIOUS} names no build. Make one: cargo build --workspace --features \
             previous-build, and copy target/debug/nigh elsewhere"
        );
        return;
    };
    run(Needs::Quiet, Duration::from_secs(180), async {
        let layout = Layout::of(&["eu-west-1", "us-east-1", "us-east-1"]);
        let layout = layout.with_program(0, previous.clone()).with_program(1, previous.clone());
        let mut cluster = Cluster::start(layout).await;
        cluster.expect_log("a newer one wrote it", "a node of the build before says so");
        cluster.expect_log("openraft", "raft tells of each message that a stopped member misses");
        cluster.deploy(2, &App::new("page", component("hello"))).await;
        cluster.answers(&[0, 1, 2], "/page", LIMIT).await;
        let path = cluster.folder().join("all.nighbak").display().to_string();
        cluster.nigh(2, &["operator", "backup", &path]).await.succeeded();
        cluster.nigh(2, &["delete", "page"]).await.succeeded();

        // The newest build would know the command; two nodes would not.
        let refused = cluster.nigh(2, &["operator", "restore", &path]).await;
        assert_ne!(refused.exit, Some(0));
        assert!(refused.stderr.contains("feature level"), "{}", refused.stderr);
        // The upgrade, under calls of which none may be repeated.
        cluster.deploy(2, &App::example("work")).await;
        cluster.answers(&[0, 1, 2], WORK, LIMIT).await;
        let load = Sticky::start(&cluster.http_ports(&[0, 1, 2]), WORK, CALLERS, RATE);
        load.until(Duration::from_secs(1)).await;
        for node in [0, 1] {
            cluster.stop(node).await;
            cluster.restart_as(node, None);
            cluster.answers(&[node], WORK, LIMIT).await;
            cluster.formed().await;
        }
        load.end().await.assert_none_failed();
        wait_until("the level is raised and the command taken", LIMIT, || async {
            let restored = cluster.nigh(2, &["operator", "restore", &path]).await;
            Seen::when(restored.exit == Some(0), restored.stderr.clone())
        })
        .await;
        cluster.answers(&[0, 1, 2], "/page", LIMIT).await;
        cluster.agree(&[0, 1, 2], LIMIT).await;

        // The build before can not come back.
        cluster.expect_log("start it with a newer build", "that is what is tested");
        cluster.stop(1).await;
        cluster.restart_as(1, Some(previous.clone()));
        wait_until("it is told to be too old", LIMIT, || async {
            let said = cluster.log(1).iter().any(|line| line.contains("newer"));
            Seen::when(said, "nothing was said".to_owned())
        })
        .await;
        cluster.kill9(1);
    });
}

//! A new revision takes over without a failed call; a deleted app is gone everywhere.

use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Load, Needs, Seen, component, run, wait_until};

#[test]
fn a_new_revision_takes_over_under_load_without_a_failed_call() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "us-east-1"])).await;
        let all = [0, 1, 2];
        let first = cluster.deploy(0, &App::new("page", component("hello"))).await;
        cluster.answers(&all, "/page", Duration::from_secs(5)).await;

        let load = Load::start(cluster.http_ports(&all), "/page", 100);
        load.until(Duration::from_secs(1)).await;
        let begun = load.elapsed();
        let second = cluster.deploy(2, &App::new("page", component("greet-c"))).await;
        let done = load.elapsed();
        load.until(done + Duration::from_secs(1)).await;
        let calls = load.end().await;
        eprintln!("{} calls; the new revision took {:?}", calls.len(), done - begun);

        assert_eq!(second["changed"], true);
        let (old, new) =
            (first["revision"].as_str().unwrap(), second["revision"].as_str().unwrap());
        assert_ne!(old, new);
        for call in &calls {
            assert!(call.is_good(), "{call:?}");
            let ran = call.revision.as_deref().expect("an answer names its revision");
            // Some ms of grace for calls that were on their way at that moment.
            let grace = Duration::from_millis(100);
            if call.at < begun.saturating_sub(grace) {
                assert_eq!(ran, old, "{call:?}");
            } else if call.at > done + grace {
                assert_eq!(ran, new, "{call:?}");
            } else {
                assert!(ran == old || ran == new, "{call:?}");
            }
        }
        the_same_again_changes_nothing(&cluster, new).await;
        a_deleted_app_is_gone(&cluster).await;
        cluster.end().await;
    });
}

async fn the_same_again_changes_nothing(cluster: &Cluster, revision: &str) {
    let before = cluster.agree(&[0, 1, 2], Duration::from_secs(10)).await;
    for node in [0, 1, 2] {
        let again = cluster.deploy(node, &App::new("page", component("greet-c"))).await;
        assert_eq!(again["changed"], false, "{again}");
        assert_eq!(again["revision"], revision);
    }
    let folder = App::new("page", component("greet-c")).folder();
    let path = folder.path().display().to_string();
    let said = cluster.nigh(0, &["deploy", &path]).await;
    assert!(said.succeeded().stdout.contains("unchanged"), "{}", said.stdout);
    let app = cluster.api(1).app("page").await.unwrap();
    assert_eq!((app.revision.as_str(), app.rollout.as_str()), (revision, ""));
    let after = cluster.agree(&[0, 1, 2], Duration::from_secs(10)).await;
    assert_eq!(before.cluster_id, after.cluster_id);
}

async fn a_deleted_app_is_gone(cluster: &Cluster) {
    cluster.nigh(1, &["delete", "page"]).await.succeeded();
    for node in [0, 1, 2] {
        let caller = cluster.http(node);
        wait_until("a deleted app is not found", Duration::from_secs(3), || async {
            let answer = caller.get("/page").await;
            Seen::when(answer.status == 404, answer)
        })
        .await;
        caller.get("/page").await.problem(404, "NO_SUCH_APP");
        let status = cluster.api(node).invoke("page", "/").await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert!(cluster.api(node).all_apps().await.unwrap().is_empty());
    }
    cluster.nigh(0, &["delete", "page"]).await.refused(3, &["`page`"]);
    // What nobody wants is kept for 10 s.
    wait_until("no node holds the function any more", Duration::from_secs(30), || async {
        let nodes = cluster.api(0).nodes().await.unwrap();
        let held: Vec<_> = nodes.iter().map(|node| (node.ready, node.warm)).collect();
        Seen::when(held.iter().all(|held| *held == (0, 0)), held)
    })
    .await;
    // The name is free again.
    cluster.deploy(2, &App::new("page", component("hello"))).await;
    cluster.answers(&[0, 1, 2], "/page", Duration::from_secs(5)).await;
}

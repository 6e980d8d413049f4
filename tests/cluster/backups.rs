//! All that is deployed goes into a file, and out of it into a cluster that has nothing.

use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Needs, component, run};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_backup_restored_into_a_fresh_cluster_is_the_same_and_answers() {
    run(Needs::Quiet, Duration::from_secs(180), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "us-east-1"])).await;
        cluster.deploy(0, &App::new("page", component("hello"))).await;
        cluster.deploy(1, &App::new("page", component("greet-c"))).await;
        // Its component is on no node in the region that is asked for the backup.
        let home = App::new("home", component("hello")).regions(&["eu-west-1"]);
        cluster.deploy(0, &home).await;
        cluster.answers(&[0, 1, 2], "/page", LIMIT).await;
        let before = cluster.http(0).get("/page").await.ok().text();

        let file = cluster.folder().join("all.nighbak");
        let path = file.display().to_string();
        let made = cluster.nigh(2, &["-o", "json", "operator", "backup", &path]).await.json();
        assert_eq!(made["bytes"], std::fs::metadata(&file).unwrap().len());
        let again = cluster.nigh(2, &["operator", "backup", &path]).await;
        again.refused(2, &["exists already"]);

        // The same cluster has it all already.
        let same = cluster.nigh(1, &["-o", "json", "operator", "restore", &path]).await.json();
        assert_eq!((&same["apps"], &same["components"]), (&2.into(), &2.into()));

        let fresh = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        refused(&fresh, &file).await;
        let restored = fresh.nigh(1, &["-o", "json", "operator", "restore", &path]).await.json();
        assert_eq!(restored["apps_digest"], same["apps_digest"]);
        fresh.answers(&[0, 1], "/page", LIMIT).await;
        fresh.answers(&[0, 1], "/home", LIMIT).await;
        assert_eq!(fresh.http(1).get("/page").await.ok().text(), before);

        // Out of the new cluster comes the same again, and its revisions go on.
        let second = fresh.folder().join("again.nighbak").display().to_string();
        fresh.nigh(0, &["operator", "backup", &second]).await.succeeded();
        let back = cluster.nigh(0, &["-o", "json", "operator", "restore", &second]).await.json();
        assert_eq!(back["apps_digest"], restored["apps_digest"]);
        let next = fresh.deploy(0, &App::new("page", component("hello"))).await;
        assert_eq!(next["changed"], true, "{next}");
        fresh.answers(&[0, 1], "/page", LIMIT).await;
        fresh.end().await;
        cluster.end().await;
    });
}

/// What is no whole backup changes nothing.
async fn refused(cluster: &Cluster, file: &std::path::Path) {
    let whole = std::fs::read(file).unwrap();
    let broken = cluster.folder().join("broken.nighbak");
    let path = broken.display().to_string();
    for damage in 0..3 {
        let mut bytes = whole.clone();
        match damage {
            0 => bytes[200] ^= 1,
            1 => bytes.truncate(whole.len() / 2),
            _ => bytes.clear(),
        }
        std::fs::write(&broken, bytes).unwrap();
        let said = cluster.nigh(0, &["operator", "restore", &path]).await;
        assert!(said.stderr.contains("no whole backup"), "{}", said.stderr);
    }
    assert!(cluster.api(0).status().await.unwrap().control_available);
}

//! A node that is started wrongly says why and ends; the cluster is as it was.

use std::path::Path;
use std::time::Duration;

use crate::harness::{
    Cluster, Layout, Needs, Node, Ran, Seen, Server, Start, output, run, wait_until,
};

/// Runs a node that must not come up.
async fn attempt(node: &Node, start: Start) -> Ran {
    let ran = output(node.command(&start)).await;
    eprintln!("{}", ran.stderr);
    ran
}

fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let files = names.into_iter().filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn a_node_that_may_not_come_up_says_why_and_changes_nothing() {
    run(Needs::Room, Duration::from_secs(120), async {
        let mut cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        let other = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let state = cluster.agree(&[0, 1], Duration::from_secs(10)).await;
        let folder = tempfile::tempdir().unwrap();
        let port = cluster.ports().of_node(3);
        let peer = cluster.node(0).peer();
        let new = |name: &str| {
            Node::new(name, "eu-west-1", port, folder.path()).admitted_like(cluster.node(0))
        };

        // What is joined is no node.
        let server = Server::start(cluster.ports().spare(0)).await;
        let address = format!("127.0.0.1:{}", cluster.ports().spare(0));
        let ran = attempt(&new("stray"), Start::Join(cluster.ports().spare(0))).await;
        ran.refused(4, &[&address, "is no nigh node"]);
        let ran = attempt(&new("stray"), Start::Join(cluster.node(0).http())).await;
        ran.refused(4, &["is no nigh node"]);
        drop(server);
        // Nothing was told and nothing begun.
        attempt(&new("alone"), Start::Resume).await.refused(4, &["--bootstrap", "--join"]);

        // A name that a live node has.
        let ran = attempt(&new("n2"), Start::Join(peer)).await;
        ran.refused(4, &["`n2`", "--name"]);

        // An address that is taken, by each flag.
        for (flag, taken) in [
            ("--http", cluster.node(0).http()),
            ("--api", cluster.node(0).api()),
            ("--peer", cluster.node(0).peer()),
            ("--gossip", cluster.node(0).gossip()),
        ] {
            let address = format!("127.0.0.1:{taken}");
            // The flag's value is replaced: it may be given once.
            let command = new("late").command(&Start::Join(peer));
            let args: Vec<_> = command.get_args().collect();
            let at = args.iter().position(|arg| *arg == flag).unwrap();
            let mut taken = std::process::Command::new(command.get_program());
            taken.args(&args[..=at]).arg(&address).args(&args[at + 2..]);
            let ran = output(taken).await;
            eprintln!("{}", ran.stderr);
            ran.refused(4, &[&address, flag]);
        }

        // A folder that a running node holds.
        let ran = attempt(&new("n2").with_data(cluster.node(1).data()), Start::Resume).await;
        ran.refused(4, &["in use"]);

        // Settings that cannot be.
        let ran =
            attempt(&Node::new("n9", "EU West", port, folder.path()), Start::Join(peer)).await;
        ran.refused(2, &["--region", "EU West"]);
        let ran =
            attempt(&Node::new("N9", "eu-west-1", port, folder.path()), Start::Join(peer)).await;
        ran.refused(2, &["--name", "N9"]);
        let both = [format!("--join=127.0.0.1:{peer}")];
        attempt(&new("n9").with(&both), Start::Bootstrap).await.refused(2, &["--bootstrap"]);

        data_folders_of_others(&mut cluster, &other, folder.path()).await;

        let nodes = cluster.api(0).nodes().await.unwrap();
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["n1", "n2"], "nobody was admitted");
        let now = cluster.agree(&[0, 1], Duration::from_secs(10)).await;
        assert_eq!(now.cluster_id, state.cluster_id);
        other.end().await;
        cluster.end().await;
    });
}

/// The second node's folder, while it is stopped.
async fn data_folders_of_others(cluster: &mut Cluster, other: &Cluster, folder: &Path) {
    cluster.stop(1).await;
    let data = cluster.node(1).data().to_owned();
    let before = files_of(&data);
    let node =
        |name: &str| Node::new(name, "us-east-1", cluster.node(1).http(), folder).with_data(&data);

    // It belongs to another cluster than the one to be joined.
    let theirs = format!("127.0.0.1:{}", other.node(0).peer());
    let ran = attempt(&node("n2"), Start::Join(other.node(0).peer())).await;
    ran.refused(4, &["cluster", &theirs, "--data"]);
    // It belongs to a node of another name.
    let ran = attempt(&node("n3"), Start::Join(cluster.node(0).peer())).await;
    ran.refused(4, &["`n2`", "`n3`"]);
    // A newer build wrote it.
    let format = data.join("format");
    let written = std::fs::read(&format).unwrap();
    std::fs::write(&format, "99\n").unwrap();
    attempt(&node("n2"), Start::Resume).await.refused(4, &["format 99"]);
    std::fs::write(&format, written).unwrap();
    // It is no data folder at all.
    let foreign = folder.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "mine").unwrap();
    let stranger = Node::new("n4", "us-east-1", cluster.node(1).http(), folder);
    let ran = attempt(&stranger.with_data(&foreign), Start::Join(cluster.node(0).peer())).await;
    ran.refused(4, &["thesis.txt"]);
    assert_eq!(files_of(&foreign).len(), 1);

    assert_eq!(files_of(&data), before);
    cluster.restart(1);
    cluster.formed().await;
}

#[test]
fn a_node_that_waits_to_be_admitted_says_for_whom() {
    run(Needs::Room, Duration::from_secs(60), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let folder = tempfile::tempdir().unwrap();
        let nobody = cluster.ports().spare(3);
        let node = Node::new("n2", "eu-west-1", cluster.ports().of_node(1), folder.path());
        let mut node = node.admitted_like(cluster.node(0));
        node.start(&Start::Join(nobody));
        let address = format!("127.0.0.1:{nobody}");
        wait_until("it says what it waits for", Duration::from_secs(10), || async {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            Seen::when(log.contains("waiting to be admitted") && log.contains(&address), log)
        })
        .await;
        let (status, took) = node.stop().await;
        assert!(status.success(), "it ended with {status}");
        assert!(took < Duration::from_secs(5), "it took {took:?} to stop");
        cluster.end().await;
    });
}

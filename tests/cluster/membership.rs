//! Nodes come and go, are drained, removed and recovered, and calls go on.

use std::time::{Duration, Instant};

use nigh_proto::peer::v1::IdentifyRequest;
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::v1::DrainRequest;

use crate::harness::{
    App, Cluster, Layout, Load, Needs, Seen, Shows, Sticky, command, component, peer_channel, run,
    wait_until,
};

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "ap-northeast-1"];
/// Calls a second of the load that must not lose one.
const RATE: u32 = 200;
/// Callers that send it.
const CALLERS: usize = 40;

/// What the others may say of a node that stops.
fn expect_a_stop(cluster: &mut Cluster) {
    cluster
        .expect_log("openraft", "raft tells of each message that a stopped member does not answer");
}

#[test]
fn nodes_restart_one_after_the_other_and_no_call_fails_that_may_not_be_repeated() {
    run(Needs::Quiet, Duration::from_secs(240), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_stop(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.deploy(0, &App::example("work")).await;
        let path = "/work?wait_ms=20";
        cluster.answers(&all, path, Duration::from_secs(10)).await;
        let load = Sticky::start(&cluster.http_ports(&all), path, CALLERS, RATE);
        load.until(Duration::from_secs(2)).await;
        for node in all.clone() {
            let began = Instant::now();
            cluster.stop(node).await;
            let stopped = began.elapsed();
            cluster.restart(node);
            cluster.answers(&[node], path, Duration::from_secs(20)).await;
            cluster.formed().await;
            eprintln!("n{} stopped within {stopped:?}, back after {:?}", node + 1, began.elapsed());
        }
        let told = load.end().await;
        told.assert_none_failed();
        assert!(told.good > 1_000, "{}", told.good);
        cluster.end().await;
    });
}

#[test]
fn a_call_that_runs_when_its_node_is_stopped_ends_well_and_a_second_signal_ends_it_at_once() {
    run(Needs::Room, Duration::from_secs(120), async {
        let mut cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let app = App::example("work").with("limits = { timeout = \"30s\" }");
        cluster.deploy(0, &app).await;
        cluster.answers(&[0], "/work", Duration::from_secs(10)).await;
        let caller = cluster.http(0);
        let long = tokio::spawn(async move { caller.get("/work?wait_ms=7000").await });
        running(&cluster, 1).await;
        let (status, took) = cluster.stop_within(0, Duration::from_secs(20)).await;
        assert!(status.success(), "{status}");
        assert!(took >= Duration::from_secs(4), "it waited for the call: {took:?}");
        long.await.unwrap().ok();

        cluster.restart(0);
        cluster.formed().await;
        cluster.answers(&[0], "/work", Duration::from_secs(10)).await;
        let caller = cluster.http(0);
        let request = caller.request(http::Method::GET, "/work?wait_ms=20000");
        let request = request.body(bytes::Bytes::new()).unwrap();
        let lost = tokio::spawn(async move { caller.send(request).await });
        running(&cluster, 1).await;
        let began = Instant::now();
        cluster.signal(0, "TERM");
        wait_until("it leaves", Duration::from_secs(5), || async {
            let log = cluster.log(0);
            Seen::when(log.iter().rev().take(5).any(|line| line.contains("leaving")), log.len())
        })
        .await;
        let (_, _) = cluster.stop_within(0, Duration::from_secs(3)).await;
        eprintln!("ended {:?} after the first signal", began.elapsed());
        assert!(lost.await.unwrap().is_err());
        cluster.restart(0);
        cluster.formed().await;
        cluster.end().await;
    });
}

async fn running(cluster: &Cluster, calls: u32) {
    wait_until("the call runs", Duration::from_secs(10), || async {
        let nodes = cluster.api(0).nodes().await.unwrap();
        Seen::when(nodes[0].running == calls, nodes)
    })
    .await;
}

#[test]
fn a_node_is_drained_under_load_and_removed_and_what_stands_against_it_is_named() {
    run(Needs::Quiet, Duration::from_secs(240), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_stop(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.deploy(0, &App::example("work")).await;
        // Only ap-northeast-1 has it, and only one node is there.
        let bound = App::new("bound", component("hello")).regions(&["ap-northeast-1"]);
        cluster.deploy(0, &bound).await;
        let path = "/work?wait_ms=20";
        cluster.answers(&all, path, Duration::from_secs(10)).await;
        cluster.answers(&all, "/bound", Duration::from_secs(10)).await;

        let leader = cluster.leader().await;
        let other = if leader == 0 { 1 } else { 0 };
        let name = cluster.node(leader).name().to_owned();
        cluster.nigh(other, &["remove", &name]).await.refused(
            4,
            &["NODE_NOT_DRAINED", "has not been drained", &format!("nigh drain {name} --wait")],
        );
        cluster.nigh(other, &["drain", "n9"]).await.refused(3, &["NO_SUCH_NODE"]);

        // The one that leads, under load: leadership, vote, work.
        let load = Sticky::start(&cluster.http_ports(&all), path, CALLERS, RATE);
        load.until(Duration::from_secs(1)).await;
        let began = Instant::now();
        let drained = cluster.nigh(other, &["-o", "json", "drain", &name, "--wait"]).await;
        let stuck = cluster.node(leader).region() == "ap-northeast-1";
        if stuck {
            drained.refused(4, &["bound/bound"]);
        } else {
            assert_eq!(drained.json()["drained"], true);
        }
        eprintln!("drained after {:?}", began.elapsed());
        assert_ne!(cluster.leader().await, leader);
        assert!(!cluster.voters().await.contains(&leader));
        let nodes = cluster.api(other).nodes().await.unwrap();
        let state = nodes.into_iter().find(|node| node.name == name).unwrap().state;
        assert_eq!(state, "draining");

        // That is decided: a restart changes nothing, and only --undo does.
        cluster.stop(leader).await;
        cluster.restart(leader);
        cluster.answers(&[leader], path, Duration::from_secs(20)).await;
        wait_until("it still drains", Duration::from_secs(10), || async {
            let nodes = cluster.api(other).nodes().await.unwrap();
            let state = nodes.into_iter().find(|node| node.name == name).unwrap().state;
            Seen::when(state == "draining", state)
        })
        .await;
        cluster.nigh(other, &["drain", &name, "--undo"]).await.succeeded();
        let mut client = cluster.api(other).cluster();
        let request = DrainRequest { node: name.clone(), undo: true };
        assert!(!client.drain(request).await.unwrap().into_inner().draining);

        // Another one for good.
        let gone = all.iter().copied().find(|node| {
            cluster.node(*node).region() != "ap-northeast-1" && *node != leader && *node != other
        });
        let gone = gone.unwrap();
        let name = cluster.node(gone).name().to_owned();
        cluster.nigh(other, &["drain", &name, "--wait"]).await.succeeded();
        // Whoever has copied its identity is heard no longer than it is itself.
        let copied = std::fs::read(cluster.node(gone).data().join("identity/node.pem")).unwrap();
        let asks = async |port: u16| {
            let channel = peer_channel(port, Shows::Pem(copied.clone())).await;
            ControlClient::new(channel).identify(IdentifyRequest {}).await
        };
        asks(cluster.node(other).peer()).await.unwrap();
        let said = cluster.nigh(other, &["remove", &name]).await;
        let removed = Instant::now();
        said.succeeded();
        for node in all.iter().copied().filter(|node| *node != gone) {
            wait_until("its certificate is refused", Duration::from_secs(10), || async {
                let answer = asks(cluster.node(node).peer()).await;
                Seen::when(answer.is_err(), answer)
            })
            .await;
        }
        eprintln!("its certificate is refused everywhere {:?} after", removed.elapsed());
        cluster.expect_log("cannot go on", "a removed node says why it stops");
        let status = cluster.ends_by_itself(gone).await;
        assert!(!status.success());
        let log = cluster.log(gone).join("\n");
        assert!(log.contains("was removed from its cluster"), "{log}");
        cluster.formed().await;

        let told = load.end().await;
        told.assert_none_failed();
        cluster.end().await;
    });
}

#[test]
fn a_cluster_grows_from_three_to_nine_nodes_and_shrinks_to_four_under_load() {
    run(Needs::Quiet, Duration::from_secs(420), async {
        let mut cluster = Cluster::start(Layout::of(&REGIONS)).await;
        expect_a_stop(&mut cluster);
        cluster.expect_log("cannot go on", "a removed node says why it stops");
        cluster.deploy(0, &App::example("hello")).await;
        let first: Vec<usize> = (0..3).collect();
        cluster.answers(&first, "/hello", Duration::from_secs(10)).await;
        // Calls enter at nodes that stay.
        let load = Load::start(cluster.http_ports(&first), "/hello", 100);
        let began = Instant::now();
        for size in [5, 9] {
            while cluster.len() < size {
                cluster.add(REGIONS[cluster.len() % 3]);
            }
            cluster.formed().await;
            assert_eq!(cluster.voters().await.len(), if size < 7 { 3 } else { 5 });
            eprintln!("{size} nodes after {:?}", began.elapsed());
        }
        cluster.deploy(8, &App::new("second", component("hello"))).await;
        for gone in (4..9).rev() {
            let name = cluster.node(gone).name().to_owned();
            cluster.nigh(0, &["drain", &name, "--wait"]).await.succeeded();
            cluster.nigh(0, &["remove", &name]).await.succeeded();
            cluster.ends_by_itself(gone).await;
            eprintln!("{name} is gone after {:?}", began.elapsed());
        }
        cluster.formed().await;
        assert_eq!(cluster.voters().await.len(), 3);
        let calls = load.end().await;
        let bad: Vec<_> = calls.iter().filter(|call| !call.is_good()).collect();
        eprintln!("{} calls, {} failed", calls.len(), bad.len());
        assert!(bad.is_empty(), "{:#?}", &bad[..bad.len().min(5)]);
        let left: Vec<usize> = (0..4).collect();
        cluster.agree(&left, Duration::from_secs(15)).await;
        cluster.answers(&left, "/second", Duration::from_secs(10)).await;
        cluster.end().await;
    });
}

#[test]
fn one_survivor_is_made_the_whole_cluster_and_another_joins_it_again() {
    run(Needs::Quiet, Duration::from_secs(240), async {
        let mut cluster = Cluster::start(Layout::of(&REGIONS)).await;
        expect_a_stop(&mut cluster);
        let all: Vec<usize> = (0..3).collect();
        cluster.deploy(0, &App::example("hello")).await;
        cluster.deploy(1, &App::new("page", component("echo"))).await;
        cluster.answers(&all, "/hello", Duration::from_secs(10)).await;
        cluster.answers(&all, "/page", Duration::from_secs(10)).await;
        let before = cluster.agree(&all, Duration::from_secs(10)).await;
        let data = |cluster: &Cluster, node: usize| cluster.node(node).data().display().to_string();
        let folder = data(&cluster, 0);
        let recover = ["operator", "recover", "--data", &folder];

        // While the node runs, and while another voter does, it is refused, forced or not.
        command::nigh(recover).await.refused(4, &["in use"]);
        cluster.kill9(0);
        let forced = recover.into_iter().chain(["--force"]);
        command::nigh(forced).await.refused(4, &["n2 at", "n3 at", "not lost"]);
        cluster.kill9(1);
        cluster.kill9(2);
        let done = command::nigh(["-o", "json"].into_iter().chain(recover)).await.json();
        assert_eq!(done["node"], "n1");
        assert_eq!(done["others"], serde_json::json!(["n2", "n3"]));
        assert_eq!(done["missing"], serde_json::json!([]));
        assert!(done["index"].as_u64().unwrap() >= before.applied_index);

        // It leads alone, with everything, and takes changes.
        cluster.forget(1);
        cluster.forget(2);
        cluster.restart(0);
        let began = Instant::now();
        cluster.formed().await;
        eprintln!("it leads {:?} after its start", began.elapsed());
        cluster.answers(&[0], "/hello", Duration::from_secs(10)).await;
        cluster.answers(&[0], "/page", Duration::from_secs(10)).await;
        let status = cluster.api(0).status().await.unwrap();
        assert_eq!((status.cluster_id, status.leader), (before.cluster_id, "n1".to_owned()));

        // Another survivor keeps its components and joins as a new node; its name is free.
        let folder = data(&cluster, 1);
        command::nigh(["operator", "recover", "--data", &folder, "--rejoin"]).await.succeeded();
        cluster.join_again(1);
        cluster.formed().await;
        cluster.agree(&[0, 1], Duration::from_secs(15)).await;
        cluster.deploy(1, &App::new("third", component("hello"))).await;
        cluster.answers(&[0, 1], "/third", Duration::from_secs(10)).await;
        cluster.end().await;
    });
}

/// As where nodes share one network and not another: nobody listens at the first address.
#[test]
fn nodes_reach_each_other_by_whichever_address_leads_there() {
    run(Needs::Room, Duration::from_secs(120), async {
        let layout = Layout::of(&REGIONS).with_args(&["--advertise", "127.0.0.2,127.0.0.1"]);
        let mut cluster = Cluster::start(layout).await;
        expect_a_stop(&mut cluster);
        let all: Vec<usize> = (0..3).collect();
        cluster.deploy(1, &App::example("hello")).await;
        cluster.answers(&all, "/hello", Duration::from_secs(10)).await;
        let nodes = cluster.api(0).nodes().await.unwrap();
        assert!(nodes.iter().all(|node| node.peer.starts_with("127.0.0.2:")), "{nodes:#?}");
        // Who comes back alone finds the others too.
        cluster.kill9(2);
        cluster.restart(2);
        cluster.formed().await;
        cluster.agree(&all, Duration::from_secs(15)).await;
        cluster.end().await;
    });
}

/// The replicas have forgotten the entries that it lacks, as they do with old ones.
#[test]
fn a_node_that_is_far_behind_catches_up_by_a_snapshot_and_says_so() {
    run(Needs::Room, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_stop(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.settles().await;
        let voters = cluster.voters().await;
        let watcher = all.iter().copied().find(|node| !voters.contains(node)).unwrap();
        cluster.kill9(watcher);
        cluster.deploy(voters[0], &App::example("hello")).await;
        // A replica keeps entries in memory: after its start it has none.
        for voter in &voters {
            cluster.kill9(*voter);
        }
        for voter in &voters {
            cluster.restart(*voter);
        }
        cluster.restart(watcher);
        cluster.formed().await;
        cluster.agree(&all, Duration::from_secs(20)).await;
        let log = cluster.log(watcher);
        let said = log.iter().any(|line| line.contains("caught up by a snapshot"));
        assert!(said, "{}", log.join("\n"));
        cluster.answers(&[watcher], "/hello", Duration::from_secs(10)).await;
        cluster.end().await;
    });
}

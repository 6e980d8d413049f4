//! Nodes die, and what was deployed goes on answering.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use crate::harness::{
    App, Call, Cluster, Layout, Load, Needs, Seen, component, guest, run, wait_until,
};

const HTTP_PATH: &str = "/hello";

/// What the survivors may say of a node that died.
fn expect_a_death(cluster: &mut Cluster) {
    cluster.expect_log("openraft", "raft tells of each message that a dead member does not answer");
}

#[test]
fn the_leader_dies_under_load_and_only_its_own_calls_fail() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.deploy(1, &App::example("hello")).await;
        cluster.answers(&all, HTTP_PATH, Duration::from_secs(5)).await;
        let leader = cluster.leader().await;
        let other = (leader + 1) % all.len();

        // Some calls run on two nodes only, of which the leader is one: they are under way there
        // when it dies. They may be tried again by their method, or not.
        let region = cluster.node(leader).region().to_owned();
        cluster.deploy(other, &App::example("work").regions(&[&region])).await;
        cluster.answers(&all, "/work", Duration::from_secs(5)).await;
        let slow = "/work?wait_ms=30";
        let requests = [(Method::GET, HTTP_PATH), (Method::GET, slow), (Method::POST, slow)];
        let load = Load::of(cluster.http_ports(&all), &requests, 200);
        load.until(Duration::from_secs(2)).await;
        let (killed_at, killed) = (load.elapsed(), Instant::now());
        cluster.kill9(leader);

        let second = App::new("second", component("hello"));
        let deployed = cluster.try_deploy(other, &second, &["--no-wait"]).await;
        let took = killed.elapsed();
        deployed.succeeded();
        eprintln!("a deploy was committed {took:?} after the leader was killed");
        assert!(took <= Duration::from_secs(3), "a deploy took until {took:?} after the kill");
        // The rollout ends too, though a node is gone.
        cluster.deploy(other, &second).await;
        eprintln!("and was served {:?} after it", killed.elapsed());

        let name = cluster.node(leader).name().to_owned();
        let dead = wait_until("the others see the node dead", Duration::from_secs(10), || async {
            let nodes = cluster.api(other).nodes().await.unwrap();
            let state = nodes.into_iter().find(|node| node.name == name).unwrap().state;
            Seen::when(state == "dead", state)
        });
        dead.await;
        load.until(killed_at + Duration::from_secs(5)).await;

        cluster.restart(leader);
        let back = Instant::now();
        cluster.agree(&all, Duration::from_secs(15)).await;
        eprintln!("it has caught up {:?} after its start", back.elapsed());
        cluster.answers(&[leader], HTTP_PATH, Duration::from_secs(5)).await;
        cluster.answers(&[leader], "/second", Duration::from_secs(5)).await;
        cluster.formed().await;

        let calls = load.end().await;
        let fair = |call: &Call| {
            // It was running there, must not be tried again, and what broke is said.
            let ran_there = call.method == Method::POST
                && call.at + Duration::from_millis(500) >= killed_at
                && call.at <= killed_at + Duration::from_millis(500)
                && call.said.contains("\"reason\":\"PEER_LOST\"")
                && call.said.contains(&format!("\"node\":\"{name}\""));
            call.is_good() || call.entry == leader || ran_there
        };
        report(&calls, killed_at);
        let unfair: Vec<&Call> = calls.iter().filter(|call| !fair(call)).collect();
        assert!(
            unfair.is_empty(),
            "{} calls failed that had no reason: {:#?}",
            unfair.len(),
            &unfair[..unfair.len().min(5)]
        );
        let lost = calls.iter().filter(|call| !call.is_good() && call.entry != leader).count();
        eprintln!("{lost} calls were lost with the node that ran them");
        let good = calls.iter().filter(|call| call.is_good() && call.at > killed_at).count();
        assert!(good > 500, "only {good} calls were answered after the kill");
        cluster.end().await;
    });
}

fn report(calls: &[Call], killed_at: Duration) {
    let after = |call: &&Call| call.at >= killed_at;
    let slowest =
        calls.iter().filter(after).filter(|call| call.is_good()).map(|call| call.took).max();
    let bad = calls.iter().filter(|call| !call.is_good()).count();
    eprintln!(
        "{} calls, {bad} failed, the slowest good one after the kill took {slowest:?}",
        calls.len()
    );
}

#[test]
fn all_nodes_die_at_once_and_come_back_with_everything() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        // Each of its own component: where one is ready, all that are made of it are.
        cluster.deploy(0, &App::example("hello")).await;
        cluster.deploy(1, &App::new("page", component("echo"))).await;
        // The second revision of an app, and one that may be in one region only.
        cluster.deploy(2, &App::new("page", component("work"))).await;
        let bound = App::new("bound", component("greet-c")).regions(&["us-east-1"]);
        cluster.deploy(3, &bound).await;
        let before = cluster.agree(&all, Duration::from_secs(10)).await;
        let apps = apps_of(&cluster, 0).await;

        // One more, acknowledged and not rolled out: it must not be lost.
        let last = App::new("last", guest("counter-state"));
        cluster.try_deploy(4, &last, &["--no-wait"]).await.succeeded();
        for node in all.clone() {
            cluster.kill9(node);
        }
        let began = Instant::now();
        for node in all.clone() {
            cluster.restart(node);
        }
        for path in [HTTP_PATH, "/page", "/bound"] {
            let left = Duration::from_secs(5).saturating_sub(began.elapsed());
            cluster.answers(&all, path, left).await;
        }
        let took = began.elapsed();
        eprintln!("all nodes answered {took:?} after their start");
        assert!(took <= Duration::from_secs(5), "they answered only after {took:?}");

        let after = cluster.agree(&all, Duration::from_secs(15)).await;
        assert_eq!(after.cluster_id, before.cluster_id);
        assert!(after.applied_index >= before.applied_index, "{before:?} {after:?}");
        for node in all.clone() {
            wait_until(
                "apps, revisions and placement are as before",
                Duration::from_secs(15),
                || async {
                    let now = apps_of(&cluster, node).await;
                    Seen::when(holds(&now, &apps), (now, apps.clone()))
                },
            )
            .await;
        }
        let revisions = |app: &'static str| {
            let mut client = cluster.api(4).apps();
            async move {
                let request = nigh_proto::v1::ListRevisionsRequest { app: app.to_owned() };
                client.list_revisions(request).await.unwrap().into_inner().revisions
            }
        };
        assert_eq!(revisions("page").await.len(), 2);
        assert_eq!(revisions("last").await.len(), 1);
        cluster.answers(&all, "/last", Duration::from_secs(20)).await;
        cluster.formed().await;
        cluster.deploy(4, &App::new("third", component("hello"))).await;
        cluster.end().await;
    });
}

async fn apps_of(cluster: &Cluster, node: usize) -> Value {
    cluster.nigh(node, &["-o", "json", "apps"]).await.json()
}

/// Whether all apps of `before` are there, with the same revision of the same components, and
/// ready on the same nodes at least: calls may have brought them to more.
fn holds(now: &Value, before: &Value) -> bool {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let names = |value: &Value| -> Vec<String> {
        list(value).iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    list(before).iter().all(|app| {
        let same = list(now).into_iter().find(|other| other["name"] == app["name"]);
        same.is_some_and(|same| {
            let functions = list(&app["functions"]);
            same["revision"] == app["revision"]
                && functions.len() == list(&same["functions"]).len()
                && functions.iter().zip(list(&same["functions"])).all(|(before, now)| {
                    let ready = names(&now["ready_nodes"]);
                    now["name"] == before["name"]
                        && now["component"] == before["component"]
                        && names(&before["ready_nodes"]).iter().all(|node| ready.contains(node))
                })
        })
    })
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Stopped in its tracks: sockets stay open and nothing answers.
    Paused,
    Killed,
}

#[test]
fn without_a_majority_calls_are_answered_and_a_deploy_is_refused_at_once() {
    run(Needs::Quiet, Duration::from_secs(180), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.deploy(0, &App::example("hello")).await;
        cluster.answers(&all, HTTP_PATH, Duration::from_secs(5)).await;
        for loss in [Loss::Paused, Loss::Killed] {
            lose_the_majority(&mut cluster, loss).await;
        }
        cluster.end().await;
    });
}

async fn lose_the_majority(cluster: &mut Cluster, loss: Loss) {
    eprintln!("{loss:?}");
    let all: Vec<usize> = (0..cluster.len()).collect();
    let leader = cluster.leader().await;
    let mut lost = cluster.voters().await;
    assert_eq!(lost.len(), 3);
    // The leader and one more, at the same moment.
    lost.sort_by_key(|node| *node != leader);
    lost.truncate(2);
    let left: Vec<usize> = all.iter().copied().filter(|node| !lost.contains(node)).collect();
    let before = cluster.api(left[0]).all_apps().await.unwrap().len();

    let load = Load::start(cluster.http_ports(&left), HTTP_PATH, 50);
    load.until(Duration::from_secs(1)).await;
    let gone = Instant::now();
    for node in &lost {
        match loss {
            Loss::Paused => cluster.pause(*node),
            Loss::Killed => cluster.kill9(*node),
        }
    }
    let gone_at = load.elapsed();
    load.until(gone_at + Duration::from_secs(5)).await;
    for node in &left {
        let refused = cluster.try_deploy(*node, &App::new("late", component("hello")), &[]).await;
        refused.refused(5, &["quorum"]);
        eprintln!("refused after {:?}: {}", refused.took, refused.stderr.trim());
        assert!(refused.took <= Duration::from_secs(1), "it took {:?} to refuse", refused.took);
        let refused = cluster.nigh(*node, &["delete", "hello"]).await;
        refused.refused(5, &["quorum"]);
        assert!(refused.took <= Duration::from_secs(1), "it took {:?} to refuse", refused.took);
        let status = cluster.api(*node).status().await.unwrap();
        assert!(!status.control_available, "{status:?}");
    }
    let calls = load.end().await;
    report(&calls, gone_at);
    eprintln!("the quorum was gone for {:?}", gone.elapsed());
    let bad: Vec<&Call> = calls.iter().filter(|call| !call.is_good()).collect();
    assert!(bad.is_empty(), "{} calls failed: {:#?}", bad.len(), &bad[..bad.len().min(5)]);

    for node in &lost {
        match loss {
            Loss::Paused => cluster.unpause(*node),
            Loss::Killed => cluster.restart(*node),
        }
    }
    cluster.formed().await;
    cluster.agree(&all, Duration::from_secs(15)).await;
    let now = cluster.api(left[0]).all_apps().await.unwrap().len();
    assert_eq!(now, before, "what was refused did not happen");
    let name = format!("after-{loss:?}").to_lowercase();
    cluster.deploy(left[0], &App::new(&name, component("hello"))).await;
}

/// It was let go from the Raft group and could not be told: its own log says that it is a member.
/// How many leaders die in a row; measuring asks for more.
const KILLS: (&str, usize) = ("NIGH_KILLS", 2);

#[test]
fn leaders_die_one_after_the_other_and_each_is_replaced() {
    let (variable, usual) = KILLS;
    let kills = std::env::var(variable).map_or(usual, |text| text.parse().unwrap());
    run(Needs::Quiet, Duration::from_secs(60 + 20 * kills as u64), async move {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        let mut took = Vec::new();
        for _ in 0..kills {
            let leader = cluster.leader().await;
            let (name, asked) = (cluster.node(leader).name().to_owned(), (leader + 1) % all.len());
            let killed = Instant::now();
            cluster.kill9(leader);
            wait_until("another leads", Duration::from_secs(10), || async {
                let status = cluster.api(asked).status().await.unwrap();
                Seen::when(!status.leader.is_empty() && status.leader != name, status)
            })
            .await;
            took.push(killed.elapsed());
            cluster.restart(leader);
            cluster.formed().await;
            cluster.agree(&all, Duration::from_secs(20)).await;
        }
        took.sort();
        let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
        eprintln!("another led after {:?} to {last:?}, median {median:?}, {kills} times", took[0]);
        cluster.end().await;
    });
}

/// Tries to send entries to a dead voter in a second: a few connections, not one after another.
const TRIES_A_SECOND_MAX: usize = 20;
/// How long they are counted.
const COUNTED_S: u64 = 3;

#[test]
fn a_dead_voter_is_tried_a_few_times_a_second() {
    run(Needs::Room, Duration::from_secs(60), async {
        let mut cluster = Cluster::start(Layout::of(&["eu-west-1"; 3])).await;
        expect_a_death(&mut cluster);
        let leader = cluster.leader().await;
        let victim = (0..cluster.len()).find(|node| *node != leader).unwrap();
        cluster.kill9(victim);
        let tries = |cluster: &Cluster| {
            let log = cluster.log(leader);
            log.iter().filter(|line| line.contains("ReplicationCore recv RPCError")).count()
        };
        wait_until("the leader has failed to send to it", Duration::from_secs(10), || {
            let failed = tries(&cluster);
            std::future::ready(Seen::when(failed > 0, failed))
        })
        .await;
        let before = tries(&cluster);
        tokio::time::sleep(Duration::from_secs(COUNTED_S)).await;
        let counted = tries(&cluster) - before;
        assert!(counted <= TRIES_A_SECOND_MAX * COUNTED_S as usize, "{counted} tries");
        cluster.end().await;
    });
}

#[test]
fn a_voter_that_was_replaced_while_it_was_down_follows_again() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let mut cluster = Cluster::start(Layout::five()).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        let leader = cluster.leader().await;
        // One whose region has another node, so that it is not needed as a voter afterwards.
        let region = |node: usize| cluster.node(node).region().to_owned();
        let neighbours = |node: usize| all.iter().filter(|at| region(**at) == region(node)).count();
        let voters = cluster.voters().await;
        let mut others = voters.into_iter().filter(|voter| *voter != leader);
        let lost = others.find(|voter| neighbours(*voter) > 1).unwrap();

        cluster.kill9(lost);
        let replaced =
            wait_until("another votes in its place", Duration::from_secs(60), || async {
                let voters = cluster.voters().await;
                Seen::when(voters.len() == 3 && !voters.contains(&lost), voters)
            });
        replaced.await;
        cluster.deploy(leader, &App::example("hello")).await;
        cluster.restart(lost);
        cluster.agree(&all, Duration::from_secs(20)).await;
        cluster.deploy(lost, &App::new("second", component("hello"))).await;
        cluster.answers(&all, "/second", Duration::from_secs(5)).await;
        cluster.end().await;
    });
}

#[test]
fn nodes_restart_one_after_the_other_under_load_without_a_failed_call() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let mut cluster =
            Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "us-east-1"])).await;
        expect_a_death(&mut cluster);
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.deploy(0, &App::example("hello")).await;
        cluster.answers(&all, HTTP_PATH, Duration::from_secs(5)).await;
        for node in all.clone() {
            let others: Vec<usize> = all.iter().copied().filter(|other| *other != node).collect();
            let load = Load::start(cluster.http_ports(&others), HTTP_PATH, 60);
            load.until(Duration::from_secs(1)).await;
            cluster.stop(node).await;
            cluster.restart(node);
            cluster.answers(&[node], HTTP_PATH, Duration::from_secs(5)).await;
            cluster.formed().await;
            let calls = load.end().await;
            report(&calls, Duration::ZERO);
            let bad: Vec<&Call> = calls.iter().filter(|call| !call.is_good()).collect();
            assert!(bad.is_empty(), "{} calls failed: {:#?}", bad.len(), &bad[..bad.len().min(5)]);
        }
        cluster.agree(&all, Duration::from_secs(10)).await;
        cluster.end().await;
    });
}

#[test]
fn a_rollout_that_lags_names_the_node_and_goes_on() {
    run(Needs::Quiet, Duration::from_secs(90), async {
        let mut cluster =
            Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "us-east-1"])).await;
        expect_a_death(&mut cluster);
        let leader = cluster.leader().await;
        let slow = (leader + 1) % cluster.len();
        // Enough to compile, so that the node is still at it when it is stopped.
        let zoo = ["echo", "work", "greet-c", "proxy", "hello"];
        let zoo = zoo.into_iter().fold(App::named("zoo"), |zoo, name| {
            zoo.and(name, component(name)).with("placement = { replicas = 3 }")
        });
        let stopping = async {
            wait_until("the revision is committed", Duration::from_secs(5), || async {
                let app = cluster.api(leader).app("zoo").await;
                Seen::when(app.as_ref().is_ok_and(|app| !app.rollout.is_empty()), app)
            })
            .await;
            cluster.pause(slow);
        };
        let deploying = cluster.try_deploy(leader, &zoo, &["--timeout", "1s"]);
        let (ran, ()) = futures::future::join(deploying, stopping).await;
        eprintln!("{}", ran.stderr);
        ran.refused(6, &[cluster.node(slow).name()]);
        // Once it is seen to be dead it is not waited for any more.
        wait_until("the rollout has gone on", Duration::from_secs(15), || async {
            let app = cluster.api(leader).app("zoo").await.unwrap();
            Seen::when(app.rollout.is_empty(), app)
        })
        .await;
        cluster.unpause(slow);
        cluster.formed().await;
        let all: Vec<usize> = (0..cluster.len()).collect();
        cluster.agree(&all, Duration::from_secs(15)).await;
        for path in ["/zoo/echo", "/zoo/hello"] {
            cluster.answers(&all, path, Duration::from_secs(15)).await;
        }
        cluster.end().await;
    });
}

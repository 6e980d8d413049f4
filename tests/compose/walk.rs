//! The walk of an operator: start it, use it, break it in every way that the engine knows, let it
//! grow, take it away. Whatever is done, no call is lost that a client tries twice.

use std::time::{Duration, Instant};

use crate::calls::Calls;
use crate::cut::{self, Cut};
use crate::engine::{self, docker};
use crate::harness::turn::{Needs, run};
use crate::harness::{Seen, repository, wait_until};
use crate::project::{NODES, Project};

/// What is called; every node answers it.
const PATH: &str = "/hello";
/// How long a node is paused: longer than it takes to be seen as dead.
const PAUSE: Duration = Duration::from_secs(10);
/// The others have chosen a leader by then.
const LEADER_LIMIT: Duration = Duration::from_secs(20);
/// The override that has two more nodes.
const SEVEN: &str = "compose.seven.yaml";

#[test]
fn a_cluster_of_containers_answers_every_call_whatever_is_done_to_it() {
    let Some(compose) = engine::found() else { return };
    run(Needs::Quiet, Duration::from_secs(900), async move {
        let project = Project::new(compose);
        let five: Vec<usize> = (0..5).collect();
        starts_and_answers(&project, &five).await;

        let ports = |nodes: &[usize]| nodes.iter().map(|node| project.http(*node)).collect();
        let calls = Calls::start(ports(&five), PATH);
        kill(&project, &calls, &five).await;
        cut_off(&project, &calls, &five).await;
        pause(&project, &calls, &five).await;
        restart(&project, &calls, &five).await;

        let seven: Vec<usize> = (0..7).collect();
        calls.phase("add two nodes");
        project.compose(&[SEVEN], &["up", "-d"]).await.succeeded();
        project.formed(&seven).await;
        project.answers(&seven, PATH).await;
        calls.phase("call all seven");
        calls.call(ports(&seven));
        project.agree(&seven).await;
        leave(&project, &calls, &seven).await;

        let phases = calls.end().await;
        for phase in &phases {
            let lost = (&phase.name, phase.failed_twice, phase.calls);
            assert_eq!(phase.failed_twice, 0, "calls that failed twice: {lost:?}");
        }
        let all: usize = phases.iter().map(|phase| phase.calls).sum();
        let once: usize = phases.iter().map(|phase| phase.failed_once).sum();
        eprintln!("{all} calls, {once} failed at the first node, none at two");
        for (name, log) in project.logs("all") {
            assert!(!log.contains("panicked at"), "{name} panicked:\n{log}");
        }
        let began = Instant::now();
        project.compose(&[SEVEN], &["down", "--volumes"]).await.succeeded();
        eprintln!("down after {:.1?}", began.elapsed());
    });
}

/// From nothing to an answer at every node, with the times that it takes.
async fn starts_and_answers(project: &Project, nodes: &[usize]) {
    let began = Instant::now();
    project.compose(&[], &["up", "-d"]).await.succeeded();
    eprintln!("up after {:.1?}", began.elapsed());
    project.log_in().await;
    project.formed(nodes).await;
    eprintln!("formed after {:.1?}", began.elapsed());
    idle(project, nodes).await;
    let hello = repository().join("examples/hello").display().to_string();
    let deploying = Instant::now();
    project.nigh(1, &["deploy", &hello]).await.succeeded();
    eprintln!("deployed in {:.1?}", deploying.elapsed());
    project.answers(nodes, PATH).await;
    eprintln!("every node answers {:.1?} after the deploy began", deploying.elapsed());
}

/// Prints what nodes need that have nothing to do.
async fn idle(project: &Project, nodes: &[usize]) {
    let mut args = vec!["stats".to_owned(), "--no-stream".to_owned(), "--format".to_owned()];
    args.push("{{.Name}} {{.MemUsage}} {{.CPUPerc}}".to_owned());
    for node in nodes {
        args.push(project.container(*node).await);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    eprintln!("idle:\n{}", docker(&args).await);
}

fn without(nodes: &[usize], one: usize) -> Vec<usize> {
    nodes.iter().copied().filter(|node| *node != one).collect()
}

/// SIGKILL for a node that does not lead, then for the one that does.
async fn kill(project: &Project, calls: &Calls, nodes: &[usize]) {
    let leader = project.leader(nodes[0]).await;
    for victim in [without(nodes, leader)[0], leader] {
        let what = if victim == leader { "leader" } else { "worker" };
        let others = without(nodes, victim);
        let container = project.container(victim).await;
        calls.phase(format!("kill the {what} {}", NODES[victim]));
        docker(&["kill", &container]).await;
        let killed = Instant::now();
        if victim == leader {
            let asked = others[0];
            wait_until("another node leads", LEADER_LIMIT, || async {
                let status = project.status(asked).await;
                let leads = status.as_ref().is_ok_and(|status| {
                    !status.leader.is_empty() && status.leader != NODES[leader]
                });
                Seen::when(leads, status)
            })
            .await;
            eprintln!("another node leads {:.1?} after the kill", killed.elapsed());
        }
        project.sees(&others, victim, "dead").await;
        eprintln!("all others see it dead {:.1?} after the kill", killed.elapsed());
        calls.phase(format!("start {} again", NODES[victim]));
        docker(&["start", &container]).await;
        project.formed(nodes).await;
    }
}

/// Nothing gets through between a node and its peers; that it is cut off is seen on both sides
/// before anything is concluded from it.
async fn cut_off(project: &Project, calls: &Calls, nodes: &[usize]) {
    if let Err(why) = cut::can_cut() {
        return eprintln!("NOT DONE: {why}");
    }
    let node = project.leader(nodes[0]).await;
    let others = without(nodes, node);
    calls.phase(format!("cut off {}, which leads", NODES[node]));
    let cut = Cut::between(project, node, &others).await;
    project.sees(&others, node, "dead").await;
    project.is_alone(node).await;
    calls.phase(format!("{} is cut off", NODES[node]));
    // Something is decided without it, which it cannot know.
    let echo = repository().join("examples/echo").display().to_string();
    project.nigh(others[0], &["deploy", &echo]).await.succeeded();
    let behind = project.status(node).await.unwrap().applied_index;
    assert!(behind < project.status(others[0]).await.unwrap().applied_index);
    calls.phase(format!("{} is back", NODES[node]));
    cut.heal().await;
    project.formed(nodes).await;
    project.agree(nodes).await;
}

/// A node that stands still, with its sockets open, and then goes on as if nothing had been.
async fn pause(project: &Project, calls: &Calls, nodes: &[usize]) {
    let node = project.leader(nodes[0]).await;
    let others = without(nodes, node);
    let container = project.container(node).await;
    calls.phase(format!("pause {}, which leads", NODES[node]));
    let paused = tokio::time::Instant::now();
    docker(&["pause", &container]).await;
    project.sees(&others, node, "dead").await;
    tokio::time::sleep_until(paused + PAUSE).await;
    docker(&["unpause", &container]).await;
    calls.phase(format!("{} goes on", NODES[node]));
    project.formed(nodes).await;
    project.agree(nodes).await;
}

/// All nodes in order, each when the one before is back.
async fn restart(project: &Project, calls: &Calls, nodes: &[usize]) {
    for node in nodes {
        let container = project.container(*node).await;
        calls.phase(format!("restart {}", NODES[*node]));
        let began = Instant::now();
        docker(&["restart", "--time", "45", &container]).await;
        let restarted = began.elapsed();
        project.formed(nodes).await;
        project.answers(nodes, PATH).await;
        eprintln!("restarted after {restarted:.1?}, formed after {:.1?}", began.elapsed());
    }
    project.agree(nodes).await;
}

/// One of seven goes for good: it hands over what it does, is removed, and only then stopped.
async fn leave(project: &Project, calls: &Calls, nodes: &[usize]) {
    if project.nigh(0, &["drain", "--help"]).await.exit != Some(0) {
        return eprintln!("NOT DONE: this build drains no node");
    }
    let leaver = project.leader(nodes[0]).await;
    let others = without(nodes, leaver);
    let name = NODES[leaver];
    calls.phase(format!("drain {name}, which leads"));
    project.nigh(others[0], &["drain", name, "--wait"]).await.succeeded();
    calls.call(others.iter().map(|node| project.http(*node)).collect());
    calls.phase(format!("remove {name}"));
    project.nigh(others[0], &["remove", name]).await.succeeded();
    docker(&["stop", "--time", "45", &project.container(leaver).await]).await;
    project.formed(&others).await;
    project.agree(&others).await;
}

//! The walk of an operator: start it, use it, break it in every way that the engine knows, let it
//! grow, take it away. Whatever is done, no call is lost that a client tries twice.

use std::time::{Duration, Instant};

use crate::calls::Calls;
use crate::engine::{self, docker};
use crate::faults::{self, without};
use crate::harness::repository;
use crate::harness::turn::{Needs, run};
use crate::project::{NODES, Project};

/// What is called; every node answers it.
const PATH: &str = "/hello";
/// The override that has two more nodes.
const SEVEN: &str = "compose.seven.yaml";
/// How often the leader is killed, and how many seconds the majority is lost: enough to see that it
/// works. Measuring asks for more by these variables.
const KILLS: (&str, u64) = ("NIGH_WALK_KILLS", 2);
const LOST_S: (&str, u64) = ("NIGH_WALK_LOST_S", 15);
/// The longest that all of it may take.
const LIMIT: Duration = Duration::from_secs(30 * 60);

#[test]
fn a_cluster_of_containers_answers_every_call_whatever_is_done_to_it() {
    let Some(compose) = engine::found() else { return };
    run(Needs::Quiet, LIMIT, async move {
        let project = Project::new(compose);
        let five: Vec<usize> = (0..5).collect();
        starts_and_answers(&project, &five).await;

        let calls = Calls::start(project.https(&five), PATH);
        let kills = usize::try_from(asked(KILLS)).unwrap();
        faults::kill_leaders(&project, &calls, &five, kills).await;
        faults::kill_worker(&project, &calls, &five).await;
        faults::cut_off_each_region(&project, &calls, &five).await;
        faults::pause(&project, &calls, &five).await;
        faults::change_address(&project, &calls, &five).await;
        let lost = Duration::from_secs(asked(LOST_S));
        faults::lose_the_majority(&project, &calls, &five, lost).await;
        faults::restart(&project, &calls, &five, PATH).await;

        let seven: Vec<usize> = (0..7).collect();
        calls.phase("add two nodes");
        project.compose(&[SEVEN], &["up", "-d"]).await.succeeded();
        project.formed(&seven).await;
        project.answers(&seven, PATH).await;
        calls.phase("call all seven");
        calls.call(project.https(&seven));
        project.agree(&seven).await;
        let leader = project.leader(0).await;
        let six = leave(&project, &calls, &seven, leader).await;
        let worker = *six.last().unwrap();
        leave(&project, &calls, &six, worker).await;

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

/// What a variable asks for, or what it is without.
fn asked((variable, usual): (&str, u64)) -> u64 {
    let Ok(text) = std::env::var(variable) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number"))
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

/// A node goes for good: it hands over what it does, is removed, and only then stopped. Who is left.
async fn leave(project: &Project, calls: &Calls, nodes: &[usize], leaver: usize) -> Vec<usize> {
    let others = without(nodes, &[leaver]);
    let name = NODES[leaver];
    calls.phase(format!("drain {name}"));
    project.nigh(others[0], &["drain", name, "--wait"]).await.succeeded();
    calls.call(project.https(&others));
    calls.phase(format!("remove {name}"));
    project.nigh(others[0], &["remove", name]).await.succeeded();
    docker(&["stop", "--time", faults::GRACE_S, &project.container(leaver).await]).await;
    project.formed(&others).await;
    project.agree(&others).await;
    others
}

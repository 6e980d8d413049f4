//! What happens to a cluster that nobody wanted, and how long it takes to get over it. Each ends
//! with a cluster that is whole again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::time::{sleep_until, timeout};

use crate::calls::Calls;
use crate::cut::{self, Cut};
use crate::engine::docker;
use crate::harness::{App, Caller, Seen, component, wait_until};
use crate::project::{NODES, Project, REGIONS};

/// How long a node is paused: longer than it takes to be seen as dead.
const PAUSE: Duration = Duration::from_secs(10);
/// The others have chosen a leader by then.
const LEADER_LIMIT: Duration = Duration::from_secs(20);
/// Seconds that a stopping node has, as the compose file grants them.
pub(crate) const GRACE_S: &str = "45";
/// A caller of the killed node's share waits no longer for one answer.
const SHARE_LIMIT: Duration = Duration::from_secs(2);
/// Answers in a row after which a share counts as taken over.
const SHARE_ANSWERS: usize = 20;
/// Tries of it, in all.
const SHARE_TRIES_MAX: usize = 500;
/// Control writes are certain to be refused this long after the majority went.
const QUORUM_GONE: Duration = Duration::from_secs(5);
/// Between two tries to write without a majority.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) fn without(nodes: &[usize], gone: &[usize]) -> Vec<usize> {
    nodes.iter().copied().filter(|node| !gone.contains(node)).collect()
}

/// SIGKILL for the leader, this many times; how long the others had none.
pub(crate) async fn kill_leaders(project: &Project, calls: &Calls, nodes: &[usize], times: usize) {
    let (mut leaderless, mut dead) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let leader = project.leader(nodes[0]).await;
        let others = without(nodes, &[leader]);
        let container = project.container(leader).await;
        calls.phase(format!("kill {}, which leads", NODES[leader]));
        let killed = Instant::now();
        docker(&["kill", &container]).await;
        let asked = others[0];
        wait_until("another node leads", LEADER_LIMIT, || async {
            let status = project.status(asked).await;
            let leads = status
                .as_ref()
                .is_ok_and(|status| !status.leader.is_empty() && status.leader != NODES[leader]);
            Seen::when(leads, status)
        })
        .await;
        leaderless.push(killed.elapsed());
        project.sees(&others, leader, "dead").await;
        dead.push(killed.elapsed());
        calls.phase(format!("start {} again", NODES[leader]));
        docker(&["start", &container]).await;
        project.formed(nodes).await;
        project.agree(nodes).await;
    }
    tell("after the kill another node led", &mut leaderless);
    tell("after the kill all others saw it dead", &mut dead);
}

/// Prints the spread of some durations.
fn tell(what: &str, times: &mut [Duration]) {
    times.sort();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
    let median = times[times.len() / 2];
    eprintln!("{what}: {} times, {first:.1?} to {last:.1?}, median {median:.1?}", times.len());
}

/// SIGKILL for the node that runs what another forwards; its share must find another place.
pub(crate) async fn kill_worker(project: &Project, calls: &Calls, nodes: &[usize]) {
    // One region only, so that the others have to forward it there.
    let [from, ..] = REGIONS[1].1 else { panic!("the second region has nodes") };
    let app = App::new("at-home", component("hello")).regions(&[REGIONS[0].0]);
    let folder = app.folder();
    project.nigh(*from, &["deploy", &folder.path().display().to_string()]).await.succeeded();
    project.answers(nodes, "/at-home").await;
    let caller = Caller::new(project.http(*from));
    let place = caller.get("/at-home").await.ok().node().to_owned();
    let victim = NODES.iter().position(|node| *node == place).expect("it is a node of the files");

    let container = project.container(victim).await;
    calls.phase(format!("kill {place}, which another forwards to"));
    let killed = Instant::now();
    docker(&["kill", &container]).await;
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let (mut in_a_row, mut taken_over, mut slowest) = (0, killed.elapsed(), Duration::ZERO);
    for _ in 0..SHARE_TRIES_MAX {
        let began = Instant::now();
        let request = caller.request(Method::GET, "/at-home").body(Bytes::new());
        let answer = timeout(SHARE_LIMIT, caller.send(request.expect("a good path"))).await;
        slowest = slowest.max(began.elapsed());
        match answer {
            Ok(Ok(answer)) if answer.status == 200 => in_a_row += 1,
            other => {
                *failures.entry(format!("{other:?}")).or_default() += 1;
                in_a_row = 0;
            }
        }
        if in_a_row == 1 {
            taken_over = killed.elapsed();
        }
        if in_a_row == SHARE_ANSWERS {
            break;
        }
    }
    assert_eq!(in_a_row, SHARE_ANSWERS, "nobody took over: {failures:#?}");
    eprintln!(
        "its share is answered elsewhere {taken_over:.1?} after the kill, slowest {slowest:.1?}, \
         failed: {failures:?}"
    );
    project.sees(&without(nodes, &[victim]), victim, "dead").await;
    calls.phase(format!("start {place} again"));
    docker(&["start", &container]).await;
    project.formed(nodes).await;
}

/// Nothing gets through between a region and the others; that it is cut off is seen on both sides
/// before anything is concluded from it.
pub(crate) async fn cut_off_each_region(project: &Project, calls: &Calls, nodes: &[usize]) {
    if let Err(why) = cut::can_cut() {
        return eprintln!("NOT DONE: {why}");
    }
    for (region, inside) in REGIONS {
        let others = without(nodes, inside);
        calls.phase(format!("cut off {region}"));
        let mut cuts = Vec::new();
        for node in inside {
            cuts.push(Cut::between(project, *node, &others).await);
        }
        for node in inside {
            project.sees(&others, *node, "dead").await;
            project.is_alone(*node).await;
        }
        calls.phase(format!("{region} is cut off"));
        // Something is decided without it, which it cannot know.
        let folder = App::new(&format!("without-{region}"), component("hello")).folder();
        let folder = folder.path().display().to_string();
        project.nigh(others[0], &["deploy", &folder]).await.succeeded();
        let decided = project.status(others[0]).await.unwrap().applied_index;
        for node in inside {
            assert!(project.status(*node).await.unwrap().applied_index < decided);
        }
        calls.phase(format!("{region} is back"));
        let healed = Instant::now();
        for cut in cuts {
            cut.heal().await;
        }
        project.formed(nodes).await;
        project.agree(nodes).await;
        eprintln!("{region} is one with the others again {:.1?} after", healed.elapsed());
    }
}

/// A node that stands still, with its sockets open, and then goes on as if nothing had been.
pub(crate) async fn pause(project: &Project, calls: &Calls, nodes: &[usize]) {
    let node = project.leader(nodes[0]).await;
    let others = without(nodes, &[node]);
    let container = project.container(node).await;
    calls.phase(format!("pause {}, which leads", NODES[node]));
    let paused = tokio::time::Instant::now();
    docker(&["pause", &container]).await;
    project.sees(&others, node, "dead").await;
    sleep_until(paused + PAUSE).await;
    docker(&["unpause", &container]).await;
    calls.phase(format!("{} goes on", NODES[node]));
    project.formed(nodes).await;
    project.agree(nodes).await;
}

/// Most voters stand still for some time. Who is left answers every call and refuses every write.
pub(crate) async fn lose_the_majority(
    project: &Project,
    calls: &Calls,
    nodes: &[usize],
    lasts: Duration,
) {
    let voters = project.voters(nodes[0]).await;
    let (gone, _) = voters.split_at(voters.len() / 2 + 1);
    let left = without(nodes, gone);
    calls.call(project.https(&left));
    calls.phase("most voters stand still");
    let containers = project.containers(gone).await;
    let began = tokio::time::Instant::now();
    docker_all("pause", &containers).await;
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for n in 0_u32.. {
        let at = WRITE_INTERVAL * n;
        if at >= lasts {
            break;
        }
        sleep_until(began + at).await;
        let (write, gone_for) = (Instant::now(), began.elapsed());
        let asked = left[n as usize % left.len()];
        let ran = project.nigh(asked, &["operator", "token", "create", "--role", "viewer"]).await;
        assert_ne!(ran.exit, Some(0), "a write without a majority: {ran:?}");
        if gone_for < QUORUM_GONE { &mut early } else { &mut late }.push(write.elapsed());
    }
    tell("a write was refused in the first seconds", &mut early);
    tell("a write was refused later", &mut late);
    calls.phase("they go on");
    let healed = Instant::now();
    docker(
        &[&["unpause"], &containers.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat(),
    )
    .await;
    wait_until("a write is accepted", LEADER_LIMIT, || async {
        let ran = project.nigh(left[0], &["operator", "token", "create", "--role", "viewer"]).await;
        Seen::when(ran.exit == Some(0), ran)
    })
    .await;
    eprintln!("a write is accepted {:.1?} after that", healed.elapsed());
    project.formed(nodes).await;
    eprintln!("all see each other {:.1?} after that", healed.elapsed());
    project.agree(nodes).await;
    calls.call(project.https(nodes));
}

/// A node comes back with another address, and its old one belongs to a stranger: the node is found,
/// and the stranger is not taken for it.
pub(crate) async fn change_address(project: &Project, calls: &Calls, nodes: &[usize]) {
    let node = without(nodes, &[project.leader(nodes[0]).await])[0];
    let others = without(nodes, &[node]);
    let (container, network) = (project.container(node).await, project.network());
    let before = project.address(node).await;
    calls.phase(format!("take {} off the network", NODES[node]));
    docker(&["network", "disconnect", &network, &container]).await;
    project.sees(&others, node, "dead").await;
    // The engine gives away the lowest address that is free.
    let stranger = project.start_stranger().await;
    assert_eq!(project.address_of(&stranger).await, before, "the stranger has the old address");
    calls.phase(format!("{} comes back with another address", NODES[node]));
    let began = Instant::now();
    docker(&["network", "connect", "--alias", NODES[node], &network, &container]).await;
    assert_ne!(project.address(node).await, before);
    for other in &others {
        project.sees(&[*other], node, "alive").await;
    }
    eprintln!("found at its new address after {:.1?}", began.elapsed());
    // The engine publishes its ports anew when it starts.
    docker(&["restart", "--time", GRACE_S, &container]).await;
    project.formed(nodes).await;
    project.agree(nodes).await;
    docker(&["rm", "--force", "--volumes", &stranger]).await;
}

/// Does one thing to several containers at once.
async fn docker_all(what: &str, containers: &[String]) {
    let mut args = vec![what];
    args.extend(containers.iter().map(String::as_str));
    docker(&args).await;
}

/// All nodes in order, each when the one before is back.
pub(crate) async fn restart(project: &Project, calls: &Calls, nodes: &[usize], path: &str) {
    for node in nodes {
        let container = project.container(*node).await;
        calls.phase(format!("restart {}", NODES[*node]));
        let began = Instant::now();
        docker(&["restart", "--time", GRACE_S, &container]).await;
        let restarted = began.elapsed();
        project.formed(nodes).await;
        project.answers(nodes, path).await;
        eprintln!("restarted after {restarted:.1?}, formed after {:.1?}", began.elapsed());
    }
    project.agree(nodes).await;
}

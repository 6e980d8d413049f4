//! Tests: whole nodes on disks that are full, fail or are slow.

mod troubled;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use nigh_model::command::Command;
use nigh_model::refusal::Refusal;
use nigh_model::{FunctionName, FunctionRef, NodeName, Region, RevisionId};
use openraft::async_runtime::WatchReceiver as _;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::config::{CERTIFICATE_LIFE, Config, Start, TokenSource};
use crate::daemon::Node;
use troubled::Troubled;

/// What is waited for comes by then, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
/// Small, so that a few commands fill one.
const SEGMENT_BYTES: u64 = 256 << 10;
/// A node stops by then.
const GRACE: Duration = Duration::from_secs(3);

struct Member {
    node: Node,
    disk: Troubled,
    config: Config,
}

struct Three {
    members: Vec<Member>,
    _folder: TempDir,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A command of some KB that changes nothing but the log: a plan of a state long gone.
fn ballast(bytes: usize) -> Command {
    let function = |n: u64| FunctionRef {
        revision: RevisionId(n),
        function: FunctionName::new("x".repeat(60)).unwrap(),
    };
    Command::Place {
        basis: 0,
        set: Vec::new(),
        remove: (0..bytes as u64 / 80).map(function).collect(),
    }
}

impl Three {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut members: Vec<Member> = Vec::new();
        for n in 0..3 {
            let start = match members.first() {
                None => Start::Bootstrap,
                Some(first) => Start::Join(vec![first.config.peer.to_string()]),
            };
            let config = Config {
                name: NodeName::new(format!("n{n}")).unwrap(),
                region: Region::new("eu-west-1").unwrap(),
                zone: None,
                location: None,
                data: folder.path().join(format!("n{n}")),
                http: free_address(),
                api: free_address(),
                peer: free_address(),
                gossip: free_address(),
                metrics: None,
                advertise: Vec::new(),
                replace_after: std::time::Duration::from_secs(15),
                start,
                join_token: Some(TokenSource::File(folder.path().join("join-token"))),
                write_join_token: Some(folder.path().join("join-token")),
                identity_key: None,
                certificate_life: CERTIFICATE_LIFE,
                rtt: None,
                slots: 1,
                guest_threads: 1,
                https: None,
                compile_threads: 1,
                loaded_bytes_max: crate::LOADED_BYTES_MAX,
            };
            let disk = Troubled::default();
            let node = Self::node(&config, &disk).await;
            members.push(Member { node, disk, config });
        }
        let three = Self { members, _folder: folder };
        wait_until("three voters", || {
            three.members.iter().all(|member| {
                let control = member.node.control();
                let health = control.health.now();
                let known = |id: &nigh_model::NodeId| {
                    control
                        .seen
                        .now()
                        .nodes
                        .get(id)
                        .is_some_and(|seen| !seen.report.version.is_empty())
                };
                let metrics = control.raft.metrics().borrow_watched().clone();
                // In the middle of a change the two who voted before could not spare one.
                let members = metrics.membership_config.membership();
                health.voters.len() == 3
                    && members.get_joint_config().len() == 1
                    && metrics.membership_config == metrics.committed_membership_config
                    && health.leader.is_some()
                    && health.voters.iter().all(known)
            })
        })
        .await;
        three
    }

    async fn node(config: &Config, disk: &Troubled) -> Node {
        Node::start_on(config.clone(), Arc::new(disk.clone()), SEGMENT_BYTES).await.unwrap()
    }

    /// The place of the leader, as a node sees it whose disk is well.
    fn leader(&self, through: usize) -> Option<usize> {
        let leader = self.members[through].node.control().health.now().leader?;
        self.members.iter().position(|member| member.node.control().own == leader)
    }

    /// Proposes through a node; the log index.
    async fn propose(
        &self,
        through: usize,
        bytes: usize,
    ) -> Result<u64, crate::control::Unavailable> {
        let control = self.members[through].node.control();
        match control.propose(None, ballast(bytes)).await? {
            (index, Err(Refusal::StalePlan { .. })) => Ok(index),
            other => panic!("{other:?}"),
        }
    }

    /// What each node knows of the group.
    fn said(&self) -> String {
        let said = self.members.iter().map(|member| {
            let control = member.node.control();
            let metrics = control.raft.metrics().borrow_watched().clone();
            format!("\n{:?}\n{metrics}", control.health.now())
        });
        said.collect()
    }

    async fn stop(self) {
        let stops = self.members.into_iter().map(|member| Box::pin(member.node.shutdown(GRACE)));
        futures::future::join_all(stops).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_as_such_hands_over_and_recovers_by_itself() {
    let three = Three::start().await;
    let first = three.leader(0).unwrap();
    let through = (first + 1) % 3;
    three.members[first].disk.set_full(true);
    let mut held = 0;
    let began = Instant::now();
    while three.leader(through) == Some(first) || three.leader(through).is_none() {
        assert!(began.elapsed() < LIMIT, "the full leader goes on");
        if let Ok(index) = three.propose(through, 60_000).await {
            held = index;
        }
    }
    // A follower that has no room stops nobody.
    for _ in 0..10 {
        held = three.propose(through, 20_000).await.unwrap();
    }
    for member in &three.members {
        member.disk.set_full(true);
    }
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < LIMIT, "no disk has room and nothing is refused");
        match three.propose(through, 60_000).await {
            Ok(index) => held = index,
            Err(error) if error.is_disk_full() => break tonic::Status::from(error),
            Err(_) => {}
        }
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    for member in &three.members {
        member.disk.set_full(false);
    }
    let began = Instant::now();
    let last = loop {
        assert!(began.elapsed() < LIMIT, "there is room again and nothing is taken");
        if let Ok(index) = three.propose(first, 1_000).await {
            break index;
        }
    };
    assert!(last > held);
    wait_until("all have it all", || {
        three.members.iter().all(|member| member.node.control().decided.state().applied >= last)
    })
    .await;
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_fails_steps_down_and_serves_on() {
    let three = Three::start().await;
    let first = three.leader(0).unwrap();
    let through = (first + 1) % 3;
    three.members[first].disk.set_failing(true);
    let began = Instant::now();
    let index = loop {
        assert!(began.elapsed() < LIMIT, "nobody else leads: {}", three.said());
        if let Ok(index) = three.propose(through, 1_000).await {
            break index;
        }
    };
    assert_ne!(three.leader(through), Some(first));
    // It does not end, and follows what the others decide.
    wait_until("it follows", || {
        three.members[first].node.control().decided.state().applied >= index
    })
    .await;
    let ended =
        tokio::time::timeout(Duration::from_millis(500), three.members[first].node.failed());
    assert!(ended.await.is_err(), "a node whose log fails goes on serving");
    // Nothing is ever written again, although the disk is well.
    three.members[first].disk.set_failing(false);
    assert!(three.members[first].node.control().log.failure().is_some());
    // Through it, changes go to the others.
    let index = three.propose(first, 1_000).await.unwrap();
    wait_until("all have it", || {
        three.members.iter().all(|member| member.node.control().decided.state().applied >= index)
    })
    .await;
    three.stop().await;
}

/// So many proposals one after another through the leader; how long each took.
async fn latencies(three: &Three, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    while took.len() < count {
        let Some(leader) = three.leader(0) else { continue };
        let began = Instant::now();
        three.propose(leader, 500).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_delays_nobody_as_a_followers_and_hands_over_as_the_leaders() {
    const SLOW: Duration = Duration::from_millis(100);
    let three = Three::start().await;
    let leader = three.leader(0).unwrap();
    let follower = (leader + 1) % 3;
    let mut medians = Vec::new();
    for round in 0..3 {
        let quiet = latencies(&three, 40).await;
        three.members[follower].disk.set_sync_delay(SLOW);
        let slow = latencies(&three, 40).await;
        three.members[follower].disk.set_sync_delay(Duration::ZERO);
        let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
        println!(
            "round {round}: p50 {:?} and {:?}, p99 {:?} and {:?} with a follower's sync of 100 ms",
            quiet[20],
            slow[20],
            p99(&quiet),
            p99(&slow)
        );
        medians.push(slow[20]);
    }
    medians.sort();
    assert!(medians[1] < SLOW, "commits wait for the slow follower: {medians:?}");

    let leader = three.leader(0).unwrap();
    three.members[leader].disk.set_sync_delay(SLOW);
    let (mut asked, mut failed) = (0, 0);
    let began = Instant::now();
    let through = (leader + 1) % 3;
    while three.leader(through) == Some(leader) {
        assert!(began.elapsed() < LIMIT, "the slow leader goes on");
        asked += 1;
        failed += usize::from(three.propose(through, 500).await.is_err());
    }
    println!("handed over after {:?}: {asked} proposals, {failed} failed", began.elapsed());
    assert_eq!(failed, 0, "a hand-over is no outage");
    three.propose(through, 500).await.unwrap();
    three.stop().await;
}

//! More calls than a node can run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use nigh_model::{FunctionSpec, Tier};
use nigh_runtime::RequestBody;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Cluster, Deployed, HELLO, WORK, bytes, problem, until};
use crate::decided::Target;
use crate::gateway::deadline::Deadline;
use crate::gateway::run::Errand;
use crate::gateway::{find, reasons};

/// More callers than a thread takes calls on whatever it has to do.
const CALLERS: u32 = 200;

/// Callers who call again as soon as they are answered; what they were answered.
struct Flood {
    over: Arc<AtomicBool>,
    seen: Arc<Seen>,
    callers: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    answered: AtomicU32,
    overloaded: AtomicU32,
}

impl Flood {
    fn of(cluster: &Cluster, path: &'static str) -> Self {
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let url = format!("http://{}{path}", cluster.nodes[0].http).parse().unwrap();
            let (client, over, seen) = (cluster.client.clone(), over.clone(), seen.clone());
            callers.spawn(async move {
                while !over.load(Relaxed) {
                    let url: hyper::Uri = hyper::Uri::clone(&url);
                    let response = client.get(url).await.unwrap();
                    if response.status() == 200 {
                        bytes(response).await;
                        seen.answered.fetch_add(1, Relaxed);
                        continue;
                    }
                    assert_eq!(response.status(), 503);
                    let after = response.headers()["retry-after"].to_str().unwrap().to_owned();
                    assert!((1..=8).contains(&after.parse().unwrap()), "{after}");
                    let told = problem(response).await;
                    if told["reason"] == "OVERLOADED" {
                        seen.overloaded.fetch_add(1, Relaxed);
                    } else {
                        assert_eq!(told["reason"], "NO_CAPACITY");
                    }
                }
            });
        }
        Self { over, seen, callers }
    }

    async fn ends(mut self) {
        self.over.store(true, Relaxed);
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
    }
}

/// Calls of another function beside a flood.
const OTHERS: usize = 100;

fn busy(spec: &mut FunctionSpec) {
    spec.limits.concurrency = 1_000;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_asked_for_too_much_refuses_some_and_answers_the_others() {
    let work = Deployed { change: busy, ..Deployed::new("work", WORK, &[1]) };
    let cluster = Cluster::new(1, &[work]).await;
    let flood = Flood::of(&cluster, "/work?compute_ms=1");
    until("calls are refused", || flood.seen.overloaded.load(Relaxed) > 0).await;
    let before = flood.seen.answered.load(Relaxed);
    until("others are answered", || flood.seen.answered.load(Relaxed) > before + 100).await;
    assert!(cluster.nodes[0].gateway.admission().turn() > Duration::ZERO);
    flood.ends().await;
    let text = cluster.nodes[0].metrics.render();
    assert!(!text.contains("nigh_gateway_problems_total{reason=\"OVERLOADED\"} 0"), "{text}");
    cluster.nodes[0].idle().await;
    for _ in 0..100 {
        assert_eq!(cluster.get(0, "/work").await.status(), 200, "all is as before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_function_leaves_the_calls_of_another_alone() {
    let work = Deployed { change: busy, ..Deployed::new("work", WORK, &[1]) };
    let cluster = Cluster::new(1, &[work, Deployed::new("hello", HELLO, &[1])]).await;
    let flood = Flood::of(&cluster, "/work?compute_ms=1");
    let running = || cluster.nodes[0].engine.running();
    let refused = || flood.seen.overloaded.load(Relaxed);
    until("it is refused and the slots are free", || refused() > 0 && running() < 40).await;
    for _ in 0..OTHERS {
        let response = cluster.get(0, "/hello").await;
        let status = response.status();
        assert!(status == 200, "{status}: {}", problem(response).await);
    }
    let before = refused();
    until("the flood goes on and is refused", || refused() > before).await;
    flood.ends().await;
}

/// What a path calls on the first node.
fn target(cluster: &Cluster, path: &str) -> Target {
    let decision = cluster.nodes[0].decided.now();
    find::by_path(&decision, None, path).unwrap().0
}

#[tokio::test]
async fn a_herd_that_comes_while_a_function_is_loaded_is_let_in_whole() {
    let few = |spec: &mut FunctionSpec| spec.limits.concurrency = 5;
    let hello = Deployed { change: few, tier: Tier::Ready, ..Deployed::new("hello", HELLO, &[1]) };
    let cluster = Cluster::new(1, &[hello]).await;
    let target = Arc::new(target(&cluster, "/hello"));
    let mut herd = JoinSet::new();
    for _ in 0..2_000 {
        let (gateway, target) = (cluster.nodes[0].gateway.clone(), Arc::clone(&target));
        herd.spawn(async move {
            let deadline = Deadline::new(Instant::now(), 60_000, None);
            let prepared = gateway.prepare(&target, deadline).await;
            tokio::task::yield_now().await;
            prepared.map(drop)
        });
    }
    let mut let_in = 0;
    while let Some(call) = herd.join_next().await {
        if let Err(refusal) = call.unwrap() {
            panic!("after {let_in}: {refusal}");
        }
        let_in += 1;
    }
    assert_eq!(cluster.get(0, "/hello").await.status(), 200);
    let admission = cluster.nodes[0].gateway.admission();
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_started() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let target = target(&cluster, "/hello");
    let gateway = &cluster.nodes[0].gateway;
    let (request_id, entry) = ("late".parse().unwrap(), "n1".parse().unwrap());
    for (late, reason) in [(false, None), (true, Some(reasons::CALLER_DEADLINE))] {
        let began = Instant::now() - Duration::from_secs(u64::from(late));
        let deadline = Deadline::new(began, 60_000, late.then_some(Duration::from_millis(500)));
        let prepared = gateway.prepare(&target, deadline).await.ok().unwrap();
        let errand = Errand { target: &target, request_id: &request_id, entry: &entry, deadline };
        let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let ran = gateway.run(prepared, errand, Request::new(body), None).await;
        assert_eq!(ran.as_ref().err().map(super::super::problem::Problem::reason), reason);
        if let Err(problem) = ran {
            assert!(problem.to_string().contains("while it waited for its turn"), "{problem}");
        }
    }
    let text = cluster.nodes[0].metrics.render();
    assert!(text.contains("nigh_gateway_exec_seconds_count 1"), "one guest was started: {text}");
}

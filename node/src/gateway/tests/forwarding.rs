//! Calls that run on another node than they enter.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use nigh_model::{FunctionSpec, NodeId};

use super::{Cluster, Deployed, ECHO, HELLO, WORK, bytes, component, problem, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_where_it_is_warm_and_says_so() {
    let cluster = Cluster::new(2, &[Deployed::new("echo", ECHO, &[2])]).await;
    let sent = Bytes::from((0..1_000_000_u32).map(|n| n as u8).collect::<Vec<_>>());
    let request = Request::post("/echo/status/201")
        .header("x-echo-a", "b")
        .header("x-request-id", "far-1")
        .header("nigh-node", "spoofed")
        .body(Full::new(sent.clone()))
        .unwrap();
    let response = cluster.call(0, request).await;
    assert_eq!(response.status(), 201);
    for (name, value) in [
        ("nigh-node", "n2"),
        ("nigh-region", "r2"),
        ("nigh-entry", "n1"),
        ("nigh-forwarded", "1"),
        ("x-request-id", "far-1"),
        ("x-echo-a", "b"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    assert!(bytes(response).await == sent);
    let text = cluster.nodes[0].metrics.render();
    assert!(text.contains("nigh_gateway_forwarded_total 1"), "{text}");
    assert!(cluster.nodes[1].metrics.render().contains("nigh_gateway_received_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_the_same_on_another_node() {
    let cluster = Cluster::new(2, &[Deployed::new("echo", ECHO, &[2])]).await;
    let seen = |node: usize| {
        let cluster = &cluster;
        async move {
            let request = Request::get("/echo/headers?x=1")
                .header("host", "shop.example")
                .header("x-request-id", "same")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .body(Full::default())
                .unwrap();
            let response = cluster.call(node, request).await;
            let mut seen: serde_json::Value =
                serde_json::from_slice(&bytes(response).await).unwrap();
            let headers = seen["headers"].as_array_mut().unwrap();
            headers.retain(|pair| pair[0] != "spin-client-addr");
            headers.sort_by_key(ToString::to_string);
            seen
        }
    };
    assert_eq!(seen(0).await, seen(1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_names_the_node_on_which_it_happened() {
    let limits = |spec: &mut FunctionSpec| spec.limits.timeout_ms = 500;
    let work = Deployed { change: limits, ..Deployed::new("work", WORK, &[2]) };
    let trap = Deployed::new("trap", component!("tests/guests/trap.wasm"), &[2]);
    let cluster = Cluster::new(2, &[work, trap]).await;
    let response = cluster.get(0, "/trap").await;
    assert_eq!(response.status(), 500);
    let status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
    assert!(
        status.starts_with("\"n2\";error=") && status.ends_with("\"n1\";next-hop=\"n2\""),
        "{status}"
    );
    assert_eq!(problem(response).await["node"], "n2");
    let response = cluster.get(0, "/work?wait_ms=5000").await;
    assert_eq!(response.status(), 504);
    let told = problem(response).await;
    assert_eq!(told["reason"], "TIME_LIMIT");
    assert!(told["detail"].as_str().unwrap().contains("500 ms was over on node `n2`"), "{told}");
    cluster.nodes[1].idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_costs_no_call() {
    // Not allowed at the entry, or that would take the function on after a few calls.
    let far = |spec: &mut FunctionSpec| {
        spec.placement.regions =
            ["r2", "r3"].map(|name| name.to_owned().try_into().unwrap()).to_vec();
    };
    let hello = Deployed { change: far, ..Deployed::new("hello", HELLO, &[2, 3]) };
    let cluster = Cluster::new(3, &[hello]).await;
    let ran_on = |response: &hyper::Response<_>| response.headers()["nigh-node"].clone();
    let first = cluster.get(0, "/hello").await;
    let chosen = if ran_on(&first) == "n2" { 1 } else { 2 };
    let other = 3 - chosen;
    cluster.nodes[chosen].cut.cancel();
    for _ in 0..20 {
        let post = Request::post("/hello").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let response = cluster.call(0, post).await;
        assert_eq!(response.status(), 200);
        assert_eq!(ran_on(&response), format!("n{}", other + 1));
    }
    assert!(cluster.nodes[0].peers.is_ejected(NodeId(chosen as u64 + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_may_have_run_is_tried_again_only_when_that_does_no_harm() {
    for (key, status, runs) in [(None, 502, 1), (Some("k"), 200, 2)] {
        let cluster = Cluster::new(3, &[Deployed::new("work", WORK, &[2, 3])]).await;
        let running = |node: usize| cluster.nodes[node].engine.running();
        let mut post = Request::post("/work?wait_ms=1000").body(Full::default()).unwrap();
        if let Some(key) = key {
            post.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        let cutting = async {
            until("it runs", || running(1) + running(2) == 1).await;
            let runs_on = if running(1) == 1 { 1 } else { 2 };
            cluster.nodes[runs_on].cut.cancel();
        };
        let (response, ()) = tokio::join!(cluster.call(0, post), cutting);
        assert_eq!(response.status(), status);
        if status == 502 {
            assert_eq!(problem(response).await["reason"], "PEER_LOST");
        }
        let received = |at: usize| {
            let text = cluster.nodes[at].metrics.render();
            u32::from(text.contains("nigh_gateway_received_total 1"))
        };
        assert_eq!(received(1) + received(2), runs);
        // The guest whose caller is lost is stopped as well.
        cluster.nodes[1].idle().await;
        cluster.nodes[2].idle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_goes_to_one_other_node_with_its_whole_body() {
    let limits = |spec: &mut FunctionSpec| spec.limits.concurrency = 1;
    let echo = Deployed { change: limits, ..Deployed::new("echo", ECHO, &[2, 3]) };
    let cluster = Cluster::new(3, &[echo]).await;
    // Holds the only place on the node that calls from here go to.
    let mut held = cluster.get(0, "/echo/drip?n=1000&ms=50").await;
    held.frame().await.unwrap().unwrap();
    let holder = held.headers()["nigh-node"].clone();
    let sent = Bytes::from(vec![7; 2_000_000]);
    let post = Request::post("/echo").body(Full::new(sent.clone())).unwrap();
    let response = cluster.call(0, post).await;
    assert_eq!(response.status(), 200);
    assert_ne!(response.headers()["nigh-node"], holder);
    assert!(bytes(response).await == sent);
    let text = cluster.nodes[0].metrics.render();
    assert!(text.contains("nigh_gateway_retries_total 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_has_is_a_clear_error() {
    let cluster = Cluster::new(2, &[Deployed::new("hello", HELLO, &[])]).await;
    let response = cluster.get(0, "/hello").await;
    assert_eq!(response.status(), 503);
    assert_eq!(problem(response).await["reason"], "NO_NODE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_not_allowed_never_runs_a_call() {
    let only_r2 = |spec: &mut FunctionSpec| {
        spec.placement.regions = vec!["r2".to_owned().try_into().unwrap()];
    };
    let hello = Deployed { change: only_r2, ..Deployed::new("hello", HELLO, &[2]) };
    let cluster = Cluster::new(2, &[hello]).await;
    for _ in 0..10 {
        assert_eq!(cluster.get(0, "/hello").await.headers()["nigh-region"], "r2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_keeps_forwarding_becomes_warm_itself() {
    let cluster = Cluster::new(2, &[Deployed::new("hello", HELLO, &[2])]).await;
    let ends = std::time::Instant::now() + super::WAIT_MAX;
    while cluster.get(0, "/hello").await.headers()["nigh-node"] != "n1" {
        assert!(std::time::Instant::now() < ends, "it still forwards");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_sends_its_calls_elsewhere() {
    let cluster = Cluster::new(2, &[Deployed::new("hello", HELLO, &[1, 2])]).await;
    assert_eq!(cluster.get(0, "/hello").await.headers()["nigh-node"], "n1");
    cluster.gossip(Some(0));
    assert_eq!(cluster.get(0, "/hello").await.headers()["nigh-node"], "n2");
}

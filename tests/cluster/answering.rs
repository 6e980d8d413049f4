//! An app answers on every node, over HTTP and gRPC, and says where it ran.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use nigh_proto::v1::invoke_stream_request::Part as Ask;
use nigh_proto::v1::invoke_stream_response::Part as Told;
use nigh_proto::v1::{Header, InvokeRequest, InvokeStreamRequest};
use serde_json::Value;

use crate::harness::{App, Cluster, Layout, Needs, Seen, component, run, wait_until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn an_app_deployed_through_a_node_without_a_vote_answers_on_every_node_within_five_seconds() {
    run(Needs::Quiet, Duration::from_secs(90), async {
        let cluster = Cluster::start(Layout::five()).await;
        let all: Vec<usize> = (0..cluster.len()).collect();
        let voters = cluster.voters().await;
        let through = *all.iter().find(|node| !voters.contains(node)).expect("three of five vote");

        let began = Instant::now();
        let deployed = cluster.deploy(through, &App::example("echo")).await;
        cluster.answers(&all, "/echo/x", Duration::from_secs(5)).await;
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(5), "it took {took:?}");
        eprintln!("deployed and answered on five nodes after {took:?}");
        assert_eq!(deployed["changed"], true);
        let revision = deployed["revision"].as_str().unwrap().to_owned();

        for entry in all.clone() {
            check_http(&cluster, entry, &revision).await;
            check_grpc(&cluster, entry, &revision).await;
            check_grpc_stream(&cluster, entry, &revision).await;
        }
        same_everywhere(&cluster).await;
        probes_are_answered(&cluster).await;
        leadership_is_handed_over(&cluster).await;
        cluster.end().await;
    });
}

async fn check_http(cluster: &Cluster, entry: usize, revision: &str) {
    let caller = cluster.http(entry);
    let id = format!("request-{entry}");
    let request = caller
        .request(Method::GET, "/echo/headers?a=b")
        .header("x-request-id", &id)
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .header("nigh-node", "somebody")
        .body(Bytes::new());
    let answer = caller.must(request.unwrap()).await;
    answer.ok();
    assert_eq!(answer.header("nigh-entry"), cluster.node(entry).name());
    let ran = cluster.node(cluster.index_of(answer.node()));
    assert_eq!(answer.header("nigh-region"), ran.region());
    assert_eq!(answer.forwarded(), answer.node() != answer.header("nigh-entry"));
    assert_eq!(answer.header("nigh-revision"), revision);
    assert_eq!(answer.header("x-request-id"), id);
    assert!(answer.header("traceparent").starts_with(&format!("00-{TRACE}-")));
    let timing = answer.header("server-timing");
    for part in
        ["route;dur=", "queue;dur=", "hop;dur=", "start;dur=", "exec;dur=", ";desc=\"warm\""]
    {
        assert!(timing.contains(part), "{part}: {timing}");
    }

    // What the function was told.
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["path"], "/echo/headers?a=b");
    let header = |name: &str| {
        let headers = told["headers"].as_array().unwrap();
        let found: Vec<&str> = headers
            .iter()
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str().unwrap())
            .collect();
        assert!(found.len() <= 1, "{name} stands there twice: {told}");
        found.first().map(|&value| value.to_owned())
    };
    assert_eq!(header("x-request-id"), Some(id));
    assert!(header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
    assert_eq!(header("spin-base-path").as_deref(), Some("/echo"));
    assert_eq!(header("spin-path-info").as_deref(), Some("/headers"));
    assert_eq!(header("nigh-node"), None, "a caller must not speak for the platform");

    // Where the caller gives no ids, they are made.
    let answer = caller.get("/echo/x").await;
    assert!(!answer.header("x-request-id").is_empty());
    assert_eq!(answer.header("traceparent").len(), 55);
}

async fn check_grpc(cluster: &Cluster, entry: usize, revision: &str) {
    let request = InvokeRequest {
        function: "echo".into(),
        path: "/status/201?q=1".into(),
        headers: vec![Header { name: "x-echo-a".into(), value: "b".into() }],
        body: Bytes::from_static(b"sent"),
        ..InvokeRequest::default()
    };
    let answer = cluster.api(entry).invoker().invoke(request).await.unwrap().into_inner();
    assert_eq!((answer.status, answer.body.as_ref()), (201, b"sent".as_ref()));
    let header = answer.headers.iter().find(|header| header.name == "x-echo-a");
    assert_eq!(header.unwrap().value.as_ref(), b"b");
    let execution = answer.execution.unwrap();
    assert_eq!(execution.entry, cluster.node(entry).name());
    assert_eq!(execution.region, cluster.node(cluster.index_of(&execution.node)).region());
    assert_eq!(execution.forwarded, execution.node != execution.entry);
    assert_eq!(execution.revision, revision);
    assert!(!execution.cold && !execution.request_id.is_empty());
    for part in [execution.route, execution.queue, execution.start, execution.exec, execution.hop] {
        part.expect("every part of the time is told");
    }
}

async fn check_grpc_stream(cluster: &Cluster, entry: usize, revision: &str) {
    let head = InvokeRequest { function: "echo".into(), ..InvokeRequest::default() };
    let (send, parts) = tokio::sync::mpsc::channel(4);
    let part = |part| InvokeStreamRequest { part: Some(part) };
    send.send(part(Ask::Head(head))).await.unwrap();
    send.send(part(Ask::Chunk(Bytes::from_static(b"first ")))).await.unwrap();
    let parts = tokio_stream::wrappers::ReceiverStream::new(parts);
    let mut told = cluster.api(entry).invoker().invoke_stream(parts).await.unwrap().into_inner();
    let mut next = async || told.message().await.unwrap().map(|message| message.part.unwrap());
    let Some(Told::Head(head)) = next().await else { panic!("the head comes first") };
    assert_eq!(head.status, 200);
    // What was sent comes back before the rest is sent.
    assert_eq!(next().await, Some(Told::Chunk(Bytes::from_static(b"first "))));
    send.send(part(Ask::Chunk(Bytes::from_static(b"second")))).await.unwrap();
    drop(send);
    let mut body = Vec::new();
    let execution = loop {
        match next().await {
            Some(Told::Chunk(chunk)) => body.extend_from_slice(&chunk),
            Some(Told::Execution(execution)) => break execution,
            Some(Told::Trailers(trailers)) => assert!(trailers.headers.is_empty()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(body, b"second");
    assert_eq!(execution.revision, revision);
    assert_eq!(execution.entry, cluster.node(entry).name());
    assert_eq!(next().await, None, "the execution is last");
}

/// Every node tells the same of the app, the nodes and the Raft group.
async fn same_everywhere(cluster: &Cluster) {
    let all: Vec<usize> = (0..cluster.len()).collect();
    cluster.agree(&all, Duration::from_secs(10)).await;
    wait_until("all nodes tell the same of the app", Duration::from_secs(10), || async {
        let mut seen = Vec::new();
        for node in &all {
            let apps = cluster.nigh(*node, &["-o", "json", "apps"]).await.json();
            let function = &apps[0]["functions"][0];
            let ready = function["ready_nodes"].as_array().unwrap();
            // One in each region, and all of them warm.
            if ready.len() < 3 || function["warm_nodes"] != function["ready_nodes"] {
                return Seen::NotYet(apps);
            }
            seen.push(apps);
        }
        let same = seen.iter().all(|apps| *apps == seen[0]);
        Seen::when(same, Value::Array(seen))
    })
    .await;
    let nodes = cluster.nigh(0, &["-o", "json", "nodes"]).await.json();
    for node in nodes.as_array().unwrap() {
        for field in [
            "name",
            "id",
            "region",
            "zone",
            "state",
            "raft",
            "http",
            "api",
            "peer",
            "ready",
            "warm",
            "running",
            "cpu",
            "memory_bytes",
            "rtt_ms",
            "version",
        ] {
            assert!(node.get(field).is_some(), "no {field}: {node}");
        }
        assert_eq!(node["state"], "alive");
    }
    let raft = cluster.nigh(4, &["-o", "json", "operator", "raft"]).await.json();
    assert_eq!(raft["voters"].as_array().unwrap().len(), 3, "{raft}");
    let regions: std::collections::BTreeSet<&str> =
        raft["voters"].as_array().unwrap().iter().map(|v| v["region"].as_str().unwrap()).collect();
    assert_eq!(regions.len(), 3, "voters are spread over the regions: {raft}");
}

/// What probes and Prometheus ask, on the API's port.
async fn probes_are_answered(cluster: &Cluster) {
    let admin = cluster.credentials();
    for node in 0..cluster.len() {
        let port = cluster.node(node).api();
        let healthy = admin.get(port, "/healthz", None).await;
        assert!(healthy.starts_with("HTTP/1.1 200") && healthy.ends_with("ok\n"), "{healthy}");
        let ready = admin.get(port, "/readyz", None).await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        let metrics = admin.get(port, "/metrics", Some(&admin.bearer())).await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("nigh_"), "{metrics}");
    }
}

async fn leadership_is_handed_over(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let voters = cluster.voters().await;
    let heir = *voters.iter().find(|voter| **voter != leader).expect("three vote");
    let name = cluster.node(heir).name();
    let through = (0..cluster.len()).find(|node| !voters.contains(node)).expect("two do not");
    cluster.nigh(through, &["operator", "transfer-leader", name]).await.succeeded();
    wait_until("everybody knows the new leader", Duration::from_secs(5), || async {
        let mut known = Vec::new();
        for node in 0..cluster.len() {
            known.push(cluster.api(node).status().await.map(|status| status.leader));
        }
        Seen::when(known.iter().all(|leader| leader.as_ref().is_ok_and(|l| l == name)), known)
    })
    .await;
    cluster.deploy(leader, &App::new("after", component("hello"))).await;
}

//! Calls over gRPC.

use bytes::Bytes;
use futures::StreamExt as _;
use nigh_proto::status;
use nigh_proto::v1::invoke_stream_request::Part as Asked;
use nigh_proto::v1::invoke_stream_response::Part;
use nigh_proto::v1::invoker_client::InvokerClient;
use nigh_proto::v1::{Header, Headers, InvokeRequest, InvokeStreamRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::gateway::invoker::PublicInvoker;
use nigh_proto::v1::invoker_server::Invoker as _;

use super::{Cluster, Deployed, ECHO, WORK, component};

async fn client(cluster: &Cluster, node: usize) -> InvokerClient<Channel> {
    let address = format!("http://{}", cluster.nodes[node].api);
    InvokerClient::connect(address).await.unwrap().max_decoding_message_size(11 << 20)
}

fn call(function: &str, path: &str, body: &'static [u8]) -> InvokeRequest {
    InvokeRequest {
        function: function.into(),
        path: path.into(),
        body: Bytes::from_static(body),
        headers: vec![Header { name: "x-echo-a".into(), value: Bytes::from_static(b"b") }],
        ..InvokeRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_has_the_function_s_own_answer_and_its_execution() {
    let cluster = Cluster::new(2, &[Deployed::new("echo", ECHO, &[1])]).await;
    for node in [0, 1] {
        let mut client = client(&cluster, node).await;
        let mut request = Request::new(call("echo", "/status/503", b"tea"));
        request.metadata_mut().insert("x-request-id", "g-1".parse().unwrap());
        let answer = client.invoke(request).await.unwrap().into_inner();
        assert_eq!((answer.status, &answer.body[..]), (503, &b"tea"[..]));
        assert!(answer.headers.iter().any(|h| h.name == "x-echo-a" && h.value == "b"));
        let execution = answer.execution.unwrap();
        assert_eq!((&*execution.node, &*execution.region), ("n1", "r1"));
        assert_eq!(execution.entry, ["n1", "n2"][node]);
        assert_eq!(execution.forwarded, node == 1);
        assert_eq!((&*execution.request_id, &*execution.revision), ("g-1", "r10"));
        assert!(execution.exec.is_some() && !execution.cold);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guest_sees_the_same_as_over_http() {
    let cluster = Cluster::new(1, &[Deployed::new("echo", ECHO, &[1])]).await;
    let mut client = client(&cluster, 0).await;
    let answer = client.invoke(call("echo/main", "/headers?x=1", b"")).await.unwrap().into_inner();
    let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&seen["method"], &seen["path"]), (&"GET".into(), &"/echo/headers?x=1".into()));
    let headers = seen["headers"].as_array().unwrap();
    let value =
        |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].clone());
    assert_eq!(value("host").unwrap(), "localhost");
    assert_eq!(value("spin-path-info").unwrap(), "/headers");
    assert_eq!(value("spin-full-url").unwrap(), "http://localhost/echo/headers?x=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_statuses_with_a_reason() {
    let small = |spec: &mut nigh_model::FunctionSpec| spec.limits.body_bytes = 3;
    let apps = [
        Deployed { change: small, ..Deployed::new("echo", ECHO, &[1]) },
        Deployed::new("work", WORK, &[1]),
        Deployed::new("trap", component!("tests/guests/trap.wasm"), &[1]),
    ];
    let cluster = Cluster::new(2, &apps).await;
    for node in [0, 1] {
        let mut client = client(&cluster, node).await;
        for (request, code, reason) in [
            (call("eco", "", b""), Code::NotFound, "NO_SUCH_APP"),
            (call("echo/mian", "", b""), Code::NotFound, "NO_SUCH_FUNCTION"),
            (call("echo", "x", b""), Code::InvalidArgument, "INVALID_CALL"),
            (call("echo", "", b"long"), Code::InvalidArgument, "BODY_TOO_LARGE"),
            (call("trap", "", b""), Code::Internal, "GUEST_TRAPPED"),
            (call("work", "/?bytes=20000000", b""), Code::Internal, "ANSWER_TOO_LARGE"),
        ] {
            let error = client.invoke(request).await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert_eq!(status::reason(&error).as_deref(), Some(reason), "{error}");
        }
        // Without a transport, which has a timer of its own and says less.
        let invoker = PublicInvoker { gateway: cluster.nodes[node].gateway.clone() };
        let mut request = Request::new(call("work", "/?wait_ms=5000", b""));
        request.metadata_mut().insert("grpc-timeout", "400m".parse().unwrap());
        let error = invoker.invoke(request).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert_eq!(status::reason(&error).as_deref(), Some("CALLER_DEADLINE"), "{error}");
    }
    cluster.nodes[0].idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_carry_bodies_and_trailers_both_ways_and_end_with_the_execution() {
    let cluster = Cluster::new(2, &[Deployed::new("echo", ECHO, &[1])]).await;
    for node in [0, 1] {
        let mut client = client(&cluster, node).await;
        let head = call("echo", "", b"");
        let chunks = (0..100_u8).map(|n| Asked::Chunk(Bytes::from(vec![n; 10_000])));
        let sum = Header { name: "x-sum".into(), value: Bytes::from_static(b"7") };
        let trailers = Asked::Trailers(Headers { headers: vec![sum.clone()] });
        let parts: Vec<_> =
            [Asked::Head(head)].into_iter().chain(chunks).chain([trailers]).collect();
        let messages = parts.into_iter().map(|part| InvokeStreamRequest { part: Some(part) });
        let answer = client.invoke_stream(futures::stream::iter(messages)).await.unwrap();
        let parts: Vec<_> =
            answer.into_inner().map(|message| message.unwrap().part.unwrap()).collect().await;
        let Some(Part::Head(head)) = parts.first() else { panic!("{:?}", parts.first()) };
        assert_eq!(head.status, 200);
        let bytes: usize = parts
            .iter()
            .map(|part| if let Part::Chunk(data) = part { data.len() } else { 0 })
            .sum();
        assert_eq!(bytes, 1_000_000);
        let [.., Part::Trailers(trailers), Part::Execution(execution)] = &parts[..] else {
            panic!("{:?}", parts.last())
        };
        assert_eq!(trailers.headers, [sum]);
        assert_eq!(execution.forwarded, node == 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_prints_is_in_the_book_of_its_node() {
    let cluster = Cluster::new(2, &[Deployed::new("echo", ECHO, &[1])]).await;
    let mut request = Request::new(call("echo", "/log?msg=hi", b""));
    request.metadata_mut().insert("x-request-id", "log-1".parse().unwrap());
    client(&cluster, 1).await.invoke(request).await.unwrap();
    cluster.nodes[0].idle().await;
    let text = cluster.nodes[0].metrics.render();
    assert!(text.contains("nigh_logs_lines_total 2"), "{text}");
    assert!(cluster.nodes[1].metrics.render().contains("nigh_logs_lines_total 0"));
}

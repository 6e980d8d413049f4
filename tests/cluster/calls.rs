//! HTTP as it should be, at home and over one hop: limits, streams, trailers, callers that go.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version};
use tonic::Code;

use crate::harness::{
    Answer, App, Caller, Cluster, Layout, Needs, Raw, Seen, component, run, wait_until,
};

/// Calls enter here and are forwarded.
const NEAR: usize = 0;
/// Calls run here.
const FAR: usize = 1;
const FAR_REGION: &str = "us-east-1";

/// Everything runs on the second node.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(Layout::of(&["eu-west-1", FAR_REGION])).await;
    let apps = [
        App::example("echo").with("limits = { body = \"100KiB\", timeout = \"20s\" }"),
        App::example("work").with("limits = { concurrency = 3, timeout = \"20s\" }"),
        App::new("slow", component("work")).with("limits = { timeout = \"500ms\" }"),
        App::example("hello"),
    ];
    for app in apps {
        cluster.deploy(NEAR, &app.regions(&[FAR_REGION])).await;
    }
    for path in ["/echo/x", "/work", "/slow", "/hello"] {
        cluster.answers(&[NEAR, FAR], path, Duration::from_secs(5)).await;
    }
    cluster
}

#[test]
fn http_is_the_same_at_home_and_over_one_hop() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = cluster().await;
        for entry in [FAR, NEAR] {
            eprintln!("entry {}", cluster.node(entry).name());
            bodies_come_back(&cluster, entry).await;
            a_head_has_no_body(&cluster.http(entry)).await;
            trailers_pass(cluster.node(entry).http()).await;
            trailers_pass_over_http2(cluster.node(entry).http()).await;
            a_body_streams_both_ways(cluster.node(entry).http()).await;
            expect_continue_is_answered(cluster.node(entry).http()).await;
            connections_are_kept(cluster.node(entry).http()).await;
            a_body_beyond_its_limit_is_refused(&cluster, entry).await;
            a_time_limit_is_named(&cluster, entry).await;
            what_is_not_there_is_said_with_the_nearest(&cluster, entry).await;
            the_deadline_of_a_grpc_caller_counts(&cluster, entry).await;
        }
        cluster.end().await;
    });
}

#[test]
fn too_many_calls_are_refused_and_a_caller_that_goes_ends_its_call() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = cluster().await;
        for entry in [FAR, NEAR] {
            eprintln!("entry {}", cluster.node(entry).name());
            calls_beyond_the_concurrency_are_refused(&cluster, entry).await;
            a_caller_that_goes_ends_its_call(&cluster, entry).await;
            a_caller_that_goes_over_grpc_ends_its_call(&cluster, entry).await;
        }
        cluster.end().await;
    });
}

/// Over HTTP/2 a server resets the stream of a request that it did not read to its end, and a connection
/// usually bears 1,024 of these. The calls of one caller go over one connection between the nodes.
#[test]
fn a_function_that_reads_no_body_may_be_called_from_afar_as_often_as_one_likes() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = cluster().await;
        let caller = cluster.http(NEAR);
        let body = Bytes::from(vec![b'n'; 32 << 10]);
        for _ in 0..1_200 {
            let answer = caller.post("/hello", body.clone()).await;
            assert!(answer.ok().forwarded());
        }
        cluster.end().await;
    });
}

async fn bodies_come_back(cluster: &Cluster, entry: usize) {
    let body: Vec<u8> = (0..90_000_u32).map(|n| (n % 251) as u8).collect();
    for caller in [cluster.http(entry), Caller::h2c(cluster.node(entry).http())] {
        let answer = caller.post("/echo/x", body.clone()).await;
        assert_eq!(answer.ok().body, body);
        assert_eq!(answer.forwarded(), entry != FAR);
        let answer = caller.get("/echo/status/418").await;
        assert_eq!(answer.status, 418, "the status is the function's own");
    }
    let answer = Caller::h2c(cluster.node(entry).http()).get("/hello").await;
    assert_eq!(answer.ok().version, Version::HTTP_2);
    // `/app` and `/app/` are the same.
    assert_eq!(cluster.http(entry).get("/hello/").await.ok().text(), "Hello, nigh!\n");
}

async fn a_head_has_no_body(caller: &Caller) {
    let request = caller.request(Method::HEAD, "/work?bytes=5000").body(Bytes::new());
    let answer = caller.must(request.unwrap()).await;
    answer.ok();
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("content-length"), "5000");
    let request = caller.request(Method::HEAD, "/nothing").body(Bytes::new());
    let answer = caller.must(request.unwrap()).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
}

async fn trailers_pass(port: u16) {
    let mut raw = Raw::connect(port).await;
    raw.send(
        "POST /echo/x HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: x-sum\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n",
    )
    .await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("4\r\nbody\r\n"), "{answer}");
    assert!(body.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{answer}");
}

async fn trailers_pass_over_http2(port: u16) {
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers.clone())];
    let frames = frames.map(Ok::<_, std::convert::Infallible>);
    let request = http::Request::post(format!("http://127.0.0.1:{port}/echo/x"));
    let request = request.body(StreamBody::new(futures::stream::iter(frames))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers(), Some(&trailers));
    assert_eq!(whole.to_bytes(), "body");
    connection.abort();
}

/// The first chunk comes back before the second is sent.
async fn a_body_streams_both_ways(port: u16) {
    let mut raw = Raw::connect(port).await;
    raw.send("POST /echo/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    raw.send("6\r\nfirst.\r\n").await;
    let head = raw.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    raw.until("6\r\nfirst.\r\n").await;
    raw.send("7\r\nsecond.\r\n").await;
    raw.until("7\r\nsecond.\r\n").await;
    raw.send("0\r\n\r\n").await;
    raw.until("0\r\n\r\n").await;
}

async fn expect_continue_is_answered(port: u16) {
    let mut raw = Raw::connect(port).await;
    raw.send(
        "POST /echo/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    )
    .await;
    let first = raw.until("\r\n\r\n").await;
    assert!(first.starts_with("HTTP/1.1 100"), "{first}");
    raw.send("body").await;
    let head = raw.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

async fn connections_are_kept(port: u16) {
    let mut raw = Raw::connect(port).await;
    for _ in 0..3 {
        raw.send("GET /work HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = raw.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        raw.until("}\n").await;
    }
}

async fn a_body_beyond_its_limit_is_refused(cluster: &Cluster, entry: usize) {
    let body = vec![b'x'; 101 << 10];
    let answer = cluster.http(entry).post("/echo/x", body.clone()).await;
    let problem = answer.problem(413, "BODY_TOO_LARGE");
    assert!(problem.detail.contains("102400"), "{}", problem.detail);
    // Its length not announced: the limit holds while it comes, and as the function has begun to
    // answer by then, the answer is cut and does not end as if it were whole.
    let mut raw = Raw::connect(cluster.node(entry).http()).await;
    raw.send("POST /echo/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = "x".repeat(16 << 10);
    for _ in 0..7 {
        raw.try_send(&format!("4000\r\n{chunk}\r\n")).await;
    }
    raw.try_send("0\r\n\r\n").await;
    let answer = raw.rest().await;
    let came = answer.matches('x').count();
    assert!(came <= 100 << 10, "{came} bytes came back");
    assert!(!answer.ends_with("\r\n0\r\n\r\n"), "an answer without its end looks whole");
    let request = nigh_proto::v1::InvokeRequest {
        function: "echo".into(),
        body: body.into(),
        ..Default::default()
    };
    let status = cluster.api(entry).invoker().invoke(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some("BODY_TOO_LARGE"));
}

async fn a_time_limit_is_named(cluster: &Cluster, entry: usize) {
    let answer = cluster.http(entry).get("/slow?wait_ms=10000").await;
    let problem = answer.problem(504, "TIME_LIMIT");
    assert!(problem.detail.contains("500 ms"), "{}", problem.detail);
    assert_eq!(problem.node, cluster.node(FAR).name());
    let took = answer.took;
    assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

async fn what_is_not_there_is_said_with_the_nearest(cluster: &Cluster, entry: usize) {
    let answer = cluster.http(entry).get("/helo").await;
    let problem = answer.problem(404, "NO_SUCH_APP");
    assert!(problem.detail.contains("`helo`"), "{}", problem.detail);
    assert!(answer.text().contains("`hello`"), "{}", answer.text());
    let status = cluster.api(entry).invoke("helo", "/").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some("NO_SUCH_APP"));
    let status = cluster.api(entry).invoke("hello/wrong", "/").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some("NO_SUCH_FUNCTION"));
    let refused = cluster.nigh(entry, &["invoke", "helo"]).await;
    refused.refused(3, &["`helo`", "`hello`"]);
}

async fn the_deadline_of_a_grpc_caller_counts(cluster: &Cluster, entry: usize) {
    let mut request = tonic::Request::new(nigh_proto::v1::InvokeRequest {
        function: "work".into(),
        path: "/?wait_ms=10000".into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(700));
    let began = std::time::Instant::now();
    let status = cluster.api(entry).invoker().invoke(request).await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    running(cluster, 0).await;
}

/// Waits until so many guests run on the far node.
async fn running(cluster: &Cluster, wanted: u32) {
    let name = format!("{wanted} guests run");
    wait_until(&name, Duration::from_secs(8), || async {
        let nodes = cluster.api(FAR).nodes().await.unwrap();
        let far = nodes.into_iter().find(|node| node.name == cluster.node(FAR).name()).unwrap();
        Seen::when(far.running == wanted, far.running)
    })
    .await;
}

async fn calls_beyond_the_concurrency_are_refused(cluster: &Cluster, entry: usize) {
    let caller = cluster.http(entry);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.get("/work?wait_ms=4000").await })
        })
        .collect();
    running(cluster, 3).await;
    let answer: Answer = caller.get("/work").await;
    answer.problem(429, "CONCURRENCY_LIMIT");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    let status = cluster.api(entry).invoke("work", "/").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some("CONCURRENCY_LIMIT"));
    // Another function is not concerned.
    caller.get("/hello").await.ok();
    for waiting in waiting {
        waiting.await.unwrap().ok();
    }
    caller.get("/work").await.ok();
}

async fn a_caller_that_goes_ends_its_call(cluster: &Cluster, entry: usize) {
    running(cluster, 0).await;
    let mut raw = Raw::connect(cluster.node(entry).http()).await;
    raw.send("GET /work?wait_ms=19000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    running(cluster, 1).await;
    drop(raw);
    running(cluster, 0).await;
    // The same in the middle of an answer.
    let mut raw = Raw::connect(cluster.node(entry).http()).await;
    raw.send("GET /echo/drip?n=1000&ms=100 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    raw.until("drip 1\n").await;
    running(cluster, 1).await;
    drop(raw);
    running(cluster, 0).await;
}

async fn a_caller_that_goes_over_grpc_ends_its_call(cluster: &Cluster, entry: usize) {
    let api = cluster.api(entry);
    let call = tokio::spawn(async move { api.invoke("work", "/?wait_ms=19000").await });
    running(cluster, 1).await;
    call.abort();
    running(cluster, 0).await;
}

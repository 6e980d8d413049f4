//! Calls over HTTP to functions on the node that they enter.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Cluster, Deployed, ECHO, HELLO, WORK, bytes, problem, until};

/// Sends bytes as they are and reads until the server closes.
async fn raw(cluster: &Cluster, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut off may end with an error.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_answers_and_the_answer_says_where_and_how_it_ran() {
    let cluster = Cluster::new(1, &[Deployed::new("echo", ECHO, &[1])]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::post("/echo/status/418?x=1")
        .header("x-echo-a", "b")
        .header("x-request-id", "my-id")
        .header("traceparent", trace)
        .body(Full::new(Bytes::from_static(b"tea")))
        .unwrap();
    let response = cluster.call(0, request).await;
    assert_eq!(response.status(), 418, "a function's own status is not touched");
    for (name, value) in [
        ("nigh-node", "n1"),
        ("nigh-region", "r1"),
        ("nigh-entry", "n1"),
        ("nigh-forwarded", "0"),
        ("nigh-revision", "r10"),
        ("x-request-id", "my-id"),
        ("traceparent", trace),
        ("x-echo-a", "b"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    let timing = response.headers()["server-timing"].to_str().unwrap();
    for part in ["route;dur=", "queue;dur=", "hop;dur=0.000", ";desc=\"warm\"", "exec;dur="] {
        assert!(timing.contains(part), "{timing}");
    }
    assert_eq!(bytes(response).await, "tea");

    let response = cluster.get(0, "/echo/x/headers?y=2").await;
    let seen: serde_json::Value = serde_json::from_slice(&bytes(response).await).unwrap();
    assert_eq!(seen["path"], "/echo/x/headers?y=2");
    let sent = seen["headers"].as_array().unwrap();
    let value = |name: &str| sent.iter().find(|pair| pair[0] == name).map(|pair| pair[1].clone());
    assert_eq!(value("spin-path-info").unwrap(), "/x/headers");
    assert_eq!(value("spin-base-path").unwrap(), "/echo");
    assert!(value("x-request-id").is_some() && value("traceparent").is_some());
    let text = cluster.nodes[0].metrics.render();
    assert!(text.contains("nigh_gateway_calls_total{outcome=\"ok\",place=\"here\"} 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways_with_trailers_over_both_protocols() {
    let cluster = Cluster::new(1, &[Deployed::new("echo", ECHO, &[1])]).await;
    let sent = Bytes::from((0..3_000_000_u32).map(|n| n as u8).collect::<Vec<_>>());
    let request = Request::post("/echo").body(Full::new(sent.clone())).unwrap();
    assert_eq!(bytes(cluster.call(0, request).await).await, sent);

    let answer = raw(
        &cluster,
        b"POST /echo HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\
          trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");

    let stream = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut h2, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let frames = vec![
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(b"abc"))),
        Ok(http_body::Frame::trailers(
            [("x-sum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect(),
        )),
    ];
    let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
    let request = Request::post("http://a/echo").body(body).unwrap();
    let whole = h2.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-sum"], "7");
    assert_eq!(whole.to_bytes(), "abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_has_headers_and_no_body() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let answer =
        raw(&cluster, b"HEAD /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    cluster.nodes[0].idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named_with_the_nearest_that_is() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let response = cluster.get(0, "/helo/x").await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["nigh-entry"], "n1");
    assert!(response.headers().contains_key("x-request-id"));
    let told = problem(response).await;
    assert_eq!(told["reason"], "NO_SUCH_APP");
    assert_eq!(told["hint"], "did you mean `hello`?");
    assert_eq!(problem(cluster.get(0, "/").await).await["reason"], "NO_SUCH_ROUTE");
    let answer =
        raw(&cluster, b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 501") && answer.contains("METHOD_NOT_SUPPORTED"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_its_limit_is_refused_before_it_is_sent_or_when_it_is_met() {
    let change = |spec: &mut nigh_model::FunctionSpec| spec.limits.body_bytes = 1_000;
    let deployed = Deployed { change, ..Deployed::new("echo", ECHO, &[1]) };
    let cluster = Cluster::new(1, &[deployed]).await;
    let asks_first = b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\
                       content-length: 1001\r\n\r\n";
    let answer = raw(&cluster, asks_first).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "no 100 before: {answer}");
    assert!(answer.contains("BODY_TOO_LARGE"), "{answer}");

    let mut chunked =
        b"POST /echo/status/200 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        chunked.extend_from_slice(format!("1f4\r\n{}\r\n", "x".repeat(500)).as_bytes());
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = raw(&cluster, &chunked).await;
    let refused = answer.starts_with("HTTP/1.1 413") && answer.contains("BODY_TOO_LARGE");
    let echoed = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(refused || echoed.matches('x').count() <= 1_000, "no more reached it: {answer}");

    let fits = b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\n\
                 content-length: 3\r\n\r\nabc";
    let answer = raw(&cluster, fits).await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_concurrency_a_function_is_refused_and_its_neighbour_is_not() {
    let change = |spec: &mut nigh_model::FunctionSpec| spec.limits.concurrency = 1;
    let work = Deployed { change, ..Deployed::new("work", WORK, &[1]) };
    let cluster = Cluster::new(1, &[work, Deployed::new("hello", HELLO, &[1])]).await;
    let running = cluster.get(0, "/work?wait_ms=1500");
    let refused = async {
        until("it runs", || cluster.nodes[0].engine.running() == 1).await;
        let response = cluster.get(0, "/work").await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        let told = problem(response).await;
        assert_eq!(told["reason"], "CONCURRENCY_LIMIT");
        assert_eq!(cluster.get(0, "/hello").await.status(), 200);
    };
    let (ran, ()) = tokio::join!(running, refused);
    assert_eq!(ran.status(), 200);
    bytes(ran).await;
    assert_eq!(cluster.get(0, "/work").await.status(), 200, "the place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_and_too_large_headers_are_refused_over_http2_too() {
    let cluster = Cluster::new(1, &[Deployed::new("echo", ECHO, &[1])]).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let url = format!("http://{}/echo/headers", cluster.nodes[0].http);
    let with = |headers: usize| {
        let mut request = Request::get(&url).body(Full::<Bytes>::default()).unwrap();
        for n in 0..headers {
            let name: hyper::header::HeaderName = format!("x-{n}").parse().unwrap();
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        request
    };
    assert_eq!(client.request(with(HEADERS_MAX)).await.unwrap().status(), 200);
    let response = client.request(with(HEADERS_MAX + 1)).await.unwrap();
    assert_eq!(response.status(), 431);
    let told = problem(response).await;
    assert_eq!((&told["reason"], &told["status"]), (&"INVALID_CALL".into(), &431.into()));

    // The parser of HTTP/1 leaves room for a first line, which is none for headers.
    let large = "x".repeat(HEADER_BYTES_MAX);
    let sent =
        format!("GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-a: {large}\r\n\r\n");
    let answer = raw(&cluster, sent.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("INVALID_CALL"), "{answer}");
}

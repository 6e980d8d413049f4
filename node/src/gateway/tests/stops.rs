//! Guests that do not end well, callers that go, and an orderly stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use nigh_model::{FunctionSpec, RequestId};

use super::super::call::Ask;
use super::super::deadline::Deadline;
use super::super::find;
use super::super::headers::Description;
use super::super::trace::Trace;
use super::{Cluster, Deployed, ECHO, HELLO, WORK, bytes, component, problem, until};

fn deployed(
    app: &'static str,
    component: &'static [u8],
    change: fn(&mut FunctionSpec),
) -> Deployed {
    Deployed { change, ..Deployed::new(app, component, &[1]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_fail_has_its_reason() {
    let limits = |spec: &mut FunctionSpec| {
        spec.limits.timeout_ms = 1_000;
        spec.limits.cpu_ms = 300;
        spec.limits.memory_bytes = 16 << 20;
    };
    let guests = [
        ("trap", component!("tests/guests/trap.wasm"), 500, "GUEST_TRAPPED"),
        ("never", component!("tests/guests/never-answers.wasm"), 502, "NO_ANSWER"),
        ("loop", component!("tests/guests/endless-loop.wasm"), 500, "CPU_LIMIT"),
        ("sleep", component!("tests/guests/sleep-forever.wasm"), 504, "TIME_LIMIT"),
        ("memory", component!("tests/guests/memory-eater.wasm"), 500, "MEMORY_LIMIT"),
    ];
    let apps: Vec<_> = guests.iter().map(|(app, wasm, ..)| deployed(app, wasm, limits)).collect();
    let cluster = Cluster::new(1, &apps).await;
    for (app, _, status, reason) in guests {
        let began = Instant::now();
        let response = cluster.get(0, &format!("/{app}")).await;
        assert_eq!(response.status(), status, "{app}");
        let told = problem(response).await;
        assert_eq!(told["reason"], reason, "{told}");
        assert_eq!(told["node"], "n1");
        assert!(began.elapsed() < Duration::from_millis(1_250), "{app}: {:?}", began.elapsed());
    }
    cluster.nodes[0].idle().await;
    let text = cluster.nodes[0].metrics.render();
    assert!(
        text.contains("nigh_gateway_calls_total{outcome=\"function_error\",place=\"here\"} 5"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let half = Deployed::new("half", component!("tests/guests/half-body.wasm"), &[1]);
    let cluster = Cluster::new(2, &[half]).await;
    for node in [0, 1] {
        let response = cluster.get(node, "/half").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["nigh-forwarded"], ["0", "1"][node]);
        assert!(response.into_body().collect().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_stops_its_guest_wherever_that_runs() {
    let apps = [Deployed::new("work", WORK, &[1]), Deployed::new("echo", ECHO, &[1])];
    let cluster = Cluster::new(2, &apps).await;
    for node in [0, 1] {
        for path in ["/work?wait_ms=60000", "/echo/drip?n=1000&ms=100"] {
            let call = async {
                let mut body = cluster.get(node, path).await.into_body();
                while body.frame().await.is_some() {}
            };
            let goes = until("a guest runs", || cluster.nodes[0].engine.running() > 0);
            tokio::select! {
                () = call => panic!("it was to wait"),
                () = async { goes.await; tokio::time::sleep(Duration::from_millis(100)).await } => {}
            }
            cluster.nodes[0].idle().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_running_calls_end_and_takes_no_more() {
    let apps = [Deployed::new("work", WORK, &[1]), Deployed::new("hello", HELLO, &[1])];
    let cluster = Cluster::new(1, &apps).await;
    let node = &cluster.nodes[0];
    let running = async {
        let request = Request::get("/work?wait_ms=500").body(Full::<Bytes>::default()).unwrap();
        let response = cluster.call(0, request).await;
        assert_eq!(response.status(), 200);
        bytes(response).await;
    };
    let stopping = async {
        until("it runs", || node.engine.running() == 1).await;
        node.stop.cancel();
    };
    tokio::join!(running, stopping);
    let refused = tokio::net::TcpStream::connect(node.http).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_takes_nothing_keeps_no_place_beyond_the_deadline() {
    let drip = deployed("drip", ECHO, |spec| {
        spec.limits.concurrency = 1;
        spec.limits.timeout_ms = 300;
    });
    let cluster = Cluster::new(1, &[drip]).await;
    let gateway = &cluster.nodes[0].gateway;
    let decision = gateway.core().decided.now();
    let path = "/drip/drip?n=10000&ms=5";
    let (target, matched) = find::by_path(&decision, None, "/drip/drip").unwrap();
    let began = tokio::time::Instant::now();
    let deadline = Deadline::new(began, target.spec.limits.timeout_ms, None);
    let body = Full::default().map_err(|never| match never {}).boxed_unsync();
    let ask = Ask {
        target,
        request: Request::get(path).body(body).unwrap(),
        description: Description {
            uri: path.parse().unwrap(),
            matched,
            url: format!("http://localhost{path}"),
            from: None,
            trace: Trace::of(&http::HeaderMap::new()),
            is_tls: false,
        },
        request_id: RequestId::new("first").unwrap(),
        began,
        deadline,
    };
    let never_polled = gateway.call(ask).await.ok().unwrap();
    let ends = Instant::now() + super::WAIT_MAX;
    loop {
        let response = cluster.get(0, "/drip/headers").await;
        if response.status() == 200 {
            break;
        }
        assert_eq!(problem(response).await["reason"], "CONCURRENCY_LIMIT");
        assert!(Instant::now() < ends, "waited in vain until the place is free");
    }
    assert!(deadline.is_over(tokio::time::Instant::now()), "the place is the guest's to the end");
    drop(never_polled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_serves_on_and_tells_callers_to_go() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let node = &cluster.nodes[0];
    let stays = cluster.get(0, "/hello").await;
    assert!(stays.headers().get("connection").is_none());
    bytes(stays).await;
    node.stopping.leaving.cancel();
    for _ in 0..2 {
        let goes = cluster.get(0, "/hello").await;
        assert_eq!(
            (goes.status().as_u16(), &goes.headers()["connection"]),
            (200, &"close".parse().unwrap())
        );
        bytes(goes).await;
    }
    until("the callers have gone", || node.metrics.connections().get() == 0).await;
    let stream = tokio::net::TcpStream::connect(node.http).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let ended = tokio::spawn(connection);
    // Both sides have said what they say first: who comes late is not sent away without an answer.
    until("the caller is there", || node.metrics.connections().get() == 1).await;
    let request = Request::get("http://localhost/hello").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    // GOAWAY ends the connection without an error, while the sender still holds it.
    let in_time = tokio::time::timeout(super::WAIT_MAX, ended).await;
    assert!(matches!(in_time, Ok(Ok(Ok(())))), "{in_time:?}");
}

/// What the kernel has connected before the listener closes is still answered.
#[tokio::test]
async fn who_was_connected_and_not_yet_accepted_is_served_at_the_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut callers = Vec::new();
    for _ in 0..3 {
        callers.push(tokio::net::TcpStream::connect(at).await.unwrap());
    }
    assert_eq!(super::super::listen::waiting(listener).len(), 3);
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
}

//! What a well-meaning guest gets and gives: requests, bodies, trailers, environment, output.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use nigh_runtime::{BodyError, Call, Engine, Failure, Stream};
use support::{Logs, ask, call, empty, full, get, load, post, until};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| support::engine(32, 2));

#[tokio::test]
async fn rust_and_c_guests_answer() {
    for name in ["hello", "greet-c", "work", "body-ignored"] {
        let answer = ask(&load(&ENGINE, name), get("/")).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert!(!answer.text.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn each_call_has_an_instance_of_its_own() {
    let function = load(&ENGINE, "counter-state");
    for _ in 0..50 {
        assert_eq!(ask(&function, get("/")).await.unwrap().text, "1\n");
    }
}

#[tokio::test]
async fn a_guest_sees_method_path_and_headers_but_no_hop_by_hop_ones() {
    let request = Request::builder()
        .method(Method::PUT)
        .uri("/a/headers?b=c")
        .header("host", "shop.example:8080")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("x-kept", "yes")
        .body(empty())
        .unwrap();
    let answer = ask(&load(&ENGINE, "echo"), call(request)).await.unwrap();
    assert!(answer.text.contains(r#""method":"PUT""#), "{}", answer.text);
    assert!(answer.text.contains("/a/headers?b=c"), "{}", answer.text);
    assert!(answer.text.contains(r#"["host","shop.example:8080"]"#), "{}", answer.text);
    assert!(answer.text.contains(r#"["x-kept","yes"]"#), "{}", answer.text);
    assert!(
        !answer.text.contains("x-hop") && !answer.text.contains("keep-alive"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn status_headers_and_trailers_pass_through() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    let body = full("some text").with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
    let mut call = post("/status/418", body.boxed_unsync());
    call.request.headers_mut().insert("x-echo-color", HeaderValue::from_static("red"));
    let answer = ask(&load(&ENGINE, "echo"), call).await.unwrap();
    assert_eq!((answer.status, answer.text.as_str()), (418, "some text"));
    assert_eq!(answer.headers["x-echo-color"], "red");
    assert_eq!(answer.trailers, Some(trailers));
}

#[tokio::test]
async fn a_guest_has_its_environment_and_no_other() {
    let env = Arc::new([("COLOR".to_owned(), "red".to_owned())]);
    let answer = ask(&load(&ENGINE, "echo"), Call { env, ..get("/env") }).await.unwrap();
    assert!(answer.text.contains("COLOR") && answer.text.contains("red"), "{}", answer.text);
    assert!(!answer.text.contains("PATH"), "{}", answer.text);
}

#[tokio::test]
async fn what_a_guest_prints_arrives_by_line_and_stream() {
    let logs = Arc::new(Logs::default());
    let call = Call { logs: logs.clone(), ..get("/log?msg=hear-me") };
    ask(&load(&ENGINE, "echo"), call).await.unwrap();
    until("both lines are there", || logs.lines.lock().unwrap().len() >= 2).await;
    for stream in [Stream::Stdout, Stream::Stderr] {
        let lines = logs.lines.lock().unwrap();
        assert!(
            lines.iter().any(|(s, line)| *s == stream && line.contains("hear-me")),
            "{lines:?}"
        );
    }
    assert_eq!(*logs.dropped.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_head_call_needs_no_reader_for_its_body() {
    let mut call = get("/headers");
    *call.request.method_mut() = Method::HEAD;
    let response = load(&ENGINE, "echo").call(call).await.unwrap();
    let usage = response.body().usage();
    drop(response);
    until("the guest ends by itself", || usage.ended()).await;
    assert_ne!(usage.failure(), Some(Failure::Stopping));
}

#[tokio::test]
async fn usage_tells_cpu_time_and_memory() {
    let response = load(&ENGINE, "work").call(get("/?compute_ms=30")).await.unwrap();
    let usage = response.body().usage();
    support::read(response).await.unwrap();
    until("the guest ends", || usage.ended()).await;
    assert!(usage.cpu() >= Duration::from_millis(1), "{usage:?}");
    assert!(usage.memory_bytes_peak() >= 64 << 10, "{usage:?}");
    assert_eq!(usage.failure(), None);
}

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 1024;

/// Makes chunks only as fast as they are taken.
struct Source {
    sent: Arc<AtomicU64>,
    left: usize,
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.sent.fetch_add(CHUNK_BYTES as u64, SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; CHUNK_BYTES])))))
    }
}

#[tokio::test]
async fn a_large_body_streams_through_with_little_of_it_in_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let source = Source { sent: sent.clone(), left: CHUNKS };
    let mut call = post("/", source.boxed_unsync());
    call.limits.body_bytes = (CHUNK_BYTES * CHUNKS) as u64;
    let mut body = load(&ENGINE, "echo").call(call).await.unwrap().into_body();
    let (mut received, mut most_held) = (0, 0);
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().into_data().unwrap().len() as u64;
        most_held = most_held.max(sent.load(SeqCst) - received);
    }
    assert_eq!(received, (CHUNK_BYTES * CHUNKS) as u64);
    assert!(most_held <= 1 << 20, "{most_held} bytes were on their way at once");
    assert!(body.usage().memory_bytes_peak() <= 4 << 20);
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_seen_by_the_guest() {
    struct Broken;
    impl Body for Broken {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(Some(Err(BodyError::Aborted("gone".into()))))
        }
    }
    let outcome = ask(&load(&ENGINE, "echo"), post("/", Broken.boxed_unsync())).await;
    assert!(outcome.is_err(), "no whole answer comes of half a request: {outcome:?}");
}

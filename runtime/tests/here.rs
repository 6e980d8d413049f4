//! Guests that run where their caller does: on the engine's threads, as part of what the caller does.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use nigh_runtime::{Engine, Failure};
use support::{ask, full, get, load, post, until};
use tokio::time::Instant;

/// Runs something on a guest thread.
async fn here<T: Send + 'static>(
    engine: &Engine,
    what: impl Future<Output = T> + Send + 'static,
) -> T {
    let seat = engine.threads().seat();
    seat.handle().spawn(what).await.unwrap()
}

#[tokio::test]
async fn a_guest_answers_streams_and_is_gone() {
    let engine = support::engine(2, 1);
    let (hello, echo) = (load(&engine, "hello"), load(&engine, "echo"));
    for _ in 0..3 {
        let hello = hello.clone();
        let answer = here(&engine, async move { ask(&hello, get("/")).await.unwrap() }).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "Hello, nigh!\n"));
    }
    let large = "n".repeat(3 << 20);
    let sent = large.clone();
    let answer =
        here(&engine, async move { ask(&echo, post("/", full(sent))).await.unwrap() }).await;
    assert!(answer.text == large, "{} bytes came back", answer.text.len());
    until("no guest is left", || engine.running() == 0).await;
}

#[tokio::test]
async fn whoever_goes_stops_its_guest() {
    let engine = support::engine(1, 1);
    for name in ["sleep-forever", "endless-loop"] {
        let function = load(&engine, name);
        let calling = async move { function.call(get("/")).await.map(|_| ()) };
        let caller = engine.threads().seat().handle().spawn(calling);
        until("the guest runs", || engine.running() == 1).await;
        caller.abort();
        until("its slot is free", || engine.running() == 0).await;
    }
    let function = load(&engine, "echo");
    let usage = here(&engine, async move {
        let mut response = function.call(get("/drip?n=10000&ms=5")).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        response.body().usage()
    });
    let usage = usage.await;
    until("its slot is free", || engine.running() == 0).await;
    assert!(usage.ended());
}

#[tokio::test]
async fn an_endless_guest_leaves_its_thread_to_others_and_is_stopped_in_time() {
    let engine = support::engine(2, 1);
    let (endless, hello) = (load(&engine, "endless-loop"), load(&engine, "hello"));
    let forever = endless.clone();
    let looping = engine
        .threads()
        .seat()
        .handle()
        .spawn(async move { forever.call(get("/")).await.map(|_| ()) });
    until("the guest runs", || engine.running() == 1).await;
    for _ in 0..10 {
        let hello = hello.clone();
        let status = here(&engine, async move { ask(&hello, get("/")).await.unwrap().status });
        assert_eq!(status.await, 200);
    }
    assert!(!looping.is_finished(), "it was still looping beside them");
    looping.abort();
    until("its slot is free", || engine.running() == 0).await;

    let mut call = get("/");
    call.deadline = Instant::now() + Duration::from_millis(100);
    let failure = here(&engine, async move { endless.call(call).await.map(|_| ()).unwrap_err() });
    let failure = failure.await;
    assert!(matches!(failure, Failure::Deadline { .. }), "{failure}");
}

/// A guest whose declared body is whole may finish what it does after its caller has gone.
#[tokio::test]
async fn a_guest_that_was_let_go_ends_by_itself() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "echo");
    let (status, usage) = here(&engine, async move {
        let mut call = get("/drip?n=100&ms=10");
        *call.request.method_mut() = Method::HEAD;
        let response = function.call(call).await.unwrap();
        (response.status(), response.body().usage())
    })
    .await;
    assert_eq!(status, 200);
    assert!(!usage.ended(), "it goes on without its caller");
    until("it has ended", || engine.running() == 0).await;
    assert_eq!(usage.failure(), None);
}

/// Who takes an answer may stop taking it.
#[tokio::test]
async fn a_guest_whose_answer_nobody_reads_ends_in_time() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "echo");
    let response = here(&engine, async move {
        let mut call = get("/drip?n=10000&ms=5");
        call.deadline = Instant::now() + Duration::from_millis(200);
        function.call(call).await.unwrap()
    });
    let response = response.await;
    until("its slot is free", || engine.running() == 0).await;
    let failure = response.body().usage().failure();
    assert!(matches!(failure, Some(Failure::Deadline { .. })), "{failure:?}");
}

//! Slots and ends: a caller who goes away, a full pool, a panic, a shutdown.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use nigh_runtime::{Call, Failure, LogSink, Stream};
use support::{ask, get, load, until};

#[tokio::test]
async fn a_call_that_is_dropped_stops_its_guest() {
    let engine = support::engine(1, 1);
    for name in ["sleep-forever", "endless-loop"] {
        let function = load(&engine, name);
        let caller = tokio::spawn(async move { function.call(get("/")).await.map(|_| ()) });
        until("the guest runs", || engine.running() == 1).await;
        caller.abort();
        until("its slot is free", || engine.running() == 0).await;
    }
    assert_eq!(ask(&load(&engine, "hello"), get("/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_that_is_dropped_stops_its_guest() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "echo");
    let mut response = function.call(get("/drip?n=10000&ms=5")).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    let usage = response.body().usage();
    assert_eq!(engine.running(), 1);
    drop(response);
    until("its slot is free", || engine.running() == 0).await;
    assert!(usage.ended());
}

#[tokio::test]
async fn a_full_pool_refuses_at_once() {
    let engine = support::engine(2, 1);
    let (sleeper, hello) = (load(&engine, "sleep-forever"), load(&engine, "hello"));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let sleeper = sleeper.clone();
            tokio::spawn(async move { sleeper.call(get("/")).await.map(|_| ()) })
        })
        .collect();
    until("both slots are taken", || engine.running() == 2).await;
    let failure = hello.call(get("/")).await.unwrap_err();
    assert_eq!((failure.http_status(), &failure), (503, &Failure::NoSlot));
    assert!(failure.refused_before_start());
    callers[0].abort();
    until("a slot is free", || engine.running() == 1).await;
    assert_eq!(ask(&hello, get("/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn many_calls_at_once_all_find_what_they_need() {
    let engine = support::engine(64, 2);
    let function = load(&engine, "hello");
    for _ in 0..10 {
        let calls: Vec<_> = (0..64)
            .map(|_| {
                let function = function.clone();
                tokio::spawn(async move { ask(&function, get("/")).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status, 200);
        }
        until("all slots are free", || engine.running() == 0).await;
    }
}

struct Panics;

impl LogSink for Panics {
    fn line(&self, _stream: Stream, _line: &str) {
        panic!("a sink that panics")
    }

    fn dropped(&self, _bytes: u64) {}
}

#[tokio::test]
async fn a_panic_in_the_host_ends_one_call_only() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "echo");
    let failure =
        ask(&function, Call { logs: Arc::new(Panics), ..get("/log?msg=x") }).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Internal { message } if message.contains("a sink that panics")),
        "{failure:?}"
    );
    assert_eq!(engine.panics(), 1);
    until("its slot is free", || engine.running() == 0).await;
    assert_eq!(ask(&function, get("/env")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_shutdown_lets_guests_finish_within_its_grace() {
    let engine = support::engine(4, 1);
    let (work, sleeper) = (load(&engine, "work"), load(&engine, "sleep-forever"));
    let waiting = tokio::spawn({
        let work = work.clone();
        async move { ask(&work, get("/?wait_ms=100")).await }
    });
    let stuck = tokio::spawn(async move { ask(&sleeper, get("/")).await });
    until("both run", || engine.running() == 2).await;
    engine.shutdown(Duration::from_secs(2));
    assert_eq!(work.call(get("/")).await.unwrap_err(), Failure::Stopping);
    assert_eq!(waiting.await.unwrap().unwrap().status, 200);
    assert_eq!(stuck.await.unwrap().unwrap_err(), Failure::Stopping);
}

#[tokio::test]
async fn an_engine_may_be_dropped_in_async_code() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "hello");
    drop(engine);
    let response = function.call(get("/")).await.unwrap();
    // Now the guest itself holds the last handle.
    drop(function);
    assert_eq!(support::read(response).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_guard_is_dropped_when_its_guest_ends_though_nobody_reads() {
    let engine = support::engine(1, 1);
    let function = load(&engine, "echo");
    let guard = Arc::new(());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    let held = || -> Option<Box<dyn std::any::Any + Send>> { Some(Box::new(Arc::clone(&guard))) };
    let path = "/drip?n=10000&ms=5";
    let response = function.call(Call { guard: held(), deadline, ..get(path) }).await.unwrap();
    // Refused before it starts: its guard goes at once, the other's stays.
    let refused = function.call(Call { guard: held(), ..get("/") }).await;
    assert_eq!(refused.unwrap_err(), Failure::NoSlot);
    assert!(Arc::strong_count(&guard) <= 2);
    until("the guard is dropped", || Arc::strong_count(&guard) == 1).await;
    assert!(tokio::time::Instant::now() >= deadline);
    drop(response);
}

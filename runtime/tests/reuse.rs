//! Instances that serve one call after the other, where a function asks for that.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use nigh_runtime::{Call, Engine, EngineConfig, Failure, Loaded, Stream};
use support::{Logs, ask, component, get, load_bytes};

/// Engines that run modules directly, and as components.
fn engines(slots: u32) -> [Engine; 2] {
    [true, false].map(|direct| {
        let small = EngineConfig { slots, threads: 1, ..EngineConfig::default() };
        Engine::new(EngineConfig { direct, ..small }).unwrap()
    })
}

/// What an instance answers that counts its calls, once it has ended.
async fn count(engine: &Engine, function: &Loaded) -> u32 {
    let text = ask(function, get("/")).await.unwrap().text;
    support::until("it has ended", || engine.running() == 0).await;
    text.trim().parse().unwrap()
}

#[tokio::test]
async fn an_instance_serves_so_many_calls_and_a_fresh_one_follows() {
    for engine in engines(2) {
        let loaded = load_bytes(&engine, &component("counter-state"));
        let reusing = loaded.reusing(3, 4);
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(count(&engine, &reusing).await);
        }
        assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1]);
        // The same code for others, who know nothing of it.
        assert_eq!(count(&engine, &loaded).await, 1);
        assert_eq!(count(&engine, &loaded.reusing(3, 4)).await, 1);
        assert_eq!(count(&engine, &reusing).await, 2);
    }
}

#[tokio::test]
async fn what_waits_counts_as_running_nowhere_and_gives_way() {
    for engine in engines(1) {
        let reusing = load_bytes(&engine, &component("counter-state")).reusing(9, 4);
        assert_eq!(count(&engine, &reusing).await, 1);
        assert_eq!(count(&engine, &reusing).await, 2);
        // It holds the only slot there is.
        let hello = load_bytes(&engine, &component("hello"));
        assert_eq!(ask(&hello, get("/")).await.unwrap().text, "Hello, nigh!\n");
        support::until("it has ended", || engine.running() == 0).await;
        assert_eq!(count(&engine, &reusing).await, 1, "it had to go");
    }
}

#[tokio::test]
async fn an_instance_that_failed_or_left_something_behind_is_not_used_again() {
    for engine in engines(2) {
        let trap = load_bytes(&engine, &component("trap")).reusing(9, 4);
        for _ in 0..2 {
            assert!(matches!(ask(&trap, get("/")).await, Err(Failure::Trap { .. })));
        }
        // Its body is never finished, which is found at its end and not in the next call.
        let half = load_bytes(&engine, &component("half-body")).reusing(9, 4);
        for _ in 0..3 {
            assert!(ask(&half, get("/")).await.is_err());
        }
        support::until("both are gone", || engine.running() == 0).await;
    }
}

#[tokio::test]
async fn each_call_has_its_own_time_log_and_request() {
    for engine in engines(2) {
        let echo = load_bytes(&engine, &component("echo")).reusing(100, 4);
        for n in 0..20 {
            let logs = Arc::new(Logs::default());
            let call = Call { logs: logs.clone(), ..get(&format!("/log?msg=line-{n}")) };
            assert_eq!(ask(&echo, call).await.unwrap().status, 200);
            support::until("it has ended", || engine.running() == 0).await;
            let lines = std::mem::take(&mut *logs.lines.lock().unwrap());
            assert!(lines.contains(&(Stream::Stdout, format!("stdout: line-{n}"))), "{lines:?}");
            assert_eq!(lines.len(), 2, "{lines:?}");
        }
    }
}

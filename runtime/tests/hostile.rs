//! Every hostile guest is stopped at its limit, with the failure that says why.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::BodyExt;
use nigh_model::limits::{LOG_BYTES_PER_CALL_MAX, LOG_LINE_BYTES_MAX};
use nigh_runtime::{Call, Engine, Failure};
use support::{Logs, ask, full, get, load, post, until};
use tokio::time::Instant;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| support::engine(32, 2));

async fn failure_of(name: &str, call: Call) -> Failure {
    let function = load(&ENGINE, name);
    match ask(&function, call).await {
        Ok(answer) => panic!("{name} answered: {answer:?}"),
        Err(failure) => failure,
    }
}

fn within(call: Call, time: Duration) -> Call {
    Call { deadline: Instant::now() + time, ..call }
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_cpu_limit() {
    let mut call = get("/");
    call.limits.cpu_ms = 50;
    let started = Instant::now();
    assert_eq!(failure_of("endless-loop", call).await, Failure::Cpu { limit_ms: 50 });
    assert!(started.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline() {
    let function = load(&ENGINE, "endless-loop");
    let call = within(get("/"), Duration::from_millis(100));
    let deadline = call.deadline;
    let failure = ask(&function, call).await.unwrap_err();
    assert!(matches!(failure, Failure::Deadline { limit_ms: 1..=100 }), "{failure:?}");
    assert!(Instant::now() >= deadline);
    assert_eq!(failure.http_status(), 504);
}

#[tokio::test]
async fn a_guest_that_waits_for_ever_ends_at_its_deadline() {
    let function = load(&ENGINE, "sleep-forever");
    let failure = ask(&function, within(get("/"), Duration::from_millis(100))).await.unwrap_err();
    assert!(matches!(failure, Failure::Deadline { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_call_whose_time_is_over_does_not_run() {
    let function = load(&ENGINE, "sleep-forever");
    let failure = ask(&function, within(get("/"), Duration::ZERO)).await.unwrap_err();
    assert_eq!(failure, Failure::Deadline { limit_ms: 0 });
}

#[tokio::test]
async fn a_memory_eater_ends_with_its_memory_limit() {
    let mut call = get("/");
    call.limits.memory_bytes = 16 << 20;
    let failure = failure_of("memory-eater", call).await;
    assert_eq!(failure, Failure::Memory { limit_bytes: 16 << 20 });
    assert_eq!(failure.http_status(), 500);
}

#[tokio::test]
async fn a_guest_that_starts_beyond_its_memory_limit_is_told_so() {
    let mut call = get("/");
    call.limits.memory_bytes = 64 << 10;
    assert_eq!(failure_of("hello", call).await, Failure::Memory { limit_bytes: 64 << 10 });
}

#[tokio::test]
async fn deep_recursion_overflows_the_stack() {
    assert_eq!(failure_of("deep-recursion", get("/")).await, Failure::Stack);
}

#[tokio::test]
async fn a_trap_is_a_trap() {
    let failure = failure_of("trap", get("/")).await;
    assert!(
        matches!(&failure, Failure::Trap { message } if message.contains("unreachable")),
        "{failure:?}"
    );
    assert_eq!((failure.http_status(), failure.reason()), (500, "GUEST_TRAPPED"));
}

#[tokio::test]
async fn a_guest_that_never_answers_is_told_apart() {
    let failure = failure_of("never-answers", get("/")).await;
    assert_eq!((failure.http_status(), failure), (502, Failure::NoAnswer));
}

#[tokio::test]
async fn an_error_in_place_of_an_answer_is_a_bad_answer() {
    let failure = failure_of("malformed", get("/")).await;
    assert!(
        matches!(&failure, Failure::BadAnswer { message } if message.contains("refused on purpose")),
        "{failure:?}"
    );
    assert_eq!(failure.http_status(), 502);
}

#[tokio::test]
async fn too_many_and_too_large_headers_are_a_bad_answer() {
    for path in ["/", "/many", "/large"] {
        let failure = failure_of("huge-headers", get(path)).await;
        assert!(matches!(failure, Failure::BadAnswer { .. }), "{path}: {failure:?}");
    }
}

#[tokio::test]
async fn a_trap_after_the_head_breaks_the_body_off() {
    let function = load(&ENGINE, "half-body");
    let mut body = function.call(get("/")).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "the first half and ");
    let failure = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(failure, Failure::Trap { .. }), "{failure:?}");
    assert!(body.frame().await.is_none());
    assert_eq!(body.usage().failure(), Some(failure));
}

#[tokio::test]
async fn the_deadline_holds_for_the_body_too() {
    let function = load(&ENGINE, "echo");
    let call = within(get("/drip?n=10000&ms=10"), Duration::from_millis(500));
    let mut body = function.call(call).await.unwrap().into_body();
    let failure = loop {
        if let Err(failure) = body.frame().await.expect("the body does not end well") {
            break failure;
        }
    };
    assert!(matches!(failure, Failure::Deadline { .. }), "{failure:?}");
}

#[tokio::test]
async fn an_output_flood_is_cut_and_stopped() {
    let logs = Arc::new(Logs::default());
    let mut call = Call { logs: logs.clone(), ..get("/") };
    call.limits.cpu_ms = 100;
    assert_eq!(failure_of("output-flood", call).await, Failure::Cpu { limit_ms: 100 });
    let lines = logs.lines.lock().unwrap();
    assert!(lines.iter().all(|(_, line)| line.len() <= LOG_LINE_BYTES_MAX));
    assert!(lines.iter().map(|(_, line)| line.len()).sum::<usize>() <= LOG_BYTES_PER_CALL_MAX);
    assert!(*logs.dropped.lock().unwrap() > 1 << 20, "{:?}", logs.dropped);
}

#[tokio::test]
async fn a_request_body_beyond_its_limit_is_refused() {
    let mut call = post("/", full(vec![b'x'; 1001]));
    call.limits.body_bytes = 1000;
    let failure = failure_of("echo", call).await;
    assert_eq!(failure, Failure::BodyTooLarge { limit_bytes: 1000 });
    assert_eq!(failure.http_status(), 413);

    let mut call = post("/", full(vec![b'x'; 1000]));
    call.limits.body_bytes = 1000;
    assert_eq!(ask(&load(&ENGINE, "echo"), call).await.unwrap().text.len(), 1000);
}

#[tokio::test]
async fn neighbours_answer_while_guests_keep_the_only_thread_busy() {
    let engine = support::engine(8, 1);
    let hostile = ["endless-loop", "output-flood", "memory-eater"].map(|name| load(&engine, name));
    let neighbour = load(&engine, "hello");
    let attacks: Vec<_> = hostile
        .into_iter()
        .map(|function| tokio::spawn(async move { ask(&function, get("/")).await }))
        .collect();
    until("the hostile guests run", || engine.running() == 3).await;
    for _ in 0..20 {
        assert_eq!(ask(&neighbour, get("/")).await.unwrap().status, 200);
    }
    assert!(engine.running() >= 2, "loop and flood outlast twenty calls to a neighbour");
    for attack in attacks {
        attack.abort();
    }
    until("all slots are free", || engine.running() == 0).await;
}

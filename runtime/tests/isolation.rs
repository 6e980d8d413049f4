//! No byte of a call is found by the next one in the same slot: every call looks through all of its
//! memory, its table and its global, and then leaves a mark in each.
//!
//! `NIGH_ISOLATION_CALLS=1000000 cargo test --release -p nigh-runtime --test isolation` for as many.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nigh_runtime::{Engine, EngineConfig, Failure, Loaded};
use support::{ask, get, load_bytes};

/// Calls, unless the environment says otherwise.
const CALLS: u64 = 4_000;
/// One in so many calls goes to a function whose memory is larger than what a slot keeps resident.
const LARGE_EVERY: u64 = 20;

/// A function that traps when it finds a byte that it did not put there; it answers nothing.
fn looks_and_marks(pages: u32, finds: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (import "wasi:http/types@0.2.12" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $main
    (memory (export "memory") {pages})
    (table $table 64 funcref)
    (elem declare func $mark)
    (global $global (mut i64) (i64.const 0))
    (func $mark)
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
      (local $at i32) (local $end i32)
      {finds}
      (if (i64.ne (global.get $global) (i64.const 0)) (then (unreachable)))
      (loop $next
        (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then (unreachable)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $at) (i32.const 64))))
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
      (local.set $end (i32.mul (memory.size) (i32.const 65536)))
      (local.set $at (i32.const 0))
      (loop $next
        (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (unreachable)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
      (memory.fill (i32.const 0) (i32.const 0xc5) (local.get $end))
      (table.fill $table (i32.const 0) (ref.func $mark) (i32.const 64))
      (global.set $global (i64.const 0xc5c5c5c5))))
  (core instance $main (instantiate $main))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $main "wasi:http/incoming-handler@0.2.12#handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.12" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

fn engine(direct: bool) -> Engine {
    let small = EngineConfig { slots: 8, threads: 2, ..EngineConfig::default() };
    Engine::new(EngineConfig { direct, ..small }).unwrap()
}

async fn call_all(engine: &Engine, count: u64) {
    let load = |pages| load_bytes(engine, &looks_and_marks(pages, ""));
    let functions: Arc<[Loaded; 2]> = Arc::new([load(2), load(20)]);
    let next = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (functions, next) = (Arc::clone(&functions), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= count {
                        return;
                    }
                    let function = &functions[usize::from(n.is_multiple_of(LARGE_EVERY))];
                    let ended = ask(function, get("/")).await;
                    assert!(matches!(ended, Err(Failure::NoAnswer)), "call {n}: {ended:?}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn no_call_finds_a_byte_of_the_one_before() {
    let calls = std::env::var("NIGH_ISOLATION_CALLS").ok().map(|calls| calls.parse().unwrap());
    let calls = calls.unwrap_or(CALLS);
    for direct in [true, false] {
        call_all(&engine(direct), calls / 2).await;
    }
}

#[tokio::test]
async fn a_byte_that_is_left_is_found() {
    for left in [
        "(i64.store (i32.const 131064) (i64.const 1))",
        "(table.set $table (i32.const 63) (ref.func $mark))",
        "(global.set $global (i64.const 1))",
    ] {
        let function = load_bytes(&engine(true), &looks_and_marks(2, left));
        assert!(matches!(ask(&function, get("/")).await, Err(Failure::Trap { .. })), "{left}");
    }
}

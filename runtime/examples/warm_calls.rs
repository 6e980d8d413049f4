//! Calls a function so many times in this process, one after the other and without a network, for
//! counting instructions: `cargo xtask count`.
//!
//! `warm_calls compile COMPONENT ARTIFACT`, then `warm_calls call ARTIFACT COUNT`: both under the same
//! valgrind, whose processor is not the machine's own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use nigh_model::spec::Limits;
use nigh_runtime::{Call, Engine, EngineConfig, Loaded, LogSink, Stream};
use tokio::time::Instant;

/// Longer than a call takes, even where each instruction is counted.
const LONG: Duration = Duration::from_secs(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // As small as can be: valgrind lets a process have little address space.
    let engine =
        Engine::new(EngineConfig { slots: 1, threads: 1, ..EngineConfig::default() }).unwrap();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["compile", component, artifact] => {
            let compiled = engine.compile(&std::fs::read(component).unwrap()).unwrap();
            std::fs::write(artifact, compiled).unwrap();
        }
        ["call", artifact, count] => {
            let loaded = engine.load(Path::new(artifact)).unwrap();
            let count = count.parse().unwrap();
            let calls = engine.threads().seat().handle().spawn(call(loaded, count));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(calls).unwrap();
        }
        _ => println!("usage: warm_calls compile COMPONENT ARTIFACT | call ARTIFACT COUNT"),
    }
}

async fn call(loaded: Loaded, count: usize) {
    let (env, outbound) = (Arc::new([]), Arc::new([]));
    for _ in 0..count {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let answer = loaded.call(Call {
            request: Request::get("http://count.example/").body(body).unwrap(),
            describe: None,
            account: 0,
            limits: Limits { timeout_ms: LONG.as_millis() as u64, ..Limits::default() },
            deadline: Instant::now() + LONG,
            env: env.clone(),
            outbound: outbound.clone(),
            logs: Arc::new(Nowhere),
            guard: None,
        });
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
}

struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _: Stream, _: &str) {}

    fn dropped(&self, _: u64) {}
}

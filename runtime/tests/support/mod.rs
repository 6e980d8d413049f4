//! What the runtime's tests share: an engine, guests from the tree, calls, and waiting.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use nigh_model::spec::{Limits, OutboundRule};
use nigh_runtime::{
    Call, Engine, EngineConfig, Failure, Loaded, LogSink, RequestBody, ResponseBody, Stream,
};
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A small engine.
pub(crate) fn engine(slots: u32, threads: usize) -> Engine {
    Engine::new(EngineConfig { slots, threads, ..EngineConfig::default() }).unwrap()
}

/// A guest's component, by its name in `examples/` or `tests/guests/`.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let places = [format!("examples/{name}/{name}.wasm"), format!("tests/guests/{name}.wasm")];
    let found = places.iter().find_map(|place| std::fs::read(root.join(place)).ok());
    found.unwrap_or_else(|| panic!("no guest {name}; `cargo xtask guests` builds them"))
}

/// Compiles a component and loads it from its file.
pub(crate) fn load_bytes(engine: &Engine, wasm: &[u8]) -> Loaded {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), engine.compile(wasm).unwrap()).unwrap();
    engine.load(file.path()).unwrap()
}

/// Compiles and loads a guest.
pub(crate) fn load(engine: &Engine, name: &str) -> Loaded {
    load_bytes(engine, &component(name))
}

pub(crate) fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A GET with default limits.
pub(crate) fn get(path: &str) -> Call {
    call(Request::get(format!("http://test.example{path}")).body(empty()).unwrap())
}

pub(crate) fn post(path: &str, body: RequestBody) -> Call {
    call(Request::post(format!("http://test.example{path}")).body(body).unwrap())
}

pub(crate) fn call(request: Request<RequestBody>) -> Call {
    Call {
        request,
        describe: None,
        account: 0,
        limits: Limits::default(),
        deadline: Instant::now() + LONG,
        env: Arc::new([]),
        outbound: Arc::new([]),
        logs: Arc::new(Logs::default()),
        guard: None,
    }
}

pub(crate) fn rules(rules: &[&str]) -> Arc<[OutboundRule]> {
    rules.iter().map(|rule| OutboundRule::try_from((*rule).to_owned()).unwrap()).collect()
}

/// Collects what a guest prints.
#[derive(Default)]
pub(crate) struct Logs {
    pub(crate) lines: Mutex<Vec<(Stream, String)>>,
    pub(crate) dropped: Mutex<u64>,
}

impl LogSink for Logs {
    fn line(&self, stream: Stream, line: &str) {
        self.lines.lock().unwrap().push((stream, line.to_owned()));
    }

    fn dropped(&self, bytes: u64) {
        *self.dropped.lock().unwrap() += bytes;
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn read(response: Response<ResponseBody>) -> Result<Read, Failure> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let text = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Ok(Read { status: head.status.as_u16(), headers: head.headers, text, trailers })
}

/// Calls and reads the answer to its end.
pub(crate) async fn ask(function: &Loaded, call: Call) -> Result<Read, Failure> {
    read(function.call(call).await?).await
}

/// Waits for a named condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

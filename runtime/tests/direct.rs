//! A component that is one module runs as that module alone, and nobody can tell by what it does.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use nigh_runtime::{Call, Engine, EngineConfig, Failure, Loaded};
use support::{ask, component, empty, full, get, load_bytes, post};
use wasmtime::Precompiled;

/// Engines that differ in nothing else: directly, and as a component.
fn engines() -> [Engine; 2] {
    [true, false].map(|direct| {
        // An answer's end is read before its instance is gone: there is room for the next call.
        let small = EngineConfig { slots: 16, threads: 1, ..EngineConfig::default() };
        Engine::new(EngineConfig { direct, ..small }).unwrap()
    })
}

fn kind(engine: &Engine, wasm: &[u8]) -> Option<Precompiled> {
    wasmtime::Engine::detect_precompiled(&engine.compile(wasm).unwrap())
}

#[test]
fn only_what_is_one_module_runs_directly() {
    let [direct, general] = engines();
    for name in ["hello", "echo", "work", "counter-state"] {
        assert_eq!(kind(&direct, &component(name)), Some(Precompiled::Module), "{name}");
        assert_eq!(kind(&general, &component(name)), Some(Precompiled::Component), "{name}");
    }
    // An adapter in between; calls to others.
    for name in ["greet-c", "proxy"] {
        assert_eq!(kind(&direct, &component(name)), Some(Precompiled::Component), "{name}");
    }
}

/// A component of one module that answers nothing, with this memory and this export more.
fn silent(pages: u32, export: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (import "wasi:http/types@0.2.12" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $main
    (memory (export "memory") (export "{export}") {pages})
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)))
  (core instance $main (instantiate $main))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $main "wasi:http/incoming-handler@0.2.12#handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.12" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_guest_cannot_say_that_its_memory_is_the_hosts_doing() {
    let [direct, _] = engines();
    assert_eq!(kind(&direct, &silent(1, "mine")), Some(Precompiled::Module));
    let claims = silent(64, "nigh:grown=1000000000");
    assert_eq!(kind(&direct, &claims), Some(Precompiled::Component));
    let limits = nigh_model::spec::Limits { memory_bytes: 1 << 20, ..Default::default() };
    let function = load_bytes(&direct, &claims);
    let ended = ask(&function, Call { limits, ..get("/") }).await;
    assert!(matches!(ended, Err(Failure::Memory { .. })), "{ended:?}");
}

/// What a call comes to, but for what differs from call to call.
async fn outcome(function: &Loaded, call: Call) -> String {
    match ask(function, call).await {
        Ok(mut read) => {
            read.headers.remove("date");
            format!("{} {:?} {} {:?}", read.status, read.headers, read.text, read.trailers)
        }
        Err(failure) => format!("{failure:?}"),
    }
}

#[tokio::test]
async fn the_same_calls_come_to_the_same() {
    let [direct, general] = engines();
    let large = "x".repeat(300_000);
    let gets = ["/", "/x?y=1", "/headers", "/env", "/status/418", "/log?msg=x", "/drip?n=3&ms=1"];
    for name in ["hello", "echo", "body-ignored", "huge-headers", "half-body", "malformed", "trap"]
    {
        let [a, b] = [&direct, &general].map(|engine| load_bytes(engine, &component(name)));
        for path in gets {
            assert_eq!(outcome(&a, get(path)).await, outcome(&b, get(path)).await, "{name} {path}");
        }
        for body in ["", "short", &large] {
            let ask = || post("/echo", full(body.to_owned()));
            assert_eq!(outcome(&a, ask()).await, outcome(&b, ask()).await, "{name} {}", body.len());
        }
        let env = || Call { env: [("A".into(), "ä b".into())].into(), ..get("/env") };
        assert_eq!(outcome(&a, env()).await, outcome(&b, env()).await, "{name} env");
        let describe = || {
            let add = |headers: &mut http::HeaderMap| {
                headers.insert("x-added", http::HeaderValue::from_static("later"));
            };
            Call { describe: Some(Box::new(add)), ..get("/headers") }
        };
        assert_eq!(outcome(&a, describe()).await, outcome(&b, describe()).await, "{name} added");
        if name == "echo" {
            assert!(outcome(&a, describe()).await.contains("x-added"));
        }
        let request = http::Request::builder().method("PROPFIND").uri("http://a.example:81/p");
        let strange = |request: http::request::Builder| {
            let request = request.header("x-a", "1").header("x-a", "2");
            support::call(request.body(empty()).unwrap())
        };
        let again = http::Request::builder().method("PROPFIND").uri("http://a.example:81/p");
        let (one, other) = (strange(request), strange(again));
        assert_eq!(outcome(&a, one).await, outcome(&b, other).await, "{name} PROPFIND");
    }
}

/// A component of one module that asks for the path of its request: with this allocator, and this
/// handler.
fn asks_for_its_path(realloc: &str, handle: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (import "wasi:http/types@0.2.12" (instance $types
    (export "incoming-request" (type $request (sub resource)))
    (export "response-outparam" (type (sub resource)))
    (export "[method]incoming-request.path-with-query"
      (func (param "self" (borrow $request)) (result (option string))))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $main
    (import "wasi:http/types@0.2.12" "[method]incoming-request.path-with-query"
      (func $path (param i32 i32)))
    (import "wasi:http/types@0.2.12" "[resource-drop]incoming-request" (func $drop (param i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
    (func (export "wasi:http/incoming-handler@0.2.12#handle") (param $request i32) (param i32)
      {handle}))
  (core module $shim
    (type $call (func (param i32 i32)))
    (table (export "$imports") 1 1 funcref)
    (func (export "0") (type $call)
      local.get 0 local.get 1 i32.const 0 call_indirect (type $call)))
  (core module $fixup
    (import "" "0" (func (param i32 i32)))
    (import "" "$imports" (table 1 1 funcref))
    (elem (i32.const 0) func 0))
  (core instance $shim (instantiate $shim))
  (alias core export $shim "0" (core func $shimmed))
  (core func $drop (canon resource.drop $request))
  (core instance $host
    (export "[method]incoming-request.path-with-query" (func $shimmed))
    (export "[resource-drop]incoming-request" (func $drop)))
  (core instance $main (instantiate $main (with "wasi:http/types@0.2.12" (instance $host))))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $shim "$imports" (core table $table))
  (alias export $types "[method]incoming-request.path-with-query" (func $path))
  (core func $lowered (canon lower (func $path) (memory $memory) (realloc $realloc)))
  (core instance $filled (export "0" (func $lowered)) (export "$imports" (table $table)))
  (core instance (instantiate $fixup (with "" (instance $filled))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $main "wasi:http/incoming-handler@0.2.12#handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.12" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_guest_that_breaks_the_rules_traps_and_nothing_else_happens() {
    let ask = "(call $path (local.get $request) (i32.const 0))";
    let well = "i32.const 64";
    let out_of_bounds = "i32.const 65535";
    let calls_out = "(call $drop (i32.const 1)) i32.const 64";
    let cases = [
        ("asks and does not answer", well, ask),
        ("allocates where no memory is", out_of_bounds, ask),
        ("calls the host while it allocates", calls_out, ask),
        (
            "wants the result where no memory is",
            well,
            "(call $path (local.get $request) (i32.const 65532))",
        ),
        (
            "wants the result at an odd place",
            well,
            "(call $path (local.get $request) (i32.const 2))",
        ),
        (
            "wants the result behind all memory",
            well,
            "(call $path (local.get $request) (i32.const -4))",
        ),
        ("names what it does not have", well, "(call $path (i32.const 77) (i32.const 0))"),
        ("names nothing", well, "(call $path (i32.const 0) (i32.const 0))"),
        ("names another kind", well, "(call $path (local.get 1) (i32.const 0))"),
        (
            "drops twice",
            well,
            "(call $drop (local.get $request)) (call $drop (local.get $request))",
        ),
        ("drops what it does not have", well, "(call $drop (i32.const -1))"),
    ];
    let [direct, general] = engines();
    for (what, realloc, handle) in cases {
        let wasm = asks_for_its_path(realloc, handle);
        assert_eq!(kind(&direct, &wasm), Some(Precompiled::Module), "{what}");
        for engine in [&direct, &general] {
            let function = load_bytes(engine, &wasm);
            let failure = support::ask(&function, get("/a-path")).await.unwrap_err();
            let expected = match what {
                "asks and does not answer" => matches!(failure, Failure::NoAnswer),
                _ => matches!(failure, Failure::Trap { .. }),
            };
            assert!(expected, "{what}: {failure:?}");
            assert_eq!(engine.panics(), 0, "{what}");
        }
    }
}

#[tokio::test]
async fn what_the_guest_allocates_holds_what_it_asked_for() {
    // `/a-path` is 7 bytes: an option that is some, the place, the length, the first byte.
    let check = "(call $path (local.get $request) (i32.const 0))
      (if (i32.ne (i32.load8_u (i32.const 0)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load (i32.const 4)) (i32.const 64)) (then unreachable))
      (if (i32.ne (i32.load (i32.const 8)) (i32.const 7)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 47)) (then unreachable))";
    for engine in engines() {
        let function = load_bytes(&engine, &asks_for_its_path("i32.const 64", check));
        let failure = support::ask(&function, get("/a-path")).await.unwrap_err();
        assert!(matches!(failure, Failure::NoAnswer), "{failure:?}");
    }
}

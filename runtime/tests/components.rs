//! Which components are accepted, and what the others are told.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nigh_model::Kind;
use nigh_runtime::{Engine, EngineConfig, Error};
use support::component;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| support::engine(4, 1));

#[test]
fn a_good_component_tells_its_imports_and_exports() {
    let info = ENGINE.inspect(&component("hello")).unwrap();
    assert!(info.imports.iter().any(|name| name.starts_with("wasi:http/types@0.2")), "{info:?}");
    assert!(info.exports.iter().any(|name| name.starts_with("wasi:http/incoming-handler@0.2")));
}

#[test]
fn bad_components_are_refused_with_what_is_wrong() {
    let said = |name: &str| ENGINE.inspect(&component(name)).unwrap_err();
    let module = said("core-module");
    assert!(matches!(module, Error::CoreModule), "{module}");
    assert!(module.to_string().contains("wasm-tools component new"), "{module}");
    let no_handler = said("no-handler");
    assert!(matches!(no_handler, Error::NoHandler { .. }), "{no_handler}");
    let unknown = said("unknown-import");
    assert!(
        matches!(&unknown, Error::UnknownImport { name, .. } if unknown.to_string().contains(name))
    );
    for error in [module, no_handler, unknown] {
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[test]
fn a_truncated_component_is_refused() {
    let wasm = component("hello");
    for length in (0..wasm.len()).step_by(wasm.len() / 50) {
        let error = ENGINE.inspect(&wasm[..length]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{length}: {error}");
    }
}

#[test]
fn code_that_is_not_valid_is_found_by_compiling() {
    let mut wasm = component("hello");
    let middle = wasm.len() / 3;
    wasm[middle..middle + 64].fill(0xff);
    let error = ENGINE.compile(&wasm).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[test]
fn an_import_of_another_type_than_the_hosts_is_found_by_compiling() {
    let wasm = wat::parse_str(
        r#"(component
            (import "wasi:random/random@0.2.0" (instance
                (export "no-such-function" (func))))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
    )
    .unwrap();
    ENGINE.inspect(&wasm).unwrap();
    let error = ENGINE.compile(&wasm).unwrap_err();
    assert!(error.to_string().contains("no-such-function"), "{error}");
}

#[test]
fn every_0_2_version_of_an_import_links() {
    for version in ["0.2.0", "0.2.3", "0.2.99"] {
        let wasm = wat::parse_str(format!(
            r#"(component
                (import "wasi:random/random@{version}" (instance
                    (export "get-random-u64" (func (result u64)))))
                (instance $i)
                (export "wasi:http/incoming-handler@{version}" (instance $i)))"#
        ))
        .unwrap();
        let error = ENGINE.compile(&wasm).unwrap_err().to_string();
        assert!(error.contains("incoming-handler"), "only its handler is missing: {error}");
        assert!(!error.contains("wasi:random"), "{error}");
    }
}

#[test]
fn more_memory_than_the_node_allows_is_found_by_compiling() {
    let config =
        EngineConfig { slots: 1, threads: 1, memory_bytes_max: 1 << 20, ..EngineConfig::default() };
    let engine = Engine::new(config).unwrap();
    let wasm = wat::parse_str(
        r#"(component
            (core module $m (memory 17))
            (core instance (instantiate $m))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
    )
    .unwrap();
    let error = engine.compile(&wasm).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("1114112"), "{error}");
}

#[test]
fn a_component_of_several_memories_takes_several_slots() {
    let wasm = |memories: usize| {
        let instances = "(core instance (instantiate $m))".repeat(memories);
        let text = format!(
            r#"(component
                (core module $m (memory 1))
                {instances}
                (instance $i)
                (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#
        );
        wat::parse_str(text).unwrap()
    };
    let error = ENGINE.compile(&wasm(4)).unwrap_err();
    assert!(error.to_string().contains("incoming-handler"), "only its handler is missing: {error}");
    assert!(matches!(ENGINE.compile(&wasm(5)), Err(Error::TooLarge { max: 4, .. })));
}

#[test]
fn five_engines_of_full_size_fit_one_process() {
    let engines: Vec<Engine> = (0..5)
        .map(|_| Engine::new(EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap())
        .collect();
    assert!(engines.iter().all(|engine| engine.slots() == 1_000));
}

#[test]
fn a_large_component_is_inspected_as_fast_as_a_small_one() {
    let mut wasm = component("hello");
    // A custom section of 96 MiB: id, length in LEB128, empty name, zeros.
    let length = (96 << 20) + 1_u32;
    wasm.push(0);
    let mut rest = length;
    while rest >= 0x80 {
        wasm.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    wasm.push(rest as u8);
    wasm.resize(wasm.len() + length as usize, 0);
    let started = Instant::now();
    ENGINE.inspect(&wasm).unwrap();
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
}

#[test]
fn an_artifact_of_another_engine_or_of_rubbish_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("artifact");
    let config =
        EngineConfig { slots: 1, memory_reservation_bytes: 2 << 30, ..EngineConfig::default() };
    let other = Engine::new(config).unwrap();
    assert_ne!(other.key(), ENGINE.key());
    std::fs::write(&path, other.compile(&component("hello")).unwrap()).unwrap();
    let refused = |path: &Path| ENGINE.load(path).unwrap_err();
    assert_eq!(refused(&path).kind(), Kind::Corrupt);
    other.load(&path).unwrap();
    std::fs::write(folder.path().join("rubbish"), b"rubbish").unwrap();
    assert_eq!(refused(&folder.path().join("rubbish")).kind(), Kind::Corrupt);
    assert_eq!(refused(&folder.path().join("missing")).kind(), Kind::Corrupt);
}

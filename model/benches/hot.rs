//! What every node does for every call or every entry of the log: finding a route, applying a command,
//! encoding and decoding.
#![allow(clippy::unwrap_used, reason = "a measuring tool")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use nigh_model::command::{NodeSpec, decode, encode};
use nigh_model::encoding::{read_state, write_state};
use nigh_model::route::{Route, Table};
use nigh_model::{
    Addresses, AppName, AppSpec, ClusterId, Command, Digest, Envelope, FunctionName, FunctionSpec,
    State, apply,
};

/// Apps of a large cluster.
const APPS: usize = 1_000;
/// When everything happens, in ms since the Unix epoch.
const NOW_MS: u64 = 1_700_000_000_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    routes(&mut criterion);
    commands(&mut criterion);
    states(&mut criterion);
    criterion.final_summary();
}

fn app(n: usize) -> AppName {
    AppName::new(format!("app-{n}")).unwrap()
}

fn routes(criterion: &mut Criterion) {
    let defaults = (0..APPS).map(|n| (Route::default_of(&app(n), None), n));
    let written = (0..APPS).map(|n| {
        let route =
            if n.is_multiple_of(2) { format!("/api/{n}/:id") } else { format!("h{n}.example/...") };
        (route.parse().unwrap(), n)
    });
    let table = Table::new(written, defaults);
    for (what, host, path) in [
        ("a default route", None, "/app-500/a/b"),
        ("a written route", None, "/api/500/7"),
        ("a host", Some("h501.example:8080"), "/a/b"),
        ("no route", None, "/nowhere/a"),
    ] {
        criterion.bench_function(&format!("route: {what} of {APPS}"), |bencher| {
            bencher.iter(|| black_box(&table).find(black_box(host), black_box(path)).is_some());
        });
    }
}

fn commands(criterion: &mut Criterion) {
    let state = filled(APPS);
    let envelope = put(APPS);
    criterion.bench_function(&format!("apply: one more app to {APPS}"), |bencher| {
        bencher.iter_batched(
            || state.clone(),
            |mut state| {
                let index = state.applied + 1;
                apply(&mut state, index, black_box(&envelope)).reply.is_ok()
            },
            BatchSize::SmallInput,
        );
    });
    let bytes = encode(&envelope);
    criterion.bench_function("encode: a command", |bencher| {
        bencher.iter(|| encode(black_box(&envelope)));
    });
    criterion.bench_function("decode: a command", |bencher| {
        bencher.iter(|| decode(black_box(&bytes)).unwrap());
    });
}

fn states(criterion: &mut Criterion) {
    let state = filled(APPS);
    let mut bytes = Vec::new();
    write_state(&state, &mut bytes).unwrap();
    criterion.bench_function(&format!("encode: a state of {APPS} apps"), |bencher| {
        bencher.iter(|| {
            let mut bytes = Vec::new();
            write_state(black_box(&state), &mut bytes).unwrap();
            bytes
        });
    });
    criterion.bench_function(&format!("decode: a state of {APPS} apps"), |bencher| {
        bencher.iter(|| read_state(&mut &black_box(&bytes)[..]).unwrap());
    });
}

fn envelope(command: Command) -> Envelope {
    Envelope { request_id: None, at_ms: NOW_MS, by: None, command }
}

/// Deploys an app of one function.
fn put(n: usize) -> Envelope {
    let mut function = FunctionSpec::new(Digest::of(&n.to_le_bytes()), 60_000);
    function.env.insert("LOG".to_owned(), "info".to_owned());
    let mut spec = AppSpec::default();
    spec.functions.insert(FunctionName::new("main").unwrap(), function);
    envelope(Command::PutRevision { app: app(n), spec })
}

/// A cluster of one node with so many apps.
fn filled(apps: usize) -> State {
    let node = NodeSpec {
        name: "n1".parse().unwrap(),
        region: "eu-1".parse().unwrap(),
        zone: None,
        location: None,
        addresses: Addresses::default(),
        version: "0.1.0".to_owned(),
        feature_level: 1,
    };
    let cluster = "0123456789abcdef0123456789abcdef".parse::<ClusterId>().unwrap();
    let begin = envelope(Command::Bootstrap { cluster, node, authority: None, tokens: Vec::new() });
    let puts = (0..apps).map(put);
    let mut state = State::default();
    for (at, envelope) in std::iter::once(begin).chain(puts).enumerate() {
        apply(&mut state, at as u64 + 1, &envelope).reply.unwrap();
    }
    state
}

//! Nodes that bring functions to themselves and to each other, over real sockets and disks.

use std::sync::Arc;

use futures::future::join_all;
use nigh_model::Tier::{Ready, Warm};
use nigh_model::{FunctionSpec, State};

use super::testing::{
    Bench, HELLO, activate, add_node, add_revision, all_see_each_other, app, assign, function,
    spec, state,
};
use super::{Error, ShelfError};

/// A state of these nodes in which revision 10 of app `a` is active.
fn state_of(nodes: &[(u64, &str, &Bench)], spec: FunctionSpec) -> State {
    let mut state = state();
    for (id, region, bench) in nodes {
        add_node(&mut state, *id, region, &bench.address);
    }
    add_revision(&mut state, "a", 10, spec);
    activate(&mut state, "a", 10);
    state
}

fn decide(benches: &[&Bench], state: &State) {
    for bench in benches {
        bench.decided.publish(Arc::new(state.clone()));
    }
    all_see_each_other(benches);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_function_is_loaded_once_for_all_who_call_it() {
    let (bench, _work) = Bench::new(1, "eu-1").await;
    let digest = bench.put(HELLO).await;
    let spec = spec(digest, &[]);
    let mut state = state_of(&[(1, "eu-1", &bench)], spec.clone());
    decide(&[&bench], &state);
    let shelf = &bench.agent.shelf;

    let (name, f) = (app("a"), function(10));
    let elsewhere = shelf.take(&name, &f, &spec).await.map(drop);
    assert_eq!(elsewhere, Err(ShelfError::NotHere), "it is not assigned here");
    assert!(!shelf.is_ready(&f) && !shelf.is_wanted(&f));

    // Assigned, but the disk lost the artifact: the callers wait for one compilation.
    assign(&mut state, 10, &[(1, Ready)]);
    decide(&[&bench], &state);
    assert!(shelf.is_wanted(&f));
    let taken = join_all((0..20).map(|_| shelf.take(&name, &f, &spec))).await;
    assert!(taken.into_iter().all(|taken| taken.unwrap().cold));
    let loads = || bench.agent.stock.counters().loaded.get();
    assert!(shelf.is_ready(&f) && shelf.is_warm(&f));
    assert_eq!(loads(), 1);
    let taken = shelf.take(&name, &f, &spec).await.unwrap();
    assert!(!taken.cold && taken.waited.is_zero());
    assert_eq!(shelf.present().warm, std::slice::from_ref(&f));
    assert_eq!(shelf.present().ready, std::slice::from_ref(&f));

    shelf.unload(&f);
    assert!(!shelf.is_warm(&f) && shelf.is_ready(&f));
    let mut changes = shelf.changes();
    assert!(shelf.take(&name, &f, &spec).await.unwrap().cold);
    changes.changed().await.unwrap();
    assert_eq!(loads(), 2);
}

/// The component that runs, with a digest of its own: a custom section of one byte is behind it.
fn variant(n: u8) -> &'static [u8] {
    let section = [0, 3, 1, b'n', n];
    Box::leak([HELLO, &section].concat().into_boxed_slice())
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_one_component_share_its_code() {
    let (bench, _work) = Bench::new(1, "eu-1").await;
    let digest = bench.put(HELLO).await;
    let spec = spec(digest, &[]);
    let mut state = state_of(&[(1, "eu-1", &bench)], spec.clone());
    for id in 11..20 {
        add_revision(&mut state, "a", id, spec.clone());
    }
    (10..20).for_each(|id| assign(&mut state, id, &[(1, Ready)]));
    decide(&[&bench], &state);
    let (shelf, name) = (&bench.agent.shelf, app("a"));

    let first = shelf.take(&name, &function(10), &spec).await.unwrap().loaded;
    let one = shelf.memory().bytes;
    assert!(one >= first.bytes());
    for id in 11..20 {
        let taken = shelf.take(&name, &function(id), &spec).await.unwrap();
        assert!(taken.cold, "it was not loaded before");
        assert!(shelf.is_warm(&function(id)));
    }
    let ten = shelf.memory().bytes;
    assert!(ten - one < first.bytes() / 2, "{ten} bytes for ten, {one} for one");
    // Each of the functions, what they share, and this.
    assert_eq!(first.holders(), 12);

    (10..19).for_each(|id| shelf.unload(&function(id)));
    assert!(shelf.is_warm(&function(19)) && !shelf.is_warm(&function(18)));
    shelf.unload(&function(19));
    assert_eq!((shelf.memory().bytes, shelf.memory().components), (0, 0));
    let let_go = async {
        while first.holders() > 1 {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), let_go).await;
    assert!(in_time.is_ok(), "{} still hold it", first.holders());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_held_and_what_is_called_again_comes_back() {
    let (bench, _work) = Bench::new(1, "eu-1").await;
    let mut state = state_of(&[(1, "eu-1", &bench)], spec(bench.put(HELLO).await, &[]));
    let mut specs = Vec::new();
    for n in 0..8 {
        let spec = spec(bench.put(variant(n)).await, &[]);
        add_revision(&mut state, "a", 20 + u64::from(n), spec.clone());
        assign(&mut state, 20 + u64::from(n), &[(1, Ready)]);
        specs.push(spec);
    }
    decide(&[&bench], &state);
    let (shelf, name) = (&bench.agent.shelf, app("a"));
    let take = async |n: u8| {
        let function = function(20 + u64::from(n));
        shelf.take(&name, &function, &specs[usize::from(n)]).await.unwrap()
    };
    let warm = || (0..8).filter(|n| shelf.is_warm(&function(20 + n))).collect::<Vec<_>>();

    take(0).await;
    let each = shelf.memory().bytes;
    shelf.set_memory(each * 4);
    // One is promised to be warm, and a call of another runs.
    shelf.set_steady([function(20)].into());
    let running = take(1).await;
    for n in 2..8 {
        take(n).await;
        let memory = shelf.memory();
        assert!(memory.bytes <= memory.bytes_max, "{memory:?}");
    }
    let left = warm();
    assert!(left.starts_with(&[0, 1]) && left.ends_with(&[7]), "{left:?}");
    let [idle, made_room] = shelf.unloads();
    assert_eq!((idle, made_room), (0, 8 - left.len() as u64));

    drop(running);
    assert!(take(2).await.cold, "it had made room");
    assert!(!take(2).await.cold, "it came back");
    assert!(shelf.memory().bytes <= shelf.memory().bytes_max);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_compiled_artifact_is_compiled_again() {
    let (bench, _work) = Bench::new(1, "eu-1").await;
    let digest = bench.put(HELLO).await;
    let spec = spec(digest, &[]);
    let mut state = state_of(&[(1, "eu-1", &bench)], spec.clone());
    assign(&mut state, 10, &[(1, Warm)]);
    decide(&[&bench], &state);
    let inner = &bench.agent.stock.inner;
    bench.agent.stock.compile(digest).await.unwrap();
    inner.store.put_compiled(inner.engine.key(), digest, b"no machine code").unwrap();
    let taken = bench.agent.shelf.take(&app("a"), &function(10), &spec).await.unwrap();
    assert!(taken.cold);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_assigned_is_fetched_and_what_is_not_allowed_never_is() {
    let (near, near_work) = Bench::new(1, "eu-1").await;
    let (far, far_work) = Bench::new(2, "us-1").await;
    tokio::spawn(near_work);
    tokio::spawn(far_work);
    let digest = near.put(HELLO).await;
    let mut allowed = spec(digest, &["us-*"]);
    allowed.scale.min_warm = 1;
    let mut state = state_of(&[(1, "eu-1", &near), (2, "us-1", &far)], allowed);
    // A plan that `apply` would refuse: the agent keeps to the spec all the same.
    assign(&mut state, 10, &[(1, Warm), (2, Warm)]);
    decide(&[&near, &far], &state);

    far.settled(&state).await;
    assert!(far.agent.shelf.is_warm(&function(10)));
    near.settled(&state).await;
    assert!(!near.agent.shelf.is_ready(&function(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_keep_being_forwarded_bring_a_function_here() {
    let (bench, work) = Bench::new(1, "eu-1").await;
    tokio::spawn(work);
    let digest = bench.put(HELLO).await;
    let state = state_of(&[(1, "eu-1", &bench)], spec(digest, &[]));
    decide(&[&bench], &state);
    bench.settled(&state).await;
    let shelf = bench.agent.shelf.clone();
    let mut changes = shelf.changes();
    for _ in 0..nigh_placement::demand::FORWARDS_WANTED {
        shelf.forwarded(&function(10));
    }
    let warm = async {
        while !shelf.is_warm(&function(10)) {
            changes.changed().await.unwrap();
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), warm).await;
    assert!(in_time.is_ok(), "only {:?}", shelf.present());
    assert!(shelf.is_wanted(&function(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_in_another_region_and_only_where_they_may_be() {
    let (one, _work1) = Bench::new(1, "eu-1").await;
    let (two, _work2) = Bench::new(2, "eu-1").await;
    let (three, _work3) = Bench::new(3, "us-1").await;
    let benches = [&one, &two, &three];
    let digest = one.put(HELLO).await;
    let nodes = [(1, "eu-1", &one), (2, "eu-1", &two), (3, "us-1", &three)];
    decide(&benches, &state_of(&nodes, spec(digest, &[])));
    let copies = &one.agent.copies;

    let nowhere = copies.ensure_copies(digest, |region| region.as_str() == "ap-1").await;
    assert!(matches!(nowhere, Err(Error::NoAllowedNode { .. })));

    copies.ensure_copies(digest, |region| region.as_str() == "us-1").await.unwrap();
    assert!(three.agent.stock.holds(&digest) && !two.agent.stock.holds(&digest));
    copies.ensure_copies(digest, |_| true).await.unwrap();
    assert!(!two.agent.stock.holds(&digest), "two regions have one each");
    copies.ensure_copies(digest, |region| region.as_str() == "eu-1").await.unwrap();
    assert!(two.agent.stock.holds(&digest));

    let unknown = nigh_model::Digest::of(b"unknown");
    let unknown = copies.ensure_copies(unknown, |_| true).await;
    assert!(matches!(unknown, Err(Error::NowhereHeld { .. })));

    // From a node that has it not, to a region where it may be, past one where it may not.
    three.agent.stock.remove(digest, u64::MAX).await.unwrap();
    two.agent.stock.remove(digest, u64::MAX).await.unwrap();
    let copies = &three.agent.copies;
    copies.ensure_copies(digest, |region| region.as_str() == "eu-1").await.unwrap();
    assert!(two.agent.stock.holds(&digest) && !three.agent.stock.holds(&digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_another_cluster_is_refused() {
    use nigh_proto::peer::v1::ReplicateRequest;
    use nigh_proto::peer::v1::artifacts_server::Artifacts as _;
    let (bench, _work) = Bench::new(1, "eu-1").await;
    let digest = bench.put(HELLO).await.to_string();
    let request = ReplicateRequest { cluster_id: "f".repeat(32), digest, from: 1 };
    let refused = bench.agent.peer_service.replicate(tonic::Request::new(request)).await;
    let reason = nigh_proto::status::reason(&refused.unwrap_err());
    assert_eq!(reason.as_deref(), Some("WRONG_CLUSTER"));
}

//! Nodes that compile for each other, over real sockets and disks.

use std::sync::Arc;

use nigh_model::State;
use nigh_model::Tier::{Ready, Warm};
use nigh_runtime::EngineConfig;

use super::*;
use crate::agent::attested::attestation_of;
use crate::agent::stock::Working;
use crate::agent::testing::{
    Bench, ENGINE, HELLO, activate, add_node, add_revision, all_see_each_other, app, assign,
    function, spec, state,
};
use crate::identity::testing::Authority;
use crate::identity::{Statement, Unproven};

/// All nodes, and a function that is assigned to all of them.
fn state_of(benches: &[&Bench], digest: Digest) -> State {
    let mut state = state();
    for bench in benches {
        add_node(&mut state, bench.id.0, "eu-1", &bench.address);
    }
    add_revision(&mut state, "a", 10, spec(digest, &[]));
    activate(&mut state, "a", 10);
    let everywhere: Vec<_> = benches.iter().map(|bench| (bench.id.0, Ready)).collect();
    assign(&mut state, 10, &everywhere);
    // Nodes that were removed are older than the state.
    state.applied += 100;
    state
}

fn decide(benches: &[&Bench], state: &State) {
    // All see each other before anything is assigned.
    let mut before = state.clone();
    before.assignments = Default::default();
    before.applied -= 1;
    for bench in benches {
        bench.decided.publish(Arc::new(before.clone()));
    }
    all_see_each_other(benches);
    for bench in benches {
        bench.decided.publish(Arc::new(state.clone()));
    }
    all_see_each_other(benches);
}

fn compiled(benches: &[&Bench]) -> u64 {
    benches.iter().map(|bench| bench.agent.stock.counters().compiled.get()).sum()
}

fn copied(benches: &[&Bench]) -> u64 {
    benches.iter().map(|bench| bench.agent.stock.counters().copied.get()).sum()
}

fn refused(bench: &Bench) -> [u64; 5] {
    bench.agent.stock.counters().refusals()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_nodes_one_compiles_and_the_others_copy() {
    let mut benches = Vec::new();
    for id in 1..=5 {
        let (bench, work) = Bench::new(id, "eu-1").await;
        tokio::spawn(work);
        benches.push(bench);
    }
    let benches: Vec<&Bench> = benches.iter().collect();
    let digest = benches[3].put(HELLO).await;
    let state = state_of(&benches, digest);
    decide(&benches, &state);
    for bench in &benches {
        bench.settled(&state).await;
        assert!(bench.agent.shelf.is_ready(&function(10)));
    }
    assert_eq!((compiled(&benches), copied(&benches)), (1, 4));
    for bench in benches {
        let taken = bench.agent.shelf.take(&app("a"), &function(10), &spec(digest, &[])).await;
        assert!(taken.is_ok(), "what was copied runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_the_agent_share_one_copy_of_what_was_lost() {
    let (one, work1) = Bench::new(1, "eu-1").await;
    let (two, work2) = Bench::new(2, "eu-1").await;
    tokio::spawn(work1);
    tokio::spawn(work2);
    let benches = [&one, &two];
    let digest = one.put(HELLO).await;
    let state = state_of(&benches, digest);
    decide(&benches, &state);
    for bench in benches {
        bench.settled(&state).await;
    }
    all_see_each_other(&benches);
    two.agent.stock.remove_compiled(digest).await.unwrap();
    let (name, f, spec) = (app("a"), function(10), spec(digest, &[]));
    let maker = &two.agent.maker;
    let (taken, made) = tokio::join!(two.agent.shelf.take(&name, &f, &spec), maker.make(digest));
    assert!(taken.is_ok() && made.is_ok());
    assert_eq!((compiled(&benches), copied(&benches)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_engine_compile_themselves() {
    let authority = Authority::new();
    let other = EngineConfig { memory_reservation_bytes: 2 << 30, ..ENGINE.clone() };
    let (one, work1) = Bench::of(&authority, 1, "eu-1", ENGINE.clone()).await;
    let (two, work2) = Bench::of(&authority, 2, "eu-1", ENGINE.clone()).await;
    let (three, work3) = Bench::of(&authority, 3, "eu-1", other).await;
    tokio::spawn(work1);
    tokio::spawn(work2);
    tokio::spawn(work3);
    let benches = [&one, &two, &three];
    let digest = one.put(HELLO).await;
    let state = state_of(&benches, digest);
    decide(&benches, &state);
    for bench in benches {
        bench.settled(&state).await;
    }
    assert_eq!(compiled(&[&one, &two]), 1);
    assert_eq!((compiled(&[&three]), copied(&[&three])), (1, 0));
    // Asked all the same, they say that they have nothing.
    let copier = &three.agent.maker.inner.copier;
    let asked = copier.ask(one.id, digest, Progress::Compiling, Duration::ZERO).await;
    assert_eq!(asked, Some(Progress::None));
    assert!(matches!(copier.copy(digest, one.id).await, Err(NotCopied::Failed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_turn_it_is_and_that_does_not_answer_is_passed_over() {
    let (one, work) = Bench::new(1, "eu-1").await;
    tokio::spawn(work);
    let digest = one.put(HELLO).await;
    let mut state = state_of(&[&one], digest);
    // Some of these come before this node, and nobody listens there.
    let dead: Vec<u64> = (20..24).collect();
    dead.iter().for_each(|id| add_node(&mut state, *id, "eu-1", "127.0.0.1:1"));
    let assigned: Vec<_> = dead.iter().chain(&[1]).map(|id| (*id, Ready)).collect();
    assign(&mut state, 10, &assigned);
    decide(&[&one], &state);
    let kin = one.agent.maker.kin(digest);
    assert_eq!(kin.len(), dead.len());
    one.settled(&state).await;
    assert_eq!((compiled(&[&one]), copied(&[&one])), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_compiles_is_waited_for_until_it_fails_or_is_done() {
    let (one, _work) = Bench::new(1, "eu-1").await;
    let (two, _work) = Bench::new(2, "eu-1").await;
    let benches = [&one, &two];
    let digest = one.put(HELLO).await;
    two.put(HELLO).await;
    decide(&benches, &state_of(&benches, digest));
    // It compiles, and is done.
    let working = Working::begin(&one.agent.stock, digest);
    let maker = two.agent.maker.clone();
    let made = tokio::spawn(async move { maker.make(digest).await });
    one.agent.stock.compile(digest).await.unwrap();
    made.await.unwrap().unwrap();
    drop(working);
    assert_eq!((compiled(&benches), copied(&[&two])), (1, 1));

    // It compiles again, and fails.
    for bench in benches {
        bench.agent.stock.remove_compiled(digest).await.unwrap();
    }
    let working = Working::begin(&one.agent.stock, digest);
    let waiting = two.agent.maker.wait_for(digest, one.id, Progress::Compiling);
    let (done, ()) = tokio::join!(waiting, async { drop(working) });
    assert!(!done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_copies_what_the_nearest_has_and_needs_no_component() {
    let (one, _work) = Bench::new(1, "eu-1").await;
    let (two, _work) = Bench::new(2, "eu-1").await;
    let benches = [&one, &two];
    let digest = one.put(HELLO).await;
    let mut state = state_of(&benches, digest);
    assign(&mut state, 10, &[(1, Ready), (2, Warm)]);
    one.agent.stock.compile(digest).await.unwrap();
    decide(&benches, &state);
    let taken = two.agent.shelf.take(&app("a"), &function(10), &spec(digest, &[])).await.unwrap();
    assert!(taken.cold);
    assert_eq!((compiled(&[&two]), copied(&[&two])), (0, 1));
    assert!(!two.agent.stock.holds(&digest), "it comes in its own time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_or_a_removed_node_compiled_is_refused_and_compiled_here() {
    let (one, _work) = Bench::new(1, "eu-1").await;
    let (two, _work) = Bench::new(2, "eu-1").await;
    let (three, _work) = Bench::new(3, "eu-1").await;
    let (four, _work) = Bench::of(&Authority::new(), 4, "eu-1", ENGINE.clone()).await;
    let digest = one.put(HELLO).await;
    let all = [&one, &two, &three, &four];
    decide(&all, &state_of(&all, digest));
    one.agent.stock.compile(digest).await.unwrap();
    all_see_each_other(&all);
    two.agent.maker.make(digest).await.unwrap();
    assert_eq!(copied(&[&two]), 1);

    // One compiled it and was removed; two has its copy.
    let left = [&two, &three, &four];
    three.put(HELLO).await;
    let mut state = state_of(&left, digest);
    // Later than what was decided with node 1.
    state.applied += 100;
    assign(&mut state, 10, &[(2, Ready), (3, Ready)]);
    decide(&left, &state);
    three.agent.maker.make(digest).await.unwrap();
    assert_eq!(refused(&three), [0, 0, 1, 0, 0]);
    assert_eq!((compiled(&[&three]), copied(&[&three])), (1, 0));

    // Four is of another authority: it believes nobody.
    four.put(HELLO).await;
    assign(&mut state, 10, &[(2, Ready), (3, Ready), (4, Ready)]);
    decide(&left, &state);
    four.agent.maker.make(digest).await.unwrap();
    assert_eq!(refused(&four)[1], 2);
    assert_eq!((compiled(&[&four]), copied(&[&four])), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_what_was_signed_can_be_changed() {
    let (one, _work) = Bench::new(1, "eu-1").await;
    let (two, _work) = Bench::new(2, "eu-1").await;
    let benches = [&one, &two];
    let digest = one.put(HELLO).await;
    decide(&benches, &state_of(&benches, digest));
    one.agent.stock.compile(digest).await.unwrap();
    let (head, mut reader) = one.agent.stock.open_compiled(digest).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next(1 << 20).unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    let copier = &two.agent.maker.inner.copier;
    assert_eq!(copier.judge(digest, &head), Ok(one.id));

    // The bytes.
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let mut arriving = two.agent.stock.receive_compiled(digest, head.clone());
    assert!(arriving.push(bytes.clone().into()).await);
    assert!(arriving.keep().await.is_err());
    // More of them, and fewer.
    bytes[at] ^= 1;
    for wrong in [[bytes.as_slice(), b"x"].concat(), bytes[1..].to_vec()] {
        let mut arriving = two.agent.stock.receive_compiled(digest, head.clone());
        arriving.push(wrong.into()).await;
        assert!(arriving.keep().await.is_err());
    }
    assert!(!two.agent.stock.is_compiled(&digest));
    // What is said of them, and of what they were made.
    let forged = Err(NotCopied::Unproven(Unproven::Forged));
    let mut other = head.clone();
    other.content = Digest::of(b"other").to_string();
    assert_eq!(copier.judge(digest, &other), forged);
    assert_eq!(copier.judge(Digest::of(b"other"), &head), forged);
    let mut noise = head.clone();
    noise.content = "noise".to_owned();
    assert_eq!(copier.judge(digest, &noise), Err(NotCopied::Unproven(Unproven::Malformed)));
    let mut huge = head;
    huge.bytes = u64::MAX;
    assert!(matches!(copier.judge(digest, &huge), Err(NotCopied::Failed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_signs_anew_when_its_certificate_was_renewed() {
    let authority = Authority::new();
    let (one, _work) = Bench::of(&authority, 1, "eu-1", ENGINE.clone()).await;
    let digest = one.put(HELLO).await;
    decide(&[&one], &state_of(&[&one], digest));
    one.agent.stock.compile(digest).await.unwrap();
    let inner = &one.agent.stock.inner;
    let (head, _) = one.agent.stock.open_compiled(digest).await.unwrap();
    assert!(inner.identity.is_current(&attestation_of(&head)));

    // As its certificate before said it.
    let content = head.content.parse().unwrap();
    let engine = inner.engine.key();
    let statement = Statement { component: digest, engine, content, bytes: head.bytes };
    let before = authority.own(1).attest(&statement).unwrap();
    let mut old = head.clone();
    (old.certificate, old.signature) = (before.certificate.into(), before.signature.into());
    let old = prost::Message::encode_to_vec(&old);
    inner.store.put_attestation(engine, digest, content, &old).unwrap();
    let (head, _) = one.agent.stock.open_compiled(digest).await.unwrap();
    assert!(inner.identity.is_current(&attestation_of(&head)));
    let own = authority.own(2);
    assert_eq!(own.check(&statement, &attestation_of(&head), |_| true), Ok(one.id));
}

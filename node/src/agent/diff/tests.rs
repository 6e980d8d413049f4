use nigh_model::Tier::{Ready, Warm};
use nigh_model::{FunctionSpec, NodeId, State};
use proptest::prelude::*;

use super::*;
use crate::agent::testing::{activate, add_revision, assign, function, region, spec, state};

const OWN: NodeId = NodeId(1);
const HOUR_MS: u64 = 3_600_000;

fn component(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn wants(state: &State) -> Wants {
    Wants::of(OWN, &region("eu-1"), state, &BTreeSet::new())
}

fn steps_of(state: &State, here: &Here, now_ms: u64) -> Vec<Action> {
    diff(&wants(state), here, now_ms)
}

/// What the loop would make of `here`.
fn carry_out(wants: &Wants, here: &mut Here, actions: &[Action], now_ms: u64) {
    for action in actions {
        match action {
            Action::Fetch(digest) => {
                here.components.insert(*digest, now_ms);
            }
            Action::Compile(digest) => {
                assert!(here.components.contains_key(digest), "compiled what is not here");
                here.compiled.insert(*digest);
            }
            Action::Load(function) => {
                let component = wants.functions[function].component;
                assert!(here.compiled.contains(&component), "loaded what is not compiled");
                here.rested.remove(function);
                here.warm.insert(function.clone(), Warmth { component, last_call_ms: now_ms });
            }
            Action::Unload(function) => {
                let warmth = here.warm.remove(function).expect("unloaded what is not loaded");
                if wants.functions.contains_key(function) {
                    here.rested.insert(function.clone(), warmth.last_call_ms);
                }
            }
            Action::RemoveCompiled(digest) => {
                let used = here.warm.values().any(|warmth| warmth.component == *digest);
                assert!(!used, "removed what is loaded");
                assert!(here.compiled.remove(digest));
            }
            Action::RemoveComponent(digest) => {
                assert!(!here.compiled.contains(digest), "a compiled artifact is left behind");
                assert!(here.components.remove(digest).is_some());
            }
        }
    }
    here.unwanted.note(wants, &here.warm, &here.compiled, now_ms);
}

/// A state with one active function, warm here.
fn one_function() -> (State, Here) {
    let mut state = state();
    add_revision(&mut state, "a", 10, spec(component("a"), &[]));
    activate(&mut state, "a", 10);
    assign(&mut state, 10, &[(1, Warm), (2, Warm)]);
    let mut here = Here::default();
    let actions = steps_of(&state, &here, 0);
    carry_out(&wants(&state), &mut here, &actions, 0);
    (state, here)
}

#[test]
fn an_assigned_function_is_fetched_compiled_and_loaded() {
    let mut state = state();
    add_revision(&mut state, "a", 10, spec(component("a"), &[]));
    assign(&mut state, 10, &[(1, Warm), (2, Warm)]);
    assert_eq!(
        steps_of(&state, &Here::default(), 0),
        [
            Action::Fetch(component("a")),
            Action::Compile(component("a")),
            Action::Load(function(10))
        ]
    );
    assign(&mut state, 10, &[(1, Ready)]);
    assert_eq!(
        steps_of(&state, &Here::default(), 0),
        [Action::Fetch(component("a")), Action::Compile(component("a"))]
    );
    assign(&mut state, 10, &[(2, Warm)]);
    assert_eq!(steps_of(&state, &Here::default(), 0), []);
}

#[test]
fn what_is_demanded_is_brought_only_where_it_may_be() {
    let mut state = state();
    add_revision(&mut state, "a", 10, spec(component("a"), &["us-*"]));
    add_revision(&mut state, "b", 11, spec(component("b"), &["eu-*"]));
    add_revision(&mut state, "c", 12, spec(component("c"), &[]));
    activate(&mut state, "a", 10);
    activate(&mut state, "b", 11);
    let demanded = BTreeSet::from([function(10), function(11), function(12)]);
    let wants = Wants::of(OWN, &region("eu-1"), &state, &demanded);
    let actions = diff(&wants, &Here::default(), 0);
    // The third is of a revision that no call is routed to.
    let loads = actions.iter().filter(|action| matches!(action, Action::Load(_)));
    assert_eq!(loads.collect::<Vec<_>>(), [&Action::Load(function(11))]);
    assert_eq!(actions.len(), 3);
}

#[test]
fn what_is_wanted_no_more_goes_after_a_grace_in_order() {
    let (mut state, mut here) = one_function();
    state.apps.remove(&crate::agent::testing::app("a"));
    state.assignments.remove(&function(10));
    let wants = wants(&state);
    here.unwanted.note(&wants, &here.warm, &here.compiled, 1_000);
    assert_eq!(diff(&wants, &here, 1_000 + UNWANTED_GRACE_MS - 1), []);
    assert_eq!(
        diff(&wants, &here, 1_000 + UNWANTED_GRACE_MS),
        [Action::Unload(function(10)), Action::RemoveCompiled(component("a"))],
        "the component may belong to a deploy that is under way"
    );
    assert_eq!(
        diff(&wants, &here, 1_000 + UPLOAD_GRACE_MS),
        [
            Action::Unload(function(10)),
            Action::RemoveCompiled(component("a")),
            Action::RemoveComponent(component("a"))
        ]
    );
}

#[test]
fn an_idle_function_rests_ready_and_a_steady_one_stays_warm() {
    let (mut state, mut here) = one_function();
    let idle_ms = nigh_model::limits::IDLE_MS_DEFAULT;
    assert_eq!(steps_of(&state, &here, idle_ms - 1), []);
    let actions = steps_of(&state, &here, idle_ms);
    assert_eq!(actions, [Action::Unload(function(10))]);
    carry_out(&wants(&state), &mut here, &actions, idle_ms);
    assert_eq!(steps_of(&state, &here, 2 * idle_ms), [], "it waits for a call");
    assert_eq!(settled(&wants(&state), &here, 9, 2 * idle_ms).lag, []);

    let mut steady = spec(component("a"), &[]);
    steady.scale.min_warm = 1;
    add_revision(&mut state, "a", 10, steady);
    let load = [Action::Load(function(10))];
    assert_eq!(steps_of(&state, &here, 2 * idle_ms), load);
    carry_out(&wants(&state), &mut here, &load, 2 * idle_ms);
    assert_eq!(steps_of(&state, &here, 9 * idle_ms), []);
    let second = Wants::of(NodeId(2), &region("eu-1"), &state, &BTreeSet::new());
    assert!(!second.functions[&function(10)].steady, "one node is enough");
}

#[test]
fn what_is_not_called_is_loaded_only_into_what_calls_leave_free() {
    let (mut state, _) = one_function();
    let mut here = Here::default();
    here.components.insert(component("a"), 0);
    here.compiled.insert(component("a"));
    here.memory = Memory { bytes: 91 << 20, bytes_max: 100 << 20, components: 9 };
    assert_eq!(steps_of(&state, &here, 0), [], "there is no room");
    assert_eq!(settled(&wants(&state), &here, 9, 0).lag, [], "and nobody waits for it");

    let mut steady = spec(component("a"), &[]);
    steady.scale.min_warm = 1;
    add_revision(&mut state, "a", 10, steady);
    assert_eq!(steps_of(&state, &here, 0), [Action::Load(function(10))], "it is promised");
    assert_eq!(settled(&wants(&state), &here, 9, 0).lag, [RevisionId(10)]);

    for id in 11..20 {
        add_revision(&mut state, "b", id, spec(component("a"), &[]));
        assign(&mut state, id, &[(1, Warm)]);
    }
    here.memory.bytes = (90 << 20) - 3 * FUNCTION_BYTES;
    assert_eq!(steps_of(&state, &here, 0).len(), 3);
    here.memory.components = COMPONENTS_MAX;
    assert_eq!(steps_of(&state, &here, 0), [Action::Load(function(10))], "they are too many");
}

#[test]
fn an_upload_waits_for_its_revision_and_leaves_where_it_may_not_be() {
    let mut state = state();
    let mut here = Here::default();
    here.components.insert(component("a"), 5_000);
    assert_eq!(steps_of(&state, &here, 5_000 + UPLOAD_GRACE_MS - 1), []);
    let gone = [Action::RemoveComponent(component("a"))];
    assert_eq!(steps_of(&state, &here, 5_000 + UPLOAD_GRACE_MS), gone);

    add_revision(&mut state, "a", 10, spec(component("a"), &["us-*"]));
    assert_eq!(steps_of(&state, &here, 5_000 + FORBIDDEN_GRACE_MS - 1), []);
    assert_eq!(steps_of(&state, &here, 5_000 + FORBIDDEN_GRACE_MS), gone);

    add_revision(&mut state, "b", 11, spec(component("a"), &["eu-*"]));
    assert_eq!(steps_of(&state, &here, HOUR_MS), [], "another app may have it here");
}

#[test]
fn the_revision_that_answers_decides_over_one_that_is_only_kept() {
    let (mut state, mut here) = one_function();
    add_revision(&mut state, "a", 11, spec(component("a"), &["us-*"]));
    assert_eq!(steps_of(&state, &here, 1), [], "the old one still answers here");
    activate(&mut state, "a", 11);
    state.assignments.remove(&function(10));
    here.unwanted.note(&wants(&state), &here.warm, &here.compiled, 1);
    assert_eq!(
        steps_of(&state, &here, FORBIDDEN_GRACE_MS.max(UNWANTED_GRACE_MS) + 1),
        [
            Action::Unload(function(10)),
            Action::RemoveCompiled(component("a")),
            Action::RemoveComponent(component("a"))
        ]
    );
}

#[test]
fn settled_names_what_lags_or_keeps_below_it() {
    let mut state = state();
    for id in 100..100 + LAG_MAX as u64 + 2 {
        add_revision(&mut state, &format!("a{id}"), id, spec(component("a"), &[]));
        assign(&mut state, id, &[(1, Ready)]);
    }
    let mut here = Here::default();
    let all = settled(&wants(&state), &here, 500, 0);
    assert_eq!(all.lag.len(), LAG_MAX);
    assert_eq!(all.index, 100 + LAG_MAX as u64 - 1, "before the first that is not named");
    here.compiled.insert(component("a"));
    let none = settled(&wants(&state), &here, 500, 0);
    assert_eq!(none, Settled { index: 500, lag: vec![] });
}

const REGIONS: [&[&str]; 4] = [&[], &["eu-*"], &["us-*"], &["eu-1", "us-1"]];
const COMPONENTS: [&str; 4] = ["a", "b", "c", "d"];

/// What a revision is made of never changes: its id says it.
fn revision_of(id: u64) -> (String, FunctionSpec) {
    let at = |shift: u32| (id >> shift & 3) as usize;
    let mut spec = spec(component(COMPONENTS[at(2)]), REGIONS[at(4)]);
    spec.scale.min_warm = (id >> 6) as u32;
    (format!("app-{}", at(0)), spec)
}

/// Some revisions: each kept, active or coming, and assigned here or not. A plan may even
/// break the rules.
fn a_state() -> impl Strategy<Value = State> {
    let tier = proptest::option::of(prop_oneof![Just(Ready), Just(Warm)]);
    proptest::collection::btree_map(0..128_u64, (0..3_u8, tier), 0..12).prop_map(|revisions| {
        let mut state = state();
        for (id, (role, tier)) in revisions {
            let (name, spec) = revision_of(id);
            add_revision(&mut state, &name, id, spec);
            match role {
                0 => activate(&mut state, &name, id),
                1 => roll_out(&mut state, &name, id),
                _ => {}
            }
            if let Some(tier) = tier {
                assign(&mut state, id, &[(1, tier), (2, Warm)]);
            }
        }
        state
    })
}

fn roll_out(state: &mut State, name: &str, id: u64) {
    let name = crate::agent::testing::app(name);
    let mut app = state.apps.get(&name).unwrap().as_ref().clone();
    app.rollout = Some(RevisionId(id));
    state.apps.insert(name, std::sync::Arc::new(app));
}

/// Whether some function made of this component may be here and has a reason to be.
fn has_reason(state: &State, demanded: &BTreeSet<FunctionRef>, digest: &Digest) -> bool {
    let routed: BTreeSet<_> = state.wanted_revisions().map(|(_, revision)| revision.id).collect();
    let revisions = state.apps.values().flat_map(|app| app.revisions.values());
    revisions.flat_map(|revision| revision.functions()).any(|(function, spec)| {
        let assignment = state.assignments.get(&function);
        let assigned = assignment.is_some_and(|at| at.nodes.contains_key(&OWN));
        let asked_for = demanded.contains(&function) && routed.contains(&function.revision);
        spec.component == *digest
            && spec.placement.allows(&region("eu-1"))
            && (assigned || asked_for)
    })
}

proptest! {
    #[test]
    fn the_agent_comes_to_rest_and_holds_only_what_it_may(
        // One decision after another; times at which the loop looks.
        rounds in proptest::collection::vec(
            (a_state(), 0..2_000_000_u64, proptest::collection::btree_set(0..128_u64, 0..20)),
            1..5,
        ),
    ) {
        let mut here = Here::default();
        let mut now_ms = 0;
        for (state, wait_ms, demand) in rounds {
            now_ms += wait_ms;
            let demanded: BTreeSet<_> = demand.into_iter().map(function).collect();
            let wants = Wants::of(OWN, &region("eu-1"), &state, &demanded);
            here.rested.retain(|function, _| wants.functions.contains_key(function));
            here.unwanted.note(&wants, &here.warm, &here.compiled, now_ms);
            for _ in 0..3 {
                let actions = diff(&wants, &here, now_ms);
                for action in &actions {
                    match action {
                        Action::Fetch(digest) | Action::Compile(digest) => {
                            prop_assert!(has_reason(&state, &demanded, digest), "{action:?}");
                        }
                        Action::RemoveCompiled(digest) | Action::RemoveComponent(digest) => {
                            prop_assert!(!has_reason(&state, &demanded, digest), "{action:?}");
                        }
                        Action::Load(_) | Action::Unload(_) => {}
                    }
                }
                carry_out(&wants, &mut here, &actions, now_ms);
                prop_assert_eq!(diff(&wants, &here, now_ms), vec![], "it does not come to rest");
                prop_assert_eq!(
                    settled(&wants, &here, state.applied, now_ms),
                    Settled { index: state.applied, lag: vec![] }
                );
                // All graces and idle times are over at the next look.
                now_ms += HOUR_MS;
            }
            for digest in here.components.keys() {
                prop_assert_eq!(wants.verdict(digest), Verdict::Keep);
            }
            prop_assert_eq!(&here.compiled, &wants.compiled());
            prop_assert!(here.warm.keys().all(|function| wants.functions[function].steady));
        }
    }
}

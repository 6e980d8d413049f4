//! What is wanted here beyond the plan, since calls keep asking for it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{FunctionRef, FunctionSpec, NodeId, Region, State};
use nigh_placement::demand::idle;

use super::diff::Warmth;

/// Functions held beyond the plan; who wants more should have a larger plan.
const DEMANDED_MAX: usize = 1_000;

/// What is wanted on a node beyond the plan.
#[derive(Clone, Debug)]
pub(super) struct Demanded {
    own: NodeId,
    region: Region,
    functions: BTreeSet<FunctionRef>,
}

impl Demanded {
    /// Nothing yet.
    pub(super) fn new(own: NodeId, region: Region) -> Self {
        Self { own, region, functions: BTreeSet::new() }
    }

    /// The functions.
    pub(super) fn functions(&self) -> &BTreeSet<FunctionRef> {
        &self.functions
    }

    /// Takes in what is asked for, if it may be here and is not by the plan; lets go of what
    /// may not be here any more, is here by the plan, or was loaded and is idle.
    pub(super) fn update(
        &mut self,
        state: &State,
        asked_for: &[FunctionRef],
        warm: &BTreeMap<FunctionRef, Warmth>,
        rested: &BTreeMap<FunctionRef, u64>,
        now_ms: u64,
    ) {
        let Self { own, region, functions } = self;
        let may_be_here = |function: &FunctionRef| {
            let spec = wanted_spec(state, function)?;
            let assignment = state.assignments.get(function);
            let planned = assignment.is_some_and(|at| at.nodes.contains_key(own));
            (spec.placement.allows(region) && !planned).then_some(spec)
        };
        functions.retain(|function| {
            let Some(spec) = may_be_here(function) else { return false };
            match warm.get(function) {
                Some(warmth) => !idle(warmth.last_call_ms, spec.scale.idle_ms, now_ms, false),
                // Not here yet, unless it had to make room.
                None => !rested.contains_key(function),
            }
        });
        for function in asked_for {
            if functions.len() < DEMANDED_MAX && may_be_here(function).is_some() {
                functions.insert(function.clone());
            }
        }
    }
}

/// The spec of a function whose revision is active or coming.
fn wanted_spec<'s>(state: &'s State, function: &FunctionRef) -> Option<&'s FunctionSpec> {
    let (app, revision) = state.revision(function.revision)?;
    let wanted = [app.active, app.rollout].contains(&Some(revision.id));
    revision.spec.functions.get(&function.function).filter(|_| wanted)
}

#[cfg(test)]
mod tests {
    use nigh_model::{Digest, Tier};

    use super::*;
    use crate::agent::testing::{activate, add_revision, assign, function, region, spec, state};

    #[test]
    fn only_what_may_be_here_and_is_not_planned_is_taken_in() {
        let mut state = state();
        for (id, regions) in [(10, "eu-*"), (11, "us-*"), (12, "eu-*"), (13, "eu-*")] {
            let name = format!("a{id}");
            add_revision(&mut state, &name, id, spec(Digest::of(b"x"), &[regions]));
            if id != 13 {
                activate(&mut state, &name, id);
            }
        }
        assign(&mut state, 12, &[(1, Tier::Ready)]);
        let mut demanded = Demanded::new(NodeId(1), region("eu-1"));
        let asked_for: Vec<_> = (10..15).map(function).collect();
        demanded.update(&state, &asked_for, &BTreeMap::new(), &BTreeMap::new(), 0);
        assert_eq!(demanded.functions(), &BTreeSet::from([function(10)]));

        assign(&mut state, 10, &[(1, Tier::Warm)]);
        demanded.update(&state, &[], &BTreeMap::new(), &BTreeMap::new(), 0);
        assert_eq!(demanded.functions(), &BTreeSet::new(), "it is planned now");
    }

    #[test]
    fn what_is_idle_or_had_to_make_room_is_let_go() {
        let mut state = state();
        add_revision(&mut state, "a", 10, spec(Digest::of(b"x"), &[]));
        activate(&mut state, "a", 10);
        let idle_ms = nigh_model::limits::IDLE_MS_DEFAULT;
        let warmth = Warmth { component: Digest::of(b"x"), last_call_ms: 50 };
        let (none, loaded) = (BTreeMap::new(), BTreeMap::from([(function(10), warmth)]));
        let rested = BTreeMap::from([(function(10), 50)]);
        type Map<V> = BTreeMap<FunctionRef, V>;
        let held = |warm: &Map<Warmth>, rested: &Map<u64>, now_ms| {
            let mut demanded = Demanded::new(NodeId(1), region("eu-1"));
            demanded.update(&state, &[function(10)], &none, &BTreeMap::new(), 0);
            demanded.update(&state, &[], warm, rested, now_ms);
            demanded.functions().len()
        };
        assert_eq!(held(&none, &BTreeMap::new(), 9 * idle_ms), 1, "it is still on its way");
        assert_eq!(held(&loaded, &BTreeMap::new(), 49 + idle_ms), 1);
        assert_eq!(held(&loaded, &BTreeMap::new(), 50 + idle_ms), 0);
        assert_eq!(held(&none, &rested, 51), 0);
    }
}

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

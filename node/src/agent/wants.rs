//! What should be on this node, and what may stay on it: read from the state alone. Pure.

use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{Digest, FunctionRef, FunctionSpec, NodeId, Region, State, Tier};

/// What should be on this node, and what may stay on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Functions that should be here.
    pub(crate) functions: BTreeMap<FunctionRef, Want>,
    /// Components that some revision is made of, and whether they may be in this region.
    judged: BTreeMap<Digest, bool>,
    /// Functions that may be here by a revision that is active or coming.
    allowed: BTreeSet<FunctionRef>,
}

/// How a function should be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// Its component.
    pub(crate) component: Digest,
    /// Ready, or warm too.
    pub(crate) tier: Tier,
    /// By the plan; else because calls keep asking for it.
    pub(crate) assigned: bool,
    /// Unloaded after this long without a call, in ms.
    pub(crate) idle_ms: u64,
    /// Stays warm however idle.
    pub(crate) steady: bool,
}

/// What a component may do on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may stay.
    Keep,
    /// Revisions are made of it, but none that may be in this region.
    Forbidden,
    /// No revision is made of it, or none yet.
    Unknown,
}

impl Wants {
    /// What this node should hold by this state. What is demanded counts only where a revision
    /// that is active or coming allows it.
    pub(crate) fn of(
        own: NodeId,
        region: &Region,
        state: &State,
        demanded: &BTreeSet<FunctionRef>,
    ) -> Self {
        let mut wants = Self::default();
        for (_, revision) in state.wanted_revisions() {
            for (function, spec) in revision.functions() {
                let allowed = spec.placement.allows(region);
                wants.judge(spec.component, allowed);
                if !allowed {
                    continue;
                }
                if demanded.contains(&function) {
                    wants.functions.insert(function.clone(), Want::demanded(spec));
                }
                wants.allowed.insert(function);
            }
        }
        // A wanted revision speaks before those that are only kept: who narrowed an app's
        // regions meant the bytes to leave.
        let spoken: BTreeSet<Digest> = wants.judged.keys().copied().collect();
        let revisions = state.apps.values().flat_map(|app| app.revisions.values());
        for (function, spec) in revisions.flat_map(|revision| revision.functions()) {
            let allowed = spec.placement.allows(region);
            if !spoken.contains(&spec.component) {
                wants.judge(spec.component, allowed);
            }
            let assignment = state.assignments.get(&function).filter(|_| allowed);
            let Some(tier) = assignment.and_then(|assignment| assignment.nodes.get(&own)) else {
                continue;
            };
            let warm = assignment.into_iter().flat_map(|assignment| &assignment.nodes);
            let rank = warm.filter(|(id, tier)| **id < own && **tier == Tier::Warm).count();
            let steady = *tier == Tier::Warm && rank < spec.scale.min_warm as usize;
            wants.judge(spec.component, true);
            wants.functions.insert(function, Want::assigned(spec, *tier, steady));
        }
        wants
    }

    /// What the component may do here.
    pub(crate) fn verdict(&self, component: &Digest) -> Verdict {
        match self.judged.get(component) {
            Some(true) => Verdict::Keep,
            Some(false) => Verdict::Forbidden,
            None => Verdict::Unknown,
        }
    }

    /// Whether the function may be here by a revision that is active or coming.
    pub(crate) fn allows(&self, function: &FunctionRef) -> bool {
        self.allowed.contains(function)
    }

    /// The components that should be compiled here.
    pub(crate) fn compiled(&self) -> BTreeSet<Digest> {
        self.functions.values().map(|want| want.component).collect()
    }

    fn judge(&mut self, component: Digest, allowed: bool) {
        *self.judged.entry(component).or_default() |= allowed;
    }
}

impl Want {
    fn assigned(spec: &FunctionSpec, tier: Tier, steady: bool) -> Self {
        let (component, idle_ms) = (spec.component, spec.scale.idle_ms);
        Self { component, tier, assigned: true, idle_ms, steady }
    }

    fn demanded(spec: &FunctionSpec) -> Self {
        let (component, idle_ms) = (spec.component, spec.scale.idle_ms);
        Self { component, tier: Tier::Warm, assigned: false, idle_ms, steady: false }
    }
}

//! What this node must do to match the decision. Pure: what should be here and what is here
//! in, actions out.
//!
//! It deliberately does not know what is under way or has failed; the loop that carries the
//! actions out does.

use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{Digest, FunctionRef, RevisionId, Tier};
use nigh_placement::demand::idle;

use super::cache::COMPONENTS_MAX;
use super::wants::{Verdict, Want, Wants};

/// What is wanted no more stays this long, in ms: calls routed on older knowledge find it.
pub(crate) const UNWANTED_GRACE_MS: u64 = 10_000;
/// A component that no revision is made of stays this long after it was last put or asked
/// for, in ms: its deploy may still be under way.
pub(crate) const UPLOAD_GRACE_MS: u64 = 600_000;
/// A component whose revisions may all not be in this region stays this long after it was last
/// put or asked for, in ms: it was uploaded here by one who did not say where it may be, and by
/// now is where it may be. Longer than a node takes to open it that was told that it is here.
pub(crate) const FORBIDDEN_GRACE_MS: u64 = 2_000;
/// Functions are loaded before they are called up to this share of the memory for loaded code: the
/// rest is for what is called.
const AHEAD_PERCENT: u64 = 90;
/// What a function is taken to need before it is loaded, in bytes.
const FUNCTION_BYTES: u64 = 128 << 10;
/// Revisions named as lagging: they must fit a gossip message with everything else.
pub(crate) const LAG_MAX: usize = 16;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Fetch a component from another node.
    Fetch(Digest),
    /// Compile a component that is here, or copy what another node compiled.
    Compile(Digest),
    /// Load a function whose component is compiled here.
    Load(FunctionRef),
    /// Unload a function.
    Unload(FunctionRef),
    /// Remove a compiled artifact.
    RemoveCompiled(Digest),
    /// Remove a component.
    RemoveComponent(Digest),
}

/// What is on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    /// Components, and when each was last put or asked for, in ms.
    pub(crate) components: BTreeMap<Digest, u64>,
    /// Components whose compiled artifact is here.
    pub(crate) compiled: BTreeSet<Digest>,
    /// Loaded functions.
    pub(crate) warm: BTreeMap<FunctionRef, Warmth>,
    /// What the loaded ones take.
    pub(crate) memory: Memory,
    /// Functions that were unloaded, and when each had been called last, in ms.
    pub(crate) rested: BTreeMap<FunctionRef, u64>,
    /// Since when what is here is not wanted.
    pub(crate) unwanted: Unwanted,
}

/// What loaded code takes of a node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What it takes, in bytes.
    pub(crate) bytes: u64,
    /// What it may take, in bytes.
    pub(crate) bytes_max: u64,
    /// Components that are loaded.
    pub(crate) components: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { bytes: 0, bytes_max: crate::LOADED_BYTES_MAX, components: 0 }
    }
}

impl Memory {
    /// Functions that can be loaded before they are called.
    fn room(self) -> usize {
        let bytes = (self.bytes_max / 100 * AHEAD_PERCENT).saturating_sub(self.bytes);
        let functions = usize::try_from(bytes.div_ceil(FUNCTION_BYTES)).unwrap_or(usize::MAX);
        let components_max = COMPONENTS_MAX / 100 * AHEAD_PERCENT as usize;
        functions.min(components_max.saturating_sub(self.components))
    }
}

/// A loaded function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warmth {
    /// Its component.
    pub(crate) component: Digest,
    /// When it was called last, or loaded if it never was, in ms.
    pub(crate) last_call_ms: u64,
}

/// Since when what is here is not wanted, in ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unwanted {
    functions: BTreeMap<FunctionRef, u64>,
    compiled: BTreeMap<Digest, u64>,
}

impl Unwanted {
    /// Takes note of what is not wanted now, and forgets what is wanted again or gone.
    pub(crate) fn note(
        &mut self,
        wants: &Wants,
        warm: &BTreeMap<FunctionRef, Warmth>,
        compiled: &BTreeSet<Digest>,
        now_ms: u64,
    ) {
        let unwanted = |function: &FunctionRef| !wants.functions.contains_key(function);
        self.functions.retain(|function, _| warm.contains_key(function) && unwanted(function));
        for function in warm.keys().filter(|function| unwanted(function)) {
            self.functions.entry(function.clone()).or_insert(now_ms);
        }
        let wanted = wants.compiled();
        self.compiled.retain(|digest, _| compiled.contains(digest) && !wanted.contains(digest));
        for digest in compiled.difference(&wanted) {
            self.compiled.entry(*digest).or_insert(now_ms);
        }
    }
}

/// Up to where this node has everything that is assigned to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The state index up to which everything assigned to this node is here …
    pub(crate) index: u64,
    /// … but for these revisions, in order; [`LAG_MAX`] at most.
    pub(crate) lag: Vec<RevisionId>,
}

/// What this node must do, in order.
pub(crate) fn diff(wants: &Wants, here: &Here, now_ms: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    bring(wants, here, now_ms, &mut actions);
    let mut warm = here.warm.clone();
    for function in surplus(wants, here, now_ms) {
        warm.remove(&function);
        actions.push(Action::Unload(function));
    }
    remove(wants, here, &warm, now_ms, &mut actions);
    actions
}

/// Up to where everything that should be here is here, by the state of this index.
pub(crate) fn settled(wants: &Wants, here: &Here, index: u64, now_ms: u64) -> Settled {
    let full = here.memory.room() == 0;
    let lacks = |(function, want): &(&FunctionRef, &Want)| {
        let cold = want.tier == Tier::Warm
            && (want.steady || !full)
            && !here.warm.contains_key(function)
            && !rests(function, want, here, now_ms);
        want.assigned && (cold || !here.compiled.contains(&want.component))
    };
    let lag: BTreeSet<RevisionId> =
        wants.functions.iter().filter(lacks).map(|(function, _)| function.revision).collect();
    let mut lag: Vec<RevisionId> = lag.into_iter().collect();
    // A revision is unknown before the index that is its id, so it lags not there.
    let index = lag.get(LAG_MAX).map_or(index, |first_unnamed| first_unnamed.0.saturating_sub(1));
    lag.truncate(LAG_MAX);
    Settled { index, lag }
}

fn bring(wants: &Wants, here: &Here, now_ms: u64, actions: &mut Vec<Action>) {
    let mut coming = BTreeSet::new();
    let mut room = here.memory.room();
    for (function, want) in &wants.functions {
        let component = want.component;
        if coming.insert(component) {
            if !here.components.contains_key(&component) {
                actions.push(Action::Fetch(component));
            }
            if !here.compiled.contains(&component) {
                actions.push(Action::Compile(component));
            }
        }
        let cold = want.tier == Tier::Warm && !here.warm.contains_key(function);
        if cold && (want.steady || room > 0) && !rests(function, want, here, now_ms) {
            room = room.saturating_sub(1);
            actions.push(Action::Load(function.clone()));
        }
    }
}

/// Whether a function was unloaded because nobody called it: it waits for the next call.
fn rests(function: &FunctionRef, want: &Want, here: &Here, now_ms: u64) -> bool {
    let last = here.rested.get(function);
    last.is_some_and(|last_call_ms| idle(*last_call_ms, want.idle_ms, now_ms, want.steady))
}

/// Loaded functions that are not wanted, or idle.
fn surplus(wants: &Wants, here: &Here, now_ms: u64) -> Vec<FunctionRef> {
    let goes = |(function, warmth): &(&FunctionRef, &Warmth)| {
        let last_call_ms = warmth.last_call_ms;
        match wants.functions.get(function) {
            Some(want) => idle(last_call_ms, want.idle_ms, now_ms, want.steady),
            // Compiled here for another function, and still called: it may as well stay.
            None => {
                due(here.unwanted.functions.get(function), UNWANTED_GRACE_MS, now_ms)
                    && (idle(last_call_ms, UNWANTED_GRACE_MS, now_ms, false)
                        || !wants.allows(function))
            }
        }
    };
    here.warm.iter().filter(goes).map(|(function, _)| function.clone()).collect()
}

fn remove(
    wants: &Wants,
    here: &Here,
    warm: &BTreeMap<FunctionRef, Warmth>,
    now_ms: u64,
    actions: &mut Vec<Action>,
) {
    let mut needed = wants.compiled();
    needed.extend(warm.values().map(|warmth| warmth.component));
    let mut compiled = here.compiled.clone();
    for digest in here.compiled.difference(&needed) {
        if due(here.unwanted.compiled.get(digest), UNWANTED_GRACE_MS, now_ms) {
            compiled.remove(digest);
            actions.push(Action::RemoveCompiled(*digest));
        }
    }
    for (digest, asked_ms) in &here.components {
        let grace_ms = match wants.verdict(digest) {
            Verdict::Keep => continue,
            Verdict::Forbidden => FORBIDDEN_GRACE_MS,
            Verdict::Unknown => UPLOAD_GRACE_MS,
        };
        if !compiled.contains(digest) && due(Some(asked_ms), grace_ms, now_ms) {
            actions.push(Action::RemoveComponent(*digest));
        }
    }
}

fn due(since_ms: Option<&u64>, grace_ms: u64, now_ms: u64) -> bool {
    since_ms.is_some_and(|since_ms| now_ms.saturating_sub(*since_ms) >= grace_ms)
}

#[cfg(test)]
mod tests;

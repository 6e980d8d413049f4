//! Nodes whose engine is this one's: what one of them compiles, all can run. Who of them compiles
//! a component, and from whom it is copied. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{Digest, FunctionRef, NodeId, State};
use nigh_proto::peer::v1::Progress;
use sha2::{Digest as _, Sha256};

use crate::seen::{Liveness, View};

/// Nodes that are asked about a component, the nearest: with more replicas than this, each
/// neighbourhood of so many may compile once.
const KIN_MAX: usize = 64;

/// What is known of a node that may have a component compiled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kin {
    /// It should have it, and stays: it may be waited for.
    pub(super) compiles: bool,
    /// It says that it has it; sometimes wrongly.
    pub(super) ready: bool,
    /// The measured round trip.
    pub(super) rtt_ms: f64,
}

/// What to do for a component that is not compiled here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Compile it.
    Own,
    /// Wait for this node, which compiles it or is the first to.
    Wait(NodeId),
}

/// The nodes of this engine, those that are thought to be dead left out, that may have the component, or will; `reached` has the round
/// trip of those to which there is a way.
pub(super) fn kin(
    own: NodeId,
    engine: &str,
    component: Digest,
    state: &State,
    view: &View,
    reached: impl Fn(NodeId) -> Option<f64>,
) -> BTreeMap<NodeId, Kin> {
    let functions = made_of(component, state);
    let assigned = assigned(&functions, state);
    let mut kin = Vec::new();
    for (id, node) in &view.nodes {
        let report = &node.report;
        let lives = node.liveness != Liveness::Dead && state.nodes.contains_key(id);
        if *id == own || !lives || report.engine != engine || engine.is_empty() {
            continue;
        }
        let Some(rtt_ms) = reached(*id) else { continue };
        let compiles = assigned.contains(id) && !report.draining;
        let ready = functions.iter().any(|function| report.ready.contains(function));
        if compiles || ready {
            kin.push((*id, Kin { compiles, ready, rtt_ms }));
        }
    }
    kin.sort_by(nearer);
    kin.truncate(KIN_MAX);
    kin.into_iter().collect()
}

/// Whether another node should have the component, and it was not heard of yet which engine it has.
pub(super) fn has_strangers(own: NodeId, component: Digest, state: &State, view: &View) -> bool {
    let assigned = assigned(&made_of(component, state), state);
    let is_known = |id: &NodeId| {
        let node = view.nodes.get(id).filter(|node| node.liveness != Liveness::Dead);
        node.is_some_and(|node| !node.report.engine.is_empty())
    };
    assigned.iter().any(|id| *id != own && state.nodes.contains_key(id) && !is_known(id))
}

/// Nodes of these, the nearest first.
pub(super) fn nearest(
    kin: &BTreeMap<NodeId, Kin>,
    which: impl Fn(NodeId, &Kin) -> bool,
) -> Vec<NodeId> {
    let mut which: Vec<_> =
        kin.iter().filter(|(id, kin)| which(**id, kin)).map(|(id, kin)| (*id, *kin)).collect();
    which.sort_by(nearer);
    which.into_iter().map(|(id, _)| id).collect()
}

/// Whose turn it is. All nodes that see the same say the same: whoever compiles already, else the
/// first in an order that depends on the component, so that each node compiles some (rendezvous
/// hashing; Thaler and Ravishankar, 1998). Who is in `passed` was waited for in vain.
pub(super) fn turn(
    own: NodeId,
    component: Digest,
    kin: &BTreeMap<NodeId, Kin>,
    progress: &BTreeMap<NodeId, Progress>,
    passed: &BTreeSet<NodeId>,
) -> Turn {
    let may = |id: &NodeId| {
        *id == own || (kin.get(id).is_some_and(|kin| kin.compiles) && !passed.contains(id))
    };
    let works = |id: &&NodeId| progress.get(*id) == Some(&Progress::Compiling);
    let first = |ids: &mut dyn Iterator<Item = &NodeId>| {
        ids.max_by_key(|id| (weight(component, **id), Reverse(**id))).copied()
    };
    let working = first(&mut kin.keys().filter(|id| may(id)).filter(works));
    let next = || first(&mut kin.keys().chain([&own]).filter(|id| may(id)));
    match working.or_else(next) {
        Some(id) if id != own => Turn::Wait(id),
        _ => Turn::Own,
    }
}

fn nearer((a, at_a): &(NodeId, Kin), (b, at_b): &(NodeId, Kin)) -> Ordering {
    at_a.rtt_ms.partial_cmp(&at_b.rtt_ms).unwrap_or(Ordering::Equal).then_with(|| a.cmp(b))
}

fn made_of(component: Digest, state: &State) -> Vec<FunctionRef> {
    let revisions = state.apps.values().flat_map(|app| app.revisions.values());
    let functions = revisions.flat_map(|revision| revision.functions());
    functions.filter(|(_, spec)| spec.component == component).map(|(name, _)| name).collect()
}

fn assigned(functions: &[FunctionRef], state: &State) -> BTreeSet<NodeId> {
    let assignments = functions.iter().filter_map(|function| state.assignments.get(function));
    assignments.flat_map(|assignment| assignment.nodes.keys().copied()).collect()
}

/// The same on every node.
fn weight(component: Digest, node: NodeId) -> [u8; 32] {
    let hash = Sha256::new().chain_update(component.as_bytes());
    hash.chain_update(node.0.to_le_bytes()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{add_node, add_revision, assign, function, spec, state};
    use crate::gossip::Filter;
    use crate::seen::{NodeSeen, Report};
    use nigh_model::Tier;

    const SAME: Kin = Kin { compiles: true, ready: false, rtt_ms: 1.0 };

    fn all(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Kin> {
        ids.into_iter().map(|id| (NodeId(id), SAME)).collect()
    }

    fn at(progress: &[(u64, Progress)]) -> BTreeMap<NodeId, Progress> {
        progress.iter().map(|(id, progress)| (NodeId(*id), *progress)).collect()
    }

    fn whom(own: u64, n: u64, component: Digest, passed: &BTreeSet<NodeId>) -> NodeId {
        let kin = all((1..=n).filter(|id| *id != own));
        match turn(NodeId(own), component, &kin, &BTreeMap::new(), passed) {
            Turn::Own => NodeId(own),
            Turn::Wait(id) => id,
        }
    }

    #[test]
    fn all_nodes_name_the_same_one_and_the_next_when_it_is_passed_over() {
        let mut compiles = BTreeMap::<NodeId, usize>::new();
        for n in 0..200_u32 {
            let component = Digest::of(&n.to_le_bytes());
            let mut passed = BTreeSet::new();
            let first = whom(1, 5, component, &passed);
            assert!((2..=5).all(|own| whom(own, 5, component, &passed) == first));
            *compiles.entry(first).or_default() += 1;
            passed.insert(first);
            let others: Vec<u64> = (1..=5).filter(|id| NodeId(*id) != first).collect();
            let next = whom(others[0], 5, component, &passed);
            assert_ne!(next, first);
            assert!(others.iter().all(|own| whom(*own, 5, component, &passed) == next));
        }
        assert!(compiles.len() == 5 && compiles.values().all(|n| *n > 20), "{compiles:?}");
    }

    #[test]
    fn who_is_alone_or_has_passed_over_all_compiles_itself() {
        let component = Digest::of(b"x");
        assert_eq!(whom(3, 0, component, &BTreeSet::new()), NodeId(3));
        assert_eq!(whom(3, 5, component, &[1, 2, 4, 5].map(NodeId).into()), NodeId(3));
        // Nobody else stays.
        let leaving = Kin { compiles: false, ..SAME };
        let kin = (1..3).map(|id| (NodeId(id), leaving)).collect();
        let none = BTreeMap::new();
        assert_eq!(turn(NodeId(3), component, &kin, &none, &BTreeSet::new()), Turn::Own);
    }

    #[test]
    fn who_compiles_already_is_waited_for_whoever_should() {
        let component = Digest::of(b"x");
        let none = BTreeSet::new();
        for own in 1..=5 {
            for other in (1..=5).filter(|id| *id != own) {
                let kin = all((1..=5).filter(|id| *id != own));
                let progress = at(&[(other, Progress::Compiling)]);
                let who = turn(NodeId(own), component, &kin, &progress, &none);
                assert_eq!(who, Turn::Wait(NodeId(other)));
                let passed = BTreeSet::from([NodeId(other)]);
                let who = turn(NodeId(own), component, &kin, &progress, &passed);
                assert_ne!(who, Turn::Wait(NodeId(other)));
            }
        }
    }

    #[test]
    fn only_live_nodes_of_this_engine_that_have_it_or_will_are_kin() {
        let component = Digest::of(b"x");
        let mut state = state();
        (1..=8).for_each(|id| add_node(&mut state, id, "eu-1", "127.0.0.1:1"));
        add_revision(&mut state, "a", 10, spec(component, &[]));
        let assigned = [1, 2, 3, 4, 5, 6].map(|id| (id, Tier::Ready));
        assign(&mut state, 10, &assigned);
        let node = |engine: &str, liveness| NodeSeen {
            liveness,
            report: Report { engine: engine.to_owned(), ..Report::default() },
        };
        let mut nodes: BTreeMap<NodeId, NodeSeen> =
            (1..=9).map(|id| (NodeId(id), node("e", Liveness::Alive))).collect();
        // Another engine, one that does not say, a dead one, one that leaves with what it has, one
        // that has it and should not. The last was never registered.
        nodes.insert(NodeId(2), node("f", Liveness::Alive));
        nodes.insert(NodeId(3), node("", Liveness::Alive));
        nodes.insert(NodeId(4), node("e", Liveness::Dead));
        let has = Filter::of([function(10)].iter());
        let leaving = nodes.get_mut(&NodeId(5)).unwrap();
        (leaving.report.draining, leaving.report.ready) = (true, has.clone());
        nodes.get_mut(&NodeId(7)).unwrap().report.ready = has;
        let view = View { nodes };
        let reached = |id: NodeId| Some(10.0 - id.0 as f64);
        let kin = kin(NodeId(1), "e", component, &state, &view, reached);
        let compiles: Vec<_> = kin.iter().map(|(id, kin)| (id.0, kin.compiles)).collect();
        assert_eq!(compiles, [(5, false), (6, true), (7, false)]);
        assert_eq!(nearest(&kin, |_, _| true), [7, 6, 5].map(NodeId));
        assert_eq!(nearest(&kin, |_, kin| kin.ready), [7, 5].map(NodeId));
        let none = super::kin(NodeId(1), "", component, &state, &view, reached);
        assert_eq!(none, BTreeMap::new());
        assert!(has_strangers(NodeId(1), component, &state, &view), "3 and 4 have not said it");
        assign(&mut state, 10, &[1, 2, 5, 6].map(|id| (id, Tier::Ready)));
        assert!(!has_strangers(NodeId(1), component, &state, &view));
    }
}

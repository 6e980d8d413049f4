//! The nodes that may run a call, as `placement` wants to know them.

use nigh_model::{FunctionRef, NodeId, State};
use nigh_placement::distance::Known;
use nigh_placement::{Candidate, Choice, Distance, RttEwma, Start, Viewpoint, pick};

use crate::decided::Target;
use crate::seen::{Liveness, NodeSeen, View};

/// How long a call is taken to run until functions are measured, in ms.
const EXEC_MS: f64 = 10.0;
/// What a node that was not heard of for a while is put behind others by, in ms: less than the
/// way to another continent, as the connection to it will tell sooner.
const SUSPECT_PENALTY_MS: f64 = 50.0;

/// What this node has found out about a peer by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Met {
    /// Taken out after a failed connection.
    pub(crate) ejected: bool,
    /// The measured round trip, in ms.
    pub(crate) rtt_ms: Option<f64>,
}

/// This node, as a place to run the function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here {
    /// Its id.
    pub(crate) id: NodeId,
    /// What has to happen first; none: the function should not be here.
    pub(crate) start: Option<Start>,
    /// Calls running.
    pub(crate) running: u32,
    /// Calls that can run at once.
    pub(crate) slots: u32,
    /// About to leave.
    pub(crate) draining: bool,
}

/// Every node that may run the function: assigned to it, or seen to have it loaded.
///
/// Invariant: none of them is outside the function's allowed regions.
pub(crate) fn candidates(
    target: &Target,
    here: &Here,
    state: &State,
    view: &View,
    met: impl Fn(NodeId) -> Met,
) -> Vec<Candidate> {
    let assignment = state.assignments.get(&target.function);
    let mut found = Vec::with_capacity(8);
    for node in state.nodes.values() {
        if !target.spec.placement.allows(&node.region) {
            continue;
        }
        if node.id == here.id {
            found.extend(here.start.map(|start| Candidate {
                local: true,
                in_flight: here.running,
                capacity: here.slots,
                draining: here.draining,
                ..Candidate::new(here.id, 0.0, start)
            }));
            continue;
        }
        let assigned = assignment.is_some_and(|assignment| assignment.nodes.contains_key(&node.id));
        let seen = view.nodes.get(&node.id);
        let Some(start) = start_of(&target.function, seen, assigned) else { continue };
        let met = met(node.id);
        let load = seen.map(|seen| seen.report.load).unwrap_or_default();
        let liveness = view.liveness(node.id);
        found.push(Candidate {
            in_flight: load.running,
            capacity: load.slots,
            cpu: load.cpu.into(),
            penalty_ms: if liveness == Liveness::Suspect { SUSPECT_PENALTY_MS } else { 0.0 },
            ejected: met.ejected || liveness == Liveness::Dead,
            draining: seen.is_some_and(|seen| seen.report.draining),
            ..Candidate::new(node.id, distance_ms(here.id, node, state, met.rtt_ms), start)
        });
    }
    keep_leavers_until_others_can(&mut found);
    found
}

/// A node that is about to leave goes on as if it were not while no other has the function on
/// its disk: a call had rather run there than wait for a fetch and a compilation elsewhere.
fn keep_leavers_until_others_can(found: &mut [Candidate]) {
    let can = |candidate: &Candidate| candidate.start <= Start::Ready && !candidate.ejected;
    if found.iter().any(|candidate| can(candidate) && !candidate.draining) {
        return;
    }
    for candidate in found.iter_mut().filter(|candidate| can(candidate)) {
        candidate.draining = false;
    }
}

/// What has to happen on another node first; none: it is neither assigned nor seen there.
fn start_of(function: &FunctionRef, seen: Option<&NodeSeen>, assigned: bool) -> Option<Start> {
    match seen {
        Some(seen) if seen.report.warm.contains(function) => Some(Start::Warm),
        Some(seen) if assigned && seen.report.ready.contains(function) => Some(Start::Ready),
        _ if assigned => Some(Start::Fetch),
        _ => None,
    }
}

fn distance_ms(
    here: NodeId,
    there: &nigh_model::Node,
    state: &State,
    measured_ms: Option<f64>,
) -> f64 {
    let mut measured = RttEwma::default();
    if let Some(rtt_ms) = measured_ms {
        measured.update(rtt_ms);
    }
    let own = state.nodes.get(&here);
    let known = Known {
        measured,
        same_region: own.is_some_and(|own| own.region == there.region),
        here: own.and_then(|own| own.location),
        there: there.location,
    };
    Distance::estimate(&known).rtt_ms
}

/// Candidates best first; those that are ejected only when there are no others.
pub(crate) fn order(candidates: &[Candidate], here: NodeId, function: &FunctionRef) -> Vec<NodeId> {
    let view = Viewpoint { exec_ms: EXEC_MS, salt: salt(here, function) };
    let mut order = Vec::with_capacity(candidates.len());
    match pick(&view, candidates, &mut order) {
        Choice::Nothing => Vec::new(),
        Choice::Usable | Choice::LastResort => {
            order.into_iter().map(|at| candidates[at].node).collect()
        }
    }
}

/// The same for all calls of a function from one node: they gather where they were before.
fn salt(here: NodeId, function: &FunctionRef) -> u64 {
    let name = function.function.as_str().as_bytes();
    let seed = here.0.rotate_left(32) ^ function.revision.0;
    name.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::Filter;
    use nigh_model::FunctionSpec;
    use nigh_model::spec::RegionPattern;
    use nigh_model::{
        Addresses, AppName, Assignment, Digest, FunctionName, Node, NodeName, Region, RevisionId,
        Tier,
    };

    const OWN: NodeId = NodeId(1);

    fn function() -> FunctionRef {
        FunctionRef { revision: RevisionId(9), function: FunctionName::new("f").unwrap() }
    }

    fn target(regions: &[&str]) -> Target {
        let mut spec = FunctionSpec::new(Digest::of(b"x"), 1);
        let pattern = |text: &&str| RegionPattern::try_from((*text).to_owned()).unwrap();
        spec.placement.regions = regions.iter().map(pattern).collect();
        Target {
            app: AppName::new("a").unwrap(),
            function: function(),
            spec: spec.into(),
            routes: [].into(),
            invoke: nigh_model::spec::Invoke::Open,
        }
    }

    /// Nodes 1 and 2 in eu, 3 in us, 4 in ap.
    fn state(assigned: &[u64]) -> State {
        let mut state = State::default();
        for (id, region) in [(1, "eu"), (2, "eu"), (3, "us"), (4, "ap")] {
            let node = Node {
                id: NodeId(id),
                name: NodeName::new(format!("n{id}")).unwrap(),
                region: Region::new(region).unwrap(),
                zone: None,
                location: None,
                addresses: Addresses::default(),
                version: String::new(),
                feature_level: 1,
                draining: false,
            };
            state.nodes.insert(NodeId(id), node.into());
        }
        let nodes = assigned.iter().map(|id| (NodeId(*id), Tier::Ready)).collect();
        state.assignments.insert(function(), Assignment { nodes }.into());
        state
    }

    fn view(warm: &[u64], ready: &[u64]) -> View {
        let function = [function()];
        let filter = |holds: bool| {
            let inside = if holds { &function[..] } else { &[] };
            Filter::of(inside.iter())
        };
        let mut view = View::default();
        for id in 1..=4 {
            let mut seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
            seen.report.warm = filter(warm.contains(&id));
            seen.report.ready = filter(ready.contains(&id));
            seen.report.load.slots = 100;
            view.nodes.insert(NodeId(id), seen);
        }
        view
    }

    fn here(start: Option<Start>) -> Here {
        Here { id: OWN, start, running: 0, slots: 100, draining: false }
    }

    fn met(id: NodeId) -> Met {
        let rtt_ms = [0.0, 0.0, 1.0, 70.0, 200.0][id.0 as usize];
        Met { ejected: false, rtt_ms: Some(rtt_ms) }
    }

    fn ids(target: &Target, here: &Here, state: &State, view: &View) -> Vec<u64> {
        let found = candidates(target, here, state, view, met);
        order(&found, OWN, &target.function).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn assigned_and_seen_nodes_are_asked_nearest_warm_first() {
        let (state, view) = (state(&[3, 4]), view(&[2, 4], &[3]));
        assert_eq!(ids(&target(&[]), &here(None), &state, &view), [2, 3, 4]);
    }

    #[test]
    fn no_node_outside_the_allowed_regions_is_asked() {
        let (state, view) = (state(&[1, 2, 3, 4]), view(&[1, 2, 3, 4], &[]));
        let only_us = target(&["us"]);
        assert_eq!(ids(&only_us, &here(Some(Start::Warm)), &state, &view), [3]);
    }

    #[test]
    fn a_load_here_beats_a_long_way_and_not_a_short_one() {
        let far = view(&[4], &[]);
        assert_eq!(ids(&target(&[]), &here(Some(Start::Ready)), &state(&[1, 4]), &far)[0], 1);
        let near = view(&[2], &[]);
        let fetch = here(Some(Start::Fetch));
        assert_eq!(ids(&target(&[]), &fetch, &state(&[1, 2]), &near)[0], 2);
    }

    #[test]
    fn a_node_that_is_out_is_asked_only_as_a_last_resort() {
        let state = state(&[2, 3]);
        let mut view = view(&[2, 3], &[]);
        view.nodes.get_mut(&NodeId(2)).unwrap().liveness = Liveness::Dead;
        assert_eq!(ids(&target(&[]), &here(None), &state, &view), [3]);
        view.nodes.clear();
        assert_eq!(ids(&target(&[]), &here(None), &state, &view).len(), 2);
    }

    #[test]
    fn a_node_that_leaves_is_asked_while_no_other_has_the_function() {
        let state = state(&[2, 3]);
        let mut view = view(&[2], &[]);
        view.nodes.get_mut(&NodeId(2)).unwrap().report.draining = true;
        assert_eq!(ids(&target(&[]), &here(None), &state, &view)[0], 2);
        view.nodes.get_mut(&NodeId(3)).unwrap().report.ready = Filter::of([function()].iter());
        assert_eq!(ids(&target(&[]), &here(None), &state, &view), [3]);
    }

    #[test]
    fn what_is_neither_assigned_nor_seen_is_no_candidate() {
        let view = view(&[], &[1, 2, 3, 4]);
        assert!(ids(&target(&[]), &here(None), &state(&[]), &view).is_empty());
    }
}

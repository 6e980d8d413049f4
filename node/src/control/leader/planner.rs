//! Plans where functions should be, and commits the plan with the state that it was made on.

use std::collections::BTreeMap;

use nigh_model::command::Command;
use nigh_model::{Assignment, FunctionRef, NodeId, State};
use nigh_placement::plan::{FunctionInput, NodeInput, Problem, home_key, plan};

use super::grace::Grace;
use super::rollout::Placed;
use crate::control::propose::Control;
use crate::seen::{Liveness, View};

/// Instances of a node without a report; a plan needs some weight.
const CAPACITY_DEFAULT: u32 = 100;

/// Plans once; proposes what differs from what is assigned.
pub(super) async fn step(control: &Control, grace: &Grace, placed: &mut Placed) {
    let state = control.decided.state();
    placed.observe(&state);
    let command = {
        let view = control.seen.now();
        changes(&state, &view, grace, placed)
    };
    let Some(command) = command else { return };
    match control.propose_as_leader(command).await {
        Ok((_, Ok(_))) => {}
        // Something changed meanwhile: the next step plans anew.
        Ok((_, Err(refusal))) => tracing::debug!(%refusal, "plan refused"),
        Err(error) => tracing::debug!(%error, "plan not committed"),
    }
}

/// The plan's command, or none when all is as it should be.
fn changes(state: &State, view: &View, grace: &Grace, since: &Placed) -> Option<Command> {
    let previous: BTreeMap<FunctionRef, Assignment> =
        state.assignments.iter().map(|(key, value)| (key.clone(), (**value).clone())).collect();
    let mut placed = Vec::new();
    let mut fresh = Vec::new();
    for (app, revision) in state.wanted_revisions() {
        for (key, spec) in revision.functions() {
            let list = if previous.contains_key(&key) { &mut placed } else { &mut fresh };
            list.push(FunctionInput {
                home_key: home_key(app.name.as_str(), key.function.as_str()),
                placement: spec.placement.clone(),
                scale: spec.scale,
                active: true,
                key,
            });
        }
    }
    // What is placed waits for a node to come back that is dead or restarts; what is new does not
    // go to one.
    let kept = Problem {
        nodes: nodes(state, view, |id| grace.is_kept(id)),
        functions: placed,
        previous: previous.clone(),
    };
    let new = Problem {
        nodes: nodes(state, view, |id| grace.answers(id) && !is_leaving(view, id)),
        functions: fresh,
        previous: BTreeMap::new(),
    };
    let mut next = plan(&kept);
    next.assignments.extend(plan(&new).assignments);
    hold(state, view, since, &previous, &mut next.assignments);
    // A function that can be placed nowhere waits: there is nothing to commit for it.
    next.assignments
        .retain(|key, assignment| !assignment.nodes.is_empty() || previous.contains_key(key));
    let changes = next.changes(&previous);
    (!changes.is_empty()).then_some(Command::Place {
        basis: state.plan_basis,
        set: changes.set,
        remove: changes.remove,
    })
}

/// A node that drains keeps what it has until others have it: its calls never wait for a load.
fn hold(
    state: &State,
    view: &View,
    since: &Placed,
    previous: &BTreeMap<FunctionRef, Assignment>,
    next: &mut BTreeMap<FunctionRef, Assignment>,
) {
    for (function, assignment) in next {
        let Some(before) = previous.get(function) else { continue };
        let gives_up = |id: NodeId| {
            state.is_draining(id)
                && view.liveness(id) != Liveness::Dead
                && !assignment.nodes.contains_key(&id)
        };
        let held = before.nodes.iter().map(|(id, tier)| (*id, *tier));
        let leaving: Vec<_> = held.filter(|(id, _)| gives_up(*id)).collect();
        if leaving.is_empty() {
            continue;
        }
        let index = since.since(function, state);
        let has_it = |id: &NodeId| {
            before.nodes.contains_key(id)
                && view.liveness(*id) != Liveness::Dead
                && view.nodes.get(id).is_some_and(|seen| seen.has_settled(index, function.revision))
        };
        let taken_over = !assignment.nodes.is_empty() && assignment.nodes.keys().all(has_it);
        if !taken_over {
            assignment.nodes.extend(leaving);
        }
    }
}

/// Whether the node says that it is about to stop.
fn is_leaving(view: &View, id: NodeId) -> bool {
    view.nodes.get(&id).is_some_and(|seen| seen.report.draining)
}

fn nodes(state: &State, view: &View, alive: impl Fn(NodeId) -> bool) -> Vec<NodeInput> {
    let input = |node: &nigh_model::Node| {
        let seen = view.nodes.get(&node.id);
        let slots = seen.map_or(0, |seen| seen.report.load.slots);
        NodeInput {
            id: node.id,
            region: node.region.clone(),
            zone: node.zone.clone(),
            capacity_weight: if slots == 0 { CAPACITY_DEFAULT } else { slots },
            alive: alive(node.id),
            draining: node.draining,
        }
    };
    state.nodes.values().map(|node| input(node)).collect()
}

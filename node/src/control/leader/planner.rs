//! Plans where functions should be, and commits the plan with the state that it was made on.

use std::collections::BTreeMap;

use nigh_model::command::Command;
use nigh_model::{Assignment, FunctionRef, NodeId, State};
use nigh_placement::plan::{FunctionInput, NodeInput, Problem, home_key, plan};

use super::grace::Grace;
use crate::control::propose::Control;
use crate::seen::View;

/// Instances of a node without a report; a plan needs some weight.
const CAPACITY_DEFAULT: u32 = 100;

/// Plans once; proposes what differs from what is assigned.
pub(super) async fn step(control: &Control, grace: &Grace) {
    let state = control.decided.state();
    let command = {
        let view = control.seen.now();
        changes(&state, &view, grace)
    };
    let Some(command) = command else { return };
    match control.propose(None, command).await {
        Ok((_, Ok(_))) => {}
        // Something changed meanwhile: the next step plans anew.
        Ok((_, Err(refusal))) => tracing::debug!(%refusal, "plan refused"),
        Err(error) => tracing::debug!(%error, "plan not committed"),
    }
}

/// The plan's command, or none when all is as it should be.
fn changes(state: &State, view: &View, grace: &Grace) -> Option<Command> {
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
    // What is placed waits for a dead node to come back; what is new does not go to one.
    let kept = Problem {
        nodes: nodes(state, view, |id| grace.is_kept(id)),
        functions: placed,
        previous: previous.clone(),
    };
    let new = Problem {
        nodes: nodes(state, view, |id| grace.answers(id)),
        functions: fresh,
        previous: BTreeMap::new(),
    };
    let mut next = plan(&kept);
    next.assignments.extend(plan(&new).assignments);
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
            draining: seen.is_some_and(|seen| seen.report.draining),
        }
    };
    state.nodes.values().map(|node| input(node)).collect()
}

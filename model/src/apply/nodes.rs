//! How the set of nodes changes.

use std::sync::Arc;

use crate::apply::Event;
use crate::command::{NodeSpec, Outcome, Reply};
use crate::ids::{FunctionRef, NodeId};
use crate::refusal::Refusal;
use crate::state::{Node, State};

/// A node that does not know what the cluster proposes would halt.
pub(super) fn check_level(node: &NodeSpec, level: u32) -> Result<(), Refusal> {
    if level > 1 && node.feature_level < level {
        let (name, supports) = (node.name.clone(), node.feature_level);
        return Err(Refusal::NodeTooOld { name, supports, needed: level });
    }
    Ok(())
}

pub(super) fn register(
    state: &mut State,
    index: u64,
    id: NodeId,
    spec: &NodeSpec,
    events: &mut Vec<Event>,
) -> Outcome {
    let NodeSpec { name, region, zone, location, addresses, version, feature_level } = spec.clone();
    // A restart brings no drained node back to work.
    let draining = state.is_draining(id);
    let node =
        Node { id, name, region, zone, location, addresses, version, feature_level, draining };
    if state.nodes.get(&id).is_some_and(|known| **known == node) {
        return Ok(Reply::Node(id));
    }
    // A node that has moved to another region may no longer hold what is assigned to it.
    if state.nodes.get(&id).is_some_and(|known| known.region != node.region) {
        unassign_node(state, id);
    }
    state.nodes.insert(id, Arc::new(node));
    state.plan_basis = index;
    events.push(Event::Nodes);
    Ok(Reply::Node(id))
}

/// Who is removed knows the keys of gossip, so they are to be replaced.
pub(super) fn forget(state: &mut State, index: u64, id: NodeId) {
    state.nodes.remove(&id);
    state.gossip.stale = index;
    unassign_node(state, id);
}

fn unassign_node(state: &mut State, id: NodeId) {
    let held: Vec<FunctionRef> = state
        .assignments
        .iter()
        .filter(|(_, assignment)| assignment.nodes.contains_key(&id))
        .map(|(function, _)| function.clone())
        .collect();
    for function in held {
        if let Some(assignment) = state.assignments.get_mut(&function) {
            Arc::make_mut(assignment).nodes.remove(&id);
        }
    }
}

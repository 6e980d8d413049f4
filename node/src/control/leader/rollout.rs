//! Activates a revision when it is ready everywhere it should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use nigh_model::command::Command;
use nigh_model::{App, Assignment, FunctionRef, NodeId, Revision, State};

use crate::control::propose::Control;
use crate::seen::{Liveness, View};

/// At which index each function was assigned as it is, as far as this leader saw: at or before.
#[derive(Default)]
pub(super) struct Placed {
    since: BTreeMap<FunctionRef, (Arc<Assignment>, u64)>,
}

impl Placed {
    /// Notes what is assigned now.
    pub(super) fn observe(&mut self, state: &State) {
        self.since.retain(|function, _| state.assignments.contains_key(function));
        for (function, assignment) in &state.assignments {
            let known = self.since.get(function);
            if known.is_none_or(|(known, _)| known != assignment) {
                let seen = (assignment.clone(), state.plan_basis);
                self.since.insert(function.clone(), seen);
            }
        }
    }

    /// An index at which the function was assigned as it is now.
    pub(super) fn since(&self, function: &FunctionRef, state: &State) -> u64 {
        self.since.get(function).map_or(state.plan_basis, |(_, index)| *index)
    }
}

/// Activates every revision that can be.
pub(super) async fn step(control: &Control, placed: &mut Placed) {
    let state = control.decided.state();
    placed.observe(&state);
    let ready: Vec<Command> = {
        let view = control.seen.now();
        let ready = state.apps.values().filter_map(|app| {
            let revision = app.revisions.get(&app.rollout?)?;
            can_activate(&state, &view, placed, revision)
                .then(|| Command::Activate { app: app.name.clone(), revision: revision.id })
        });
        ready.collect()
    };
    for command in ready {
        if let Err(error) = control.propose_as_leader(command).await {
            tracing::debug!(%error, "activation not committed");
            return;
        }
    }
}

/// Whether every function of the revision is placed, and every live node that should have one
/// has it: at least one of them for each function.
fn can_activate(state: &State, view: &View, placed: &Placed, revision: &Revision) -> bool {
    revision.functions().all(|(function, _)| {
        let Some(assignment) = state.assignments.get(&function) else { return false };
        let mut live = assignment
            .nodes
            .keys()
            .filter(|id| view.liveness(**id) != Liveness::Dead)
            .filter_map(|id| view.nodes.get(id))
            .peekable();
        // Not the newest index: deploys of other apps must not hold this one up.
        let index = placed.since(&function, state);
        live.peek().is_some() && live.all(|node| node.has_settled(index, revision.id))
    })
}

/// A node that should have a revision, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The node.
    pub(crate) node: NodeId,
    /// Whether it has all that it should have, and knows the revision to be active if it is.
    pub(crate) ready: bool,
    /// Whether it is thought to be alive.
    pub(crate) alive: bool,
}

/// How far a revision is on each node that should have it.
pub(crate) fn progress(
    state: &State,
    view: &View,
    app: &App,
    revision: &Revision,
) -> Vec<Progress> {
    let active = app.active == Some(revision.id);
    let index = if active { app.changed } else { state.plan_basis };
    let mut nodes: Vec<NodeId> = revision
        .functions()
        .filter_map(|(function, _)| state.assignments.get(&function))
        .flat_map(|assignment| assignment.nodes.keys().copied())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let progress = nodes.into_iter().map(|node| Progress {
        node,
        ready: view.nodes.get(&node).is_some_and(|seen| seen.has_settled(index, revision.id)),
        alive: view.liveness(node) != Liveness::Dead,
    });
    progress.collect()
}

/// The live nodes of the cluster that do not know yet what is active of the app.
pub(crate) fn unaware(view: &View, app: &App) -> Vec<NodeId> {
    let behind = view
        .nodes
        .iter()
        .filter(|(_, seen)| seen.liveness == Liveness::Alive && seen.report.settled < app.changed);
    behind.map(|(id, _)| *id).collect()
}

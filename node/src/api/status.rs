//! The cluster at a glance: what `Cluster.Status` says of nodes and apps. Pure.

use nigh_model::{App, FunctionRef, State};
use nigh_proto::v1;

use crate::control::{Health, progress};
use crate::seen::{Liveness, NodeSeen, View};

/// Apps that are named; the count says how many there are.
pub(super) const APPS_NAMED_MAX: usize = 100;
/// Nodes and functions named of each.
const NAMED_MAX: usize = 16;

/// A node's state in one word.
pub(super) fn word(seen: &NodeSeen) -> &'static str {
    match seen.liveness {
        Liveness::Dead => "dead",
        Liveness::Suspect => "suspect",
        Liveness::Alive if seen.report.draining => "draining",
        Liveness::Alive => "alive",
    }
}

/// All registered nodes, by name.
pub(super) fn nodes(state: &State, view: &View, health: &Health) -> Vec<v1::NodeStatus> {
    let nothing = NodeSeen::default();
    let mut nodes: Vec<_> = state
        .nodes
        .values()
        .map(|node| {
            let seen = view.nodes.get(&node.id);
            let report = &seen.unwrap_or(&nothing).report;
            // What runs says its build sooner than the registry learns of it.
            let version = [&report.version, &node.version].into_iter().find(|v| !v.is_empty());
            v1::NodeStatus {
                name: node.name.to_string(),
                id: node.id.0,
                region: node.region.to_string(),
                zone: node.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
                state: word(seen.unwrap_or(&nothing)).to_owned(),
                raft: health.role_of(node.id).to_owned(),
                version: version.cloned().unwrap_or_default(),
                settled_index: seen.map(|seen| seen.report.settled),
                certificate_expires_ms: report.identity.map(|identity| identity.expires_ms),
                disk: report.room.map(|room| v1::DiskStatus {
                    data_bytes: room.data_bytes,
                    free_bytes: room.free_bytes,
                    size_bytes: room.size_bytes,
                }),
            }
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// The apps that are not fully ready, by name.
pub(super) fn not_ready(state: &State, view: &View) -> Vec<v1::AppStatus> {
    state.apps.values().filter_map(|app| lacks(state, view, app)).collect()
}

/// What an app lacks; none when it is all there.
fn lacks(state: &State, view: &View, app: &App) -> Option<v1::AppStatus> {
    let rolled_out = app.rollout.and_then(|id| app.revisions.get(&id));
    let revision = rolled_out.or_else(|| app.active_revision())?;
    let nodes = progress(state, view, app, revision);
    let lacking = nodes.iter().filter(|node| !(node.ready && node.alive));
    let name = |id| state.nodes.get(&id).map_or_else(|| format!("{id}"), |n| n.name.to_string());
    let lacking: Vec<String> = lacking.map(|lacking| name(lacking.node)).collect();
    let is_placed = |function: &FunctionRef| {
        state.assignments.get(function).is_some_and(|assignment| !assignment.nodes.is_empty())
    };
    let unplaced = revision.functions().filter(|(function, _)| !is_placed(function));
    let unplaced: Vec<_> = unplaced.map(|(function, _)| function.function.to_string()).collect();
    if rolled_out.is_none() && lacking.is_empty() && unplaced.is_empty() {
        return None;
    }
    Some(v1::AppStatus {
        app: app.name.to_string(),
        revision: revision.id.to_string(),
        rolling_out: rolled_out.is_some(),
        nodes: nodes.len() as u32,
        nodes_ready: (nodes.len() - lacking.len()) as u32,
        nodes_lacking: lacking.into_iter().take(NAMED_MAX).collect(),
        functions_unplaced: unplaced.into_iter().take(NAMED_MAX).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use nigh_model::{Assignment, Digest, NodeId, RevisionId, Tier};

    use super::*;
    use crate::agent::testing::{add_node, add_revision, app, function, spec, state};
    use crate::control::HealthBook;
    use crate::seen::{IdentityReport, Report, Room};

    /// Two nodes, and revision 10 of an app assigned to both.
    fn cluster(active: bool) -> (State, View) {
        let mut state = state();
        add_node(&mut state, 1, "eu", "a:1");
        add_node(&mut state, 2, "us", "b:1");
        add_revision(&mut state, "shop", 10, spec(Digest::of(b"x"), &[]));
        let mut shop = App::clone(&state.apps[&app("shop")]);
        match active {
            true => shop.active = Some(RevisionId(10)),
            false => shop.rollout = Some(RevisionId(10)),
        }
        state.apps.insert(app("shop"), Arc::new(shop));
        let nodes = [1, 2].map(|id| (NodeId(id), Tier::Warm));
        let assignment = Assignment { nodes: BTreeMap::from(nodes) };
        state.assignments.insert(function(10), Arc::new(assignment));
        let mut view = View::default();
        for id in [1, 2] {
            let report = Report { settled: 1_000, ..Report::default() };
            view.nodes.insert(NodeId(id), NodeSeen { liveness: Liveness::Alive, report });
        }
        (state, view)
    }

    #[test]
    fn an_app_that_is_everywhere_lacks_nothing() {
        let (state, view) = cluster(true);
        assert_eq!(not_ready(&state, &view), []);
    }

    #[test]
    fn a_node_that_is_dead_or_lacks_something_is_named() {
        let (state, view) = cluster(true);
        let mut dead = view.clone();
        dead.nodes.get_mut(&NodeId(2)).unwrap().liveness = Liveness::Dead;
        let mut behind = view;
        behind.nodes.get_mut(&NodeId(2)).unwrap().report.lag = vec![RevisionId(10)];
        for view in [dead, behind] {
            let [status] = not_ready(&state, &view).try_into().unwrap();
            assert_eq!((status.app.as_str(), status.revision.as_str()), ("shop", "r10"));
            assert_eq!((status.nodes, status.nodes_ready), (2, 1));
            assert_eq!(status.nodes_lacking, ["n2"]);
            assert!(!status.rolling_out);
        }
    }

    #[test]
    fn a_rollout_and_a_function_that_is_placed_nowhere_are_not_ready() {
        let (state, view) = cluster(false);
        assert!(not_ready(&state, &view)[0].rolling_out);
        let (mut state, view) = cluster(true);
        state.assignments.remove(&function(10));
        let [status] = not_ready(&state, &view).try_into().unwrap();
        assert_eq!((status.functions_unplaced, status.nodes), (vec!["f".to_owned()], 0));
    }

    #[test]
    fn what_a_node_does_not_say_is_absent() {
        let (state, mut view) = cluster(true);
        view.nodes.remove(&NodeId(2));
        let own = &mut view.nodes.get_mut(&NodeId(1)).unwrap().report;
        own.version = "0.2.0".into();
        own.room = Some(Room { data_bytes: 1, free_bytes: 2, size_bytes: 3 });
        own.identity = Some(IdentityReport { expires_ms: 9, issuer: 1, newest: 1 });
        let nodes = nodes(&state, &view, &HealthBook::new().now());
        assert_eq!((nodes[0].version.as_str(), nodes[0].settled_index), ("0.2.0", Some(1_000)));
        assert_eq!(nodes[0].certificate_expires_ms, Some(9));
        assert_eq!(nodes[0].disk.map(|disk| disk.free_bytes), Some(2));
        assert_eq!((nodes[1].state.as_str(), nodes[1].raft.as_str()), ("dead", "none"));
        assert_eq!((nodes[1].settled_index, nodes[1].disk), (None, None));
    }
}

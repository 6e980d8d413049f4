//! How far a node that drains has come, and what would be missing without it. Pure.

use std::collections::BTreeSet;

use nigh_model::{NodeId, Region, State};
use nigh_placement::voters::{VoterCandidate, target_voters};

use super::health::Health;
use crate::seen::{Liveness, View};

/// What a node still has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// It leads.
    pub(crate) leads: bool,
    /// It votes, though another could.
    pub(crate) votes: bool,
    /// Calls running, by its own word.
    pub(crate) running: u32,
    /// Functions assigned to it that others are about to have, as `app/function`.
    pub(crate) moving: Vec<String>,
    /// Functions assigned to it that no other live node may have.
    pub(crate) stuck: Vec<String>,
}

impl Remains {
    /// What the node still has, as far as is decided and seen.
    pub(crate) fn of(id: NodeId, state: &State, view: &View, health: &Health) -> Self {
        let dead = view.liveness(id) == Liveness::Dead;
        let seen = view.nodes.get(&id).filter(|_| !dead);
        let mut remains = Self {
            leads: health.leader == Some(id),
            votes: health.voters.contains(&id) && !is_needed(id, state, view, health),
            running: seen.map_or(0, |seen| seen.report.load.running),
            ..Self::default()
        };
        let can_take = |region: &Region, other: NodeId| {
            other != id
                && !state.is_draining(other)
                && view.liveness(other) != Liveness::Dead
                && state.nodes.get(&other).is_some_and(|node| node.region == *region)
        };
        for (app, revision) in state.wanted_revisions() {
            for (function, spec) in revision.functions() {
                let assigned = state.assignments.get(&function);
                if !assigned.is_some_and(|assignment| assignment.nodes.contains_key(&id)) {
                    continue;
                }
                let mut others = state.nodes.values().filter(|node| {
                    spec.placement.allows(&node.region) && can_take(&node.region, node.id)
                });
                let list =
                    if others.next().is_some() { &mut remains.moving } else { &mut remains.stuck };
                list.push(format!("{}/{}", app.name, function.function));
            }
        }
        remains
    }

    /// Whether nothing is left that could be given up.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What is left, for people.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        if self.leads {
            parts.push("leads".to_owned());
        }
        if self.votes {
            parts.push("votes".to_owned());
        }
        if self.running > 0 {
            parts.push(format!("runs {} calls", self.running));
        }
        for (functions, what) in [(&self.moving, "has"), (&self.stuck, "alone may have")] {
            if !functions.is_empty() {
                parts.push(format!("{what} {}", functions.join(", ")));
            }
        }
        parts.join("; ")
    }
}

/// Whether the node keeps its vote for want of others.
fn is_needed(id: NodeId, state: &State, view: &View, health: &Health) -> bool {
    let voters: BTreeSet<NodeId> = health.voters.iter().copied().collect();
    let alive = |id| view.liveness(id) != Liveness::Dead;
    target_voters(&candidates(state, &voters, alive, |_| true)).contains(&id)
}

/// The registered nodes as the choice of voters sees them.
pub(super) fn candidates(
    state: &State,
    voters: &BTreeSet<NodeId>,
    alive: impl Fn(NodeId) -> bool,
    steady: impl Fn(NodeId) -> bool,
) -> Vec<VoterCandidate> {
    let candidate = |node: &nigh_model::Node| VoterCandidate {
        id: node.id,
        region: node.region.clone(),
        zone: node.zone.clone(),
        alive: alive(node.id),
        steady: steady(node.id),
        // Who only restarts keeps its vote: what is decided counts, not what a node says.
        draining: node.draining,
        is_voter: voters.contains(&node.id),
    };
    state.nodes.values().map(|node| candidate(node)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nigh_model::command::{Command, Envelope, NodeSpec};
    use nigh_model::spec::RegionPattern;
    use nigh_model::{
        Addresses, AppName, AppSpec, Assignment, ClusterId, Digest, FunctionName, FunctionSpec,
        NodeName, Tier, apply,
    };

    use super::super::health::HealthBook;
    use super::*;
    use crate::seen::NodeSeen;

    fn node(name: &str, region: &str) -> NodeSpec {
        NodeSpec {
            name: NodeName::new(name).unwrap(),
            region: Region::new(region).unwrap(),
            zone: None,
            location: None,
            addresses: Addresses::default(),
            version: String::new(),
            feature_level: 1,
        }
    }

    /// Nodes 1 to 3, the third alone in ap; an app of which one function may only be in ap.
    fn state() -> State {
        let mut state = State::default();
        let mut does = |index, command| {
            let envelope = Envelope { request_id: None, at_ms: 1, by: None, command };
            apply(&mut state, index, &envelope).reply.unwrap();
        };
        let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
        does(
            1,
            Command::Bootstrap {
                cluster,
                node: node("a", "eu"),
                authority: None,
                tokens: Vec::new(),
            },
        );
        does(2, Command::RegisterNode { node: node("b", "us"), replaces: None, token: None });
        does(3, Command::RegisterNode { node: node("c", "ap"), replaces: None, token: None });
        let mut spec = AppSpec::default();
        for (name, regions) in [("free", vec![]), ("bound", vec!["ap"])] {
            let mut function = FunctionSpec::new(Digest::of(b"x"), 1);
            let pattern = |text: &str| RegionPattern::try_from(text.to_owned()).unwrap();
            function.placement.regions = regions.into_iter().map(pattern).collect();
            spec.functions.insert(FunctionName::new(name).unwrap(), function);
        }
        let app = AppName::new("shop").unwrap();
        does(4, Command::PutRevision { app, spec });
        for (function, nodes) in [("free", vec![1, 3]), ("bound", vec![3])] {
            let function = nigh_model::FunctionRef {
                revision: nigh_model::RevisionId(4),
                function: FunctionName::new(function).unwrap(),
            };
            let nodes = nodes.into_iter().map(|id| (NodeId(id), Tier::Warm)).collect();
            state.assignments.insert(function, Arc::new(Assignment { nodes }));
        }
        state
    }

    fn view(alive: &[u64]) -> View {
        let seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
        View { nodes: alive.iter().map(|id| (NodeId(*id), seen.clone())).collect() }
    }

    fn health(leader: u64, voters: &[u64]) -> Health {
        Health {
            leader: Some(NodeId(leader)),
            voters: voters.iter().copied().map(NodeId).collect(),
            ..HealthBook::new().now()
        }
    }

    #[test]
    fn what_a_node_has_is_named_and_what_cannot_move_apart_from_it() {
        let (state, view) = (state(), view(&[1, 2, 3]));
        let third = Remains::of(NodeId(3), &state, &view, &health(1, &[1]));
        assert_eq!(
            (third.moving, third.stuck),
            (vec!["shop/free".into()], vec!["shop/bound".into()])
        );
        let first = Remains::of(NodeId(1), &state, &view, &health(1, &[1, 2, 3]));
        assert!(first.leads && !first.votes, "there are no others to vote: {first:?}");
        assert!(first.text().starts_with("leads; has shop/free"), "{}", first.text());
        assert!(Remains::of(NodeId(2), &state, &view, &health(1, &[1])).is_nothing());
    }

    #[test]
    fn a_draining_voter_gives_its_vote_up_where_another_can_take_it() {
        let mut state = state();
        state.feature_level = nigh_model::command::FEATURE_LEVEL;
        let envelope = |command| Envelope { request_id: None, at_ms: 1, by: None, command };
        let draining = Command::SetDraining { id: NodeId(3), draining: true };
        apply(&mut state, 5, &envelope(draining)).reply.unwrap();
        let votes = |state: &State, alive: &[u64]| {
            Remains::of(NodeId(3), state, &view(alive), &health(1, &[1, 2, 3])).votes
        };
        assert!(!votes(&state, &[1, 2, 3]), "for want of others");
        let spec = NodeSpec { feature_level: state.feature_level, ..node("d", "eu") };
        let fourth = Command::RegisterNode { node: spec, replaces: None, token: None };
        apply(&mut state, 6, &envelope(fourth)).reply.unwrap();
        assert!(votes(&state, &[1, 2, 3, 6]));
        assert!(!votes(&state, &[1, 2, 3]), "the other is dead");
    }
}

//! How long a node may be dead before anything follows from it, and how long it has to be there before
//! it is counted on: what is short changes nothing.

use std::time::Duration;

use nigh_model::NodeId;

use crate::control::Absences;

/// A node that was away is made a voter for a better spread only when it has been there for this
/// many graces in one go: one that comes and goes moves voters once and not each time.
const STEADY_GRACES: u32 = 4;

/// Who counts as alive for the leader's decisions.
pub(super) struct Grace {
    absences: Absences,
    /// A node that is dead for less keeps its assignments and its vote: it may just restart.
    limit: Duration,
}

impl Grace {
    /// By what the leader saw.
    pub(super) fn new(absences: Absences, limit: Duration) -> Self {
        Self { absences, limit }
    }

    /// Whether the node answers now.
    pub(super) fn answers(&self, id: NodeId) -> bool {
        !self.absences.is_dead(id)
    }

    /// Whether the node is alive, or dead for so short a time that it counts as alive.
    pub(super) fn is_kept(&self, id: NodeId) -> bool {
        self.absences.dead_for(id) < self.limit
    }

    /// Whether the node has been there for so long that it may be counted on.
    pub(super) fn is_steady(&self, id: NodeId) -> bool {
        self.absences.alive_for(id) >= STEADY_GRACES * self.limit
    }

    /// How long a node may be away before it is replaced.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nigh_placement::voters::{Membership, VoterCandidate, after, next_step, target_voters};

    use nigh_model::State;
    use tokio::time::Instant;

    use super::*;
    use crate::seen::{Liveness, NodeSeen, View};

    const LIMIT: Duration = Duration::from_secs(15);
    /// Between two looks.
    const LOOK: Duration = Duration::from_millis(500);
    const REGIONS: [&str; 5] = ["eu", "us", "ap", "eu", "us"];

    fn state() -> State {
        let mut state = State::default();
        for (id, region) in (1..).zip(REGIONS) {
            let node = nigh_model::Node {
                id: NodeId(id),
                name: nigh_model::NodeName::new(format!("n{id}")).unwrap(),
                region: nigh_model::Region::new(region).unwrap(),
                zone: None,
                location: None,
                addresses: nigh_model::Addresses::default(),
                version: String::new(),
                feature_level: 1,
                draining: false,
            };
            state.nodes.insert(NodeId(id), node.into());
        }
        state
    }

    fn view(dead: Option<u64>) -> View {
        let mut view = View::default();
        for id in (1..=REGIONS.len() as u64).filter(|id| Some(*id) != dead) {
            let seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
            view.nodes.insert(NodeId(id), seen);
        }
        view
    }

    /// How often the voters change while node 3, alone in its region, is away and back by turns.
    fn changes(away: Duration, back: Duration, rounds: u32) -> usize {
        let state = state();
        let mut now = Instant::now();
        let absences = Absences::default();
        let grace = Grace::new(absences.clone(), LIMIT);
        let mut voters: BTreeSet<NodeId> = [1, 2, 3].into_iter().map(NodeId).collect();
        let mut learners = BTreeSet::new();
        let mut changes = 0;
        for _ in 0..rounds {
            for (dead, lasts) in [(Some(3), away), (None, back)] {
                let view = view(dead);
                let end = now + lasts;
                while now < end {
                    now += LOOK;
                    absences.observe(&state, &view, now);
                    let candidate = |node: &std::sync::Arc<nigh_model::Node>| VoterCandidate {
                        id: node.id,
                        region: node.region.clone(),
                        zone: None,
                        alive: grace.is_kept(node.id),
                        steady: grace.is_steady(node.id),
                        draining: false,
                        is_voter: voters.contains(&node.id),
                    };
                    let candidates: Vec<_> = state.nodes.values().map(candidate).collect();
                    let alive = state.nodes.keys().copied().filter(|id| grace.answers(*id));
                    let alive: BTreeSet<NodeId> = alive.collect();
                    let membership = Membership {
                        voters: &voters,
                        learners: &learners,
                        caught_up: &learners,
                        alive: &alive,
                    };
                    let Some(step) = next_step(&membership, &target_voters(&candidates)) else {
                        continue;
                    };
                    let next = after(&voters, step);
                    changes += usize::from(next != voters);
                    if let nigh_placement::voters::Step::AddLearner(id) = step {
                        learners.insert(id);
                    }
                    learners.retain(|id| !next.contains(id));
                    voters = next;
                }
            }
        }
        assert_eq!(voters.len(), 3);
        changes
    }

    #[test]
    fn a_node_that_is_back_within_the_grace_moves_no_voter() {
        assert_eq!(changes(LIMIT - LOOK, Duration::from_secs(5), 20), 0);
    }

    #[test]
    fn a_node_that_comes_and_goes_moves_voters_once() {
        assert_eq!(changes(Duration::from_secs(20), Duration::from_secs(30), 20), 1);
    }

    #[test]
    fn a_node_that_is_back_for_good_gives_its_region_a_vote_again() {
        assert_eq!(changes(Duration::from_secs(20), STEADY_GRACES * LIMIT + 2 * LOOK, 1), 2);
    }
}

//! What every choice of voters, and every way there, keeps to.

use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{NodeId, Region, Zone};
use nigh_placement::voters::{
    Membership, Step, VoterCandidate, after, next_step, target_voters, voters_wanted,
};
use proptest::prelude::*;
use proptest::sample::select;

/// More steps than any way takes: a learner and a change for each of five voters, twice.
const STEPS_MAX: usize = 20;

prop_compose! {
    fn some_node(id: u64)(
        region in select(&["ap", "eu", "us", "sa"][..]),
        zone in proptest::option::of(select(&["a", "b"][..])),
        alive in proptest::bool::weighted(0.8),
        steady in proptest::bool::weighted(0.7),
        draining in proptest::bool::weighted(0.1),
        is_voter in proptest::bool::weighted(0.4),
    ) -> VoterCandidate {
        VoterCandidate {
            id: NodeId(id),
            region: Region::new(region).expect("a good name"),
            zone: zone.map(|zone| Zone::new(zone).expect("a good name")),
            alive, steady, draining, is_voter,
        }
    }
}

fn some_nodes() -> impl Strategy<Value = Vec<VoterCandidate>> {
    (1..14_u64).prop_flat_map(|n| (1..=n).map(some_node).collect::<Vec<_>>())
}

fn usable(node: &VoterCandidate) -> bool {
    node.alive && !node.draining
}

fn select_ids(nodes: &[VoterCandidate], which: fn(&VoterCandidate) -> bool) -> BTreeSet<NodeId> {
    nodes.iter().filter(|node| which(node)).map(|node| node.id).collect()
}

fn has_majority(voters: &BTreeSet<NodeId>, alive: &BTreeSet<NodeId>) -> bool {
    voters.intersection(alive).count() > voters.len() / 2
}

fn with_voters(nodes: &[VoterCandidate], voters: &BTreeSet<NodeId>) -> Vec<VoterCandidate> {
    let mut nodes = nodes.to_vec();
    nodes.iter_mut().for_each(|node| node.is_voter = voters.contains(&node.id));
    nodes
}

proptest! {
    #[test]
    fn their_number_is_odd_and_as_wished_where_it_can_be(nodes in some_nodes()) {
        let target = target_voters(&nodes);
        let fillable = nodes.iter().filter(|n| usable(n) || n.is_voter).count();
        let wanted = voters_wanted(nodes.len());
        prop_assert!(target.len() % 2 == 1 || fillable == 0, "{target:?}");
        prop_assert!(target.len() == wanted || target.len() + 1 >= fillable, "{target:?}");
    }

    #[test]
    fn voters_are_spread_evenly_over_regions(nodes in some_nodes()) {
        let nodes: Vec<_> =
            nodes.into_iter().map(|node| VoterCandidate { steady: true, ..node }).collect();
        let target = target_voters(&nodes);
        let mut chosen: BTreeMap<&Region, usize> = BTreeMap::new();
        for node in nodes.iter().filter(|node| usable(node)) {
            *chosen.entry(&node.region).or_default() += usize::from(target.contains(&node.id));
        }
        let most = chosen.values().copied().max().unwrap_or_default();
        for node in nodes.iter().filter(|node| usable(node) && !target.contains(&node.id)) {
            prop_assert!(chosen[&node.region] + 1 >= most, "{} is left out: {chosen:?}", node.id);
        }
    }

    #[test]
    fn one_that_cannot_vote_is_kept_only_for_want_of_others(nodes in some_nodes()) {
        let target = target_voters(&nodes);
        let stuck = nodes.iter().find(|node| !usable(node) && target.contains(&node.id));
        if let Some(stuck) = stuck {
            prop_assert!(stuck.is_voter);
            prop_assert!(select_ids(&nodes, usable).is_subset(&target));
        }
    }

    #[test]
    fn voters_that_were_chosen_stay_chosen(nodes in some_nodes()) {
        let target = target_voters(&nodes);
        prop_assert_eq!(target_voters(&with_voters(&nodes, &target)), target);
    }

    #[test]
    fn steps_change_one_voter_at_a_time_keep_a_majority_and_arrive(nodes in some_nodes()) {
        let mut voters = select_ids(&nodes, |node| node.is_voter);
        let alive = select_ids(&nodes, |node| node.alive);
        let mut learners = BTreeSet::new();
        if !has_majority(&voters, &alive) {
            return Ok(());
        }
        for _ in 0..STEPS_MAX {
            let target = target_voters(&with_voters(&nodes, &voters));
            let now = Membership {
                voters: &voters, learners: &learners, caught_up: &learners, alive: &alive,
            };
            let Some(step) = next_step(&now, &target) else {
                prop_assert_eq!(voters, target);
                return Ok(());
            };
            if let Step::AddLearner(id) = step {
                prop_assert!(alive.contains(&id) && learners.insert(id), "{step:?}");
            }
            let next = after(&voters, step);
            prop_assert!(next.difference(&voters).count() <= 1, "{step:?}");
            prop_assert!(voters.difference(&next).count() <= 1, "{step:?}");
            prop_assert!(next.difference(&voters).all(|id| learners.contains(id)), "{step:?}");
            prop_assert!(has_majority(&next, &alive), "{step:?} from {voters:?}");
            voters = next;
        }
        prop_assert!(false, "no end after {STEPS_MAX} steps at {voters:?}");
    }

    #[test]
    fn without_a_majority_nothing_changes(nodes in some_nodes()) {
        let voters = select_ids(&nodes, |node| node.is_voter);
        let alive = select_ids(&nodes, |node| node.alive);
        if has_majority(&voters, &alive) {
            return Ok(());
        }
        let now = Membership {
            voters: &voters, learners: &alive, caught_up: &alive, alive: &alive,
        };
        prop_assert_eq!(next_step(&now, &target_voters(&nodes)), None);
    }
}

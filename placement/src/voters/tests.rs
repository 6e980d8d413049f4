use super::*;

fn node(id: u64, region: &str) -> VoterCandidate {
    VoterCandidate {
        id: NodeId(id),
        region: Region::new(region).unwrap(),
        zone: None,
        alive: true,
        steady: true,
        draining: false,
        is_voter: false,
    }
}

fn nodes(regions: &[&str], voters: &[u64]) -> Vec<VoterCandidate> {
    let mut nodes: Vec<_> = regions.iter().zip(1..).map(|(region, id)| node(id, region)).collect();
    for node in &mut nodes {
        node.is_voter = voters.contains(&node.id.0);
    }
    nodes
}

fn ids(set: &[u64]) -> BTreeSet<NodeId> {
    set.iter().copied().map(NodeId).collect()
}

const DEMO: [&str; 5] = ["eu", "us", "ap", "eu", "us"];

#[test]
fn the_number_of_voters_grows_with_the_cluster() {
    for (count, wanted) in [(1, 1), (2, 1), (3, 3), (6, 3), (7, 5), (100, 5)] {
        assert_eq!(target_voters(&nodes(&vec!["eu"; count], &[])).len(), wanted, "{count}");
    }
    assert_eq!(target_voters(&[]), ids(&[]));
}

#[test]
fn voters_are_spread_over_regions_then_zones() {
    assert_eq!(target_voters(&nodes(&DEMO, &[1])), ids(&[1, 2, 3]));
    assert_eq!(target_voters(&nodes(&DEMO, &[4, 5])), ids(&[3, 4, 5]));
    let mut zoned = nodes(&["eu"; 5], &[1]);
    for (node, zone) in zoned.iter_mut().zip(["a", "a", "a", "b", "c"]) {
        node.zone = Some(Zone::new(zone).unwrap());
    }
    assert_eq!(target_voters(&zoned), ids(&[1, 4, 5]));
}

#[test]
fn voters_stay_unless_the_spread_gets_better_without_them() {
    assert_eq!(target_voters(&nodes(&DEMO, &[3, 4, 5])), ids(&[3, 4, 5]));
    assert_eq!(target_voters(&nodes(&["eu", "eu", "us", "us"], &[1, 2, 3])), ids(&[1, 2, 3]));
    assert_eq!(target_voters(&nodes(&["eu", "eu", "us", "ap"], &[1, 2, 3])), ids(&[1, 3, 4]));
}

#[test]
fn a_dead_or_draining_voter_is_replaced_only_when_a_live_candidate_exists() {
    let mut three = nodes(&["eu", "us", "ap"], &[1, 2, 3]);
    three[1].alive = false;
    assert_eq!(target_voters(&three), ids(&[1, 2, 3]));
    let mut five = nodes(&DEMO, &[1, 2, 3]);
    five[1].alive = false;
    assert_eq!(target_voters(&five), ids(&[1, 3, 5]));
    five[1].alive = true;
    five[2].draining = true;
    assert_eq!(target_voters(&five), ids(&[1, 2, 4]));
}

#[test]
fn who_has_just_come_votes_for_want_of_others_and_not_for_a_better_spread() {
    let mut five = nodes(&DEMO, &[1, 2, 4]);
    five[2].steady = false;
    assert_eq!(target_voters(&five), ids(&[1, 2, 4]));
    five[2].steady = true;
    assert_eq!(target_voters(&five), ids(&[1, 2, 3]));
    let mut new = nodes(&DEMO, &[1]);
    new.iter_mut().for_each(|node| node.steady = false);
    assert_eq!(target_voters(&new), ids(&[1, 2, 3]));
}

#[test]
fn a_voter_is_removed_only_where_the_rest_can_decide() {
    let removable =
        |id, voters: &[u64], alive: &[u64]| super::removable(NodeId(id), &ids(voters), &ids(alive));
    assert_eq!(removable(4, &[1, 2, 3], &[]), Ok(()), "it has no vote");
    assert_eq!(removable(3, &[1, 2, 3], &[1, 2]), Ok(()));
    assert_eq!(removable(1, &[1], &[1]), Err(NotRemovable::OnlyVoter));
    let lost = NotRemovable::NoMajority { rest: 2, alive: 1, majority: 2 };
    assert_eq!(removable(3, &[1, 2, 3], &[1, 3]), Err(lost));
}

#[test]
fn an_even_number_is_not_aimed_at() {
    let mut three = nodes(&["eu", "us", "ap"], &[1]);
    three[2].alive = false;
    assert_eq!(target_voters(&three), ids(&[1]));
}

/// The next step when all learners have caught up.
fn step(voters: &[u64], learners: &[u64], target: &[u64], dead: &[u64]) -> Option<Step> {
    let (voters, learners) = (ids(voters), ids(learners));
    let alive = (1..10).filter(|id| !dead.contains(id)).map(NodeId).collect();
    let now =
        Membership { voters: &voters, learners: &learners, caught_up: &learners, alive: &alive };
    next_step(&now, &ids(target))
}

fn replace(add: u64, remove: u64) -> Option<Step> {
    Some(Step::Replace { add: NodeId(add), remove: NodeId(remove) })
}

#[test]
fn a_cluster_grows_by_learners_then_promotions() {
    let target = [1, 2, 3];
    assert_eq!(step(&[1], &[], &target, &[]), Some(Step::AddLearner(NodeId(2))));
    assert_eq!(step(&[1], &[2], &target, &[]), Some(Step::AddLearner(NodeId(3))));
    assert_eq!(step(&[1], &[2, 3], &target, &[]), Some(Step::Promote(NodeId(2))));
    assert_eq!(step(&[1, 2], &[3], &target, &[]), Some(Step::Promote(NodeId(3))));
    assert_eq!(step(&[1, 2, 3], &[], &target, &[]), None);
}

#[test]
fn an_odd_number_waits_until_two_can_be_promoted() {
    let (voters, learners, caught_up) = (ids(&[1]), ids(&[2, 3]), ids(&[3]));
    let alive = ids(&[1, 2, 3]);
    let now =
        Membership { voters: &voters, learners: &learners, caught_up: &caught_up, alive: &alive };
    assert_eq!(next_step(&now, &ids(&[1, 2, 3])), None);
}

#[test]
fn a_dead_voter_is_replaced_in_one_change() {
    assert_eq!(step(&[1, 2, 3], &[], &[1, 3, 4], &[2]), Some(Step::AddLearner(NodeId(4))));
    assert_eq!(step(&[1, 2, 3], &[4], &[1, 3, 4], &[2]), replace(4, 2));
    assert_eq!(step(&[1, 2, 3], &[], &[1, 3, 4], &[2, 4]), None, "the new one is dead too");
}

#[test]
fn the_dead_go_before_the_living() {
    assert_eq!(step(&[1, 2, 3, 4, 5], &[], &[1, 2, 3], &[4]), Some(Step::Demote(NodeId(4))));
    assert_eq!(step(&[1, 2, 3, 5], &[], &[1, 2, 3], &[]), Some(Step::Demote(NodeId(5))));
    assert_eq!(step(&[1, 2, 3], &[4, 5], &[1, 4, 5], &[2]), replace(4, 2));
}

#[test]
fn nothing_changes_without_a_majority_and_no_live_voter_goes_while_it_is_thin() {
    assert_eq!(step(&[1, 2, 3], &[4], &[1, 3, 4], &[1, 2]), None);
    assert_eq!(step(&[1, 2, 3], &[4], &[1, 3, 4], &[1]), None, "2 lives, 1 is away for now");
    assert_eq!(step(&[1, 2, 3], &[4], &[1, 3, 4], &[]), replace(4, 2));
    assert_eq!(step(&[1, 2, 3], &[], &[], &[]), None, "the last target is never nobody");
}

use super::*;
use nigh_model::spec::RegionPattern;
use nigh_model::{FunctionName, RevisionId};

fn node(id: u64, region: &str) -> NodeInput {
    NodeInput {
        id: NodeId(id),
        region: Region::new(region).unwrap(),
        zone: None,
        capacity_weight: 1,
        alive: true,
        draining: false,
    }
}

fn zoned(id: u64, region: &str, zone: &str) -> NodeInput {
    NodeInput { zone: Some(Zone::new(zone).unwrap()), ..node(id, region) }
}

fn function(revision: u64, regions: &[&str], replicas: u32) -> FunctionInput {
    let pattern = |text: &&str| RegionPattern::try_from((*text).to_owned()).unwrap();
    FunctionInput {
        key: FunctionRef {
            revision: RevisionId(revision),
            function: FunctionName::new("f").unwrap(),
        },
        home_key: home_key(&format!("app-{revision}"), "f"),
        placement: PlacementSpec { regions: regions.iter().map(pattern).collect(), replicas },
        scale: Scale::default(),
        active: true,
    }
}

/// Places one function; the ids of its nodes and its shortfall.
fn place_one(nodes: &[NodeInput], function: &FunctionInput) -> (Vec<u64>, Option<Shortfall>) {
    place_again(nodes, function, &[])
}

fn place_again(
    nodes: &[NodeInput],
    function: &FunctionInput,
    previous: &[u64],
) -> (Vec<u64>, Option<Shortfall>) {
    let previous = previous.iter().map(|id| (NodeId(*id), Tier::Warm)).collect();
    let problem = Problem {
        nodes: nodes.to_vec(),
        functions: vec![function.clone()],
        previous: [(function.key.clone(), Assignment { nodes: previous })].into(),
    };
    let plan = plan(&problem);
    let ids = plan.assignments[&function.key].nodes.keys().map(|id| id.0).collect();
    (ids, plan.shortfalls.get(&function.key).copied())
}

fn demo() -> Vec<NodeInput> {
    vec![node(1, "eu"), node(2, "us"), node(3, "ap"), node(4, "eu"), node(5, "us")]
}

#[test]
fn by_default_a_function_is_warm_on_one_node_of_each_allowed_region() {
    let (ids, shortfall) = place_one(&demo(), &function(1, &[], 0));
    assert_eq!((ids.len(), shortfall), (3, None));
    assert!(ids.contains(&3));
    assert_eq!(ids.iter().filter(|id| [1, 4].contains(*id)).count(), 1);

    let mut kept = function(1, &["eu", "u*"], 0);
    kept.active = false;
    let plan =
        plan(&Problem { nodes: demo(), functions: vec![kept.clone()], ..Problem::default() });
    let tiers: Vec<_> = plan.assignments[&kept.key].nodes.values().copied().collect();
    assert_eq!(tiers, [Tier::Ready, Tier::Ready], "kept for a rollback: not loaded");
}

#[test]
fn one_allowed_region_gives_two_nodes_in_different_zones() {
    assert_eq!(place_one(&demo(), &function(1, &["eu"], 0)), (vec![1, 4], None));
    let nodes =
        [zoned(1, "eu", "a"), zoned(2, "eu", "a"), zoned(3, "eu", "a"), zoned(4, "eu", "b")];
    for revision in 1..20 {
        let (ids, _) = place_one(&nodes, &function(revision, &["eu"], 0));
        assert!(ids.len() == 2 && ids.contains(&4), "{ids:?}");
    }
}

#[test]
fn replicas_are_exact_and_spread_over_regions_first() {
    for revision in 1..20 {
        let (ids, _) = place_one(&demo(), &function(revision, &[], 2));
        let regions: BTreeSet<u64> =
            ids.iter().map(|id| [0, 1, 2, 3, 1, 2][*id as usize]).collect();
        assert_eq!((ids.len(), regions.len()), (2, 2), "{ids:?}");
    }
    assert_eq!(place_one(&demo(), &function(1, &[], 1)).0.len(), 1);
    assert_eq!(place_one(&demo(), &function(1, &[], 5)), (vec![1, 2, 3, 4, 5], None));
}

#[test]
fn min_warm_asks_for_more_nodes_than_the_default() {
    let mut wide = function(1, &[], 0);
    wide.scale.min_warm = 4;
    assert_eq!(place_one(&demo(), &wide).0.len(), 4);
}

#[test]
fn what_cannot_be_placed_is_said_with_its_reason() {
    let short = |wanted, placed, reason| Some(Shortfall { wanted, placed, reason });
    let (ids, shortfall) = place_one(&demo(), &function(1, &["ap"], 0));
    assert_eq!((ids, shortfall), (vec![3], short(2, 1, Reason::TooFewNodes)));
    let (ids, shortfall) = place_one(&demo(), &function(1, &["sa"], 3));
    assert_eq!((ids, shortfall), (vec![], short(3, 0, Reason::NoNodeInAllowedRegions)));
    let mut nodes = demo();
    nodes[2].draining = true;
    let (ids, shortfall) = place_one(&nodes, &function(1, &["ap"], 0));
    assert_eq!((ids, shortfall), (vec![], short(2, 0, Reason::NoUsableNode)));
}

#[test]
fn nodes_are_kept_while_they_are_valid_and_needed() {
    let any = function(1, &[], 0);
    assert_eq!(place_again(&demo(), &any, &[1, 3, 5]).0, [1, 3, 5]);
    assert_eq!(place_again(&demo(), &any, &[2, 3, 4]).0, [2, 3, 4]);

    let mut nodes = demo();
    nodes[0].alive = false;
    assert_eq!(place_again(&nodes, &any, &[1, 3, 5]).0, [3, 4, 5], "only the dead one moves");

    let two = function(1, &["eu"], 0);
    assert_eq!(place_again(&demo(), &two, &[1, 2]).0, [1, 4], "us is not allowed any more");
    assert_eq!(place_again(&demo(), &function(1, &["eu"], 1), &[4]).0, [4]);
    for previous in [[1, 2], [3, 4], [3, 5]] {
        assert_eq!(place_again(&demo(), &function(1, &[], 2), &previous).0, previous);
    }
}

#[test]
fn a_new_region_takes_the_place_of_a_second_node() {
    let eu = vec![node(1, "eu"), node(4, "eu")];
    let any = function(1, &[], 0);
    assert_eq!(place_one(&eu, &any).0, [1, 4]);
    let (ids, _) = place_again(&demo()[..4], &any, &[1, 4]);
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids.contains(&2) && ids.contains(&3), "{ids:?}");
}

#[test]
fn a_new_revision_finds_the_homes_of_the_old_one() {
    let nodes: Vec<_> = (1..50).map(|id| node(id, if id % 2 == 0 { "eu" } else { "us" })).collect();
    let old = function(1, &[], 0);
    let new = FunctionInput { home_key: old.home_key, ..function(2, &[], 0) };
    assert_eq!(place_one(&nodes, &old), place_one(&nodes, &new));
}

#[test]
fn homes_are_spread_by_weight() {
    let mut nodes: Vec<_> = (1..=10).map(|id| node(id, "eu")).collect();
    nodes[0].capacity_weight = 3;
    nodes[1].capacity_weight = 0;
    let functions = (1..=6_000).map(|revision| function(revision, &[], 1)).collect();
    let plan = plan(&Problem { nodes, functions, ..Problem::default() });
    let mut homes = [0; 11];
    for assignment in plan.assignments.values() {
        homes[assignment.nodes.keys().next().unwrap().0 as usize] += 1;
    }
    assert!((1_450..1_830).contains(&homes[1]), "3 of 11 shares are 1636: {homes:?}");
    assert_eq!(homes[2], 0);
    assert!(homes[3..].iter().all(|n| (450..650).contains(n)), "a share is 545: {homes:?}");
}

#[test]
fn changes_are_what_differs() {
    let (kept, moved, ended) =
        (function(1, &["ap"], 1), function(2, &["ap"], 1), function(3, &[], 1));
    let on = |id| Assignment { nodes: [(NodeId(id), Tier::Warm)].into() };
    let previous: BTreeMap<_, _> =
        [(kept.key.clone(), on(3)), (moved.key.clone(), on(1)), (ended.key.clone(), on(1))].into();
    let functions = vec![kept, moved.clone()];
    let plan = plan(&Problem { nodes: demo(), functions, previous: previous.clone() });
    let changes = plan.changes(&previous);
    assert_eq!(changes, Changes { set: vec![(moved.key, on(3))], remove: vec![ended.key] });
    assert!(plan.changes(&plan.assignments).is_empty());
}

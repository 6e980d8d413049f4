//! What every plan keeps to, whatever the problem.

use std::collections::{BTreeMap, BTreeSet};

use nigh_model::spec::{PlacementSpec, RegionPattern, Scale};
use nigh_model::{Assignment, FunctionName, FunctionRef, NodeId, Region, RevisionId, Tier, Zone};
use nigh_placement::plan::{FunctionInput, NODES_MIN, NodeInput, home_key};
use nigh_placement::{Problem, plan};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const REGIONS: [&str; 4] = ["ap-1", "eu-1", "eu-2", "us-1"];
const PATTERNS: [&str; 6] = ["ap-1", "eu-1", "eu-*", "us-1", "sa-*", "*"];
const NODES: u64 = 12;

prop_compose! {
    fn some_node(id: u64)(
        region in select(&REGIONS[..]),
        zone in proptest::option::of(select(&["a", "b", "c"][..])),
        capacity_weight in 0..4_u32,
        alive in proptest::bool::weighted(0.8),
        draining in proptest::bool::weighted(0.1),
    ) -> NodeInput {
        NodeInput {
            id: NodeId(id),
            region: Region::new(region).expect("a good name"),
            zone: zone.map(|zone| Zone::new(zone).expect("a good name")),
            capacity_weight,
            alive,
            draining,
        }
    }
}

prop_compose! {
    fn some_function(revision: u64)(
        patterns in subsequence(&PATTERNS[..], 0..4),
        replicas in 0..6_u32,
        min_warm in 0..5_u32,
        active: bool,
    ) -> FunctionInput {
        let patterns = patterns.into_iter().map(|p| RegionPattern::try_from(p.to_owned()).expect("a good pattern"));
        FunctionInput {
            key: key(revision),
            home_key: home_key("app", &revision.to_string()),
            placement: PlacementSpec { regions: patterns.collect(), replicas },
            scale: Scale { min_warm, ..Scale::default() },
            active,
        }
    }
}

fn key(revision: u64) -> FunctionRef {
    FunctionRef {
        revision: RevisionId(revision),
        function: FunctionName::new("f").expect("a good name"),
    }
}

fn some_nodes() -> impl Strategy<Value = Vec<NodeInput>> {
    (0..=NODES).prop_flat_map(|count| (1..=count).map(some_node).collect::<Vec<_>>())
}

fn some_assignment() -> impl Strategy<Value = Assignment> {
    let tier = select(&[Tier::Ready, Tier::Warm][..]);
    proptest::collection::btree_map((1..=NODES + 2).prop_map(NodeId), tier, 0..5)
        .prop_map(|nodes| Assignment { nodes })
}

fn some_problem() -> impl Strategy<Value = Problem> {
    let functions = (0..8_u64).prop_flat_map(|n| (1..=n).map(some_function).collect::<Vec<_>>());
    let previous =
        proptest::collection::btree_map((1..10_u64).prop_map(key), some_assignment(), 0..8);
    (some_nodes(), functions, previous).prop_map(|(nodes, functions, previous)| Problem {
        nodes,
        functions,
        previous,
    })
}

fn usable<'a>(problem: &'a Problem, function: &FunctionInput) -> Vec<&'a NodeInput> {
    let fits =
        |node: &&NodeInput| node.alive && !node.draining && function.placement.allows(&node.region);
    problem.nodes.iter().filter(fits).collect()
}

fn regions<'a>(nodes: &[&'a NodeInput]) -> BTreeSet<&'a Region> {
    nodes.iter().map(|node| &node.region).collect()
}

fn ids(assignment: &Assignment) -> BTreeSet<NodeId> {
    assignment.nodes.keys().copied().collect()
}

/// The same problem with what its plan says as the previous one.
fn settled(mut problem: Problem) -> Problem {
    problem.previous = plan(&problem).assignments;
    problem
}

proptest! {
    #[test]
    fn nothing_is_placed_outside_allowed_regions_nor_on_dead_or_draining_nodes(
        problem in some_problem(),
    ) {
        let plan = plan(&problem);
        for function in &problem.functions {
            let usable: BTreeSet<_> = usable(&problem, function).iter().map(|n| n.id).collect();
            let nodes = ids(&plan.assignments[&function.key]);
            prop_assert!(nodes.is_subset(&usable), "{}: {nodes:?} in {usable:?}", function.key);
        }
    }

    #[test]
    fn the_same_problem_gives_the_same_plan_in_any_order(
        (problem, shuffled) in some_problem().prop_flat_map(|problem| {
            let nodes = Just(problem.nodes.clone()).prop_shuffle();
            let functions = Just(problem.functions.clone()).prop_shuffle();
            (Just(problem), nodes, functions)
        }).prop_map(|(problem, nodes, functions)| {
            let shuffled = Problem { nodes, functions, previous: problem.previous.clone() };
            (problem, shuffled)
        }),
    ) {
        prop_assert_eq!(plan(&problem), plan(&shuffled));
    }

    #[test]
    fn every_function_gets_what_it_wishes_or_all_there_is(problem in some_problem()) {
        let plan = plan(&problem);
        for function in &problem.functions {
            let usable = usable(&problem, function);
            let nodes = plan.assignments[&function.key].nodes.len();
            let wanted = match function.placement.replicas as usize {
                0 => regions(&usable).len().max(NODES_MIN).max(function.scale.min_warm as usize),
                replicas => replicas,
            };
            prop_assert_eq!(nodes, wanted.min(usable.len()), "{}", function.key);
            let shortfall = plan.shortfalls.get(&function.key);
            prop_assert_eq!(shortfall.is_some(), nodes < wanted);
            if let Some(shortfall) = shortfall {
                prop_assert_eq!((shortfall.wanted, shortfall.placed), (wanted, nodes));
            }
        }
    }

    #[test]
    fn as_many_regions_are_used_as_possible(problem in some_problem()) {
        let plan = plan(&problem);
        for function in &problem.functions {
            let usable = usable(&problem, function);
            let assigned = &plan.assignments[&function.key].nodes;
            let chosen: Vec<_> =
                usable.iter().copied().filter(|node| assigned.contains_key(&node.id)).collect();
            let possible = regions(&usable).len().min(chosen.len());
            prop_assert_eq!(regions(&chosen).len(), possible, "{}", function.key);
        }
    }

    #[test]
    fn a_plan_that_is_carried_out_changes_nothing_more(problem in some_problem()) {
        let problem = settled(problem);
        prop_assert!(plan(&problem).changes(&problem.previous).is_empty());
    }

    #[test]
    fn a_new_node_in_a_known_region_takes_nothing_away(
        (problem, new) in (some_problem(), some_node(NODES + 1)),
    ) {
        let mut problem = settled(problem);
        let known = problem.nodes.iter().any(|node| {
            node.alive && !node.draining && node.region == new.region
        });
        if !known {
            return Ok(());
        }
        problem.nodes.push(new);
        let after = plan(&problem);
        for (function, before) in &problem.previous {
            let Some(after) = after.assignments.get(function) else { continue };
            // Where a second round had to leave a region out, the new node can stand in for
            // one of another region; it never does more.
            let lost = ids(before).difference(&ids(after)).count();
            let gained: Vec<_> = ids(after).difference(&ids(before)).copied().collect();
            prop_assert!(lost <= 1 && gained.iter().all(|id| id.0 == NODES + 1), "{function}");
        }
    }

    #[test]
    fn a_new_node_would_have_won_only_its_share(
        (problem, new) in (some_problem(), some_node(NODES + 1)),
    ) {
        let mut problem = Problem { previous: BTreeMap::new(), ..problem };
        problem.nodes.iter_mut().for_each(|node| node.zone = None);
        let usable = |node: &NodeInput| node.alive && !node.draining;
        let known = problem.nodes.iter().any(|n| usable(n) && n.region == new.region);
        if !known {
            return Ok(());
        }
        let before = plan(&problem);
        problem.nodes.push(NodeInput { zone: None, ..new });
        let after = plan(&problem);
        for (function, before) in &before.assignments {
            let (before, after) = (ids(before), ids(&after.assignments[function]));
            let gained: Vec<_> = after.difference(&before).copied().collect();
            prop_assert!(gained.is_empty() || gained == [NodeId(NODES + 1)], "{function}");
            prop_assert!(before.difference(&after).count() <= 1, "{function}");
        }
    }

    #[test]
    fn a_dead_node_moves_only_what_it_held(
        (problem, at) in (some_problem(), any::<proptest::sample::Index>()),
    ) {
        let mut problem = settled(problem);
        if problem.nodes.is_empty() {
            return Ok(());
        }
        let dead = at.get(&problem.nodes).id;
        problem.nodes.iter_mut().filter(|n| n.id == dead).for_each(|n| n.alive = false);
        let after = plan(&problem);
        for (function, before) in &problem.previous {
            let Some(after) = after.assignments.get(function) else { continue };
            let (before, after) = (ids(before), ids(after));
            let kept: BTreeSet<_> = before.iter().copied().filter(|id| *id != dead).collect();
            prop_assert!(kept.is_subset(&after), "{function}: {before:?} to {after:?}");
            prop_assert!(before.contains(&dead) || before == after, "{function}");
        }
    }
}

//! What every choice keeps to, whatever the candidates.

use std::collections::BTreeSet;

use nigh_model::NodeId;
use nigh_placement::pick::{Candidate, Choice, NEAR_EQUAL_MS, Start, Viewpoint, cost, pick};
use proptest::prelude::*;
use proptest::sample::select;

const STARTS: [Start; 4] = [Start::Warm, Start::Ready, Start::Fetch, Start::Compile];

prop_compose! {
    fn some_candidate(id: u64)(
        local in Just(id == 1),
        distance_ms in 0.0..300.0,
        start in select(&STARTS[..]),
        in_flight in 0..20_u32,
        capacity in 0..10_u32,
        queue_ms in 0.0..20.0,
        cpu in 0.0..1.0,
        penalty_ms in select(&[0.0, 0.0, 0.0, 50.0][..]),
        ejected in proptest::bool::weighted(0.2),
        draining in proptest::bool::weighted(0.2),
    ) -> Candidate {
        Candidate {
            node: NodeId(id),
            local, distance_ms, start, in_flight, capacity, queue_ms, cpu, penalty_ms,
            ejected, draining,
        }
    }
}

fn some_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    (0..12_u64).prop_flat_map(|n| (1..=n).map(some_candidate).collect::<Vec<_>>())
}

fn some_view() -> impl Strategy<Value = Viewpoint> {
    (0.0..1_000.0, any::<u64>()).prop_map(|(exec_ms, salt)| Viewpoint { exec_ms, salt })
}

fn usable(candidate: &Candidate) -> bool {
    !candidate.ejected && !candidate.draining
}

fn order(view: &Viewpoint, candidates: &[Candidate]) -> (Choice, Vec<Candidate>) {
    let mut out = Vec::new();
    let choice = pick(view, candidates, &mut out);
    (choice, out.into_iter().map(|at| candidates[at]).collect())
}

proptest! {
    #[test]
    fn the_order_is_a_permutation_of_the_usable_or_else_of_all(
        (view, candidates) in (some_view(), some_candidates()),
    ) {
        let (choice, order) = order(&view, &candidates);
        let some_usable = candidates.iter().any(usable);
        let expected: BTreeSet<_> =
            candidates.iter().filter(|c| !some_usable || usable(c)).map(|c| c.node).collect();
        let got: BTreeSet<_> = order.iter().map(|c| c.node).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(order.len(), order.iter().map(|c| c.node).collect::<BTreeSet<_>>().len());
        prop_assert_eq!(choice, match (some_usable, candidates.is_empty()) {
            (true, _) => Choice::Usable,
            (false, false) => Choice::LastResort,
            (false, true) => Choice::Nothing,
        });
    }

    #[test]
    fn none_stands_before_one_that_is_clearly_cheaper(
        (view, candidates) in (some_view(), some_candidates()),
    ) {
        let (choice, order) = order(&view, &candidates);
        if choice != Choice::Usable {
            return Ok(());
        }
        for (at, first) in order.iter().enumerate() {
            for later in &order[at + 1..] {
                let (first, later) = (cost(&view, first), cost(&view, later));
                prop_assert!(first.total_ms() <= later.total_ms() + NEAR_EQUAL_MS);
            }
        }
    }

    #[test]
    fn with_equal_loads_the_nearest_warm_node_is_first(
        (view, mut candidates) in (some_view(), some_candidates()),
    ) {
        for candidate in &mut candidates {
            let Candidate { node, local, distance_ms, ejected, draining, .. } = *candidate;
            *candidate = Candidate {
                local, ejected, draining, ..Candidate::new(node, distance_ms, Start::Warm)
            };
        }
        let way_ms = |c: &Candidate| if c.local { 0.0 } else { c.distance_ms };
        let nearest = candidates.iter().filter(|c| usable(c)).map(way_ms).min_by(f64::total_cmp);
        let Some(nearest) = nearest else { return Ok(()) };
        let (_, order) = order(&view, &candidates);
        prop_assert!(way_ms(&order[0]) <= nearest + NEAR_EQUAL_MS);
        let at_home = candidates.iter().any(|c| c.local && usable(c));
        prop_assert!(!at_home || order[0].local, "a call that can run here does not travel");
    }

    #[test]
    fn the_order_of_candidates_does_not_matter(
        (view, candidates, shuffled) in (some_view(), some_candidates())
            .prop_flat_map(|(v, c)| (Just(v), Just(c.clone()), Just(c).prop_shuffle())),
    ) {
        prop_assert_eq!(order(&view, &candidates), order(&view, &shuffled));
    }
}

use super::*;

const VIEW: Viewpoint = Viewpoint { exec_ms: 20.0, salt: 7 };

fn node(id: u64, distance_ms: f64, start: Start) -> Candidate {
    Candidate::new(NodeId(id), distance_ms, start)
}

fn here(start: Start) -> Candidate {
    Candidate { local: true, ..node(1, 0.0, start) }
}

/// The ids in the order picked, with what they are.
fn order(view: &Viewpoint, candidates: &[Candidate]) -> (Choice, Vec<u64>) {
    let mut out = vec![99];
    let choice = pick(view, candidates, &mut out);
    (choice, out.into_iter().map(|at| candidates[at].node.0).collect())
}

fn picked(candidates: &[Candidate]) -> Vec<u64> {
    order(&VIEW, candidates).1
}

#[test]
fn the_nearest_warm_node_is_first() {
    let far = node(2, 200.0, Start::Warm);
    let near = node(3, 80.0, Start::Warm);
    assert_eq!(picked(&[far, near]), [3, 2]);
    assert_eq!(picked(&[far, near, here(Start::Warm)]), [1, 3, 2]);
}

#[test]
fn a_load_at_home_beats_a_warm_node_across_the_ocean_but_a_compilation_does_not() {
    let far = node(2, 80.0, Start::Warm);
    assert_eq!(picked(&[far, here(Start::Ready)]), [1, 2]);
    assert_eq!(picked(&[far, here(Start::Fetch)]), [2, 1]);
    assert_eq!(picked(&[node(2, 300.0, Start::Warm), here(Start::Compile)]), [2, 1]);
}

#[test]
fn a_full_node_is_left_for_a_free_one_when_the_wait_is_longer_than_the_way() {
    let free = node(2, 30.0, Start::Warm);
    let full = |in_flight| Candidate { in_flight, capacity: 4, ..here(Start::Warm) };
    assert_eq!(picked(&[free, full(3)]), [1, 2], "one slot is free");
    assert_eq!(picked(&[free, full(4)]), [1, 2], "a wait of 5 ms is less than the way");
    assert_eq!(picked(&[free, full(12)]), [2, 1], "a wait of 45 ms is more");
    let slow = Candidate { queue_ms: 50.0, ..here(Start::Warm) };
    assert_eq!(picked(&[free, slow]), [2, 1], "by its own account it is behind");
}

#[test]
fn cpu_and_failures_count() {
    let busy = Candidate { cpu: 1.0, ..node(2, 30.0, Start::Warm) };
    let failing = Candidate { penalty_ms: 100.0, ..node(3, 10.0, Start::Warm) };
    let well = Candidate { cpu: CPU_BUSY, ..node(4, 35.0, Start::Warm) };
    assert_eq!(picked(&[busy, failing, well]), [4, 2, 3]);
}

#[test]
fn a_cost_is_the_sum_of_its_parts() {
    let candidate = Candidate {
        in_flight: 7,
        capacity: 4,
        cpu: 0.95,
        penalty_ms: 3.0,
        ..node(2, 40.0, Start::Fetch)
    };
    let cost = cost(&VIEW, &candidate);
    assert_eq!(cost.distance_ms, 40.0 + HOP_MS);
    assert!((cost.wait_ms - 25.0).abs() < 1e-9, "{cost:?}");
    assert_eq!(cost.start_ms, 220.0);
    assert!((cost.total_ms() - (40.5 + 25.0 + 220.0 + 3.0)).abs() < 1e-9, "{cost:?}");
}

#[test]
fn ejected_and_draining_nodes_are_a_last_resort() {
    let ejected = Candidate { ejected: true, ..node(2, 1.0, Start::Warm) };
    let both = Candidate { draining: true, ..ejected };
    let draining = Candidate { draining: true, ..node(3, 90.0, Start::Warm) };
    let cold = node(4, 300.0, Start::Compile);
    assert_eq!(order(&VIEW, &[ejected, draining, cold]), (Choice::Usable, vec![4]));
    assert_eq!(order(&VIEW, &[ejected, draining]), (Choice::LastResort, vec![3, 2]));
    assert_eq!(order(&VIEW, &[both]), (Choice::LastResort, vec![2]));
    assert_eq!(order(&VIEW, &[]), (Choice::Nothing, vec![]));
}

#[test]
fn callers_with_one_view_do_not_all_choose_the_same_node() {
    let equals: Vec<_> = (1..=5).map(|id| node(id, 10.0, Start::Warm)).collect();
    let mut firsts = [0; 6];
    for salt in 0..500 {
        firsts[order(&Viewpoint { salt, ..VIEW }, &equals).1[0] as usize] += 1;
    }
    assert!(firsts[1..].iter().all(|n| (60..140).contains(n)), "{firsts:?}");
    let mut turned = equals.clone();
    turned.reverse();
    assert_eq!(picked(&equals), picked(&turned), "the order of candidates does not matter");
}

#[test]
fn the_local_node_wins_among_equals() {
    for salt in 0..50 {
        let near = node(2, 0.1, Start::Warm);
        let local = Candidate { queue_ms: 0.9, ..here(Start::Warm) };
        assert_eq!(order(&Viewpoint { salt, ..VIEW }, &[near, local]).1, [1, 2]);
    }
}

#[test]
fn figures_that_are_no_numbers_come_last_and_break_nothing() {
    let lost = Candidate { cpu: f64::NAN, ..node(2, f64::NAN, Start::Warm) };
    let odd = Candidate { capacity: 0, in_flight: u32::MAX, ..node(3, -5.0, Start::Warm) };
    let fine = node(4, 200.0, Start::Warm);
    let view = Viewpoint { exec_ms: f64::INFINITY, ..VIEW };
    assert_eq!(order(&view, &[lost, odd, fine]).1[0], 4);
}

//! What every call that is not for a warm function here waits for: choosing among the nodes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use nigh_model::NodeId;
use nigh_placement::{Candidate, Start, Viewpoint, pick};

/// Candidates: a small cluster, a large one, one beyond what is promised.
const CANDIDATES: [u64; 3] = [10, 100, 1_000];
const VIEW: Viewpoint = Viewpoint { exec_ms: 5.0, salt: 7 };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pick");
    for count in CANDIDATES {
        let candidates = candidates(count);
        let mut order = Vec::new();
        group.bench_with_input(BenchmarkId::from_parameter(count), &candidates, |bencher, all| {
            bencher.iter(|| pick(black_box(&VIEW), black_box(all), &mut order));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Nodes of ten regions, some warm and some busy.
fn candidates(count: u64) -> Vec<Candidate> {
    let candidate = |n: u64| Candidate {
        local: n == 0,
        in_flight: (n % 7) as u32,
        capacity: 10,
        queue_ms: (n % 3) as f64,
        ..Candidate::new(
            NodeId(n + 1),
            20.0 * (n % 10) as f64,
            if n.is_multiple_of(4) { Start::Warm } else { Start::Ready },
        )
    };
    (0..count).map(candidate).collect()
}

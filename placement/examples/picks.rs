//! Picks a node so many times among a hundred, for counting instructions: `cargo xtask count`.
//!
//! `picks COUNT`

use std::hint::black_box;

use nigh_model::NodeId;
use nigh_placement::{Candidate, Start, Viewpoint, pick};

const CANDIDATES: u64 = 100;

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse::<u64>().ok()).unwrap_or(1);
    let candidate = |n: u64| Candidate {
        local: n == 0,
        in_flight: (n % 7) as u32,
        capacity: 10,
        ..Candidate::new(
            NodeId(n + 1),
            20.0 * (n % 10) as f64,
            if n.is_multiple_of(4) { Start::Warm } else { Start::Ready },
        )
    };
    let candidates: Vec<Candidate> = (0..CANDIDATES).map(candidate).collect();
    let mut order = Vec::new();
    // Always the same choice: another salt is another number of swaps.
    let view = Viewpoint { exec_ms: 5.0, salt: 7 };
    for _ in 0..count {
        black_box(pick(black_box(&view), black_box(&candidates), &mut order));
    }
}

//! The judge: did a call run on the nearest warm node?
//!
//! The truth is the matrix, not what a node believed. The judge knows nothing of load, and
//! deliberately shares no code with [`pick`](mod@crate::pick).

use nigh_model::{NodeId, Region};

use crate::rtt::RttMatrix;

/// Round trips that differ by no more are equally near, in ms: it is below the distance of
/// any two regions worth telling apart, and above the noise within one.
pub const EPSILON_MS: f64 = 1.0;

/// How near a call ran, beside how near it could have run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// From the entry to where it ran, in ms.
    pub rtt_ms: f64,
    /// From the entry to the nearest warm node, in ms.
    pub best_ms: f64,
}

impl Verdict {
    /// The round trip beyond the best one, in ms. A call that ran nearer than any warm node
    /// (it started cold there) has none.
    pub fn extra_ms(&self) -> f64 {
        (self.rtt_ms - self.best_ms).max(0.0)
    }

    /// Whether no warm node was nearer.
    pub fn is_nearest(&self) -> bool {
        self.extra_ms() <= EPSILON_MS
    }
}

/// The shortest round trip from the entry to a warm node, in ms; none if no node is warm or
/// the matrix knows the way to none of them.
pub fn nearest_warm(matrix: &RttMatrix, entry: &Region, warm: &[(NodeId, Region)]) -> Option<f64> {
    warm.iter().filter_map(|(_, region)| rtt_ms(matrix, entry, region)).min_by(f64::total_cmp)
}

/// Judges a call that entered in one region and ran in another, given the nodes that were warm
/// then; none where the matrix does not know the ways.
pub fn judge(
    matrix: &RttMatrix,
    entry: &Region,
    ran: &Region,
    warm: &[(NodeId, Region)],
) -> Option<Verdict> {
    let rtt_ms = rtt_ms(matrix, entry, ran)?;
    Some(Verdict { rtt_ms, best_ms: nearest_warm(matrix, entry, warm)? })
}

/// Within a region that has no cell of its own the way counts as none.
fn rtt_ms(matrix: &RttMatrix, from: &Region, to: &Region) -> Option<f64> {
    matrix.get(from, to).or((from == to).then_some(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        Region::new(name).unwrap()
    }

    fn warm(names: &[&str]) -> Vec<(NodeId, Region)> {
        names.iter().enumerate().map(|(id, name)| (NodeId(id as u64), region(name))).collect()
    }

    #[test]
    fn a_call_is_judged_by_the_matrix() {
        let aws = RttMatrix::aws();
        let judge = |ran: &str, names: &[&str]| {
            judge(&aws, &region("eu-west-1"), &region(ran), &warm(names)).unwrap()
        };
        assert!(judge("us-east-1", &["us-east-1", "ap-northeast-1"]).is_nearest());
        let far = judge("ap-northeast-1", &["us-east-1", "ap-northeast-1"]);
        assert!(!far.is_nearest() && far.extra_ms() > 100.0, "{far:?}");
        let cold_at_home = judge("eu-west-1", &["us-east-1"]);
        assert!(cold_at_home.is_nearest() && cold_at_home.extra_ms() == 0.0);
    }

    #[test]
    fn what_the_matrix_does_not_know_is_not_judged() {
        let matrix = RttMatrix::parse(",a,b,c\na,,10,\n").unwrap();
        let judge =
            |ran: &str, names: &[&str]| judge(&matrix, &region("a"), &region(ran), &warm(names));
        assert_eq!(judge("b", &["b", "c"]), Some(Verdict { rtt_ms: 10.0, best_ms: 10.0 }));
        assert_eq!(judge("b", &["a"]), Some(Verdict { rtt_ms: 10.0, best_ms: 0.0 }));
        assert_eq!(judge("c", &["b"]), None);
        assert_eq!(judge("b", &["c"]), None);
        assert_eq!(judge("b", &[]), None);
    }
}

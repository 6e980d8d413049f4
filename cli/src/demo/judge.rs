//! Whether a call ran on the nearest warm node, judged from outside.
//!
//! Known are: where the call entered and where it ran (the client's own record of the answer's
//! headers), which nodes said of themselves that they were warm just before and just after it
//! was sent, and the matrix of round trips. The distance of the entry to itself is 0, to
//! another node the matrix's round trip between their regions; without a matrix every other
//! node is equally far. A call ran on the nearest warm node if it ran warm and no node that
//! was warm for certain is nearer. A cold call never did.

use std::time::Duration;

use nigh_placement::RttMatrix;

use crate::demo::warm::Timeline;
use crate::load::client::Answer;
use crate::load::run::Record;
use crate::local::layout::Place;

/// The distance to another node where no matrix tells them apart, in ms.
const ELSEWHERE_MS: f64 = 1.0;
/// Timers of the emulator and of the client may be off by this much, in ms.
const CLOCK_MS: f64 = 1.0;

/// Judges calls.
pub(crate) struct Judge<'a> {
    places: &'a [Place],
    matrix: Option<&'a RttMatrix>,
    timeline: &'a Timeline,
}

/// Where a call ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// On the nearest warm node.
    Nearest,
    /// Warm, while a nearer node was warm for certain.
    Farther,
    /// On a node that had to load the function first.
    Cold,
}

impl<'a> Judge<'a> {
    /// A judge of one run.
    pub(crate) fn new(
        places: &'a [Place],
        matrix: Option<&'a RttMatrix>,
        timeline: &'a Timeline,
    ) -> Self {
        Self { places, matrix, timeline }
    }

    /// The place of the node that answered.
    pub(crate) fn node_of(&self, answer: &Answer) -> Option<usize> {
        let name = answer.ran.node.as_deref()?;
        self.places.iter().position(|place| place.name.as_str() == name)
    }

    /// Judges a call that ran on this node.
    pub(crate) fn verdict(&self, record: &Record, answer: &Answer, node: usize) -> Verdict {
        if answer.ran.cold != Some(false) {
            return Verdict::Cold;
        }
        let distance = self.distance_ms(record.entry, node);
        let warm = self.timeline.surely_warm(record.function, record.sent);
        match warm.iter().any(|other| self.distance_ms(record.entry, *other) < distance) {
            true => Verdict::Farther,
            false => Verdict::Nearest,
        }
    }

    /// Whether the answer came sooner than the matrix lets it: then it did not run where its
    /// headers say.
    pub(crate) fn is_too_fast(&self, record: &Record, node: usize) -> bool {
        let Some(round_trip) = self.round_trip_ms(record.entry, node) else { return false };
        let taken = record.service + Duration::from_secs_f64(CLOCK_MS / 1e3);
        taken < Duration::from_secs_f64(round_trip / 1e3)
    }

    /// The emulated round trip between two nodes.
    pub(crate) fn round_trip_ms(&self, from: usize, to: usize) -> Option<f64> {
        if from == to {
            return None;
        }
        self.matrix?.get(&self.places[from].region, &self.places[to].region)
    }

    fn distance_ms(&self, from: usize, to: usize) -> f64 {
        match (from == to, self.round_trip_ms(from, to)) {
            (true, _) => 0.0,
            (false, Some(round_trip)) => round_trip,
            (false, None) => ELSEWHERE_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::warm::tests::timeline;
    use crate::load::ledger::tests::answered;
    use crate::load::run::Outcome;
    use crate::local::layout::deal;
    use nigh_model::Region;
    use tokio::time::Instant;

    fn places() -> Vec<Place> {
        let regions = ["eu-west-1", "us-east-1", "ap-northeast-1"];
        let regions: Vec<Region> = regions.iter().map(|name| Region::new(name).unwrap()).collect();
        deal(5, &regions, None).unwrap()
    }

    fn judge(entry: usize, node: usize, cold: bool, warm: &[usize]) -> Verdict {
        let (places, matrix) = (places(), RttMatrix::aws());
        let start = Instant::now();
        let timeline = timeline(start, &[warm, warm]);
        let judge = Judge::new(&places, Some(&matrix), &timeline);
        let mut record = answered(entry, 0, places[node].name.as_str(), cold);
        record.sent = start + Duration::from_millis(500);
        let Outcome::Answered(answer) = record.outcome.clone() else { panic!("answered") };
        assert_eq!(judge.node_of(&answer), Some(node));
        judge.verdict(&record, &answer, node)
    }

    #[test]
    fn a_call_should_run_on_the_nearest_warm_node() {
        // eu-a 0, us-a 1, ap-a 2, eu-b 3, us-b 4
        assert_eq!(judge(0, 0, false, &[0, 1, 2]), Verdict::Nearest);
        assert_eq!(judge(0, 1, false, &[0, 1, 2]), Verdict::Farther);
        assert_eq!(judge(0, 1, false, &[1, 2]), Verdict::Nearest);
        assert_eq!(judge(0, 2, false, &[1, 2]), Verdict::Farther);
        assert_eq!(judge(0, 3, false, &[1, 3]), Verdict::Nearest);
        assert_eq!(judge(0, 4, false, &[1, 4]), Verdict::Nearest, "as near as its neighbour");
        assert_eq!(judge(0, 0, true, &[1]), Verdict::Cold);
    }

    #[test]
    fn an_answer_faster_than_the_way_is_noticed() {
        let (places, matrix, timeline) = (places(), RttMatrix::aws(), Timeline::default());
        let judge = Judge::new(&places, Some(&matrix), &timeline);
        let mut record = answered(0, 0, "x", false);
        record.service = Duration::from_millis(60);
        assert!(judge.is_too_fast(&record, 1), "70.5 ms there and back");
        assert!(!judge.is_too_fast(&record, 0));
        record.service = Duration::from_millis(71);
        assert!(!judge.is_too_fast(&record, 1));
        let without = Judge::new(&places, None, &timeline);
        assert!(!without.is_too_fast(&record, 1));
    }
}

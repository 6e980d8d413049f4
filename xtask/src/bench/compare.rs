//! Several measured things, their medians and what these are to each other. Pure.

use super::load::Sample;
use super::rows::{Number, Outcome};

/// What was seen of a server in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    pub(super) sample: Sample,
    /// CPU time of the server for each call, in microseconds.
    pub(super) cpu_us: f64,
    /// Memory of the server after it, in bytes.
    pub(super) rss_bytes: f64,
}

/// One number of them.
pub(super) type Value = fn(&Measured) -> f64;

pub(super) const RATE: Value = |measured| measured.sample.calls_per_s;
pub(super) const P50: Value = |measured| measured.sample.p50_us;
pub(super) const P99: Value = |measured| measured.sample.p99_us;
pub(super) const CPU: Value = |measured| measured.cpu_us;
pub(super) const RSS: Value = |measured| measured.rss_bytes;

/// The median of a number over the rounds.
pub(super) fn median(rounds: &[Measured], value: Value) -> f64 {
    percentile(rounds.iter().map(value).collect(), 50)
}

/// What this many hundredths of the values are below; NaN of nothing. The median of an even number
/// of them is between the two in the middle.
pub(super) fn percentile(mut values: Vec<f64>, hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if hundredths == 50 && n % 2 == 0 => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        n => values[(n * hundredths / 100).min(n - 1)],
    }
}

/// One median through another, with what the rounds' own ratios were.
pub(super) fn ratio(subject: &[Measured], baseline: &[Measured], value: Value) -> Outcome {
    let (above, below) = (median(subject, value), median(baseline, value));
    let ratios = subject.iter().zip(baseline).map(|(a, b)| value(a) / value(b));
    Outcome::Measured(Number {
        value: above / below,
        spread: spread(ratios),
        made_of: format!("{above:.1} ÷ {below:.1}"),
    })
}

/// One number, of the median of several.
pub(super) fn number(values: &[f64], made_of: String) -> Outcome {
    let value = percentile(values.to_vec(), 50);
    Outcome::Measured(Number { value, spread: spread(values.iter().copied()), made_of })
}

/// The least and the most of several.
fn spread(values: impl ExactSizeIterator<Item = f64>) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    Some(values.fold(none, |(least, most), value| (least.min(value), most.max(value))))
}

/// Which way is better, and how good is good enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// At least the floor; the goal is more.
    AtLeast { floor: f64, goal: f64 },
    /// At most the floor; the goal is less.
    AtMost { floor: f64, goal: f64 },
}

/// How far a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Goal,
    Floor,
    Neither,
}

impl Target {
    /// How far `value` is.
    pub(super) fn reached(self, value: f64) -> Reached {
        let (floor, goal) = match self {
            Self::AtLeast { floor, goal } => (value >= floor, value >= goal),
            Self::AtMost { floor, goal } => (value <= floor, value <= goal),
        };
        match (goal, floor) {
            (true, _) => Reached::Goal,
            (false, true) => Reached::Floor,
            (false, false) => Reached::Neither,
        }
    }

    /// Floor and goal.
    pub(super) fn numbers(self) -> (f64, f64) {
        match self {
            Self::AtLeast { floor, goal } | Self::AtMost { floor, goal } => (floor, goal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(calls_per_s: f64) -> Measured {
        Measured { sample: Sample { calls_per_s, ..Sample::default() }, ..Measured::default() }
    }

    #[test]
    fn one_odd_round_moves_no_median() {
        let rounds = [measured(10.0), measured(900.0), measured(11.0)];
        assert_eq!(median(&rounds, RATE), 11.0);
        assert_eq!(median(&rounds[..2], RATE), 455.0);
        assert!(median(&[], RATE).is_nan());
    }

    #[test]
    fn a_ratio_is_of_medians_and_says_how_far_its_rounds_were_apart() {
        let (subject, baseline) =
            ([measured(5.0), measured(6.0), measured(9.0)], [measured(10.0); 3]);
        let Outcome::Measured(number) = ratio(&subject, &baseline, RATE) else { panic!() };
        assert_eq!((number.value, number.spread), (0.6, Some((0.5, 0.9))));
        let Outcome::Measured(number) = ratio(&subject[..1], &baseline[..1], RATE) else {
            panic!()
        };
        assert_eq!((number.value, number.spread), (0.5, None));
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(values.clone(), 50), percentile(values, 99)), (100.5, 199.0));
    }

    #[test]
    fn a_target_is_reached_from_its_own_side() {
        let more = Target::AtLeast { floor: 0.4, goal: 0.55 };
        assert_eq!(more.reached(0.6), Reached::Goal);
        assert_eq!(more.reached(0.5), Reached::Floor);
        assert_eq!(more.reached(0.3), Reached::Neither);
        let less = Target::AtMost { floor: 3.5, goal: 2.4 };
        assert_eq!(less.reached(2.0), Reached::Goal);
        assert_eq!(less.reached(3.0), Reached::Floor);
        assert_eq!(less.reached(9.0), Reached::Neither);
        assert_eq!(less.reached(f64::NAN), Reached::Neither);
    }
}

//! When calls are to start.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// How starts are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spread {
    /// As independent callers do: exponential gaps
    Poisson,
    /// At even gaps
    Constant,
}

/// The starts of calls at a rate, in order, until the duration is over.
pub(crate) struct Arrivals {
    spread: Spread,
    gap_mean: f64,
    end: f64,
    at: f64,
    random: StdRng,
}

impl Arrivals {
    /// `rate` is in calls per second and above zero.
    pub(crate) fn new(spread: Spread, rate: f64, duration: Duration, random: StdRng) -> Self {
        Self { spread, gap_mean: 1.0 / rate, end: duration.as_secs_f64(), at: 0.0, random }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = match self.spread {
            Spread::Constant => {
                let at = self.at;
                self.at += self.gap_mean;
                at
            }
            Spread::Poisson => {
                self.at += exponential(&mut self.random) * self.gap_mean;
                self.at
            }
        };
        (at < self.end).then(|| Duration::from_secs_f64(at))
    }
}

/// Exponentially distributed with mean 1, by inversion.
fn exponential(random: &mut StdRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn arrivals(spread: Spread, seed: u64) -> Vec<Duration> {
        let random = StdRng::seed_from_u64(seed);
        Arrivals::new(spread, 100.0, Duration::from_secs(100), random).collect()
    }

    #[test]
    fn constant_arrivals_are_even() {
        let at = arrivals(Spread::Constant, 1);
        assert_eq!(at.len(), 10_000);
        assert_eq!((at[0], at[100]), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn poisson_arrivals_have_their_rate_and_variance() {
        let at = arrivals(Spread::Poisson, 1);
        assert!((9_700..10_300).contains(&at.len()), "{}", at.len());
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let variation = variance.sqrt() / mean;
        assert!((0.95..1.05).contains(&variation), "{variation}: 1 for exponential gaps");
        assert!(at.is_sorted());
    }

    #[test]
    fn the_same_seed_draws_the_same_arrivals() {
        assert_eq!(arrivals(Spread::Poisson, 7), arrivals(Spread::Poisson, 7));
        assert_ne!(arrivals(Spread::Poisson, 7), arrivals(Spread::Poisson, 8));
    }
}

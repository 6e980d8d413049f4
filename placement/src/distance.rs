//! How far is a peer? A measured round trip where there is one, else the best guess.
//!
//! It does not measure: the caller pings its peers and feeds [`RttEwma`]. Network coordinates
//! will stand between measurement and geography once nodes gossip them.

use nigh_model::Location;

use crate::geo;
use crate::rtt::RTT_MS_MAX;

/// Weight of a new sample in the mean: the gain of TCP's estimator (RFC 6298 §2).
const MEAN_GAIN: f64 = 1.0 / 8.0;

/// Weight of a new sample in the spread: the gain of TCP's estimator (RFC 6298 §2).
const SPREAD_GAIN: f64 = 1.0 / 4.0;

/// The round trip to an unmeasured peer of the same region, in ms: zones of one region lie
/// within 100 km of each other.
pub const SAME_REGION_RTT_MS: f64 = 1.0;

/// The round trip to a peer of which nothing is known, in ms: about the mean between two
/// regions of the AWS matrix, so that it is neither preferred nor shunned.
pub const UNKNOWN_RTT_MS: f64 = 150.0;

/// A smoothed round-trip time, updated by samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RttEwma {
    /// Mean and spread in ms; none before the first sample.
    smoothed: Option<(f64, f64)>,
}

impl RttEwma {
    /// Takes in one measured round trip, in ms. One that is negative, not finite or longer
    /// than [`RTT_MS_MAX`] is a broken clock or a stalled process and is left out.
    pub fn update(&mut self, sample_ms: f64) {
        if !(0.0..=RTT_MS_MAX).contains(&sample_ms) {
            return;
        }
        self.smoothed = Some(match self.smoothed {
            None => (sample_ms, sample_ms / 2.0),
            Some((mean, spread)) => (
                mean + MEAN_GAIN * (sample_ms - mean),
                spread + SPREAD_GAIN * ((sample_ms - mean).abs() - spread),
            ),
        });
    }

    /// The smoothed round trip, in ms; none before the first sample.
    pub fn value(&self) -> Option<f64> {
        self.smoothed.map(|(mean, _)| mean)
    }

    /// The smoothed deviation from it, in ms; none before the first sample.
    pub fn spread(&self) -> Option<f64> {
        self.smoothed.map(|(_, spread)| spread)
    }
}

/// What a distance was taken from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Measured round trips.
    Measured,
    /// Both are of one region.
    SameRegion,
    /// Both locations are known.
    Geography,
    /// Nothing is known.
    Default,
}

/// The round trip to a peer, and where the figure comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// The round trip, in ms.
    pub rtt_ms: f64,
    /// What it was taken from.
    pub source: Source,
}

/// What is known about the way to a peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Measured round trips.
    pub measured: RttEwma,
    /// Whether the peer's region is ours.
    pub same_region: bool,
    /// Our location.
    pub here: Option<Location>,
    /// The peer's location.
    pub there: Option<Location>,
}

impl Distance {
    /// The best estimate from what is known.
    pub fn estimate(known: &Known) -> Self {
        if let Some(rtt_ms) = known.measured.value() {
            return Self { rtt_ms, source: Source::Measured };
        }
        if known.same_region {
            return Self { rtt_ms: SAME_REGION_RTT_MS, source: Source::SameRegion };
        }
        match (known.here, known.there) {
            (Some(here), Some(there)) => {
                Self { rtt_ms: geo::rtt_ms(here, there), source: Source::Geography }
            }
            _ => Self { rtt_ms: UNKNOWN_RTT_MS, source: Source::Default },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_samples_and_one_slow_ping_moves_it_little() {
        let mut rtt = RttEwma::default();
        assert_eq!((rtt.value(), rtt.spread()), (None, None));
        rtt.update(40.0);
        assert_eq!((rtt.value(), rtt.spread()), (Some(40.0), Some(20.0)));
        for _ in 0..50 {
            rtt.update(40.0);
        }
        assert!(rtt.spread().unwrap() < 0.1);
        rtt.update(400.0);
        assert_eq!(rtt.value(), Some(85.0));
        for _ in 0..50 {
            rtt.update(120.0);
        }
        assert!((rtt.value().unwrap() - 120.0).abs() < 1.0);
    }

    #[test]
    fn broken_samples_are_left_out() {
        let mut rtt = RttEwma::default();
        for sample in [f64::NAN, f64::INFINITY, -1.0, RTT_MS_MAX * 2.0] {
            rtt.update(sample);
        }
        assert_eq!(rtt, RttEwma::default());
    }

    #[test]
    fn measurement_beats_region_beats_geography_beats_nothing() {
        let place = |name| geo::known_region(name).map(|known| known.location);
        let mut known = Known::default();
        assert_eq!(Distance::estimate(&known).source, Source::Default);
        known.here = place("eu-west-1");
        assert_eq!(Distance::estimate(&known).source, Source::Default);
        known.there = place("us-east-1");
        let guess = Distance::estimate(&known);
        assert_eq!(guess.source, Source::Geography);
        assert!((60.0..120.0).contains(&guess.rtt_ms), "{guess:?}");
        known.same_region = true;
        assert_eq!(Distance::estimate(&known).source, Source::SameRegion);
        known.measured.update(70.0);
        let measured = Distance { rtt_ms: 70.0, source: Source::Measured };
        assert_eq!(Distance::estimate(&known), measured);
    }
}

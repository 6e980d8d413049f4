//! How long the way between two regions is made to take, where that is emulated.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::Region;
use nigh_placement::RttMatrix;

/// The emulated ways from this node; none where no matrix was given at the start.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    own: Region,
    matrix: Option<Arc<RttMatrix>>,
}

impl Link {
    /// Ways from this region by this matrix.
    pub(crate) fn new(own: Region, matrix: Option<Arc<RttMatrix>>) -> Self {
        Self { own, matrix }
    }

    /// Half of the round trip to a region; zero when nothing is emulated or the pair is unknown.
    pub(crate) fn one_way(&self, to: &Region) -> Duration {
        let rtt_ms = self.matrix.as_ref().and_then(|matrix| matrix.get(&self.own, to));
        Duration::from_secs_f64(rtt_ms.unwrap_or(0.0).max(0.0) / 2_000.0)
    }
}

//! What this node itself has found out about another: does it answer, and how fast.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Share of a new sample in the mean round trip (RFC 6298 uses the same).
const NEW_SAMPLE_SHARE: f64 = 0.125;

/// The health of one peer; all of it is read and written without a lock.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Taken out after a failed connection until a ping is answered.
    ejected: AtomicBool,
    /// Mean round trip in us; 0: not measured.
    rtt_us: AtomicU64,
}

impl Health {
    /// A connection failed: no call goes there until a ping is answered.
    pub(crate) fn eject(&self) -> bool {
        !self.ejected.swap(true, Relaxed)
    }

    /// It answered a ping after this round trip.
    pub(crate) fn answered(&self, rtt: Duration) -> bool {
        let sample = rtt.as_micros().max(1) as f64;
        let mean = match self.rtt_us.load(Relaxed) {
            0 => sample,
            known => {
                let known = known as f64;
                // One slow answer says little; a faster one is always the truer.
                if sample < known { sample } else { known + NEW_SAMPLE_SHARE * (sample - known) }
            }
        };
        self.rtt_us.store(mean as u64, Relaxed);
        self.ejected.swap(false, Relaxed)
    }

    /// Whether calls should go elsewhere.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Mean round trip, once measured.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_us.load(Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }
}

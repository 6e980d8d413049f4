//! How often durations were as long as that: counted by many threads at once, without a lock and, for the
//! most part, without sharing memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::names::BUCKETS_SECONDS;

/// Threads that count into memory of their own; where there are more, some share it.
const SHARDS: usize = 8;
/// The last one is for what is longer than all others.
const BUCKETS: usize = BUCKETS_SECONDS.len() + 1;

/// Upper bounds of all but the last, in ns.
const BOUNDS_NS: [u64; BUCKETS - 1] = {
    let mut bounds = [0; BUCKETS - 1];
    let mut at = 0;
    while at < bounds.len() {
        // To the nearest: what is written as decimals is not exact.
        bounds[at] = (BUCKETS_SECONDS[at] * 1e9 + 0.5) as u64;
        at += 1;
    }
    bounds
};

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed) % SHARDS
    };
}

/// A histogram of durations. A clone counts into the same.
#[derive(Clone)]
pub(crate) struct Durations {
    shards: Arc<[Shard; SHARDS]>,
}

/// What some threads have counted; on cache lines of its own.
#[repr(align(128))]
struct Shard {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Durations {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let shard =
            |_| Shard { counts: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) };
        Self { shards: Arc::new(std::array::from_fn(shard)) }
    }

    /// Counts one.
    pub(crate) fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.shards[SHARD.with(|shard| *shard)];
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        shard.counts[bucket].fetch_add(1, Relaxed);
        shard.sum_ns.fetch_add(ns, Relaxed);
    }

    /// How many fell into each bucket, and all durations together.
    fn read(&self) -> ([u64; BUCKETS], Duration) {
        let (mut counts, mut sum) = ([0; BUCKETS], Duration::ZERO);
        for shard in self.shards.iter() {
            for (count, counted) in counts.iter_mut().zip(&shard.counts) {
                *count += counted.load(Relaxed);
            }
            sum += Duration::from_nanos(shard.sum_ns.load(Relaxed));
        }
        (counts, sum)
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (counts, sum) = self.read();
        let bounds = BUCKETS_SECONDS.into_iter().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, sum) = self.read();
        let count: u64 = counts.iter().sum();
        f.debug_struct("Durations").field("count", &count).field("sum", &sum).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_the_next_bound() {
        let durations = Durations::new();
        let us = Duration::from_micros;
        for duration in [us(0), us(50), us(51), us(70), us(60_000_000), us(60_000_001)] {
            durations.observe(duration);
        }
        let (counts, sum) = durations.read();
        assert_eq!(&counts[..3], [2, 2, 0]);
        assert_eq!(&counts[BUCKETS - 2..], [1, 1]);
        assert_eq!(sum, us(120_000_172));
    }

    #[test]
    fn what_many_threads_count_is_all_there() {
        let durations = Durations::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope
                    .spawn(|| (0..1_000).for_each(|_| durations.observe(Duration::from_millis(1))));
            }
        });
        let (counts, sum) = durations.read();
        let all = 2 * SHARDS as u64 * 1_000;
        assert_eq!((counts.iter().sum::<u64>(), sum), (all, Duration::from_millis(all)));
    }
}

//! All that a node counts: every name, help text and label value stands here.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::gateway::{Outcome, Timings};

/// The smallest bucket of a duration, in seconds: a warm call waits less than that for nothing.
const BUCKET_SECONDS_MIN: f64 = 50e-6;
/// Buckets of a duration, each twice the one before: the last is 52 s.
const BUCKETS: u16 = 21;

/// The label values of `outcome`.
const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Ok, "ok"),
    (Outcome::FunctionError, "function_error"),
    (Outcome::Refused, "refused"),
    (Outcome::Failed, "failed"),
    (Outcome::Gone, "gone"),
];

/// What a node counts. A clone counts into the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    calls: [Counter; OUTCOMES.len()],
    broken: Counter,
    forwarded: Counter,
    received: Counter,
    cold: Counter,
    retries: Counter,
    connections_refused: Counter,
    log_lines: Counter,
    total: Histogram,
    queue: Histogram,
    start: Histogram,
    exec: Histogram,
    hop: Histogram,
    running: Gauge,
    warm: Gauge,
    ready: Gauge,
    connections: Gauge,
    /// Calls and answers that are not over; not shown.
    under_way: Arc<AtomicUsize>,
    /// Says how many guests run and how many functions are warm and ready.
    measure: OnceLock<Measure>,
}

type Measure = Box<dyn Fn() -> (u32, usize, usize) + Send + Sync>;

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let outcomes = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let calls =
            OUTCOMES.map(|(_, value)| outcomes.get_or_create(&[("outcome", value)]).clone());
        registry.register(
            "nigh_gateway_calls",
            "Calls that entered here, by outcome: ok, function_error, refused, failed, gone",
            outcomes,
        );
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let broken = counter(
            "nigh_gateway_answers_broken",
            "Answers that broke off after their head was sent",
        );
        let forwarded = counter("nigh_gateway_forwarded", "Calls sent on to another node");
        let received = counter("nigh_gateway_received", "Calls received from other nodes");
        let cold = counter(
            "nigh_gateway_cold",
            "Calls run here that waited for a load, fetch or compilation",
        );
        let retries = counter("nigh_gateway_retries", "Further tries of calls");
        let connections_refused = counter(
            "nigh_gateway_connections_refused",
            "Connections closed because there were too many",
        );
        let log_lines = counter("nigh_logs_lines", "Lines printed by guests");
        let mut histogram = |name, help| {
            let histogram = Histogram::new(exponential_buckets(BUCKET_SECONDS_MIN, 2.0, BUCKETS));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let total = histogram(
            "nigh_gateway_call_seconds",
            "From a call's arrival to the head of its answer, where it entered",
        );
        let queue = histogram("nigh_gateway_queue_seconds", "Wait for a free place, where it ran");
        let start = histogram("nigh_gateway_start_seconds", "Wait for a load, where it ran");
        let exec = histogram(
            "nigh_gateway_exec_seconds",
            "From the guest's start to the head of its answer, where it ran",
        );
        let hop = histogram(
            "nigh_gateway_hop_seconds",
            "On the way to another node and back, where it entered",
        );
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let running = gauge("nigh_runtime_running", "Guest instances running");
        let warm = gauge("nigh_agent_warm", "Functions loaded");
        let ready = gauge("nigh_agent_ready", "Functions whose compiled artifact is on disk");
        let connections = gauge("nigh_gateway_connections", "Connections of HTTP callers");
        let inner = Inner {
            registry,
            calls,
            broken,
            forwarded,
            received,
            cold,
            retries,
            connections_refused,
            log_lines,
            total,
            queue,
            start,
            exec,
            hop,
            running,
            warm,
            ready,
            connections,
            under_way: Arc::default(),
            measure: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A call has entered; it counts as gone unless its end is told.
    pub(crate) fn enter(&self) -> Counting {
        let under_way = self.under_way();
        Counting {
            metrics: self.clone(),
            began: Instant::now(),
            outcome: Outcome::Gone,
            _under_way: under_way,
        }
    }

    /// A call was sent on.
    pub(crate) fn forwarded(&self) {
        self.inner.forwarded.inc();
    }

    /// A call came from another node.
    pub(crate) fn received(&self) {
        self.inner.received.inc();
    }

    /// A call is tried again.
    pub(crate) fn retried(&self) {
        self.inner.retries.inc();
    }

    /// Counts a call or an answer as not over.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.inner.under_way.fetch_add(1, Relaxed);
        UnderWay(self.inner.under_way.clone())
    }

    /// Calls that entered here and answers that go out, not over.
    pub(crate) fn calls_under_way(&self) -> usize {
        self.inner.under_way.load(Relaxed)
    }

    /// An answer broke off after its head was sent.
    pub(crate) fn broken(&self) {
        self.inner.broken.inc();
    }

    /// A call has run here up to the head of its answer.
    pub(crate) fn ran(&self, timings: &Timings, cold: bool) {
        let Inner { queue, start, exec, .. } = &*self.inner;
        queue.observe(timings.queue.as_secs_f64());
        start.observe(timings.start.as_secs_f64());
        exec.observe(timings.exec.as_secs_f64());
        if cold {
            self.inner.cold.inc();
        }
    }

    /// A call that was sent on has been answered.
    pub(crate) fn hopped(&self, hop: Duration) {
        self.inner.hop.observe(hop.as_secs_f64());
    }

    /// A guest has printed a line.
    pub(crate) fn printed(&self) {
        self.inner.log_lines.inc();
    }

    /// A connection was closed because there were too many.
    pub(crate) fn connection_refused(&self) {
        self.inner.connections_refused.inc();
    }

    /// Connections open.
    pub(crate) fn connections(&self) -> &Gauge {
        &self.inner.connections
    }

    /// Names whoever knows how many guests run and how many functions are warm and ready. It is
    /// asked when the metrics are read; the first one named stays.
    pub(crate) fn measure(
        &self,
        measure: impl Fn() -> (u32, usize, usize) + Send + Sync + 'static,
    ) {
        let _ = self.inner.measure.set(Box::new(measure));
    }

    /// Everything in the OpenMetrics text format, which Prometheus reads.
    pub(crate) fn render(&self) -> String {
        let Inner { measure, running, warm, ready, .. } = &*self.inner;
        if let Some(measure) = measure.get() {
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let (guests, loaded, compiled) = measure();
            running.set(guests.into());
            warm.set(count(loaded));
            ready.set(count(compiled));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.inner.registry);
        text
    }
}

/// A call from its entry to the head of its answer.
pub(crate) struct Counting {
    metrics: Metrics,
    began: Instant,
    outcome: Outcome,
    _under_way: UnderWay,
}

/// A call, or its answer, that is not over: counted as long as this lives.
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counting {
    /// The call ends like this.
    pub(crate) fn ends(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let inner = &self.metrics.inner;
        if let Some(at) = OUTCOMES.iter().position(|(outcome, _)| *outcome == self.outcome) {
            inner.calls[at].inc();
        }
        inner.total.observe(self.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_outcome_and_abandoned_ones_too() {
        let metrics = Metrics::new();
        metrics.enter().ends(Outcome::Ok);
        drop(metrics.enter());
        let timings = Timings { exec: Duration::from_millis(3), ..Timings::default() };
        metrics.ran(&timings, true);
        metrics.measure(|| (1, 2, 3));
        let text = metrics.render();
        for line in [
            "nigh_gateway_calls_total{outcome=\"ok\"} 1",
            "nigh_gateway_calls_total{outcome=\"gone\"} 1",
            "nigh_gateway_calls_total{outcome=\"refused\"} 0",
            "nigh_gateway_cold_total 1",
            "nigh_gateway_exec_seconds_count 1",
            "nigh_runtime_running 1",
            "nigh_agent_ready 3",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_name_says_part_thing_and_unit() {
        let text = Metrics::new().render();
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            assert!(line.starts_with("# TYPE nigh_"), "{line}");
            assert!(!line.ends_with("histogram") || line.contains("_seconds "), "{line}");
        }
    }
}

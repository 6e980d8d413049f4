//! What a node counts while it works, and the page on which it is read with what is measured only
//! when somebody asks.
//!
//! Names, help texts and label values stand in `names`. Counting costs an atomic addition.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric as Registered, Registry};

use super::histogram::Durations;
use super::measured::Page;
use super::names::{self, Metric};
use crate::gateway::{Outcome, Reason, Timings, Unagreed, reason_names};

/// Why somebody was turned away from the API port, in the order of [`names::API_WHY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiRefusal {
    /// Too many connections.
    Full,
    /// It does not speak TLS.
    NoTls,
    /// It did not agree on TLS, or not in time.
    NoHandshake,
    /// It shows no valid token where one is needed.
    Unauthenticated,
    /// Its token gives too little.
    Denied,
}

/// How the first call of a connection met what was begun for it, in the order of
/// [`names::PRELOAD_HOW`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preloaded {
    /// It is loaded: the call waits for nothing.
    Warm,
    /// It is being loaded: the call waits for the rest.
    Joined,
}

/// What a node counts. A clone counts into the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// By outcome, each by place.
    calls: Vec<Counter>,
    /// By reason.
    problems: Vec<Counter>,
    /// By reason.
    api_refused: Vec<Counter>,
    broken: Counter,
    forwarded: Counter,
    received: Counter,
    cold: Counter,
    retries: Counter,
    connections_refused: Counter,
    /// From the start, and resumed.
    handshakes: Vec<Counter>,
    /// By reason.
    handshakes_failed: Vec<Counter>,
    handshake: Durations,
    preloads: Counter,
    /// By how they were met.
    preloads_met: Vec<Counter>,
    log_lines: Counter,
    total: Durations,
    queue: Durations,
    start: Durations,
    exec: Durations,
    hop: Durations,
    connections: Gauge,
    parked: Gauge,
    syncs: Durations,
    syncs_failed: Counter,
    /// Calls and answers that are not over; not shown.
    under_way: Arc<AtomicUsize>,
    measure: Arc<OnceLock<Measure>>,
}

type Measure = Box<dyn Fn(&mut Page) + Send + Sync>;

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let mut all = Registry::default();
        let measure: Arc<OnceLock<Measure>> = Arc::default();
        all.register_collector(Box::new(Measured(measure.clone())));
        let inner = Inner {
            calls: counters(&mut all, &names::CALLS),
            problems: counters(&mut all, &names::PROBLEMS),
            api_refused: counters(&mut all, &names::API_REFUSED),
            broken: counter(&mut all, &names::BROKEN),
            forwarded: counter(&mut all, &names::FORWARDED),
            received: counter(&mut all, &names::RECEIVED),
            cold: counter(&mut all, &names::COLD),
            retries: counter(&mut all, &names::RETRIES),
            connections_refused: counter(&mut all, &names::CONNECTIONS_REFUSED),
            handshakes: counters(&mut all, &names::HANDSHAKES),
            handshakes_failed: counters(&mut all, &names::HANDSHAKES_FAILED),
            handshake: histogram(&mut all, &names::HANDSHAKE_SECONDS),
            preloads: counter(&mut all, &names::PRELOADS),
            preloads_met: counters(&mut all, &names::PRELOADS_MET),
            log_lines: counter(&mut all, &names::LOG_LINES),
            total: histogram(&mut all, &names::CALL_SECONDS),
            queue: histogram(&mut all, &names::QUEUE_SECONDS),
            start: histogram(&mut all, &names::START_SECONDS),
            exec: histogram(&mut all, &names::EXEC_SECONDS),
            hop: histogram(&mut all, &names::HOP_SECONDS),
            connections: registered(&mut all, &names::CONNECTIONS, Gauge::default()),
            parked: registered(&mut all, &names::CONNECTIONS_PARKED, Gauge::default()),
            syncs: histogram(&mut all, &names::SYNC_SECONDS),
            syncs_failed: counter(&mut all, &names::SYNCS_FAILED),
            under_way: Arc::default(),
            measure,
            registry: all,
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
            place: Place::Here,
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
        queue.observe(timings.queue);
        start.observe(timings.start);
        exec.observe(timings.exec);
        if cold {
            self.inner.cold.inc();
        }
    }

    /// A call that was sent on has been answered.
    pub(crate) fn hopped(&self, hop: Duration) {
        self.inner.hop.observe(hop);
    }

    /// A guest has printed a line.
    pub(crate) fn printed(&self) {
        self.inner.log_lines.inc();
    }

    /// A connection was closed because there were too many.
    pub(crate) fn connection_refused(&self) {
        self.inner.connections_refused.inc();
    }

    /// TLS was agreed on with a caller.
    pub(crate) fn handshake(&self, resumed: bool, took: Duration) {
        if let Some(counter) = self.inner.handshakes.get(usize::from(resumed)) {
            counter.inc();
        }
        self.inner.handshake.observe(took);
    }

    /// TLS was not agreed on with a caller.
    pub(crate) fn handshake_failed(&self, why: Unagreed) {
        if let Some(counter) = self.inner.handshakes_failed.get(why as usize) {
            counter.inc();
        }
    }

    /// A function begins to load because a caller named its host.
    pub(crate) fn preload_begun(&self) {
        self.inner.preloads.inc();
    }

    /// The first call of a connection has met what was begun for it.
    pub(crate) fn preload_met(&self, how: Preloaded) {
        if let Some(counter) = self.inner.preloads_met.get(how as usize) {
            counter.inc();
        }
    }

    /// Somebody was turned away from the API port.
    pub(crate) fn api_refused(&self, why: ApiRefusal) {
        if let Some(counter) = self.inner.api_refused.get(why as usize) {
            counter.inc();
        }
    }

    /// Connections open.
    pub(crate) fn connections(&self) -> &Gauge {
        &self.inner.connections
    }

    /// Those of them that have given back their buffers.
    pub(crate) fn parked(&self) -> &Gauge {
        &self.inner.parked
    }

    /// The log was synced, or could not be.
    pub(crate) fn synced(&self, took: Duration, ok: bool) {
        self.inner.syncs.observe(took);
        if !ok {
            self.inner.syncs_failed.inc();
        }
    }

    /// Names whoever knows the rest. It is asked when the metrics are read; the first one named
    /// stays.
    pub(crate) fn measure(&self, measure: impl Fn(&mut Page) + Send + Sync + 'static) {
        let _ = self.inner.measure.set(Box::new(measure));
    }

    /// Everything in the OpenMetrics text format, which Prometheus reads.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.inner.registry);
        text
    }
}

fn registered<M: Registered + Clone>(registry: &mut Registry, metric: &Metric, value: M) -> M {
    match metric.unit() {
        Some(unit) => {
            registry.register_with_unit(metric.stem(), metric.help, unit, value.clone());
        }
        None => registry.register(metric.stem(), metric.help, value.clone()),
    }
    value
}

fn counter(registry: &mut Registry, metric: &Metric) -> Counter {
    registered(registry, metric, Counter::default())
}

fn histogram(registry: &mut Registry, metric: &Metric) -> Durations {
    registered(registry, metric, Durations::new())
}

/// A counter for every combination of label values, in their order, each shown from the start.
fn counters(registry: &mut Registry, metric: &Metric) -> Vec<Counter> {
    let family = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
    let family = registered(registry, metric, family);
    metric.combinations().iter().map(|labels| family.get_or_create(labels).clone()).collect()
}

/// Brings what is measured onto the page.
struct Measured(Arc<OnceLock<Measure>>);

impl Collector for Measured {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::default();
        if let Some(measure) = self.0.get() {
            measure(&mut page);
        }
        page.encode(encoder)
    }
}

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measured").finish_non_exhaustive()
    }
}

/// Which node answered a call, in the order of `names::PLACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The one where it entered.
    Here,
    /// Another one.
    There,
}

/// A call from its entry to the head of its answer.
pub(crate) struct Counting {
    metrics: Metrics,
    began: Instant,
    outcome: Outcome,
    place: Place,
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
    /// The call ends like this, by the word of this node; `reason` when the platform answers.
    pub(crate) fn ends(mut self, outcome: Outcome, place: Place, reason: Option<&Reason>) {
        (self.outcome, self.place) = (outcome, place);
        let at = reason.and_then(|reason| reason_names().position(|name| name == reason.name));
        if let Some(counter) = at.and_then(|at| self.metrics.inner.problems.get(at)) {
            counter.inc();
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let inner = &self.metrics.inner;
        let places = names::PLACE.values().len();
        if let Some(counter) = inner.calls.get(self.outcome as usize * places + self.place as usize)
        {
            counter.inc();
        }
        inner.total.observe(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::reasons;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|known| known == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn calls_are_counted_by_outcome_place_and_reason_and_abandoned_ones_too() {
        let metrics = Metrics::new();
        metrics.enter().ends(Outcome::Ok, Place::There, None);
        metrics.enter().ends(Outcome::Refused, Place::Here, Some(reasons::NO_CAPACITY));
        drop(metrics.enter());
        let timings = Timings { exec: Duration::from_millis(3), ..Timings::default() };
        metrics.ran(&timings, true);
        metrics.api_refused(ApiRefusal::NoTls);
        for line in [
            "nigh_gateway_calls_total{outcome=\"ok\",place=\"there\"} 1",
            "nigh_gateway_calls_total{outcome=\"ok\",place=\"here\"} 0",
            "nigh_gateway_calls_total{outcome=\"refused\",place=\"here\"} 1",
            "nigh_gateway_calls_total{outcome=\"gone\",place=\"here\"} 1",
            "nigh_gateway_problems_total{reason=\"NO_CAPACITY\"} 1",
            "nigh_gateway_problems_total{reason=\"NO_NODE\"} 0",
            "nigh_gateway_cold_total 1",
            "nigh_api_refused_total{why=\"no_tls\"} 1",
            "nigh_gateway_exec_seconds_count 1",
            "nigh_gateway_exec_seconds_bucket{le=\"0.002\"} 0",
            "nigh_gateway_exec_seconds_bucket{le=\"0.003\"} 1",
        ] {
            has(&metrics, line);
        }
    }

    #[test]
    fn a_sync_is_counted_and_a_failed_one_twice() {
        let metrics = Metrics::new();
        metrics.synced(Duration::from_millis(4), true);
        metrics.synced(Duration::from_millis(40), false);
        has(&metrics, "nigh_wal_sync_seconds_count 2");
        has(&metrics, "nigh_wal_syncs_failed_total 1");
    }

    #[test]
    fn what_is_measured_stands_on_the_same_page() {
        let metrics = Metrics::new();
        metrics.measure(|page| page.set(&names::RUNNING, 7.0));
        has(&metrics, "nigh_runtime_running 7.0");
    }
}

//! What a run came to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::run::{Outcome, Record};
use crate::table::{self, Rows};

/// Latencies are told apart up to here, in µs: ten minutes. What is longer counts as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Latencies to three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self { histogram: histogram.expect("the bounds are constant and valid") }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn count(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(us.clamp(1, LATENCY_US_MAX));
    }

    /// Counts one in ms.
    pub(crate) fn count_ms(&mut self, ms: f64) {
        self.count(Duration::from_secs_f64(ms.max(0.0) / 1e3));
    }

    /// A quantile from 0 to 1, in ms; none when nothing was counted.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (!self.histogram.is_empty())
            .then(|| self.histogram.value_at_quantile(quantile) as f64 / 1e3)
    }

    /// The longest, in ms.
    pub(crate) fn max_ms(&self) -> Option<f64> {
        (!self.histogram.is_empty()).then(|| self.histogram.max() as f64 / 1e3)
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }
}

/// What calls came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Calls that were planned and whose time has come.
    pub(crate) calls: u64,
    /// Those that a function answered, by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Those that the platform or the client ended, by reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Those that the client never sent.
    pub(crate) dropped: u64,
    /// Those that waited for a load.
    pub(crate) cold: u64,
    /// Those that ran on another node than they entered.
    pub(crate) forwarded: u64,
    /// Those that ran, by node.
    pub(crate) nodes: BTreeMap<String, u64>,
    /// From the intended start, of all that were answered by a function.
    pub(crate) latencies: Latencies,
}

impl Tally {
    /// Counts a call.
    pub(crate) fn count(&mut self, record: &Record) {
        self.calls += 1;
        match &record.outcome {
            Outcome::Answered(answer) => {
                self.cold += u64::from(answer.ran.cold == Some(true));
                self.forwarded += u64::from(answer.ran.forwarded);
                if let Some(node) = &answer.ran.node {
                    *self.nodes.entry(node.clone()).or_default() += 1;
                }
                match &answer.reason {
                    Some(reason) => *self.errors.entry(reason.clone()).or_default() += 1,
                    None => {
                        *self.statuses.entry(answer.status).or_default() += 1;
                        self.latencies.count(record.latency);
                    }
                }
            }
            Outcome::Unanswered(why) => {
                *self.errors.entry(why.name().to_owned()).or_default() += 1;
            }
            Outcome::Dropped => self.dropped += 1,
        }
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        for (status, calls) in &other.statuses {
            *self.statuses.entry(*status).or_default() += calls;
        }
        for (reason, calls) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += calls;
        }
        for (node, calls) in &other.nodes {
            *self.nodes.entry(node.clone()).or_default() += calls;
        }
        self.dropped += other.dropped;
        self.cold += other.cold;
        self.forwarded += other.forwarded;
        self.latencies.add(&other.latencies);
    }

    /// Calls that a function answered.
    pub(crate) fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// As JSON.
    pub(crate) fn summary(&self) -> Summary {
        let quantile = |quantile| self.latencies.quantile_ms(quantile);
        Summary {
            calls: self.calls,
            answered: self.answered(),
            statuses: self.statuses.clone(),
            errors: self.errors.clone(),
            dropped_by_client: self.dropped,
            cold: self.cold,
            forwarded: self.forwarded,
            nodes: self.nodes.clone(),
            latency_ms: LatencyMs {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: self.latencies.max_ms(),
            },
        }
    }
}

/// A tally as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    calls: u64,
    answered: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    dropped_by_client: u64,
    cold: u64,
    forwarded: u64,
    nodes: BTreeMap<String, u64>,
    latency_ms: LatencyMs,
}

#[derive(Debug, Serialize)]
struct LatencyMs {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    max: Option<f64>,
}

/// A table with a line per function and a total, then what went wrong.
pub(crate) fn text(functions: &[String], tallies: &[Tally], total: &Tally) -> String {
    let mut rows = Rows::new([
        "FUNCTION",
        ">CALLS",
        ">ANSWERED",
        ">ERRORS",
        ">DROPPED",
        ">COLD",
        ">FORWARDED",
        ">P50",
        ">P90",
        ">P99",
        ">P99.9",
        ">MAX",
    ]);
    let cell = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), table::millis);
    let row = |name: &str, tally: &Tally| {
        [
            name.to_owned(),
            tally.calls.to_string(),
            tally.answered().to_string(),
            tally.errors.values().sum::<u64>().to_string(),
            tally.dropped.to_string(),
            tally.cold.to_string(),
            tally.forwarded.to_string(),
            cell(tally.latencies.quantile_ms(0.5)),
            cell(tally.latencies.quantile_ms(0.9)),
            cell(tally.latencies.quantile_ms(0.99)),
            cell(tally.latencies.quantile_ms(0.999)),
            cell(tally.latencies.max_ms()),
        ]
    };
    for (name, tally) in functions.iter().zip(tallies).filter(|(_, tally)| tally.calls > 0) {
        rows.push(row(name, tally));
    }
    if functions.len() > 1 {
        rows.push(row("total", total));
    }
    let mut lines = vec![rows.text()];
    for (status, calls) in total.statuses.iter().filter(|(status, _)| **status >= 400) {
        lines.push(format!("status {status}: {calls}"));
    }
    for (reason, calls) in &total.errors {
        lines.push(format!("{reason}: {calls}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::client::Unanswered;
    use crate::load::ledger::tests::answered;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), None);
        for ms in 1..=1_000 {
            latencies.count(Duration::from_millis(ms));
        }
        let near = |given: Option<f64>, expected: f64| {
            let given = given.unwrap();
            assert!((given - expected).abs() / expected < 0.002, "{given} for {expected}");
        };
        near(latencies.quantile_ms(0.5), 500.0);
        near(latencies.quantile_ms(0.99), 990.0);
        near(latencies.max_ms(), 1_000.0);
        latencies.count(Duration::from_secs(100_000));
        near(latencies.max_ms(), LATENCY_US_MAX as f64 / 1e3);
    }

    #[test]
    fn every_call_is_in_exactly_one_place() {
        let mut tally = Tally::default();
        tally.count(&answered(0, 0, "a", true));
        let mut record = answered(0, 0, "b", false);
        tally.count(&record);
        record.outcome = Outcome::Unanswered(Unanswered::Timeout);
        tally.count(&record);
        record.outcome = Outcome::Dropped;
        tally.count(&record);
        let errors: u64 = tally.errors.values().sum();
        assert_eq!((tally.calls, tally.answered(), errors, tally.dropped), (4, 2, 1, 1));
        assert_eq!((tally.cold, tally.nodes["a"], tally.nodes["b"]), (1, 1, 1));
        let mut twice = tally.clone();
        twice.add(&tally);
        assert_eq!((twice.calls, twice.answered()), (8, 4));
        let text = text(&["hello".into()], std::slice::from_ref(&tally), &tally);
        assert!(text.contains("client: timed out: 1"), "{text}");
        let json = serde_json::to_value(tally.summary()).unwrap();
        assert_eq!(json["dropped_by_client"], 1);
    }
}

//! The part of the page that is made when it is read: samples of what other parts hold.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::histogram::Durations;
use super::names::{Kind, Metric};

/// Samples under construction, by metric in the order in which each was first set.
#[derive(Debug, Default)]
pub(crate) struct Page {
    metrics: Vec<(&'static Metric, Sample)>,
    at: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
enum Sample {
    /// One number, or one for each combination of label values.
    Numbers(Vec<(Vec<(&'static str, String)>, f64)>),
    Durations(Durations),
}

impl Page {
    /// Sets a metric without labels.
    pub(crate) fn set(&mut self, metric: &'static Metric, value: f64) {
        self.push(metric, Vec::new(), value);
    }

    /// Sets a metric of one label for one of its values. What is no value of it is a defect of the
    /// caller, and left out.
    pub(crate) fn set_of(&mut self, metric: &'static Metric, value_of_label: &str, value: f64) {
        let [label] = metric.labels else { return };
        if let Some(known) = label.values().into_iter().find(|known| *known == value_of_label) {
            self.push(metric, vec![(label.name, known.to_owned())], value);
        }
    }

    /// Sets all values of a metric of one label, in the order of its values.
    pub(crate) fn set_each(&mut self, metric: &'static Metric, values: &[f64]) {
        let [label] = metric.labels else { return };
        for (known, value) in label.values().into_iter().zip(values) {
            self.push(metric, vec![(label.name, known.to_owned())], *value);
        }
    }

    /// Sets what a node says of itself, in the order of the labels.
    pub(crate) fn say(&mut self, metric: &'static Metric, values: &[&str]) {
        let labels = metric.labels.iter().zip(values);
        let labels = labels.map(|(label, value)| (label.name, (*value).to_owned()));
        self.push(metric, labels.collect(), 1.0);
    }

    /// Sets a histogram that another part keeps.
    pub(crate) fn durations(&mut self, metric: &'static Metric, histogram: &Durations) {
        self.metrics.push((metric, Sample::Durations(histogram.clone())));
    }

    fn push(&mut self, metric: &'static Metric, labels: Vec<(&'static str, String)>, value: f64) {
        let next = self.metrics.len();
        let at = *self.at.entry(metric.name).or_insert(next);
        if at == next {
            self.metrics.push((metric, Sample::Numbers(Vec::new())));
        }
        if let Some((_, Sample::Numbers(numbers))) = self.metrics.get_mut(at) {
            numbers.push((labels, value));
        }
    }

    /// Writes all of it.
    pub(super) fn encode(self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (metric, sample) in self.metrics {
            let help = format!("{}.", metric.help);
            let (unit, kind) = (metric.unit(), metric.metric_type());
            let mut written =
                encoder.encode_descriptor(metric.stem(), &help, unit.as_ref(), kind)?;
            match sample {
                Sample::Durations(histogram) => histogram.encode(written)?,
                Sample::Numbers(numbers) => {
                    for (labels, value) in numbers {
                        if metric.kind == Kind::Info {
                            written.encode_info(&labels)?;
                        } else if labels.is_empty() {
                            number(metric.kind, value, written)?;
                            break;
                        } else {
                            number(metric.kind, value, written.encode_family(&labels)?)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn number(kind: Kind, value: f64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}

//! What a node counts, as it shows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tls::Credentials;

/// A page of metrics.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// As it came.
    pub(crate) text: String,
    /// How long it took to come.
    pub(crate) took: Duration,
    series: BTreeMap<String, f64>,
}

impl Page {
    /// Reads the page of the node whose API port this is, as somebody.
    pub(crate) async fn of(api: u16, who: &Credentials) -> Self {
        let began = Instant::now();
        let answer = who.get(api, "/metrics", Some(&who.bearer())).await;
        let took = began.elapsed();
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
        let text = text.to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self { series: series.collect(), took, text }
    }

    /// The value of a series, named with all its labels; it must be there.
    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no series {series} in\n{}", self.text))
    }

    /// The sum of all series of a metric.
    #[track_caller]
    pub(crate) fn sum(&self, metric: &str) -> f64 {
        let labelled = format!("{metric}{{");
        let all = self.series.iter();
        let own = all.filter(|(series, _)| *series == metric || series.starts_with(&labelled));
        let values: Vec<f64> = own.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no metric {metric} in\n{}", self.text);
        values.iter().sum()
    }
}

//! Holds the page of a real node, and docs/metrics.md, to the table of names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use nigh_model::{NodeName, Region};

use super::names::{self, Kind, Metric, Values};
use crate::{Config, Https, Node, Start};

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));

/// What a node alone does not show: there is no peer to measure.
const ABSENT_ALONE: [&Metric; 1] = [&names::RTT_SECONDS];

#[test]
fn the_document_is_the_table() {
    let table = table();
    assert!(DOCS.contains(&table), "docs/metrics.md shall hold this table:\n{table}");
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| `nigh_")).count();
    assert_eq!(rows(DOCS), rows(&table), "docs/metrics.md has rows of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_all_of_the_table_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        name: NodeName::new("n1").unwrap(),
        region: Region::new("eu").unwrap(),
        zone: None,
        location: None,
        data: folder.path().to_owned(),
        http: any,
        https: Some(Https {
            listen: any,
            certificates: folder.path().join("https"),
            self_made: true,
            redirect: None,
        }),
        api: any,
        peer: any,
        gossip: any,
        metrics: None,
        advertise: Vec::new(),
        replace_after: std::time::Duration::from_secs(15),
        start: Start::Bootstrap,
        join_token: None,
        write_join_token: None,
        identity_key: None,
        certificate_life: crate::CERTIFICATE_LIFE,
        rtt: None,
        slots: 10,
        guest_threads: 1,
        compile_threads: 1,
        loaded_bytes_max: crate::LOADED_BYTES_MAX,
    };
    let node = Box::pin(Node::start(config)).await.unwrap();
    node.ready().await;
    let known = async {
        while !node.metrics().contains(names::FREE_BYTES.name) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let known = tokio::time::timeout(Duration::from_secs(20), known).await;
    assert!(known.is_ok(), "the disk is looked at:\n{}", node.metrics());
    let text = node.metrics();
    let shown = shown(&text);
    let expected = names::ALL.iter().filter(|metric| !ABSENT_ALONE.contains(metric));
    let expected: BTreeMap<String, BTreeSet<String>> =
        expected.map(|metric| (metric.name.to_owned(), expected_labels(metric))).collect();
    for (name, labels) in &expected {
        assert_eq!(shown.get(name), Some(labels), "{name} in\n{text}");
    }
    for name in shown.keys() {
        assert!(expected.contains_key(name), "{name} is not in the table");
    }
    let value = |line: &str| text.lines().any(|known| known == line);
    assert!(value("nigh_node_ready 1.0") && value("nigh_control_available 1.0"), "{text}");
    assert!(value("nigh_raft_role{role=\"leader\"} 1.0"), "{text}");
    assert!(value("nigh_state_nodes{liveness=\"alive\"} 1.0"), "{text}");
    assert!(!value("nigh_wal_sync_seconds_count 0"), "the log was synced: {text}");
    assert!(!value("nigh_control_proposals_total{result=\"refused\"} 1.0"), "{text}");
    node.shutdown(Duration::from_secs(2)).await;
}

/// The label sets of each metric on a page, by the metric's name; a histogram's without `le`.
fn shown(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut kind = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.split(' ').next_back().unwrap();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (mut name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let mut labels = labels.to_owned();
        if kind == "histogram" {
            name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap();
            labels.clear();
        }
        shown.entry(name.to_owned()).or_default().insert(labels);
    }
    shown
}

fn expected_labels(metric: &Metric) -> BTreeSet<String> {
    if metric.kind == Kind::Info {
        let own = |name: &str| match name {
            "version" => env!("CARGO_PKG_VERSION"),
            "node" => "n1",
            "region" => "eu",
            _ => "",
        };
        let labels = metric.labels.iter();
        let labels: Vec<String> =
            labels.map(|label| format!("{}=\"{}\"", label.name, own(label.name))).collect();
        return BTreeSet::from([labels.join(",")]);
    }
    let text = |labels: &Vec<(&str, &str)>| {
        let labels = labels.iter().map(|(name, value)| format!("{name}=\"{value}\""));
        labels.collect::<Vec<_>>().join(",")
    };
    metric.combinations().iter().map(text).collect()
}

/// The table as the document has it.
fn table() -> String {
    let mut text = "| metric | kind | labels | what |\n|---|---|---|---|\n".to_owned();
    for metric in names::ALL {
        let labels = metric.labels.iter().map(|label| match label.values {
            Values::Of(values) => format!("`{}`: {}", label.name, values.join(", ")),
            Values::Reasons => format!("`{}`: those of calls in [errors](errors.md)", label.name),
            Values::Own => format!("`{}`", label.name),
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let _ = writeln!(text, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.help);
    }
    text
}
